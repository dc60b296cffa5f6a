"""The kernel contract: what a sampler is, what its steps read, and what they tell.

A kernel is a frozen dataclass of static choices. Its methods are pure functions on matrices: positions
are (C, D), every per-chain number is a column (C, 1), and plain broadcasting does the rest. They draw nothing
themselves (noise is declared and handed in), branch on no values, and change no inputs, so that one definition
serves every engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from torch import Tensor

from .energy import Target
from .metric import factorise
from .noise import Site
from .position import Position
from .step_size import step_size_tensor

if TYPE_CHECKING:
    from .adaptation.base import Adaptation

Noise: TypeAlias = Mapping[str, Any]
"""The filled noise sites of one step: (C, D) or (C, width) each; a `Stream` where a site is indexed."""


class StateLike(Protocol):
    """What every kernel's states have: a NamedTuple of tensors, at least those of `State`."""

    @property
    def position(self) -> Tensor:
        """(C, D)."""
        ...

    @property
    def energy(self) -> Tensor:
        """(C, 1)."""
        ...

    @property
    def grad(self) -> Tensor:
        """(C, D)."""
        ...


class State(NamedTuple):
    """What the next step reads. Valid only for the energy, context and temperature it was made with.

    Attributes:
        position: (C, D).
        energy: Energy at the position over the temperature, (C, 1).
        grad: Gradient of the energy at the position, (C, D).
    """

    position: Tensor
    energy: Tensor
    grad: Tensor


class InfoLike(Protocol):
    """What every kernel tells about a step: a NamedTuple of tensors, at least those of `Info`."""

    @property
    def accept_prob(self) -> Tensor:
        """(C, 1), or (C, B) from a kernel of B parts."""
        ...

    @property
    def is_accepted(self) -> Tensor:
        """Like `accept_prob`."""
        ...

    @property
    def is_divergent(self) -> Tensor:
        """Like `accept_prob`."""
        ...

    @property
    def energy(self) -> Tensor:
        """(C, 1)."""
        ...

    @property
    def energy_error(self) -> Tensor:
        """Like `accept_prob`."""
        ...

    @property
    def num_grad_evals(self) -> Tensor:
        """(C, 1)."""
        ...


class Info(NamedTuple):
    """What people read about one step.

    Every field is a column (C, 1). Where a kernel is made of B parts that accept or reject on their own, its
    decisions (`accept_prob`, `is_accepted`, `is_divergent`, `energy_error`) are (C, B), a column for each.

    Attributes:
        accept_prob: Probability of accepting the proposal, min(1, exp(-energy_error)), float64.
        is_accepted: Whether the chain moved.
        is_divergent: NaN in the comparison, or |energy_error| > 1000.
        energy: Energy after the step, over the temperature.
        energy_error: Minus the log of the Metropolis ratio: for HMC the change of the total energy, float64.
        num_grad_evals: Gradients computed in the step.
    """

    accept_prob: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    energy: Tensor
    energy_error: Tensor
    num_grad_evals: Tensor


class Params(Protocol):
    """What every kernel's parameters have: a NamedTuple of tensors and run-time integers.

    Parameters are all that adaptation or tempering may change; changing them recompiles nothing. Matrices hold a
    row for each chain, all else is shared; the factor has shapes of its own.
    """

    @property
    def step_size(self) -> Tensor:
        """0-d for all chains, or a column (C, 1) of one per chain; (B,) or (C, B) for a kernel of B parts."""
        ...

    @property
    def factor(self) -> Tensor:
        """L with inverse mass L L^T; see `lamina.samplers.metric`."""
        ...


ParamsT = TypeVar("ParamsT", bound=Params)


def with_step_size(params: ParamsT, step_size: Tensor) -> ParamsT:
    """The same parameters with another step size, of a shape that `Params.step_size` names."""
    replaced: ParamsT = params._replace(step_size=step_size.to(params.step_size.dtype))  # type: ignore[attr-defined]
    return replaced


def with_factor(params: ParamsT, factor: Tensor) -> ParamsT:
    """The same parameters with another factor of the inverse mass, see `lamina.samplers.metric`."""
    replaced: ParamsT = params._replace(factor=factor.to(params.factor.dtype))  # type: ignore[attr-defined]
    return replaced


def is_per_chain(name: str, value: object) -> bool:
    """Whether a parameter holds a row for each chain."""
    return isinstance(value, Tensor) and value.ndim == (3 if name == "factor" else 2)


