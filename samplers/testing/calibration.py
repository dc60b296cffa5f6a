"""Simulation-based calibration: whether a posterior sampler gives back what data were simulated from.

A parameter drawn from the prior and data drawn given it make the parameter an exact draw of its own posterior. So its
rank among posterior draws of the same data is uniform; over many simulated data sets, each with a chain of its own,
that is a test of sampler, energy and simulation together, for posteriors that nobody can draw from exactly.

Posterior draws of one chain depend on each other, which bends the ranks of an exact sampler too (thinning only hides
it). Here they need not be independent, nor need chains have converged: the truth stands at a random place *within* its
chain, as some draws are made by going on from it and the others by going back from it. Then any exact kernel whose
chains remember nothing but their position gives uniform ranks, whatever the number of draws, and the band holds at
every number of replicates.

Sources: Talts, Betancourt, Simpson, Vehtari and Gelman (2018), arXiv 1804.06788, theorem 1; the random place: Gandy and
Scott (2020), arXiv 2001.06465; the energy as a test quantity, which sees faults that no coordinate sees: Modrak et al.
(2023), Bayesian Analysis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count
from ..driver import sample
from ..energy import Energy
from ..errors import ParameterError
from ..kernel import Kernel
from ..position import Layout, Position
from .bands import detectable_shift, dkw_half_width
from .invariance import Comparison


@dataclass(frozen=True)
class CalibrationReport:
    """What `check_calibration` found; print it.

    Attributes:
        kernel: The kernel.
        num_replicates: Simulated data sets.
        num_draws: Draws that each truth was ranked among.
        false_alarm: Probability, at most, that an exact sampler fails any of the comparisons.
        comparisons: Ranks of each coordinate and of the energy, compared with the uniform law.
        accept_prob: Mean acceptance.
    """

    kernel: Kernel[Any]
    num_replicates: int
    num_draws: int
    false_alarm: float
    comparisons: tuple[Comparison, ...]
    accept_prob: float

    @property
    def failures(self) -> tuple[Comparison, ...]:
        """The comparisons that failed."""
        return tuple(comparison for comparison in self.comparisons if not comparison.passed)

    @property
    def passed(self) -> bool:
        """Whether every comparison passed."""
        return not self.failures

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{'calibrated' if self.passed else 'NOT CALIBRATED'}: {self.kernel}",
                f"{self.num_replicates} replicates, {self.num_draws} draws each, acceptance {self.accept_prob:.3f}, "
                f"false alarms at most {self.false_alarm:.1e}",
                *map(str, self.comparisons),
            )
        )


def sbc_ranks(truth: Tensor, draws: Tensor, *, generator: torch.Generator) -> Tensor:
    """How many of its chain's draws lie below each truth; ties, such as rejected moves leave, are broken at random.

    Args:
        truth: (C, *event).
        draws: (C, L, *event). NaN lies above everything.
        generator: For the ties, on the device of the draws.

    Returns:
        Ranks from 0 to L, (C, *event), of integers.

    Raises:
        ParameterError: If the shapes do not fit.
    """
    if draws.ndim < 2 or (draws.shape[:1] + draws.shape[2:]) != truth.shape:
        raise ParameterError(
            f"draws have shape (C, L, *event) for a truth (C, *event); got {tuple(draws.shape)} for "
            f"{tuple(truth.shape)}."
        )
    below, equal = ((draws < truth.unsqueeze(1)).sum(1), (draws == truth.unsqueeze(1)).sum(1))
    uniform = torch.rand(truth.shape, generator=generator, dtype=torch.float64, device=truth.device)
    return below + (uniform * (equal + 1)).long()


def check_calibration(
    kernel: Kernel[Any],
    energy: Energy,
    truth: Position,
    *,
    context: Any = None,
    generator: torch.Generator,
    backward: Kernel[Any] | None = None,
    num_draws: int = 7,
    thinning: int = 1,
    false_alarm: float = 1e-6,
) -> CalibrationReport:
    """Check a posterior sampler on simulated data.

    Args:
        kernel: The kernel, with step sizes of its own.
        energy: Of the posterior, `energy(position, context) -> (C,)`.
        truth: Draws from the prior, one for each replicate.
        context: Data simulated from them, row by row.
        generator: On the chains' device.
        backward: The time reversal of the kernel, such as `Blocks.reversed`; default: the kernel itself, as is right
            for reversible ones.
        num_draws: L, among which each truth is ranked. Few will do: more see finer faults, and more replicates too.
        thinning: Steps per draw. The further chains get from the truth, the more is seen.
        false_alarm: Probability, at most, that an exact sampler fails; split evenly over coordinates and energy.

    Returns:
        The report; nothing is raised where a sampler fails.

    Raises:
        ParameterError: If a count or rate is out of range, or chains remember more than their position: going back,
            such a chain would have to remember what it did going forth.
    """
    check_count("num_draws", num_draws, 1)
    layout = Layout.of(truth)
    start = layout.ravel(truth)
    runs = [
        sample(
            energy,
            one,
            truth,
            num_samples=num_draws,
            thinning=thinning,
            context=context,
            generator=generator,
            show_progress=False,
        )
        for one in (backward or kernel, kernel)
    ]
    if memory := sorted(runs[0].chains.memory):
        raise ParameterError(
            f"chains of {type(kernel).__name__} remember {', '.join(memory)}, which cannot be drawn to go back from "
            "the truth. Calibrate its relative without memory, such as HMC, and check this one with check_kernel."
        )
    draws = _around(*(layout.ravel(run.draws) for run in runs), generator=generator)

    def quantities(x: Tensor) -> Tensor:
        with torch.no_grad():
            value = energy(layout.unravel(x), *(() if context is None else (context,)))
        return torch.cat([x.double(), value.double().unsqueeze(1)], dim=1)

    ranks = sbc_ranks(
        quantities(start), torch.stack([quantities(x) for x in draws.unbind(1)], dim=1), generator=generator
    )
    names = [*(f"x[{d}]" for d in range(layout.dim)), "energy"]
    rate = false_alarm / len(names)
    return CalibrationReport(
        kernel=kernel,
        num_replicates=len(start),
        num_draws=num_draws,
        false_alarm=false_alarm,
        comparisons=tuple(_compare(*pair, num_draws, rate) for pair in zip(names, ranks.unbind(1), strict=True)),
        accept_prob=float(torch.stack([run.accept_prob.mean() for run in runs]).mean()),
    )


def _around(before: Tensor, after: Tensor, *, generator: torch.Generator) -> Tensor:
    """Of two runs (C, L, D) from the truth, the M draws of one and the L - M of the other that are next to it.

    M is uniform on 0, ..., L, for each chain on its own: the truth is then at a random place of a chain of L + 1.
    """
    num_chains, num_draws, dim = before.shape
    place = torch.arange(num_draws, device=before.device)
    num_before = torch.randint(num_draws + 1, (num_chains, 1), generator=generator, device=before.device)
    is_next = torch.cat([place < num_before, place < num_draws - num_before], dim=1)
    return torch.cat([before, after], dim=1)[is_next].reshape(num_chains, num_draws, dim)


def _compare(name: str, ranks: Tensor, num_draws: int, rate: float) -> Comparison:
    """Ranks against the uniform law on 0, ..., L; the band holds for laws with atoms too."""
    counts = torch.bincount(ranks, minlength=num_draws + 1).double()
    uniform = torch.arange(1, num_draws + 2, dtype=torch.float64, device=ranks.device) / (num_draws + 1)
    return Comparison(
        name=name,
        distance=float((counts.cumsum(0) / len(ranks) - uniform).abs().max()),
        half_width=dkw_half_width(len(ranks), rate),
        detectable_shift=detectable_shift(len(ranks), rate),
        reference="uniform ranks",
    )
