"""The deterministic part of a kernel: a trajectory is reversible and keeps volume, or the kernel is not exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from ..energy import Target
from ..kernel import StateLike

Integrate: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From positions and momenta, (C, D) each, to where their trajectories end."""


@runtime_checkable
class HasTrajectory(Protocol):
    """A kernel that shows its trajectory, so that `check_kernel` can run it backwards."""

    def trajectory(self, target: Target, state: Any, momentum: Tensor, params: Any) -> tuple[StateLike, Tensor]:
        """The state and the momentum (C, D) at the end of the trajectory that a step would follow."""
        ...


@dataclass(frozen=True)
class IntegratorReport:
    """What `check_integrator` found; print it.

    Attributes:
        distance: How far the trajectories got, the largest change of a coordinate.
        return_error: How far from its start a trajectory comes back at most, positions and momenta.
        max_return_error: What that may be: 1,000 roundings of the largest number.
        volume_error: How far the Jacobian determinant of the first trajectory is from one.
        max_volume_error: What that may be: that the Jacobian is found by differences allows for 1,000 of their errors.
    """

    distance: float
    return_error: float
    max_return_error: float
    volume_error: float
    max_volume_error: float

    @property
    def is_reversible(self) -> bool:
        """Whether every trajectory came back to its start, having left it."""
        return self.distance > 1000 * self.max_return_error and self.return_error <= self.max_return_error

    @property
    def keeps_volume(self) -> bool:
        """Whether the Jacobian determinant is one."""
        return self.volume_error <= self.max_volume_error

    @property
    def passed(self) -> bool:
        """Whether trajectories are reversible and keep volume."""
        return self.is_reversible and self.keeps_volume

    def __str__(self) -> str:
        return (
            f"went {self.distance:.2g} and came back within {self.return_error:.1e}, allowed "
            f"{self.max_return_error:.1e}; |det J| is one within {self.volume_error:.1e}, allowed "
            f"{self.max_volume_error:.1e}"
        )


def check_integrator(integrate: Integrate, position: Tensor, momentum: Tensor) -> IntegratorReport:
    """Run trajectories forward, flip their momenta, and run them back; and see whether they keep volume.

    The Jacobian is that of the first chain, by central differences, as targets give no second derivatives: all
    perturbed starts are chains of one batch.

    Args:
        integrate: Maps positions and momenta (C, D) to where they end; for any number of chains C.
        position: (C, D).
        momentum: (C, D), whitened where the integrator's momenta are.
    """
    start = torch.cat((position, momentum), dim=1)
    dim, eps = position.shape[1], torch.finfo(position.dtype).eps

    def move(both: Tensor) -> Tensor:
        return torch.cat(integrate(both[:, :dim], both[:, dim:]), dim=1)

    end = move(start)
    flip = torch.cat((torch.ones(dim), -torch.ones(dim))).to(start)
    back = flip * move(flip * end)
    shifts = eps ** (1 / 3) * torch.eye(2 * dim).to(start)
    ends = move(torch.cat((start[:1] + shifts, start[:1] - shifts)))
    jacobian = (ends[: 2 * dim] - ends[2 * dim :]).double() / (2 * eps ** (1 / 3))
    scale = max(1.0, float(start.abs().max()), float(end.abs().max()))
    return IntegratorReport(
        distance=float((end - start)[:, :dim].abs().max()),
        return_error=float((back - start).abs().max()),
        max_return_error=1e3 * eps * scale,
        volume_error=abs(abs(float(torch.linalg.det(jacobian))) - 1),
        max_volume_error=1e3 * eps ** (2 / 3),
    )