class Kernel(ABC, Generic[ParamsT]):
    """A Markov kernel. Concrete kernels are final, frozen, keyword-only dataclasses.

    Class attributes:
        info_fields: Names of all fields of its Info.
        counted: Those beyond `Info`'s own that are worth their mean over a run; the driver keeps it.

    Attributes:
        target_accept: Acceptance that step-size adaptation aims for, one for each part of a kernel of parts; None
            where there is nothing to adapt to.
    """

    info_fields: ClassVar[tuple[str, ...]] = Info._fields
    counted: ClassVar[tuple[str, ...]] = ()

    target_accept: float | tuple[float, ...] | None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "step" in vars(cls) and "move" not in vars(cls):
            cls.move = Kernel.move  # type: ignore[method-assign]

    @property
    @abstractmethod
    def sites(self) -> Mapping[str, Site]:
        """The noise of one step, by name; a class attribute where it depends on no choice."""

    @property
    @abstractmethod
    def is_exact(self) -> bool:
        """Whether the kernel leaves the target invariant at fixed parameters; nothing about short chains."""

    @property
    def law(self) -> str:
        """What the kernel leaves invariant at fixed parameters, in words; one that is not exact brings its own."""
        return "the target" if self.is_exact else "a law that is not known"

    @abstractmethod
    def init_params(
        self,
        position: Position,
        *,
        step_size: float | Tensor | None = None,
        inverse_mass: Position | None = None,
    ) -> ParamsT:
        """Make the parameters for chains like `position`.

        Args:
            position: Any position of the chains to come: gives D, dtype and device.
            step_size: One number, or a tensor (C,) of one per chain; default: the kernel's own.
            inverse_mass: None for the identity; (D,) or a position-like structure without its chain axis for a
                diagonal; (D, D) for a dense one. Ideally the covariance of the target.

        Raises:
            ParameterError: If a step size is not positive, or the mass is not positive definite.
        """

    @abstractmethod
    def init(self, target: Target, position: Tensor, params: ParamsT) -> StateLike:
        """Evaluate energy and gradient at a position (C, D)."""

    @abstractmethod
    def step(self, target: Target, state: Any, noise: Noise, params: ParamsT) -> tuple[StateLike, InfoLike]:
        """Move every chain once. Pure: nothing is drawn, nothing is changed in place.

        Args:
            target: Energy and gradient.
            state: From `init` or the last step, of the kernel's own type.
            noise: The filled sites.
            params: The parameters.
        """

    def move(self, target: Target, state: Any, noise: Noise, params: ParamsT) -> StateLike:
        """The state that `step` leads to, for runs that tell nothing about their steps.

        A kernel may leave out here what only its Info needs. A class that overrides `step` alone does not inherit the
        `move` of another step.
        """
        return self.step(target, state, noise, params)[0]

    def memory(self, state: Any) -> dict[str, Tensor]:
        """What chains remember besides their positions, such as momenta: a row per chain, no caches of an energy."""
        return {}

    def restore(self, target: Target, position: Tensor, memory: Mapping[str, Tensor], params: ParamsT) -> StateLike:
        """`init` for chains that remember: the state that has this position and this memory."""
        return self.init(target, position, params)

    @property
    def innermost(self) -> Kernel[Any]:
        """The kernel itself, or the one that it wraps: adaptations that know a kind of kernel look for it here."""
        return self

    def default_adaptation(self) -> Adaptation:
        """How `sample` adapts the kernel's parameters where nothing else is asked for."""
        from .adaptation.dual_averaging import DualAveraging  # adaptations know kernels

        return DualAveraging()

    def notes(self, means: Mapping[str, Tensor]) -> tuple[str, ...]:
        """What a run was like, in words, from the means of its `counted` fields, (C, width) each."""
        return ()


class PlainKernel(Kernel[ParamsT]):
    """A kernel with one step size and an inverse mass; all it has to add to its parameters is in `make_params`.

    Attributes:
        step_size: Where adaptation starts, and the step size where there is none.
    """

    step_size: float

    def init_params(
        self,
        position: Position,
        *,
        step_size: float | Tensor | None = None,
        inverse_mass: Position | None = None,
    ) -> ParamsT:
        """See `Kernel.init_params`."""
        factor = factorise(inverse_mass, position)
        return self.make_params(step_size_tensor(self.step_size if step_size is None else step_size, factor), factor)

    @abstractmethod
    def make_params(self, step_size: Tensor, factor: Tensor) -> ParamsT:
        """The parameters with this step size, 0-d or a column, and this factor of the inverse mass."""

    def init(self, target: Target, position: Tensor, params: ParamsT) -> StateLike:
        """See `Kernel.init`."""
        return State(position, *target(position))
