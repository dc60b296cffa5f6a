"""Convergence and precision without storing draws: constant memory over any length of run.

`StreamingMoments` costs two tensors the size of a draw and knows mean, variance, classic and nested R-hat.
`StreamingDiagnostics` costs up to `max_batches` times as much and adds split R-hat, Monte Carlo standard error and
effective sample size.

What cannot be had: ranks need all draws at once, so R-hat here is the classic one, which needs finite variances; use
`lamina.samplers.diagnostics` on stored draws for the rank-normalised one and for quantiles. Everything is a value:
updating returns a new object and changes none. Numbers are float64 on the device of the draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ..checks import check_count
from ..errors import ParameterError
from . import formulas
from .entries import superchain_members


@dataclass(frozen=True, slots=True)
class StreamingMoments:
    """Mean and variance of each chain, updated draw by draw.

    Non-finite draws make the entries that they touch NaN, for good. So are the statistics of too few draws.

    Attributes:
        num_draws: Draws per chain so far.
        mean: Mean of each chain, (C, *event).
        squares: Sum of squared deviations from it, (C, *event).

    Source: Welford (1962), "Note on a method for calculating corrected sums of squares and products", Technometrics
        4(3); combined by Chan, Golub and LeVeque (1983), "Algorithms for computing the sample variance", The
        American Statistician 37(3), equation 2.1.
    """

    num_draws: int
    mean: Tensor
    squares: Tensor

    @staticmethod
    def empty_like(draw: Tensor) -> StreamingMoments:
        """Start with no draws of chains like these, (C, *event)."""
        zeros = torch.zeros_like(draw, dtype=torch.float64, requires_grad=False)
        return StreamingMoments(0, zeros, zeros)

    def update(self, draw: Tensor) -> StreamingMoments:
        """Add one draw of every chain.

        Args:
            draw: Shape (C, *event), floating point.

        Raises:
            ParameterError: If the shape is not that of the chains.
        """
        if draw.shape != self.mean.shape:
            raise ParameterError(
                f"every draw must have shape {tuple(self.mean.shape)}; got {tuple(draw.shape)}. Pass one draw of all "
                "chains at a time."
            )
        num_draws = self.num_draws + 1
        values = draw.detach().to(torch.float64)
        step = values - self.mean
        mean = self.mean + step / num_draws
        return StreamingMoments(num_draws, mean, self.squares + step * (values - mean))

    def followed_by(self, later: StreamingMoments) -> StreamingMoments:
        """Join two stretches of the same chains."""
        num_draws = self.num_draws + later.num_draws
        share = later.num_draws / max(num_draws, 1)
        step = later.mean - self.mean
        squares = self.squares + later.squares + self.num_draws * share * step.square()
        return StreamingMoments(num_draws, self.mean + share * step, squares)

    def merge(self, others: StreamingMoments) -> StreamingMoments:
        """Join two groups of chains of the same length, such as those of two processes.

        Raises:
            ParameterError: If the groups have drawn a different number of draws.
        """
        if self.num_draws != others.num_draws:
            raise ParameterError(
                f"chains must have equally many draws; got {self.num_draws} and {others.num_draws}. Join groups that "
                "are updated in step."
            )
        return StreamingMoments(
            self.num_draws, torch.cat([self.mean, others.mean]), torch.cat([self.squares, others.squares])
        )

    @property
    def variance(self) -> Tensor:
        """Sample variance of each chain, (C, *event)."""
        return _over(self.squares, self.num_draws - 1)

    @property
    def pooled_mean(self) -> Tensor:
        """Mean of the draws of all chains, `*event`."""
        return self.mean.mean(dim=0)

    @property
    def pooled_variance(self) -> Tensor:
        """Sample variance of the draws of all chains, `*event`."""
        between = self.num_draws * (self.mean - self.pooled_mean).square().sum(dim=0)
        return _over(self.squares.sum(dim=0) + between, self.num_draws * len(self.mean) - 1)

    def rhat(self) -> Tensor:
        """Classic R-hat, `*event`: chains are not split, since their halves are not known while they run.

        It compares chains only, so that it needs two of them and is blind to a trend that they share.

        Raises:
            ParameterError: If there is one chain only.
        """
        if len(self.mean) < 2:
            raise ParameterError(
                "classic R-hat compares two chains or more; got 1. Run more chains, or use StreamingDiagnostics, which "
                "compares the halves of each."
            )
        return formulas.rhat_of_moments(self.mean.movedim(0, -1), self.variance.movedim(0, -1), self.num_draws)

    def nested_rhat(self, superchains: int | Sequence[int] | Tensor) -> Tensor:
        """Nested R-hat, `*event`, for chains that share starting points; see `lamina.samplers.nested_rhat`.

        Args:
            superchains: The superchain of each chain, (C,) integers; or the number of superchains, if chains lie
                superchain by superchain.

        Raises:
            ParameterError: If superchains are fewer than two, differ in size, or do not fit the chains.
        """
        members = superchain_members(superchains, len(self.mean))
        is_lone_draw = self.num_draws == 1 and members.shape[1] > 1  # nothing varies within chains, but among them
        variances = self.squares if is_lone_draw else self.variance
        means, variances = (values[members].movedim((0, 1), (-2, -1)) for values in (self.mean, variances))
        return formulas.nested_rhat_of_moments(means, variances)


@dataclass(frozen=True, slots=True)
class StreamingDiagnostics:
    """Split R-hat, Monte Carlo standard error and effective sample size from batches of draws.

    Draws are gathered into batches of equal length. When `max_batches` of them are full, neighbours are joined and
    batches become twice as long: between half of `max_batches` and all of it are there after any number of draws.

    The error of the mean follows from the spread of batch means over all chains around their common mean, so chains
    that disagree look imprecise. It is too small while batches are not much longer than the chains' memory. More
    batches make it less noisy (relative variance 2 / (chains x batches) of its square), fewer make it less biased.

    Attributes:
        max_batches: Most batches to hold, even.
        batch_size: Draws per batch at present.
        batches: The full batches, in order.
        current: The batch under way.

    Source: Yeh and Schmeiser (2000), "Simulation output analysis via dynamic batch means", Winter Simulation
        Conference; batches of several chains around their common mean as in Gupta and Vats (2020), "Estimating Monte
        Carlo variance from multiple Markov chains", arXiv 2007.04229.
    """

    max_batches: int
    batch_size: int
    batches: tuple[StreamingMoments, ...]
    current: StreamingMoments

    @staticmethod
    def empty_like(draw: Tensor, max_batches: int = 32) -> StreamingDiagnostics:
        """Start with no draws of chains like these, (C, *event).

        Args:
            draw: Any draw of the chains: gives shape and device.
            max_batches: Most batches to hold, even and >= 4; memory is 2 (max_batches + 1) float64 draws.

        Raises:
            ParameterError: If `max_batches` is odd or too small.
        """
        if check_count("max_batches", max_batches, 4) % 2:
            raise ParameterError(f"max_batches must be even, since batches are joined in pairs; got {max_batches}.")
        return StreamingDiagnostics(max_batches, 1, (), StreamingMoments.empty_like(draw))

    def update(self, draw: Tensor) -> StreamingDiagnostics:
        """Add one draw of every chain, (C, *event).

        Raises:
            ParameterError: If the shape is not that of the chains.
        """
        current = self.current.update(draw)
        if current.num_draws < self.batch_size:
            return replace(self, current=current)
        batches, batch_size = (*self.batches, current), self.batch_size
        if len(batches) == self.max_batches:
            batches = tuple(map(StreamingMoments.followed_by, batches[::2], batches[1::2]))
            batch_size = 2 * batch_size
        return StreamingDiagnostics(self.max_batches, batch_size, batches, StreamingMoments.empty_like(draw))

    def merge(self, others: StreamingDiagnostics) -> StreamingDiagnostics:
        """Join two groups of chains of the same length and batches, such as those of two processes.

        Raises:
            ParameterError: If the groups have different numbers of draws or batches.
        """
        if (self.max_batches, self.moments.num_draws) != (others.max_batches, others.moments.num_draws):
            raise ParameterError(
                f"chains must have equally many draws and batches; got {self.moments.num_draws} draws in at most "
                f"{self.max_batches} batches, and {others.moments.num_draws} in {others.max_batches}."
            )
        batches = tuple(map(StreamingMoments.merge, self.batches, others.batches))
        return replace(self, batches=batches, current=self.current.merge(others.current))

    @property
    def moments(self) -> StreamingMoments:
        """Mean and variance of all draws so far, of each chain and pooled."""
        return reduce(StreamingMoments.followed_by, (*self.batches, self.current))

    def rhat(self) -> Tensor:
        """Classic split R-hat, `*event`: compares the halves of all chains, so one chain is enough.

        Halves are of the full batches, without the middle one of an odd number of them. NaN before 4 draws.
        """
        half = len(self.batches) // 2
        if half * self.batch_size < 2:
            return torch.full_like(self.current.mean[0], torch.nan)
        first = reduce(StreamingMoments.followed_by, self.batches[:half])
        last = reduce(StreamingMoments.followed_by, self.batches[-half:])
        return first.merge(last).rhat()

    def mcse_mean(self) -> Tensor:
        """Monte Carlo standard error of the mean of all draws, `*event`, in their units; NaN without two batches."""
        moments = self.moments
        return _over(self._long_run_variance(), moments.num_draws * len(moments.mean)).sqrt()

    def ess_mean(self) -> Tensor:
        """Effective sample size of the mean of all draws, `*event`; NaN for constant draws."""
        moments = self.moments
        return moments.num_draws * len(moments.mean) * moments.pooled_variance / self._long_run_variance()

    def _long_run_variance(self) -> Tensor:
        """Batch size times the variance of batch means: what the variance of the mean is, times the number of draws."""
        if len(self.batches) < 2:
            return torch.full_like(self.current.mean[0], torch.nan)
        means = torch.stack([batch.mean for batch in self.batches])
        return self.batch_size * means.flatten(0, 1).var(dim=0)


def _over(values: Tensor, degrees_of_freedom: int) -> Tensor:
    return values / degrees_of_freedom if degrees_of_freedom > 0 else torch.full_like(values, torch.nan)
