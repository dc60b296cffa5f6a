"""The command `lamina-bench training`: what a step of joint training costs, beside the ways of published code.

Published code of latent energy-based models moves its chains in one of two ways. One calls `torch.autograd.grad` twice
in every Langevin step, once for the energies and once for the rest. The other calls `.backward()` on a sum, which also
works out gradients for all weights, adds them to what is there, and throws them away before learning. Both are written
out plainly here, around the same networks, losses and optimisers as our own step. The weights of convolutions lie as
PyTorch lays them, which published code leaves alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents, contrastive_loss, reconstruction_loss
from lamina.samplers import ParameterError, progress
from lamina.samplers.checks import check_count
from lamina.samplers.kernels.ula import ULA
from lamina.trainers import ChainConfig, TrainConfig, build_model, preset
from lamina.trainers.schemes import JointMLEPhase, Workbench

from . import results
from .samplers import check_device, now
from .tables import aligned

LINE = "a step of joint training against the ways of published code"

DESCRIPTION = """Measure what a step of joint maximum likelihood costs, chains included, beside published code.

The published recipe: 60 unadjusted Langevin steps on the prior and 40 on the posterior for every step of training. All
take turns on one thread, and the medians of their times are compared: of CPU time, and elsewhere of the time until the
device is done. OUT gets training.json. Rows are written as they are made, and an interrupted run goes on with the same
command.

networks:
  mlp            fully connected ones for MNIST, batches of 100
  paper          the published ones for CIFAR-10, batches of 2 on a CPU and of 100 elsewhere

columns, in seconds and as multiples of what Lamina's step costs:
  autograd_grad  torch.autograd.grad twice in a Langevin step: for the energies, and for the rest
  backward       .backward() on a sum, which adds up gradients for all weights
"""

EXAMPLES = """examples:
  lamina-bench training
  lamina-bench training --networks mlp --repeats 3 --out /tmp/trial
  lamina-bench training --device cuda --out /tmp/gpu
"""

LAMINA = "lamina"
SEED = 0
_REPEATS = 5

Term = Callable[[Latents], Tensor]
"""A part of an energy: latents to a value for each chain, (C,)."""

Gradient = Callable[[Sequence[Term], Latents], Latents]
"""The gradient of the sum of some terms at leaves of the graph."""


@dataclass(frozen=True)
class Networks:
    """What is trained.

    Attributes:
        config: Model, chains and rates.
        image: Shape of the data.
        cpu_batch: Rows of a batch on a CPU, where the usual ones take minutes; None: as many.
    """

    config: TrainConfig
    image: tuple[int, ...]
    cpu_batch: int | None = None

    def on(self, device: torch.device) -> Networks:
        """The same with the batches of a device."""
        if device.type != "cpu" or self.cpu_batch is None:
            return self
        return replace(self, config=replace(self.config, batch_size=self.cpu_batch))


NETWORKS: Mapping[str, Networks] = {
    "mlp": Networks(preset("mnist", "published"), (1, 28, 28)),
    "paper": Networks(preset("mnist", "paper"), (3, 32, 32), cpu_batch=2),
}


def by_autograd_grad(terms: Sequence[Term], z: Latents) -> Latents:
    """A call of `torch.autograd.grad` for each term."""
    gradients = [torch.autograd.grad(term(z).sum(), z) for term in terms]
    return tuple(torch.stack(parts).sum(0) for parts in zip(*gradients, strict=True))


def by_backward(terms: Sequence[Term], z: Latents) -> Latents:
    """One call of `.backward()`, whose by-product are gradients in all weights."""
    torch.stack([term(z).sum() for term in terms]).sum().backward()  # type: ignore[no-untyped-call]
    found = [part.grad for part in z]
    return tuple(part for part in found if part is not None)


STYLES: Mapping[str, Gradient] = {"autograd_grad": by_autograd_grad, "backward": by_backward}


class PublishedStep:
    """A step of joint maximum likelihood as published code takes it; called with a batch.

    Args:
        bench: Model, configuration of unadjusted chains that start from noise in z, and randomness.
        gradient: The style.

    Source: Cui, Wu and Han (CVPR 2023), the code of joint training. Differs: two optimisers instead of four.
    """

    def __init__(self, bench: Workbench, gradient: Gradient) -> None:
        self._bench, self._gradient = bench, gradient
        energies = list(bench.model.prior.energies.parameters())
        rest = [*bench.model.prior.base.parameters(), *bench.model.likelihood.parameters()]  # type: ignore[attr-defined]
        rates = ((energies, bench.config.energy_learning_rate), (rest, bench.config.learning_rate))
        self._optimisers = [torch.optim.Adam(weights, rate, fused=True) for weights, rate in rates]

    def __call__(self, x: Tensor) -> None:
        """Run both chains, and learn from where they end."""
        model, config = self._bench.model, self._bench.config
        z_prior = self.langevin(prior_terms(model), config.prior)
        z_data = self.langevin(posterior_terms(model, x), config.posterior)
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        loss = contrastive_loss(model.prior, z_data, z_prior) + reconstruction_loss(model, x, z_data)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimiser in self._optimisers:
            optimiser.step()

    def langevin(self, terms: Sequence[Term], chains: ChainConfig) -> Latents:
        """Unadjusted chains from standard normal noise."""
        generator, kernel = self._bench.generator, chains.kernel
        assert isinstance(kernel, ULA)
        z = self._bench.model.prior.base.noise(self._bench.config.batch_size, generator=generator)
        for _ in range(chains.num_steps):
            leaves = tuple(part.detach().requires_grad_() for part in z)
            gradients = self._gradient(terms, leaves)
            z = tuple(
                part.detach()
                - kernel.step_size * gradient
                + (2 * kernel.step_size) ** 0.5 * torch.empty_like(part).normal_(generator=generator)
                for part, gradient in zip(leaves, gradients, strict=True)
            )
        return z


def prior_terms(model: LatentEBM) -> list[Term]:
    """Energies, and minus the log-density of the base prior."""
    return [model.prior.energies, lambda z: -model.prior.base.log_prob(z)]


def posterior_terms(model: LatentEBM, x: Tensor) -> list[Term]:
    """Energies, and minus the log-density of base prior and data."""
    energies, base = prior_terms(model)
    return [energies, lambda z: base(z) - model.likelihood.log_prob(x, z)]


def make_steps(networks: Networks, device: torch.device) -> dict[str, Callable[[Tensor], object]]:
    """A training step by name, ours first, each with a model of its own: from the same weights."""
    config = networks.config

    def bench(layout: torch.memory_format = torch.preserve_format) -> Workbench:
        model = build_model(config.model, networks.image, seed=SEED).to(device)
        model = model.to(memory_format=layout)  # type: ignore[call-overload]
        return Workbench(model, config, config.batch_size, torch.Generator(device).manual_seed(SEED))

    phase, rows = JointMLEPhase(bench(), config.num_steps), torch.arange(config.batch_size, device=device)
    steps: dict[str, Callable[[Tensor], object]] = {LAMINA: lambda x: phase.step(x, rows, 0)}
    plain = torch.contiguous_format
    return steps | {name: PublishedStep(bench(plain), gradient) for name, gradient in STYLES.items()}


def measure(networks: Networks, num_repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of steps in turn, by name, see `_now`; a first step of each does not count."""
    networks = networks.on(device)
    generator = torch.Generator(device).manual_seed(SEED)
    x = 2 * torch.rand(networks.config.batch_size, *networks.image, generator=generator, device=device) - 1
    steps = make_steps(networks, device)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(num_repeats + 1):
        for name, step in steps.items():
            began = _now(device)
            step(x)
            seconds[name].append(_now(device) - began)
    return {name: times[1:] for name, times in seconds.items()}


