"""What a training run is, as frozen dataclasses that travel with its checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from lamina.models import Space, check_space
from lamina.samplers import HMC, Kernel, ParameterError, UnknownNameError, kernel_name, make_kernel
from lamina.samplers.checks import check_count, check_positive
from lamina.samplers.registry import kernel_from_dict, kernel_options, kernel_to_dict

Start: TypeAlias = Literal["noise", "ancestral", "encoder", "persistent"]
"""Where chains start: standard normal noise in their space; an ancestral draw of the base prior; a draw of the
inference model (posterior chains); or where the last run left them."""

Scheme: TypeAlias = Literal["two-stage", "joint-variational", "joint-mle", "gaussian"]
"""How a model learns; "gaussian" leaves the energies at zero: the model that the EBM prior is compared with."""


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
    """Sizes of the networks.

    Attributes:
        latents: Sizes of z_1, ..., z_L; their number is the depth.
        hidden: Hidden layers of the conditionals, of the MLP generator and of the MLP encoder.
        energy_hidden: Hidden layers of each layer's energy.
        images: "mlp" or "conv" generator and encoder.
        likelihood: "gaussian" or "bernoulli".
        sigma: Standard deviation of a pixel under the Gaussian likelihood, data in [-1, 1].
    """

    latents: tuple[int, ...] = (16, 8)
    hidden: tuple[int, ...] = (128, 128)
    energy_hidden: tuple[int, ...] = (128, 128)
    images: Literal["mlp", "conv"] = "mlp"
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    sigma: float = 0.3

    def __post_init__(self) -> None:
        for name in ("latents", "hidden", "energy_hidden"):
            sizes = getattr(self, name)
            if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
                raise ParameterError(f"{name} must be positive integers, at least one; got {sizes}.")
        check_choice("kind of image network", self.images, Literal["mlp", "conv"])
        check_choice("likelihood", self.likelihood, Literal["gaussian", "bernoulli"])
        check_positive("sigma", self.sigma)


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
        energy_penalty: Weight of E(positive)^2 + E(negative)^2.
        averaging: Decay per step of the averaged weights, which are what is sampled and evaluated.
        sample_steps: Steps of the prior sampler when images are drawn after training.
        checkpoint_every: Steps between checkpoints.
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
    energy_penalty: float = 0.0
    averaging: float = 0.999
    sample_steps: int = 200
    checkpoint_every: int = 500
    seed: int = 0
    num_threads: int = 1

    def __post_init__(self) -> None:
        check_choice("scheme", self.scheme, Scheme)
        for name in ("num_steps", "batch_size", "sample_steps", "checkpoint_every", "num_threads"):
            check_count(name, getattr(self, name), 1)
        check_count("baseline_steps", self.baseline_steps, 0)
        check_seed(self.seed)
        check_positive("learning_rate", self.learning_rate)
        check_positive("energy_learning_rate", self.energy_learning_rate)
        for name in ("first_stage", "averaging"):
            if not 0 <= getattr(self, name) < 1:
                raise ParameterError(f"{name} must lie in [0, 1); got {getattr(self, name)}.")
        if not 0 <= self.energy_penalty < math.inf:
            raise ParameterError(f"energy_penalty must be finite and not negative; got {self.energy_penalty}.")
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
        plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_dict(plain: Mapping[str, Any]) -> TrainConfig:
    """Rebuild a configuration.

    Raises:
        ParameterError: If something is unknown, missing or out of range.
    """
    try:
        values = dict(plain)
        values["model"] = _build(
            ModelConfig, {k: tuple(v) if isinstance(v, list) else v for k, v in values["model"].items()}
        )
        for name in ("prior", "posterior"):
            chain = dict(values[name])
            chain["kernel"] = kernel_from_dict(chain["kernel"])
            values[name] = _build(ChainConfig, chain)
        config: TrainConfig = _build(TrainConfig, values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ParameterError(f"this is no training configuration: {error}.") from error
    return config


def _build(kind: Any, values: Mapping[str, Any]) -> Any:
    known = {item.name for item in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ParameterError(f"unknown settings {', '.join(unknown)}; {kind.__name__} has {', '.join(sorted(known))}.")
    return kind(**values)
