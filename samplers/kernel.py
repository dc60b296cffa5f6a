"""The kernel contract: what a sampler is, what its steps read, and what they tell.

A kernel is a frozen dataclass of static choices. Its three methods are pure functions on matrices: positions
are (C, D), every per-chain number is a column (C, 1), and plain broadcasting does the rest. They draw nothing
themselves (noise is declared and handed in), branch on no values, and change no inputs, so that one definition
serves every engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeAlias, TypeVar

from torch import Tensor

from .energy import Target
from .noise import Site
from .position import Position

Noise: TypeAlias = Mapping[str, Tensor]
"""The filled noise sites of one step: (C, D) or (C, width) each."""


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


class Info(NamedTuple):
    """What people read about one step; every field is a column (C, 1).

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

    Parameters are all that adaptation or tempering may change; changing them recompiles nothing. Per-chain
    parameters are columns (C, 1), shared ones have any other shape.
    """

    @property
    def step_size(self) -> Tensor:
        """0-d for all chains, or a column (C, 1) of one per chain."""
        ...

    @property
    def factor(self) -> Tensor:
        """L with inverse mass L L^T; see `lamina.samplers.metric`."""
        ...


ParamsT = TypeVar("ParamsT", bound=Params)


def with_step_size(params: ParamsT, step_size: Tensor) -> ParamsT:
    """The same parameters with another step size, 0-d or a column (C, 1)."""
    replaced: ParamsT = params._replace(step_size=step_size.to(params.step_size.dtype))  # type: ignore[attr-defined]
    return replaced


class Kernel(ABC, Generic[ParamsT]):
    """A Markov kernel. Concrete kernels are final, frozen, keyword-only dataclasses.

    Class attributes:
        sites: The noise of one step, by name.
        is_exact: Whether the kernel leaves the target invariant at fixed parameters. It says nothing about how
            far short chains get.

    Attributes:
        step_size: Where adaptation starts, and the step size where there is none.
        target_accept: Acceptance that step-size adaptation aims for; None where there is nothing to adapt to.
    """

    sites: ClassVar[Mapping[str, Site]]
    is_exact: ClassVar[bool]
    step_size: float
    target_accept: float | None

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
    def init(self, target: Target, position: Tensor, params: ParamsT) -> State:
        """Evaluate energy and gradient at a position (C, D)."""

    @abstractmethod
    def step(self, target: Target, state: State, noise: Noise, params: ParamsT) -> tuple[State, Info]:
        """Move every chain once. Pure: nothing is drawn, nothing is changed in place."""
