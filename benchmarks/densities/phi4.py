"""Scalar phi^4 theory on a lattice in two dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from lamina.samplers.errors import ParameterError

from .base import Box, require_positive
from .reference_target import ReferenceTarget

_DEEPEST = 5.0  # nats per site; pictures end where a uniform field would cost this much


@final
@dataclass(frozen=True, kw_only=True)
class Phi4(ReferenceTarget):
    """One real number phi(x) at each site of an L x L lattice with periodic boundaries; chains hold it row by row.

    The more coupling, the less do neighbours agree. By default the magnetisation is about zero, and sites move
    together over distances of about L / 4; below a coupling of about 5 it is about M or -M, two phases that `ordered`
    shows.

    Parameters are averages over the lattice: the magnetisation, mean phi(x), and its square; the mean square of phi;
    the action (energy) per site; the two-point function phi(x) phi(x + mu) of neighbours; and that at zero momentum,
    s(t) s(t + d) for means s of phi over rows or columns, at the distances d = L // 2 - 1 and L // 2. For even L the
    ratio of these two is the cosh of the lightest mass, but for heavier states.

    Lattices other than `Phi4()` and `Phi4.ordered()` have no reference: facts raise `ParameterError`.

    Attributes:
        side: L, sites along each direction, >= 2.
        mass_squared: m^2 in units of the lattice; below zero the potential of a site has two wells.
        coupling: lambda, > 0.

    Raises:
        ParameterError: If a parameter is out of range.
    """

    side: int = 8
    mass_squared: float = -4.0
    coupling: float = 6.008
    name: str = "phi4"
    reveals: str = "critical slowing down: sites move together, and far more slowly than one alone"
    source: str = "Albergo, Kanwar & Shanahan (2019), Physical Review D 100, 034515, ensemble E2"

    formula: ClassVar[str] = (
        "sum_x sum_mu (phi(x + mu) - phi(x))^2 + mass_squared phi(x)^2 + coupling phi(x)^4, periodic in x"
    )

    def __post_init__(self) -> None:
        """Check the parameters."""
        if self.side < 2:
            raise ParameterError(f"{self.name}: side must be at least 2; got {self.side}. Choose 2 or more.")
        if not math.isfinite(self.mass_squared):
            raise ParameterError(f"{self.name}: mass_squared must be finite; got {self.mass_squared}. Choose a number.")
        require_positive(self.name, coupling=self.coupling)

    @classmethod
    def ordered(cls) -> Self:
        """Build the lattice in its ordered phase, where all sites have to change sign together."""
        return cls(
            coupling=4.25,
            name="ordered_phi4",
            reveals="two phases: chains cross between them only by turning all sites, so the magnetisation is slow",
            source=f"{cls.source}; differs: coupling lowered from 6.008, across the transition",
        )

    @property
    def dim(self) -> int:
        """Number of sites, L^2."""
        return self.side**2

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Averages over the lattice; with a distance in brackets, of a two-point function."""
        correlators = (f"zero_momentum[{distance}]" for distance in self._distances)
        return ("magnetisation", "magnetisation^2", "phi^2", "action", "neighbours", *correlators)

    @property
    def reference_name(self) -> str:
        """The name.

        Raises:
            ParameterError: If this lattice has no reference.
        """
        if self not in (Phi4(), Phi4.ordered()):
            raise ParameterError(f"no reference for {self}; there are those of Phi4() and of Phi4.ordered(). Use one.")
        return self.name

    @property
    def plot_box(self) -> Box:
        """All values that a uniform field of low action takes."""
        root = math.sqrt(self.mass_squared**2 + 4.0 * self.coupling * _DEEPEST)
        reach = math.sqrt((root - self.mass_squared) / (2.0 * self.coupling))
        return (-reach, reach), (-reach, reach)

    @property
    def _distances(self) -> tuple[int, int]:
        return self.side // 2 - 1, self.side // 2

    def _field(self, x: Tensor) -> Tensor:
        """(C, D) -> (C, L, L)."""
        return x.reshape(-1, self.side, self.side)

    def _links(self, x: Tensor) -> Tensor:
        """Sum of phi(x) phi(x + mu) over sites and both directions, (C,)."""
        field = self._field(x)
        return (field * (field.roll(1, 1) + field.roll(1, 2))).sum((1, 2))

    def _parameters(self, x: Tensor) -> Tensor:
        field, magnetisation = self._field(x), x.mean(1)
        slices = torch.stack([field.mean(1), field.mean(2)], dim=1)
        return torch.stack(
            [
                magnetisation,
                magnetisation.square(),
                x.square().mean(1),
                self._energy(x) / self.dim,
                self._links(x) / (2 * self.dim),
                *((slices * slices.roll(distance, 2)).mean((1, 2)) for distance in self._distances),
            ],
            dim=1,
        )

    def _energy(self, x: Tensor) -> Tensor:
        square = x.square()
        potential = square * (4.0 + self.mass_squared + self.coupling * square)  # squared differences hold 4 phi^2
        return potential.sum(1) - 2.0 * self._links(x)
