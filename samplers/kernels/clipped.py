"""Gradient clipping, as a wrapper of any kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..adaptation.base import Adaptation
from ..checks import check_positive
from ..energy import Target
from ..errors import ParameterError
from ..kernel import InfoLike, Kernel, Noise, Params, StateLike
from ..noise import Site
from ..position import Position


@dataclass(frozen=True, kw_only=True)
class Clipped(Kernel[Params]):
    """A kernel that sees gradients no longer than `max_norm`, chain by chain; energies are left alone.

    An exact kernel stays exact. The clipped gradient is a function of the chain's own position, and any such
    function will do as a drift: the correction of MALA or of the Barker proposal uses the same one at both ends, and
    a leapfrog kick by it is still a shear of phase space, so that trajectories stay reversible and keep volume. What
    is lost where the clip bites is acceptance. Kernels that are not exact have nothing to make up for it: they lose
    the target they were close to.

    Attributes:
        kernel: The kernel. Of one that is made of kernels clip the parts, each as it needs.
        max_norm: Euclidean norm of the longest gradient of a chain, in nats per unit of the position, before the
            temperature and the inverse mass. Longer ones are scaled down to it; NaN stays NaN. As it is clipped before
            the temperature, a gradient scales with 1 / T whether it is clipped or not, which replicas that change
            their temperature rely on.
    """

    kernel: Kernel[Any]
    max_norm: float

    def __post_init__(self) -> None:
        if not isinstance(self.kernel, Kernel):
            raise ParameterError(f"kernel must be a Kernel, such as MALA(step_size=0.1); got {self.kernel!r}.")
        check_positive("max_norm", self.max_norm)

    @property
    def info_fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Kernel`."""
        return self.kernel.info_fields

    @property
    def counted(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Kernel`."""
        return self.kernel.counted

    @property
    def target_accept(self) -> float | tuple[float, ...] | None:  # type: ignore[override]
        """See `Kernel`."""
        return self.kernel.target_accept

    @property
    def sites(self) -> Mapping[str, Site]:
        """See `Kernel.sites`."""
        return self.kernel.sites

    @property
    def is_exact(self) -> bool:
        """See `Kernel.is_exact`."""
        return self.kernel.is_exact

    @property
    def law(self) -> str:
        """See `Kernel.law`."""
        return self.kernel.law if self.is_exact else "a law that is not known: nothing makes up for clipped gradients"

    def init_params(
        self,
        position: Position,
        *,
        step_size: float | Tensor | None = None,
        inverse_mass: Position | None = None,
    ) -> Params:
        """See `Kernel.init_params`."""
        params: Params = self.kernel.init_params(position, step_size=step_size, inverse_mass=inverse_mass)
        return params

    def init(self, target: Target, position: Tensor, params: Params) -> StateLike:
        """See `Kernel.init`; the gradient in the state is the clipped one."""
        return self.kernel.init(ClippedTarget(target, self.max_norm), position, params)

    def step(self, target: Target, state: Any, noise: Noise, params: Params) -> tuple[StateLike, InfoLike]:
        """See `Kernel.step`."""
        return self.kernel.step(ClippedTarget(target, self.max_norm), state, noise, params)

    def move(self, target: Target, state: Any, noise: Noise, params: Params) -> StateLike:
        """See `Kernel.move`."""
        return self.kernel.move(ClippedTarget(target, self.max_norm), state, noise, params)

    def memory(self, state: Any) -> dict[str, Tensor]:
        """See `Kernel.memory`."""
        return self.kernel.memory(state)

    def restore(self, target: Target, position: Tensor, memory: Mapping[str, Tensor], params: Params) -> StateLike:
        """See `Kernel.restore`."""
        return self.kernel.restore(ClippedTarget(target, self.max_norm), position, memory, params)

    @property
    def innermost(self) -> Kernel[Any]:
        """See `Kernel.innermost`."""
        return self.kernel.innermost

    def default_adaptation(self) -> Adaptation:
        """See `Kernel.default_adaptation`."""
        return self.kernel.default_adaptation()

    def notes(self, means: Mapping[str, Tensor]) -> tuple[str, ...]:
        """See `Kernel.notes`."""
        return self.kernel.notes(means)


class ClippedTarget(Target):
    """A target whose gradients are clipped.

    Args:
        target: The target.
        max_norm: Of the longest gradient of a chain, before the temperature.
    """

    def __init__(self, target: Target, max_norm: float) -> None:
        self.layout = target.layout
        self._target, self._max_norm = target, max_norm

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target.__call__`."""
        energy, grad = self._target(x)
        # In float64, where squares of large float32 gradients do not overflow.
        norm = torch.linalg.vector_norm(grad, dim=1, keepdim=True, dtype=torch.float64)
        limit = self._max_norm * self.inverse_temperature
        return energy, grad * torch.clamp(limit / norm, max=1.0).to(grad.dtype)

    @property
    def inverse_temperature(self) -> Tensor | float:
        """See `Target.inverse_temperature`."""
        return self._target.inverse_temperature

    def energy(self, x: Tensor) -> Tensor:
        """See `Target.energy`."""
        return self._target.energy(x)

    def rows(self, index: slice) -> ClippedTarget:
        """See `Target.rows`."""
        return ClippedTarget(self._target.rows(index), self._max_norm)

    def replicated(self, inverse_temperatures: Tensor) -> ClippedTarget:
        """See `Target.replicated`."""
        return ClippedTarget(self._target.replicated(inverse_temperatures), self._max_norm)
