"""The formulas behind the diagnostics: what they are for valid draws, without checks.

Draws are float64 of shape `(..., C, N)`, the chain and draw axes last; results have shape `(...)`.
`lamina.samplers.diagnostics` says what each means, checks what comes in, and names sources ([vehtari2021]).
"""

from __future__ import annotations

import math

import torch
from scipy.fft import next_fast_len
from scipy.special import betaincinv
from torch import Tensor

_ONE_SIGMA = (0.1586553, 0.8413447)
"""Probabilities of a normal variable one sd to either side of its mean, rounded as in R's posterior package."""


def _split_chains(draws: Tensor) -> Tensor:
    """Halve each chain, `(..., C, N) -> (..., 2C, N // 2)`; an odd number of draws loses its middle one."""
    half = draws.shape[-1] // 2
    return torch.cat([draws[..., :half], draws[..., -half:]], dim=-2)


def average_ranks(values: Tensor) -> Tensor:
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
    fractions = (average_ranks(pooled) - 3 / 8) / (pooled.shape[-1] + 1 / 4)
    scores: Tensor = torch.special.ndtri(fractions)
    return scores.view_as(draws)


def pool_sorted(draws: Tensor) -> Tensor:
    """Sort the draws of all chains together, `(..., C, N) -> (..., C N)`."""
    return draws.flatten(-2).sort(dim=-1).values


def quantile(ordered: Tensor, prob: float) -> Tensor:
    """Interpolate linearly in values sorted along the last axis (`torch.quantile` stops at 2**24 values)."""
    index = prob * (ordered.shape[-1] - 1)
    below = math.floor(index)
    return torch.lerp(ordered[..., below], ordered[..., math.ceil(index)], index - below)


