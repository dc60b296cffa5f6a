"""Convergence and precision of MCMC draws: R-hat, effective sample sizes, Monte Carlo standard errors.

Every function takes draws of shape `(C, N, *event)` (chains, draws per chain, event), works on the
tensor's own device in float64, treats all event entries at once and returns shape `*event`. `summary`
puts the results into a table and says in words what is wrong and what to try.

Source: [vehtari2021] Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding,
and localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2), 667-718.
Numbers agree with ArviZ (arviz-stats 0.8.0) to rounding, edge cases included, with two differences: R-hat
of a single chain compares its two halves, and an infinite draw counts as invalid, as NaN does.

The file has two layers. Private functions hold the formulas; they see valid float64 draws of shape
`(..., C, N)`, the chain and draw axes last. Public functions check what came in and mask invalid entries.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from .errors import ParameterError

MIN_DRAWS = 4
"""Fewest draws per chain that have a diagnostic: two in each half."""

RHAT_LIMIT = 1.01
"""R-hat above this says that the chains have not mixed ([vehtari2021], section 4)."""

MIN_ESS_PER_CHAIN = 100
"""Bulk or tail ESS per chain below this is too small to trust ([vehtari2021], section 4)."""

_MAX_PRINTED_ROWS = 50


class DiagnosticWarning(UserWarning):
    """Some diagnostics are NaN, because their draws are too few or not finite."""


# --- Formulas: valid float64 draws of shape (..., C, N) in, shape (...) out ---------------------------------


def _split_chains(draws: Tensor) -> Tensor:
    """Halve each chain, `(..., C, N) -> (..., 2C, N // 2)`; an odd number of draws loses its middle one."""
    half = draws.shape[-1] // 2
    return torch.cat([draws[..., :half], draws[..., -half:]], dim=-2)


def _average_ranks(values: Tensor) -> Tensor:
    """Rank along the last axis from 1; ties share the mean of the ranks that they occupy."""
    ordered, order = values.sort(dim=-1)
    # Looking up sorted values walks through memory in order: half the time of looking up `values`.
    num_below = torch.searchsorted(ordered, ordered)
    num_up_to = torch.searchsorted(ordered, ordered, right=True)
    ranks = (num_below + num_up_to + 1).to(torch.float64) / 2
    return torch.empty_like(ranks).scatter_(-1, order, ranks)


def _rank_normalise(draws: Tensor) -> Tensor:
    """Replace draws by the normal scores of their pooled ranks, with Blom's offset of 3/8."""
    pooled = draws.flatten(-2)
    fractions = (_average_ranks(pooled) - 3 / 8) / (pooled.shape[-1] + 1 / 4)
    scores: Tensor = torch.special.ndtri(fractions)
    return scores.view_as(draws)


def _quantile(ordered: Tensor, prob: float) -> Tensor:
    """Interpolate linearly in values sorted along the last axis (`torch.quantile` stops at 2**24 values)."""
    index = prob * (ordered.shape[-1] - 1)
    below = math.floor(index)
    return torch.lerp(ordered[..., below], ordered[..., math.ceil(index)], index - below)