def _now(device: torch.device) -> float:
    """CPU time of this process; of another device, the time at which it has done what it was asked for."""
    return time.process_time() if device.type == "cpu" else now(str(device))


def summary(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, float]:
    """Numbers by name, such as `paper/seconds/lamina` and `paper/vs_backward`, above 1 where Lamina is faster."""
    figures: dict[str, float] = {}
    for networks, seconds in rows.items():
        medians = {name: median(times) for name, times in seconds.items()}
        figures |= {f"{networks}/seconds/{name}": value for name, value in medians.items()}
        figures |= {f"{networks}/vs_{name}": medians[name] / medians[LAMINA] for name in STYLES}
    return figures


def table(figures: Mapping[str, float], names: Sequence[str]) -> str:
    """A line for each of these networks."""
    columns = (*(f"seconds/{name}" for name in (LAMINA, *STYLES)), *(f"vs_{name}" for name in STYLES))
    header = ("networks", LAMINA, *STYLES, *(f"x {name}" for name in STYLES))
    rows = [[name, *(f"{figures[f'{name}/{column}']:.3g}" for column in columns)] for name in names]
    return aligned(header, rows, "l" + "r" * len(columns))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME", help="(default: all)")
    add("--device", default="cpu", metavar="NAME", help="such as cuda (default: %(default)s)")
    add("--repeats", type=int, default=_REPEATS, metavar="R", help="timed steps of each (default: %(default)s)")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        LaminaError: If options are wrong, or results cannot be written.
    """
    if len(set(options.networks)) < len(options.networks):
        raise ParameterError(f"--networks must name each one once; got {' '.join(options.networks)}.")
    check_count("--repeats", options.repeats, 1)
    check_device(options.device)
    out: Path = options.out or results.default_folder()
    results.make_folder(out)
    torch.set_num_threads(1)
    path, settings = out / "training.json", {"repeats": options.repeats}
    device = torch.device(options.device)
    origin = results.provenance([SEED], options.device, also=("models", "trainers"))
    rows: dict[str, Any] = results.kept_rows(path, settings, origin)
    todo = [name for name in options.networks if name not in rows]
    with progress(len(todo), "training") as bar:
        for name in todo:
            rows[name] = measure(NETWORKS[name], options.repeats, device)
            content = {"settings": settings, "rows": rows, "summary": summary(rows)}
            results.write({"benchmark": "training", **content, "provenance": origin}, path)
            bar.advance({"networks": name})
    print(table(summary(rows), options.networks))
    print(f"figures: {path}")
