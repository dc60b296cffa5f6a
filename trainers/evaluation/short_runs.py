"""What the prior chains of training leave undone: short runs, held against long ones at the same energies.

Short chains that have not arrived still give good samples where the energies were learnt against them; their acceptance
says nothing of it, and neither do the samples. What tells is how far they have gone, and what becomes of them later.

Relaxation times: on N(m, s^2), Langevin dynamics dx = -(x - m) / s^2 dt + sqrt(2) dW is an Ornstein-Uhlenbeck process,
whose autocorrelation after a time t is exp(-t / s^2); steps of size h, each of them correlation 1 - h / s^2, take t = h
each. So chains go through t / s^2 relaxation times of a coordinate. It is the scale of Gaussian laws: between modes,
chains take longer. A trajectory of m leapfrog steps of size eps with one momentum has correlation cos(m eps / s) there,
about exp(-m^2 h / s^2) with h = eps^2 / 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamina.models import JointEBMPrior, LatentEBM, Latents
from lamina.samplers import (
    GHMC,
    HMC,
    MALA,
    MALT,
    MAMS,
    MCLMC,
    NUTS,
    Chains,
    Energy,
    Kernel,
    Programs,
    RandomisedHMC,
    Run,
    UnderdampedLangevin,
    progress,
    rhat,
    run,
    sample,
    step_size_from_noise_scale,
)
from lamina.samplers.kernels.langevin import LangevinKernel
from lamina.samplers.kernels.walk import WalkKernel

from ..chains import TrainingChains
from ..config import ChainConfig

_CHUNK = 100
"""Steps between looks at the progress bar."""
_ADJUSTED = HMC(step_size=0.2, num_leapfrog_steps=5, jitter=0.5)
"""What draws the reference; its step size is adapted. The jitter keeps it off half periods, after which distances from
the middle are what they were."""
_DRAWS = 25
"""Of each reference chain, for R-hat, at most."""


@dataclass(frozen=True)
class ShortRun:
    """Prior chains run once as training runs them, at energies that stand still.

    Attributes:
        start: Where they started, in their space, (C, *event_i) per layer.
        end: Where they ended.
        result: How they did, and where to go on.
        step_size: Of the kernel: what training arrived at, or its own where training ran no chains.
        langevin: h of the Langevin step of the same size, see `langevin_step_size`.
    """

    start: Latents
    end: Latents
    result: Run
    step_size: float
    langevin: float | None

    @property
    def time(self) -> float | None:
        """How long Langevin dynamics takes to go as far, were all moves accepted: K m^2 h.

        m counts the gradients of a step, 1 at least. They share one momentum; kernels that keep some of it from step to
        step go further, and NUTS, which picks a point within its trajectory, less far.
        """
        if self.langevin is None:
            return None
        totals = self.result.totals
        gradients = float(totals.num_grad_evals.double().mean()) / totals.num_steps
        return totals.num_steps * max(gradients, 1.0) ** 2 * self.langevin


def short_run(
    model: LatentEBM,
    config: ChainConfig,
    num: int,
    *,
    generator: torch.Generator,
    step_size: Tensor | None = None,
    positions: Latents | None = None,
) -> ShortRun:
    """Run prior chains as one training step does.

    Args:
        model: The model.
        config: Kernel, number of steps, space and start.
        num: Chains; of persistent ones at most as many as there are positions.
        generator: Source of randomness, on the model's device.
        step_size: What training arrived at; None takes the kernel's own.
        positions: Where training left persistent chains; None lets these start from the base prior.
    """
    kept = None if positions is None else [part[:num] for part in positions]
    chains = TrainingChains(model, config, num if kept is None else len(kept[0]), generator)
    if step_size is not None:
        memory = chains.state_dict()["memory"] if kept is None else kept
        chains.load_state_dict({"memory": memory, "step_size": step_size})
    size = float(chains.params.step_size.mean())
    start = chains.prior_start()
    _, result = chains.prior(start)
    end = result.position
    assert isinstance(end, tuple)
    dim = sum(part[0].numel() for part in start)
    return ShortRun(start, end, result, size, langevin_step_size(config.kernel, size, dim))


def langevin_step_size(kernel: Kernel[Any], step_size: float, dim: int) -> float | None:
    """h of the Langevin step x' = x - h grad + sqrt(2 h) xi that is as long as one step of the kernel's size.

    ULA, MALA and their like have h itself. A leapfrog step of size eps from a fresh momentum is a Langevin step of
    h = eps^2 / 2, and so is a jump whose entries are eps away. Microcanonical kernels have speed one in all D
    directions together: h = eps^2 / (2 D). None for kernels that are unknown here, or made of several.
    """
    match kernel.innermost:
        case LangevinKernel():
            return step_size
        case MAMS() | MCLMC():
            return step_size_from_noise_scale(step_size) / dim
        case WalkKernel() | HMC() | RandomisedHMC() | GHMC() | MALT() | NUTS() | UnderdampedLangevin():
            return step_size_from_noise_scale(step_size)
        case _:
            return None


def mala_acceptance(energy: Energy, position: Latents, step_size: float, *, generator: torch.Generator) -> float:
    """Mean acceptance of one MALA step from each position: how well steps of that size follow these energies.

    Args:
        energy: In the space of the positions.
        position: (C, *event_i) per layer; not changed.
        step_size: h, see `langevin_step_size`.
        generator: Source of randomness, on the device of the positions.
    """
    probe = run(energy, MALA(step_size=step_size), position, num_steps=1, generator=generator)
    return float(probe.accept_prob.mean())


def displacements(start: Latents, end: Latents, stationary: Latents) -> list[float]:
    """How far each layer has gone: its mean squared distance from the start, relative to that of strangers.

    Two independent draws of the stationary law are, in the mean square, twice its variance apart, summed over
    coordinates. Chains that stand still have 0, and chains at home that have forgotten their start 1; from a start that
    is nearer to the middle than draws of the law, or further off, they end below or above it.

    Args:
        start: (C, *event_i) per layer.
        end: The same.
        stationary: Independent draws of the stationary law, (M, *event_i) per layer.
    """
    return [
        float((after - before).double().square().sum() / len(before) / (2 * part.double().var(0).sum()))
        for before, after, part in zip(start, end, stationary, strict=True)
    ]


def relaxation_times(time: float, stationary: Latents) -> list[tuple[float, float]]:
    """Relaxation times that chains went through in each layer: of its slowest coordinate, and the median.

    A coordinate with the variance s^2 has time / s^2 of them. Directions across coordinates may be wider and so slower
    yet, and so is whatever is not Gaussian.

    Args:
        time: Of Langevin dynamics, see `ShortRun.time`.
        stationary: Independent draws of the stationary law, (M, *event_i) per layer.
    """
    times = [time / part.flatten(1).double().var(0) for part in stationary]
    return [(float(layer.min()), float(layer.median())) for layer in times]


def marks(num_steps: int, num: int = 12) -> list[int]:
    """Numbers of steps on the way to `num_steps`, about `num` on a logarithmic scale, and 0."""
    return [0, *np.unique(np.geomspace(1, num_steps, num).round().astype(int)).tolist()]


def long_run(
    energy: Energy,
    kernel: Kernel[Any],
    chains: Chains,
    steps: Sequence[int],
    *,
    generator: torch.Generator,
    show_progress: bool | None = None,
) -> Iterator[tuple[int, Latents]]:
    """Go on with chains, and stop at these numbers of steps, which ascend; yields each with the positions there."""
    programs, done = Programs(), 0
    with progress(steps[-1], "long run", enabled=show_progress) as bar:
        for mark in steps:
            while done < mark:
                num = min(_CHUNK, mark - done)
                chains = run(
                    energy,
                    kernel,
                    chains,
                    num_steps=num,
                    generator=generator,
                    summarise=False,
                    engine="auto",
                    programs=programs,
                ).chains
                done += num
                bar.advance(steps=num)
            position = chains.position
            assert isinstance(position, tuple)
            yield mark, position


@dataclass(frozen=True)
class Reference:
    """Draws of long adjusted chains.

    Attributes:
        z: One draw of each chain, (C, *event_i) per layer.
        rhat: The largest R-hat over coordinates: beyond 1.01 these chains, too, have not arrived.
        accept_prob: Their mean acceptance.
        num_steps: Steps of each, warm-up included.
    """

    z: Latents
    rhat: float
    accept_prob: float
    num_steps: int


def reference_draws(
    prior: JointEBMPrior,
    num: int,
    *,
    num_gradients: int,
    generator: torch.Generator,
    show_progress: bool | None = None,
) -> Reference:
    """Draw from the EBM prior by HMC in u, from the base prior; its step size is adapted in half of the steps.

    Args:
        prior: The joint EBM prior.
        num: Chains.
        num_gradients: Of each chain, about; at least 80.
        generator: Source of randomness, on the prior's device.
        show_progress: None shows a bar where standard error is a terminal.
    """
    half = num_gradients // (2 * _ADJUSTED.num_leapfrog_steps)
    num_draws = min(half, _DRAWS)
    result = sample(
        prior.energy("u"),
        _ADJUSTED,
        prior.base.noise(num, generator=generator),
        num_samples=num_draws,
        num_warmup=half,
        thinning=half // num_draws,
        generator=generator,
        show_progress=show_progress,
    )
    position, draws = result.chains.position, result.draws
    assert isinstance(position, tuple)
    assert isinstance(draws, tuple)
    with torch.no_grad():
        z = prior.to_latents(position, "u")
    worst = torch.stack([rhat(part).max() for part in draws]).max()
    return Reference(z, float(worst), float(result.accept_prob.mean()), result.chains.num_steps)