def _fold(draws: Tensor) -> Tensor:
    """Distance from the pooled median, which turns a difference in scale into one in location."""
    ordered = pool_sorted(draws)
    size = ordered.shape[-1]
    # The two middle draws fold onto each other up to rounding, so the rounding of their midpoint decides
    # whether they tie. This is NumPy's midpoint: R-hat of few draws would otherwise not agree with ArviZ.
    median = (ordered[..., (size - 1) // 2] + ordered[..., size // 2]) / 2
    return (draws - median[..., None, None]).abs()


def rhat_of_moments(means: Tensor, variances: Tensor, num_draws: int) -> Tensor:
    """Classic R-hat from the mean and variance of each chain, `(..., C)` each."""
    between_chain_variance = num_draws * means.var(dim=-1)
    within_chain_variance = variances.mean(dim=-1)
    return ((between_chain_variance / within_chain_variance + num_draws - 1) / num_draws).sqrt()


def nested_rhat_of_moments(means: Tensor, variances: Tensor) -> Tensor:
    """Nested R-hat from the mean and variance of each chain, `(..., K, M)` each: M chains in each of K superchains.

    A single chain has no variance between chains, a single draw none within: these count as zero, as in the source.
    """
    between_chain_variance = means.var(dim=-1) if means.shape[-1] > 1 else means.new_zeros(())
    within_superchain_variance = (between_chain_variance + variances.mean(dim=-1)).mean(dim=-1)
    between_superchain_variance = means.mean(dim=-1).var(dim=-1)
    return (between_superchain_variance / within_superchain_variance + 1).sqrt()


def _classic_rhat(chains: Tensor) -> Tensor:
    return rhat_of_moments(chains.mean(dim=-1), chains.var(dim=-1), chains.shape[-1])


def rhat_bulk(draws: Tensor) -> Tensor:
    """Classic R-hat of the rank-normalised halves: different locations."""
    return _classic_rhat(_rank_normalise(_split_chains(draws)))


def rhat_folded(draws: Tensor) -> Tensor:
    """Classic R-hat of the rank-normalised folded halves: different scales."""
    return _classic_rhat(_rank_normalise(_fold(_split_chains(draws))))


def rhat(draws: Tensor) -> Tensor:
    """The larger of the bulk and the folded version."""
    # fmax passes over NaN: draws with two equally frequent values fold to a constant; the bulk still counts.
    return torch.fmax(rhat_bulk(draws), rhat_folded(draws))


def nested_rhat(draws: Tensor, superchains: Tensor) -> Tensor:
    """Nested R-hat, `(..., C, N) -> (...)`; `superchains` (K, M) holds the indices of each superchain's chains."""
    chains = draws[..., superchains, :]
    variances = chains.var(dim=-1) if chains.shape[-1] > 1 else torch.zeros_like(chains[..., 0])
    return nested_rhat_of_moments(chains.mean(dim=-1), variances)


def _power(chains: Tensor) -> Tensor:
    """Power spectrum of each centred chain, `(..., N) -> (..., F)`; its inverse is N times the autocovariance."""
    # Padding to twice the length keeps the circular convolution from wrapping around.
    padded = next_fast_len(2 * chains.shape[-1], real=True)
    centred = chains - chains.mean(dim=-1, keepdim=True)
    power: Tensor = torch.fft.rfft(centred, n=padded).abs().square()
    return power


def _autocovariance(power: Tensor, num_draws: int) -> Tensor:
    """Biased autocovariance at lags 0 to N - 1, `(..., F) -> (..., N)`."""
    padded = next_fast_len(2 * num_draws, real=True)
    autocovariance: Tensor = torch.fft.irfft(power, n=padded)
    return autocovariance[..., :num_draws] / num_draws


def autocorrelation(chains: Tensor, max_lag: int) -> Tensor:
    """Autocorrelation of each chain by itself, `(..., N) -> (..., max_lag + 1)`."""
    autocovariance = _autocovariance(_power(chains), chains.shape[-1])[..., : max_lag + 1]
    return autocovariance / autocovariance[..., :1]


def _joint_autocorrelation(chains: Tensor) -> Tensor:
    """Autocorrelation of two or more chains together, `(..., C, N) -> (..., N)`.

    Its variance counts the spread between chains, so chains that disagree look strongly correlated.
    """
    num_draws = chains.shape[-1]
    autocovariance = _autocovariance(_power(chains).mean(dim=-2), num_draws)
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
    time = _autocorrelation_time(_joint_autocorrelation(chains)).clamp(min=1 / math.log10(size))
    spread = chains.amax(dim=(-2, -1)) - chains.amin(dim=(-2, -1))
    is_constant = spread < torch.finfo(torch.float64).resolution
    return torch.where(is_constant, float(size), size / time)


def ess_mean(draws: Tensor) -> Tensor:
    """ESS of the halves as they are."""
    return _ess(_split_chains(draws))


def ess_bulk(draws: Tensor) -> Tensor:
    """ESS of the rank-normalised halves."""
    return _ess(_rank_normalise(_split_chains(draws)))


def _squared_deviations(draws: Tensor) -> Tensor:
    return (draws - draws.mean(dim=(-2, -1), keepdim=True)).square()


def ess_sd(draws: Tensor) -> Tensor:
    """ESS of the squared deviations from the pooled mean."""
    return ess_mean(_squared_deviations(draws))


def _ess_of_quantile(draws: Tensor, ordered: Tensor, prob: float) -> Tensor:
    return ess_mean((draws <= quantile(ordered, prob)[..., None, None]).double())


def ess_quantile(draws: Tensor, prob: float) -> Tensor:
    """ESS of the indicator of being at or below a quantile."""
    return _ess_of_quantile(draws, pool_sorted(draws), prob)


def ess_tail(draws: Tensor, prob: tuple[float, float]) -> Tensor:
    """The smaller ESS of two quantiles."""
    ordered = pool_sorted(draws)
    ess_low, ess_high = (_ess_of_quantile(draws, ordered, p) for p in prob)
    return torch.minimum(ess_low, ess_high)


def mcse_mean(draws: Tensor) -> Tensor:
    """Standard deviation over the square root of its ESS."""
    return draws.flatten(-2).std(dim=-1) / ess_mean(draws).sqrt()


def mcse_sd(draws: Tensor) -> Tensor:
    """Error of the standard deviation, by the delta method from that of the variance."""
    squares = _squared_deviations(draws)
    variance = squares.mean(dim=(-2, -1))
    variance_of_variance = (squares.square().mean(dim=(-2, -1)) - variance.square()) / ess_mean(squares)
    return (variance_of_variance / variance / 4).sqrt()  # delta method: Var(sd) = Var(sd**2) / (4 sd**2)


def mcse_quantile(draws: Tensor, prob: float) -> Tensor:
    """Half the width of a central 68.3% interval of the quantile's Beta distribution, in order statistics."""
    ordered = pool_sorted(draws)
    size = ordered.shape[-1]
    ess = _ess_of_quantile(draws, ordered, prob)[..., None].cpu().numpy()
    fractions = betaincinv(ess * prob + 1, ess * (1 - prob) + 1, _ONE_SIGMA)  # torch has no inverse of its own
    low, high = torch.from_numpy(fractions * size).to(ordered.device).unbind(dim=-1)
    ranks = torch.stack([low.floor().clamp(min=1), high.ceil().clamp(max=size)], dim=-1).long()
    lower, upper = ordered.gather(-1, ranks - 1).unbind(dim=-1)
    return (upper - lower) / 2


def ebfmi(energies: Tensor) -> Tensor:
    """Squared steps of the energy over its squared deviations, `(..., N) -> (...)`."""
    deviations = energies - energies.mean(dim=-1, keepdim=True)
    return energies.diff(dim=-1).square().sum(dim=-1) / deviations.square().sum(dim=-1)
