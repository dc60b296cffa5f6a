"""What a training run is, as frozen dataclasses that travel with its checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args, get_type_hints

from lamina.models import Space, check_space
from lamina.samplers import HMC, Kernel, ParameterError, UnknownNameError, kernel_name, make_kernel
from lamina.samplers.checks import check_count, check_positive
from lamina.samplers.registry import kernel_from_dict, kernel_options, kernel_to_dict

Start: TypeAlias = Literal["noise", "ancestral", "encoder", "persistent"]
"""Where chains start: standard normal noise in their space; an ancestral draw of the base prior; a draw of the
inference model (posterior chains); or where the last run left them."""

Scheme: TypeAlias = Literal["two-stage", "joint-variational", "joint-mle", "gaussian"]
"""How a model learns; "gaussian" leaves the energies at zero: the model that the EBM prior is compared with."""


EnergyLoss: TypeAlias = Literal["contrastive", "noise-contrastive", "self-normalizing"]
"""What teaches the energies over a frozen backbone: draws of prior chains, or, without chains, of the base prior
by classification or with importance weights."""


def check_choice(kind: str, value: str, choices: Any) -> None:
    """Raise UnknownNameError unless `value` is one of the choices of a Literal type."""
    if value not in get_args(choices):
        raise UnknownNameError(kind, value, get_args(choices))


def check_seed(seed: int) -> None:
    """Raise unless a generator takes the seed."""
    check_count("seed", seed, 0)
    if seed >= 2**63:
        raise ParameterError(f"seed must be below 2**63; got {seed}.")


@dataclass(frozen=True, kw_only=True)
class ChainConfig:
    """How chains are run, in training and after: it is part of the model.

    Attributes:
        kernel: The sampler. Kernels with a target acceptance have their step size follow it between runs.
        num_steps: Steps per training step.
        space: "u" or "z", see `lamina.models.JointEBMPrior`.
        start: See `Start`.
        restart_fraction: Share of persistent chains that start anew, ancestrally, before each run.
    """

    kernel: Kernel[Any] = field(default_factory=lambda: HMC(step_size=0.2, num_leapfrog_steps=3, jitter=0.2))
    num_steps: int = 2
    space: Space = "u"
    start: Start = "persistent"
    restart_fraction: float = 0.05

    def __post_init__(self) -> None:
        check_count("num_steps of a chain", self.num_steps, 1)
        check_space(self.space)
        check_choice("start of chains", self.start, Start)
        if not 0 <= self.restart_fraction <= 1:
            raise ParameterError(f"restart_fraction must lie in [0, 1]; got {self.restart_fraction}.")

    def with_kernel(self, name: str | None = None, **options: Any) -> ChainConfig:
        """The same chains with another kernel, or other options of the present one."""
        own = kernel_name(self.kernel)
        current = kernel_options(self.kernel) if name in (None, own) else {}
        return replace(self, kernel=make_kernel(name or own, **{**current, **options}))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the networks are, and their sizes.

    Attributes:
        latents: z_1, ..., z_L; their number is the depth. A number is the size of a row, (channels, height, width)
            a feature map.
        hidden: Hidden layers between rows: of conditionals, of MLPs to and from images, of the ladder.
        energy_hidden: Hidden layers of each layer's energy; or of every layer's own, a tuple for each.
        width: Channels of convolutions at their finest size; every halving doubles them.
        smooth: SiLU; or LeakyReLU(0.2), as published.
        base: "conditional" p(z_i|z_{i+1}), or "independent" layers, each N(0, I).
        energies: One for each of the "layers", or one on their "concatenation" (ICCV 2023).
        learns_normalizer: Learn a log-normaliser with the energies, so that bounds are in nats.
        images: Generator and encoder: "mlp" or "conv", from z_1 alone, or "ladder": convolutions, and a generator
            that every layer enters.
        inference: "bottom-up", or "ladder": evidence up, combined with the base prior down.
        likelihood: "gaussian", "bernoulli" or "logistic-mixture".
        sigma: Standard deviation of a pixel under the Gaussian likelihood, data in [-1, 1].
        learns_sigma: Learn it from there.
        components: Of the logistic mixture.
        levels: Grey levels of the data, for the logistic mixture.
    """

    latents: tuple[int | tuple[int, ...], ...] = (16, 8)
    hidden: tuple[int, ...] = (128, 128)
    energy_hidden: tuple[int, ...] | tuple[tuple[int, ...], ...] = (128, 128)
    width: int = 16
    smooth: bool = True
    base: Literal["conditional", "independent"] = "conditional"
    energies: Literal["layers", "concatenation"] = "layers"
    learns_normalizer: bool = False
    images: Literal["mlp", "conv", "ladder"] = "mlp"
    inference: Literal["bottom-up", "ladder"] = "bottom-up"
    likelihood: Literal["gaussian", "bernoulli", "logistic-mixture"] = "gaussian"
    sigma: float = 0.3
    learns_sigma: bool = False
    components: int = 5
    levels: int = 256

    def __post_init__(self) -> None:
        for latent in check_tuple("latents", self.latents):
            if isinstance(latent, tuple) and len(latent) == 3:
                _check_sizes("latents", latent)
            else:
                _check_sizes("latents", (latent,))
        _check_sizes("hidden", self.hidden)
        for sizes in self.hidden_of_energies():
            _check_sizes("energy_hidden", sizes)
        for name, minimum in (("width", 1), ("components", 1), ("levels", 2)):
            check_count(name, getattr(self, name), minimum)
        for name in ("base", "energies", "images", "inference", "likelihood"):
            check_choice(name, getattr(self, name), get_type_hints(ModelConfig)[name])
        for name in ("smooth", "learns_normalizer", "learns_sigma"):
            if not isinstance(getattr(self, name), bool):
                raise ParameterError(f"{name} must be True or False; got {getattr(self, name)!r}.")
        check_positive("sigma", self.sigma)

    @property
    def events(self) -> list[tuple[int, ...]]:
        """Shapes of z_1, ..., z_L."""
        return [latent if isinstance(latent, tuple) else (latent,) for latent in self.latents]

    def with_settings(self, settings: Mapping[str, Any]) -> ModelConfig:
        """The same model with other settings.

        Raises:
            UnknownNameError: If there is no such setting.
        """
        known = [item.name for item in dataclasses.fields(self)]
        for name in settings:
            if name not in known:
                raise UnknownNameError("setting of the model", name, known)
        return replace(self, **settings)

    def hidden_of_energies(self) -> list[tuple[int, ...]]:
        """Hidden layers of every network of the energies."""
        num = len(self.latents) if self.energies == "layers" else 1
        sizes = check_tuple("energy_hidden", self.energy_hidden)
        if not all(isinstance(size, tuple) for size in sizes):
            return [sizes] * num
        if len(sizes) != num:
            raise ParameterError(f"energy_hidden gives sizes for {len(sizes)} networks; there are {num}.")
        return list(sizes)


