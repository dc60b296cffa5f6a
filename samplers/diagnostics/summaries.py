"""The table of moments, quantiles and diagnostics, and what it says in words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ParameterError
from . import formulas
from .entries import MIN_DRAWS, check_draws, per_entry

RHAT_LIMIT = 1.01
"""R-hat above this says that the chains have not mixed ([vehtari2021], section 4)."""

MIN_ESS_PER_CHAIN = 100
"""Bulk or tail ESS per chain below this is too small to trust ([vehtari2021], section 4)."""

_MAX_PRINTED_ROWS = 50


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One event entry of the draws.

    Attributes:
        name: Name of the tensor and index of the entry, e.g. `z1[3]`.
        mean: Mean of all draws.
        sd: Standard deviation of all draws.
        mcse_mean: Monte Carlo standard error of the mean.
        q5: 5% quantile.
        q50: Median.
        q95: 95% quantile.
        ess_bulk: Effective sample size in the bulk.
        ess_tail: Effective sample size in the tails, 5% and 95%.
        rhat: Rank-normalised split R-hat.
    """

    name: str
    mean: float
    sd: float
    mcse_mean: float
    q5: float
    q50: float
    q95: float
    ess_bulk: float
    ess_tail: float
    rhat: float

    @property
    def ess(self) -> float:
        """The smaller of bulk and tail ESS."""
        return min(self.ess_bulk, self.ess_tail)

    def _cells(self) -> list[str]:
        moments = (self.mean, self.sd, self.mcse_mean, self.q5, self.q50, self.q95)
        return [
            self.name,
            *(f"{value:.4g}" for value in moments),
            f"{self.ess_bulk:.0f}",
            f"{self.ess_tail:.0f}",
            f"{self.rhat:.3f}",
        ]


