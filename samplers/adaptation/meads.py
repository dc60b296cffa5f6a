"""MEADS: everything that generalised HMC needs, read off many chains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_count, check_positive
from ..errors import ParameterError
from ..kernel import InfoLike, Kernel, StateLike
from ..kernels.ghmc import GHMC, GHMCParams
from .base import Adaptation


class MEADSState(NamedTuple):
    """What MEADS knows.

    Attributes:
        num_updates: Steps so far.
        friction: Of the last update, 0-d.
    """

    num_updates: int
    friction: Tensor


@dataclass(frozen=True, kw_only=True)
class MEADS(Adaptation):
    """Sets step size, diagonal mass and persistence of `GHMC` after each step from where the chains stand.

    The scale of each coordinate is its standard deviation over chains; the step size comes from the largest eigenvalue
    of the covariance of gradients, the persistence from that of the positions, both in these scales. Nothing is learnt
    over time: as chains find the target, the parameters follow.

    Attributes:
        min_chains: Fewest chains for which covariances over chains are worth anything.
        step_share: Step size as a share of the limit of stability on a Gaussian, in units of which 2 is unstable.

    Source: Hoffman and Sountsov (2022), AISTATS, PMLR 151, algorithm 3. Differs: a warm-up, with all chains read at
    once and the result frozen, where the source goes on for ever and reads for each fold of chains another one;
    acceptance is Metropolis's, without the persistent uniform variable.
    """

    min_chains: int = 32
    step_share: float = 0.5

    def __post_init__(self) -> None:
        check_count("min_chains", self.min_chains, 2)
        check_positive("step_share", self.step_share)

    def aim(self, kernel: Kernel[Any]) -> None:
        """See `Adaptation.aim`: none; the step size follows from curvature."""

    def init(self, kernel: Kernel[Any], params: GHMCParams, state: StateLike, num_steps: int) -> MEADSState:
        """See `Adaptation.init`."""
        num_chains = len(state.position)
        if not isinstance(kernel.innermost, GHMC):
            raise ParameterError(f"MEADS adapts GHMC; got {type(kernel).__name__}. Use its default adaptation.")
        if num_chains < self.min_chains:
            raise ParameterError(
                f"MEADS reads covariances off the chains and needs {self.min_chains} or more; got {num_chains}. "
                "Run more chains, or adapt with Windows()."
            )
        return MEADSState(0, torch.zeros((), dtype=torch.float64, device=state.position.device))

    def update(
        self, adapted: MEADSState, kernel: Kernel[Any], params: GHMCParams, state: StateLike, info: InfoLike
    ) -> tuple[MEADSState, GHMCParams]:
        """See `Adaptation.update`."""
        x, grad = state.position.double(), state.grad.double()
        scale = x.std(dim=0)
        count = adapted.num_updates + 1
        step_size = (self.step_share / _largest_eigenvalue(grad * scale).sqrt()).clamp(max=1.0)
        slowest = _largest_eigenvalue((x - x.mean(dim=0)) / scale).rsqrt()
        # Early on, momenta are to be forgotten within as many steps as were taken.
        friction = torch.maximum(slowest, 1 / (count * step_size))
        dtype = params.factor.dtype
        new = params._replace(
            step_size=step_size.to(dtype),
            factor=scale.to(dtype),
            persistence=torch.exp(-step_size * friction).to(dtype),
        )
        return MEADSState(count, friction), new

    def final(self, adapted: MEADSState, kernel: Kernel[Any], params: GHMCParams) -> GHMCParams:
        """See `Adaptation.final`: the last parameters."""
        return params

    def notes(self, adapted: MEADSState) -> tuple[str, ...]:
        """See `Adaptation.notes`."""
        return (f"Momenta are forgotten at a rate of {float(adapted.friction):.3g} per unit of time.",)


def _largest_eigenvalue(rows: Tensor) -> Tensor:
    """Estimate the largest eigenvalue of the second-moment matrix S of rows (C, D) by tr S^2 / tr S.

    Both traces are unbiased: products of a row with itself are left out of the first.
    """
    num, dim = rows.shape
    products = rows @ rows.T if num < dim else rows.T @ rows  # the squares of both sum to the same
    own = rows.square().sum(dim=1)
    of_square = (products.square().sum() - own.square().sum()) / (num * (num - 1))
    return of_square / own.mean()