def _fold(draws: Tensor) -> Tensor:
    """Distance from the pooled median, which turns a difference in scale into one in location."""
    ordered = draws.flatten(-2).sort(dim=-1).values
    size = ordered.shape[-1]
    # The two middle draws fold onto each other up to rounding, so the rounding of their midpoint decides
    # whether they tie. This is NumPy's midpoint: R-hat of few draws would otherwise not agree with ArviZ.
    median = (ordered[..., (size - 1) // 2] + ordered[..., size // 2]) / 2
    return (draws - median[..., None, None]).abs()


def _classic_rhat(chains: Tensor) -> Tensor:
    num_draws = chains.shape[-1]
    between_chain_variance = num_draws * chains.mean(dim=-1).var(dim=-1)
    within_chain_variance = chains.var(dim=-1).mean(dim=-1)
    return ((between_chain_variance / within_chain_variance + num_draws - 1) / num_draws).sqrt()


def _rhat(draws: Tensor) -> Tensor:
    halves = _split_chains(draws)
    bulk = _classic_rhat(_rank_normalise(halves))
    folded = _classic_rhat(_rank_normalise(_fold(halves)))
    # fmax passes over NaN: draws with two equally frequent values fold to a constant; the bulk still counts.
    return torch.fmax(bulk, folded)


def _mean_autocovariance(chains: Tensor) -> Tensor:
    """Biased autocovariance at lags 0 to N - 1, averaged over chains: `(..., C, N) -> (..., N)`."""
    num_draws = chains.shape[-1]
    # Padding to twice the length keeps the circular convolution from wrapping around.
    padded = next_fast_len(2 * num_draws, real=True)
    centred = chains - chains.mean(dim=-1, keepdim=True)
    power = torch.fft.rfft(centred, n=padded).abs().square().mean(dim=-2)
    autocovariance: Tensor = torch.fft.irfft(power, n=padded)
    return autocovariance[..., :num_draws] / num_draws


def _autocorrelation(chains: Tensor) -> Tensor:
    """Autocorrelation of two or more chains together, `(..., C, N) -> (..., N)`.

    Its variance counts the spread between chains, so chains that disagree look strongly correlated.
    """
    num_draws = chains.shape[-1]
    autocovariance = _mean_autocovariance(chains)
    biased_within_variance = autocovariance[..., :1]
    within_chain_variance = biased_within_variance * num_draws / (num_draws - 1)
    total_variance = biased_within_variance + chains.mean(dim=-1).var(dim=-1)[..., None]
    autocorrelation = 1 - (within_chain_variance - autocovariance) / total_variance
    autocorrelation[..., 0] = 1.0
    return autocorrelation


def _autocorrelation_time(autocorrelation: Tensor) -> Tensor:
    """Sum autocorrelations by Geyer's initial monotone sequence, `(..., N) -> (...)`.

    Sums of neighbours (lags 2k and 2k + 1) are positive and falling for a reversible chain. They count
    until the first that is not positive, none more than its predecessor; the even lag of the pair that
    stops the sequence is added where it is positive, which lowers the variance for antithetic chains.
    """
    num_lags = autocorrelation.shape[-1]
    num_pairs = max(num_lags - 3, 0) // 2 + 1
    even = autocorrelation[..., 0 : 2 * num_pairs : 2]
    pairs = even + autocorrelation[..., 1 : 2 * num_pairs : 2]

    # Not `pairs > 0`: NaN has to run on into the sum instead of looking like a very short memory.
    goes_on = (~(pairs <= 0)).cumprod(dim=-1).bool()[..., :-1]
    monotone = pairs.cummin(dim=-1).values[..., :-1]
    sum_of_pairs = torch.where(goes_on, monotone, 0.0).sum(dim=-1)

    stop = goes_on.sum(dim=-1, keepdim=True)
    stop_even = even.gather(-1, stop).squeeze(-1)
    stop_pair = pairs.gather(-1, stop).squeeze(-1)
    last_even = torch.where(stop_pair >= 0, stop_even, stop_even.clamp(min=0.0))
    return 2 * sum_of_pairs - 1 + last_even


def _ess(chains: Tensor) -> Tensor:
    num_chains, num_draws = chains.shape[-2:]
    size = num_chains * num_draws
    # The cap at S log10(S) keeps antithetic chains from claiming nearly unlimited precision.
    time = _autocorrelation_time(_autocorrelation(chains)).clamp(min=1 / math.log10(size))
    spread = chains.amax(dim=(-2, -1)) - chains.amin(dim=(-2, -1))
    is_constant = spread < torch.finfo(torch.float64).resolution
    return torch.where(is_constant, float(size), size / time)


def _ess_mean(draws: Tensor) -> Tensor:
    return _ess(_split_chains(draws))


def _ess_bulk(draws: Tensor) -> Tensor:
    return _ess(_rank_normalise(_split_chains(draws)))


def _ess_tail(draws: Tensor, prob: tuple[float, float]) -> Tensor:
    ordered = draws.flatten(-2).sort(dim=-1).values
    ess_low, ess_high = (_ess_mean((draws <= _quantile(ordered, p)[..., None, None]).double()) for p in prob)
    return torch.minimum(ess_low, ess_high)


def _mcse_mean(draws: Tensor) -> Tensor:
    return draws.flatten(-2).std(dim=-1) / _ess_mean(draws).sqrt()


def _mcse_sd(draws: Tensor) -> Tensor:
    squares = (draws - draws.mean(dim=(-2, -1), keepdim=True)).square()
    variance = squares.mean(dim=(-2, -1))
    variance_of_variance = (squares.square().mean(dim=(-2, -1)) - variance.square()) / _ess_mean(squares)
    return (variance_of_variance / variance / 4).sqrt()  # delta method: Var(sd) = Var(sd**2) / (4 sd**2)


def _summary_columns(draws: Tensor) -> Tensor:
    """Compute the numbers of a `SummaryRow` in its order, `(..., C, N) -> (..., 9)`."""
    ordered = draws.flatten(-2).sort(dim=-1).values
    columns = [
        ordered.mean(dim=-1),
        ordered.std(dim=-1),
        _mcse_mean(draws),
        *(_quantile(ordered, prob) for prob in (0.05, 0.5, 0.95)),
        _ess_bulk(draws),
        _ess_tail(draws, (0.05, 0.95)),
        _rhat(draws),
    ]
    return torch.stack(columns, dim=-1)


# --- Guards ------------------------------------------------------------------------------------------------


def _check_draws(draws: object) -> Tensor:
    wanted = "draws must be a floating-point tensor of shape (chain, draw, *event)"
    if not isinstance(draws, Tensor):
        raise ParameterError(f"{wanted}; got {type(draws).__name__}. Convert it with torch.as_tensor(draws).")
    if not draws.is_floating_point():
        raise ParameterError(f"{wanted}; got dtype {draws.dtype}. Pass real values, e.g. draws.double().")
    if draws.ndim < 2:
        raise ParameterError(f"{wanted}; got shape {tuple(draws.shape)}. Pass a single chain as draws[None].")
    if draws.shape[0] == 0 or 0 in draws.shape[2:]:
        raise ParameterError(f"{wanted}, none of them empty; got shape {tuple(draws.shape)}. Pass one chain or more.")
    return draws


def _check_prob(prob: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(prob, Sequence) or len(prob) != 2 or not all(0 < p < 1 for p in prob):
        raise ParameterError(
            f"prob must be two probabilities strictly between 0 and 1; got {prob!r}. Pass e.g. (0.05, 0.95)."
        )
    return prob


def _per_entry(statistic: Callable[[Tensor], Tensor], draws: Tensor) -> Tensor:
    """Evaluate a formula for every event entry, NaN for invalid ones; warns the public function's caller.

    Args:
        statistic: From `(E, C, N)` float64 to `(E, *columns)`.
        draws: As the user passed them.

    Returns:
        Shape `(*event, *columns)`, float64, no graph.
    """
    num_chains, num_draws, *event = _check_draws(draws).shape
    num_entries = math.prod(event)
    values = draws.detach().to(torch.float64).reshape(num_chains, num_draws, num_entries).permute(2, 0, 1)
    if num_draws < MIN_DRAWS:
        problem = f"they need {MIN_DRAWS} draws per chain or more; got {num_draws}. Collect more draws."
        values = values.new_zeros(num_entries, 1, MIN_DRAWS)  # stands in, so that the formula gives the shape
        is_valid = torch.zeros(num_entries, dtype=torch.bool, device=values.device)
    else:
        problem = "they need finite draws. Look for divergent steps, and try a smaller step size first."
        is_valid = values.isfinite().all(dim=-1).all(dim=-1)
    num_invalid = num_entries - int(is_valid.sum())
    if num_invalid:
        counted = f"diagnostics of {num_invalid} of {num_entries} event entries are NaN: "
        warnings.warn(counted + problem, DiagnosticWarning, stacklevel=3)
    result = statistic(torch.where(is_valid[:, None, None], values, 0.0).contiguous())
    result[~is_valid] = torch.nan
    return result.reshape([*event, *result.shape[1:]])


# --- Public functions --------------------------------------------------------------------------------------


def rhat(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat: whether all chains, and the halves of each, have one distribution.

    The larger of two values: the bulk version (normal scores of pooled ranks), which sees different
    locations, and the folded one (ranks of the distance from the median), which sees different scales.
    Values near 1 are good, values above 1.01 (`RHAT_LIMIT`) are not. Finite moments are not needed.

    Args:
        draws: Shape `(C, N, *event)`, floating point. One chain is enough: its halves are compared.

    Returns:
        Shape `*event`, float64, on the device of `draws`. NaN for invalid entries and for constant draws, of
        which nobody can tell whether they are stuck; huge or infinite if halves are constant but differ.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] equations 1 to 4 (split R-hat) on the rank-normalised and folded draws of section 4.
    """
    return _per_entry(_rhat, draws)


def ess_bulk(draws: Tensor) -> Tensor:
    """Effective sample size in the bulk: of the mean of the rank-normalised draws.

    Says how well the sampler moves through the body of the distribution; finite moments are not needed.

    Args:
        draws: Shape `(C, N, *event)`, floating point.

    Returns:
        Shape `*event`, float64, in numbers of independent draws. At most S log10(S) with S the number of
        draws kept by splitting; S for constant draws (R-hat is NaN for those); NaN for invalid entries.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 3.2 (ESS of several chains, Geyer's initial monotone sequence) on
        rank-normalised split chains, section 4.
    """
    return _per_entry(_ess_bulk, draws)


def ess_tail(draws: Tensor, prob: tuple[float, float] = (0.05, 0.95)) -> Tensor:
    """Effective sample size in the tails: the smaller of those of two quantiles.

    Args:
        draws: Shape `(C, N, *event)`, floating point.
        prob: The probabilities of the two quantiles, each strictly between 0 and 1.

    Returns:
        Shape `*event`, float64; edge cases as in `ess_bulk`.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes, or `prob` is not
            a pair of probabilities.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4: ESS of the indicators `draws <= quantile`.
    """
    prob = _check_prob(prob)
    return _per_entry(lambda values: _ess_tail(values, prob), draws)


def ess_mean(draws: Tensor) -> Tensor:
    """Effective sample size of the mean of the draws themselves (no ranks); needs a finite variance.

    Args:
        draws: Shape `(C, N, *event)`, floating point.

    Returns:
        Shape `*event`, float64; edge cases as in `ess_bulk`. Draws within 1e-15 of each other are constant.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 3.2 on split chains.
    """
    return _per_entry(_ess_mean, draws)


def mcse_mean(draws: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean of all draws, sd / sqrt(`ess_mean`).

    Args:
        draws: Shape `(C, N, *event)`, floating point.

    Returns:
        Shape `*event`, float64, in the units of the draws. NaN for invalid entries.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 3.2.
    """
    return _per_entry(_mcse_mean, draws)


def mcse_sd(draws: Tensor) -> Tensor:
    """Monte Carlo standard error of the standard deviation of all draws, by the delta method.

    The effective sample size is that of the squared deviations, as in R's posterior package. ArviZ takes that
    of the draws themselves, which for antithetic chains, as HMC often makes them, understates the error
    several times.

    Args:
        draws: Shape `(C, N, *event)`, floating point; a finite fourth moment is needed.

    Returns:
        Shape `*event`, float64, in the units of the draws. NaN for invalid entries and constant draws.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: Kenney and Keeping (1951), "Mathematics of Statistics", part 2: the variance of a sample variance;
        with the effective in place of the actual sample size.
    """
    return _per_entry(_mcse_sd, draws)


# --- Summary -----------------------------------------------------------------------------------------------


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


def _named_tensors(
    draws: Tensor | tuple[Tensor, ...] | Mapping[str, Tensor], names: str | Sequence[str] | None
) -> dict[str, Tensor]:
    """Give each tensor its name, and check that all of them hold the same chains and draws."""
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
    sizes = {tuple(_check_draws(tensor).shape[:2]) for tensor in tensors}
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


def _entry_names(name: str, event: Sequence[int]) -> list[str]:
    if not event:
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in itertools.product(*map(range, event))]


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
    tensors = _named_tensors(draws, names)
    rows: list[SummaryRow] = []
    for name, tensor in tensors.items():
        columns = _per_entry(_summary_columns, tensor)
        numbers = columns.reshape(-1, columns.shape[-1]).tolist()
        rows += map(SummaryRow, _entry_names(name, tensor.shape[2:]), *zip(*numbers, strict=True))
    num_chains, num_draws = next(iter(tensors.values())).shape[:2]
    return Summary(tuple(rows), num_chains, num_draws)