_HEADER = ["", "mean", "sd", "mcse_mean", "5%", "50%", "95%", "ess_bulk", "ess_tail", "rhat"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Moments, quantiles and diagnostics of every event entry; print it to read it.

    Attributes:
        rows: One row per event entry, in the order of the tensors and, inside each, of its entries.
        num_chains: Number of chains C.
        num_draws: Number of draws per chain N.
        notes: Lines printed below the table, such as how the sampler did.
    """

    rows: tuple[SummaryRow, ...]
    num_chains: int
    num_draws: int
    notes: tuple[str, ...] = ()

    @property
    def advice(self) -> tuple[str, ...]:
        """What is wrong with these draws, and what to try; empty if nothing is."""
        min_ess = MIN_ESS_PER_CHAIN * self.num_chains
        undefined = [row for row in self.rows if math.isnan(row.rhat)]
        unmixed = [row for row in self.rows if row.rhat > RHAT_LIMIT]
        imprecise = [row for row in self.rows if row.ess < min_ess]
        advice = []
        if undefined:
            advice.append(
                f"R-hat is undefined for {self._count(undefined)}, {undefined[0].name} the first: the draws "
                f"are constant, not finite, or fewer than {MIN_DRAWS} per chain. Check that proposals are "
                "accepted and that the energy is finite."
            )
        if unmixed:
            worst = max(unmixed, key=lambda row: row.rhat)
            advice.append(
                f"R-hat is above {RHAT_LIMIT} for {self._count(unmixed)}, {worst.name} the worst with "
                f"{worst.rhat:.3f}: the chains have not mixed. Warm up and run longer; if it stays, look for "
                "several modes (tempering) or very different scales (mass adaptation, reparametrisation)."
            )
        if imprecise:
            worst = min(imprecise, key=lambda row: row.ess)
            advice.append(
                f"ESS is below {MIN_ESS_PER_CHAIN} per chain ({min_ess} in all) for "
                f"{self._count(imprecise)}, {worst.name} the worst with {worst.ess:.0f}: estimates are "
                "noisy. Collect more draws, tune the step size, or use a kernel that moves further (HMC)."
            )
        return tuple(advice)

    def _count(self, rows: Sequence[SummaryRow]) -> str:
        return f"{len(rows)} of {len(self.rows)} rows"

    def __str__(self) -> str:
        table = [_HEADER, *(row._cells() for row in self.rows[:_MAX_PRINTED_ROWS])]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]) for cells in table]
        num_hidden = len(self.rows) - _MAX_PRINTED_ROWS
        if num_hidden > 0:
            lines.append(f"... and {num_hidden} more rows, see .rows")
        lines.append(f"{self.num_chains} chains of {self.num_draws} draws")
        return "\n".join([*lines, *self.notes, *(f"Warning: {sentence}" for sentence in self.advice)])


def named_tensors(
    draws: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor], names: str | Sequence[str] | None
) -> dict[str, Tensor]:
    """Give each tensor its name, and check that all of them hold the same chains and draws; see `summary`."""
    if isinstance(draws, Mapping):
        tensors, default_names = list(draws.values()), [str(key) for key in draws]
    elif isinstance(draws, tuple):
        tensors, default_names = list(draws), [f"z{layer}" for layer in range(1, len(draws) + 1)]
    else:
        tensors, default_names = [draws], ["x"]
    if not tensors:
        raise ParameterError(
            "draws must hold at least one tensor; got none. Pass a tensor, or a tuple or dict of them."
        )
    sizes = {tuple(check_draws(tensor).shape[:2]) for tensor in tensors}
    if len(sizes) > 1:
        raise ParameterError(
            f"all tensors of draws must share (chain, draw); got {sorted(sizes)}. Summarise them one by one."
        )
    chosen = default_names if names is None else [names] if isinstance(names, str) else list(names)
    if len(chosen) != len(tensors) or len(set(chosen)) != len(chosen):
        raise ParameterError(
            f"names must give each of the {len(tensors)} tensors its own name; got {chosen!r}. "
            "Entries of a tensor are numbered by themselves."
        )
    return dict(zip(chosen, tensors, strict=True))


def entry_names(name: str, event: Sequence[int]) -> list[str]:
    """Name the entries of a tensor in order: `x[0,1]`, or just `x` for a scalar."""
    if not event:
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in itertools.product(*map(range, event))]


def _summary_columns(draws: Tensor) -> Tensor:
    """Compute the numbers of a `SummaryRow` in its order, `(..., C, N) -> (..., 9)`."""
    ordered = formulas.pool_sorted(draws)
    columns = [
        ordered.mean(dim=-1),
        ordered.std(dim=-1),
        formulas.mcse_mean(draws),
        *(formulas.quantile(ordered, prob) for prob in (0.05, 0.5, 0.95)),
        formulas.ess_bulk(draws),
        formulas.ess_tail(draws, (0.05, 0.95)),
        formulas.rhat(draws),
    ]
    return torch.stack(columns, dim=-1)


def summary(
    draws: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor], names: str | Sequence[str] | None = None
) -> Summary:
    """Summarise draws: a row of moments, quantiles and diagnostics for every event entry.

    Args:
        draws: One tensor `(C, N, *event)`, or a tuple or dict of tensors that share C and N (one per latent
            layer), floating point.
        names: One name per tensor. Default: `x` for a lone tensor, `z1`, `z2`, ... for a tuple, the keys of a
            dict. Rows are called `x[0]`, `z1[2,3]`, or just `x` for a scalar.

    Returns:
        The table; `print` shows it with advice in words, `.rows` and `.advice` hold the parts. The numbers of
        invalid entries are NaN.

    Raises:
        ParameterError: If a tensor is not floating point with chain and draw axes, if tensors disagree about
            these axes, or if `names` does not fit.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.
    """
    tensors = named_tensors(draws, names)
    rows: list[SummaryRow] = []
    for name, tensor in tensors.items():
        columns = per_entry(_summary_columns, tensor)
        numbers = columns.reshape(-1, columns.shape[-1]).tolist()
        rows += map(SummaryRow, entry_names(name, tensor.shape[2:]), *zip(*numbers, strict=True))
    num_chains, num_draws = next(iter(tensors.values())).shape[:2]
    return Summary(tuple(rows), num_chains, num_draws)