def check_tuple(name: str, value: object) -> tuple[Any, ...]:
    """Raise unless something is a tuple that is not empty."""
    if not isinstance(value, tuple) or not value:
        raise ParameterError(f"{name} must be a tuple of at least one; got {value!r}.")
    return value


def _check_sizes(name: str, sizes: object) -> None:
    for size in check_tuple(name, sizes):
        check_count(name, size, 1)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: Name of the data set.
        scheme: See `Scheme`.
        model: Sizes of the networks.
        prior: Chains on the joint prior.
        posterior: Chains on the posterior (joint-mle only).
        num_steps: Gradient steps.
        first_stage: Share of them spent on the backbone with f = 0 (two-stage only).
        baseline_steps: Gradient steps of the Gaussian-prior model of the same networks that this one is
            compared with: as many as fit into the same time.
        batch_size: Rows per step, and number of prior chains.
        learning_rate: Of generator, base prior and inference model.
        energy_learning_rate: Of the energies.
        final_rate: Share of both that is left at the end of a phase: they fall over its last 40 %, as late steps
            average out the noise of the gradient. 1 keeps them where they are.
        energy_betas: Adam's, for the energies. A shorter memory of squared gradients than its default of .999 follows
            their size, which changes as the energies grow (NVlabs VAEBM's choice is alike).
        energy_loss: What teaches the energies of the second stage, see `EnergyLoss`.
        energy_penalty: Weight of E(positive)^2 + E(negative)^2.
        spectral_limit: Largest singular value of the energies' weights; None leaves them free.
        kl_warmup: Share of a variational phase in which the weight of the divergence rises from zero to one.
        free_nats: Divergence that each layer has for free in variational phases.
        averaging: Decay per step of the averaged weights, which are what is sampled and evaluated.
        sample_steps: Steps of the prior sampler when images are drawn after training.
        checkpoint_every: Steps between checkpoints.
        energy_limit: Mean energy, in nats, beyond which training counts as lost, as if it were not finite.
        max_rollbacks: How often training that is lost goes back to its last checkpoint, or to the start, and on from
            there with half of the learning rates, before it gives up.
        seed: Seeds everything.
        num_threads: Threads of PyTorch; small networks are fastest on one, and results depend on it in bits.
    """

    data: str = "digits"
    scheme: Scheme = "two-stage"
    model: ModelConfig = field(default_factory=ModelConfig)
    prior: ChainConfig = field(default_factory=ChainConfig)
    posterior: ChainConfig = field(default_factory=ChainConfig)
    num_steps: int = 6000
    first_stage: float = 0.6
    baseline_steps: int = 10000
    batch_size: int = 100
    learning_rate: float = 1e-3
    energy_learning_rate: float = 1e-4
    final_rate: float = 0.05
    energy_betas: tuple[float, float] = (0.9, 0.99)
    energy_loss: EnergyLoss = "contrastive"
    energy_penalty: float = 0.0
    spectral_limit: float | None = None
    kl_warmup: float = 0.0
    free_nats: float = 0.0
    averaging: float = 0.999
    sample_steps: int = 200
    checkpoint_every: int = 500
    energy_limit: float = 1e6
    max_rollbacks: int = 5
    seed: int = 0
    num_threads: int = 1

    def __post_init__(self) -> None:
        check_choice("scheme", self.scheme, Scheme)
        check_choice("energy loss", self.energy_loss, EnergyLoss)
        for name in ("num_steps", "batch_size", "sample_steps", "checkpoint_every", "num_threads"):
            check_count(name, getattr(self, name), 1)
        check_count("baseline_steps", self.baseline_steps, 0)
        check_count("max_rollbacks", self.max_rollbacks, 0)
        check_seed(self.seed)
        check_positive("learning_rate", self.learning_rate)
        check_positive("energy_learning_rate", self.energy_learning_rate)
        check_positive("energy_limit", self.energy_limit)
        if self.spectral_limit is not None:
            check_positive("spectral_limit", self.spectral_limit)
        for name in ("first_stage", "averaging", "kl_warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ParameterError(f"{name} must lie in [0, 1); got {getattr(self, name)}.")
        if not 0 < self.final_rate <= 1:
            raise ParameterError(f"final_rate must lie in (0, 1]; got {self.final_rate}.")
        betas = check_tuple("energy_betas", self.energy_betas)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ParameterError(f"energy_betas must be two numbers in [0, 1); got {betas}.")
        for name in ("energy_penalty", "free_nats"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ParameterError(f"{name} must be finite and not negative; got {getattr(self, name)}.")
        if self.energy_loss != "contrastive" and self.scheme not in ("two-stage", "gaussian"):
            raise ParameterError(
                f"{self.energy_loss} compares with draws of a base prior that stays fixed; {self.scheme} moves it. "
                "Use the two-stage scheme, or the contrastive energy loss."
            )
        if self.scheme == "joint-mle" and self.posterior.start == "encoder":
            raise ParameterError(
                "joint-mle trains no inference model to start posterior chains from; start them with noise, "
                "ancestral or persistent."
            )
        if self.prior.start == "encoder":
            raise ParameterError(
                "prior chains have no data row to encode; start them with noise, ancestral or persistent."
            )

    def capped(self, max_steps: int) -> TrainConfig:
        """The same run cut short: at most `max_steps` gradient steps, the baseline shortened in proportion."""
        check_count("max_steps", max_steps, 1)
        if max_steps >= self.num_steps:
            return self
        shortened = -(-self.baseline_steps * max_steps // self.num_steps)  # rounded up: none stay none
        return replace(self, num_steps=max_steps, baseline_steps=shortened)

    def baseline(self) -> TrainConfig:
        """The run of the Gaussian-prior model of the same networks."""
        return replace(self, scheme="gaussian", num_steps=max(1, self.baseline_steps))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain containers, for JSON and checkpoints; `from_dict` is the inverse."""
    plain: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if isinstance(value, Kernel):
            value = kernel_to_dict(value)
        elif dataclasses.is_dataclass(value):
            value = to_dict(value)
        plain[item.name] = _plain(value)
    return plain


def from_dict(plain: Mapping[str, Any]) -> TrainConfig:
    """Rebuild a configuration.

    Raises:
        ParameterError: If something is unknown, missing or out of range.
    """
    try:
        values = {name: _frozen(value) for name, value in plain.items()}
        values["model"] = _build(ModelConfig, {name: _frozen(value) for name, value in values["model"].items()})
        for name in ("prior", "posterior"):
            chain = dict(values[name])
            chain["kernel"] = kernel_from_dict(chain["kernel"])
            values[name] = _build(ChainConfig, chain)
        config: TrainConfig = _build(TrainConfig, values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ParameterError(f"this is no training configuration: {error}.") from error
    return config


def _plain(value: Any) -> Any:
    """Tuples, also inside of tuples, as lists."""
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    """Lists, also inside of lists, as tuples."""
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


def _build(kind: Any, values: Mapping[str, Any]) -> Any:
    known = {item.name for item in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ParameterError(f"unknown settings {', '.join(unknown)}; {kind.__name__} has {', '.join(sorted(known))}.")
    return kind(**values)
