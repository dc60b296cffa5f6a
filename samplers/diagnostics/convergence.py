"""Convergence and precision of MCMC draws: R-hat, effective sample sizes, Monte Carlo standard errors.

Unless it says otherwise, a function takes draws of shape `(C, N, *event)` (chains, draws per chain, event), works
on the tensor's own device in float64, treats all event entries at once and returns shape `*event`. `summary`
puts the results into a table and says in words what is wrong and what to try. `streaming` has what can be had without
storing draws.

Source: [vehtari2021] Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), "Rank-normalization, folding,
and localization: an improved R-hat for assessing convergence of MCMC", Bayesian Analysis 16(2), 667-718.
Numbers agree with ArviZ (arviz-stats 0.8.0) and R's posterior package to rounding. Edge cases are ArviZ's, with two
differences: R-hat of a single chain compares its two halves, and an infinite draw counts as invalid, as NaN does.
R's package differs from ArviZ where the number of draws is odd: it folds before it drops the middle draw.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..checks import check_count, check_fraction
from ..errors import ParameterError
from . import formulas
from .entries import check_draws, per_entry, superchain_members

MIN_EBFMI = 0.3
"""E-BFMI below this says that momentum draws explore the energies too slowly (the threshold of Stan and ArviZ)."""


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
    return per_entry(formulas.rhat, draws)


def rhat_bulk(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat, which sees different locations: one of the two values behind `rhat`.

    Args:
        draws: Shape `(C, N, *event)`, floating point. One chain is enough: its halves are compared.

    Returns:
        Shape `*event`, float64; edge cases as in `rhat`.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4, on normal scores of the pooled ranks.
    """
    return per_entry(formulas.rhat_bulk, draws)


def rhat_folded(draws: Tensor) -> Tensor:
    """Rank-normalised split R-hat of the distance from the median, which sees different scales.

    The other of the two values behind `rhat`.

    Args:
        draws: Shape `(C, N, *event)`, floating point. One chain is enough: its halves are compared.

    Returns:
        Shape `*event`, float64; edge cases as in `rhat`. NaN also where all draws lie equally far from the median,
        as two equally frequent values do.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4, on normal scores of the pooled ranks of the folded draws.
    """
    return per_entry(formulas.rhat_folded, draws)


def nested_rhat(draws: Tensor, superchains: int | Sequence[int] | Tensor) -> Tensor:
    """Nested R-hat: convergence of many short chains that start in groups from common points.

    Chains of one group, a superchain, must share their starting point and differ only in their noise. Then the
    spread between superchain means shows what is left of the start, and chains may be as short as one draw, where
    `rhat` cannot tell slow chains from short ones. On any other starts the value means nothing; nothing in the
    draws can tell, so the caller has to know.

    Always above 1, by about 1 / (2 M) for superchains of M independent draws: to get below 1.01 with single draws
    takes superchains of 50 chains or more. Not split and without ranks, so it needs a finite variance.

    Args:
        draws: Shape `(C, N, *event)`, floating point.
        superchains: The superchain of each chain, (C,) integers, with equally many chains in each; or the number
            of superchains, if chains lie superchain by superchain.

    Returns:
        Shape `*event`, float64. NaN for invalid entries and constant draws.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes, or superchains are fewer
            than two, differ in size, or do not fit the chains.

    Warns:
        DiagnosticWarning: No draws (fewer than 2 with one chain per superchain), or draws that are not finite.

    Source: Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman (2024), "Nested R-hat: assessing the
        convergence of Markov chain Monte Carlo when running many short chains", Bayesian Analysis,
        doi:10.1214/24-BA1453, equations 4 to 8.
    """
    members = superchain_members(superchains, check_draws(draws).shape[0])
    min_draws = 2 if members.shape[1] == 1 else 1
    return per_entry(lambda values: formulas.nested_rhat(values, members), draws, min_draws=min_draws)


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
    return per_entry(formulas.ess_bulk, draws)


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
    return per_entry(lambda values: formulas.ess_tail(values, prob), draws)


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
    return per_entry(formulas.ess_mean, draws)


def ess_sd(draws: Tensor) -> Tensor:
    """Effective sample size of the standard deviation: of the squared deviations from the mean.

    Args:
        draws: Shape `(C, N, *event)`, floating point; a finite fourth moment is needed.

    Returns:
        Shape `*event`, float64; edge cases as in `ess_bulk`.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4, in the form of R's posterior package.
    """
    return per_entry(formulas.ess_sd, draws)


def ess_quantile(draws: Tensor, prob: float) -> Tensor:
    """Effective sample size of one quantile.

    Args:
        draws: Shape `(C, N, *event)`, floating point.
        prob: The probability of the quantile, strictly between 0 and 1.

    Returns:
        Shape `*event`, float64; edge cases as in `ess_bulk`.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes, or `prob` is not
            strictly between 0 and 1.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4: ESS of the indicator `draws <= quantile`.
    """
    check_fraction("prob", prob)
    return per_entry(lambda values: formulas.ess_quantile(values, prob), draws)


def ess_median(draws: Tensor) -> Tensor:
    """Effective sample size of the median, `ess_quantile(draws, 0.5)`.

    Args:
        draws: Shape `(C, N, *event)`, floating point.

    Returns:
        Shape `*event`, float64; edge cases as in `ess_bulk`.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4.
    """
    return per_entry(lambda values: formulas.ess_quantile(values, 0.5), draws)


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
    return per_entry(formulas.mcse_mean, draws)


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
    return per_entry(formulas.mcse_sd, draws)


def mcse_quantile(draws: Tensor, prob: float) -> Tensor:
    """Monte Carlo standard error of one quantile of all draws.

    Half the distance between two order statistics, which a normal error would put one standard error to either
    side of the quantile; finite moments are not needed.

    Args:
        draws: Shape `(C, N, *event)`, floating point.
        prob: The probability of the quantile, strictly between 0 and 1.

    Returns:
        Shape `*event`, float64, in the units of the draws. NaN for invalid entries, 0 for constant draws.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes, or `prob` is not
            strictly between 0 and 1.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4, Monte Carlo error estimates for quantiles, in the form of R's posterior package.
    """
    check_fraction("prob", prob)
    return per_entry(lambda values: formulas.mcse_quantile(values, prob), draws)


def mcse_median(draws: Tensor) -> Tensor:
    """Monte Carlo standard error of the median of all draws, `mcse_quantile(draws, 0.5)`.

    Args:
        draws: Shape `(C, N, *event)`, floating point.

    Returns:
        Shape `*event`, float64, in the units of the draws. NaN for invalid entries, 0 for constant draws.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes.

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or draws that are not finite.

    Source: [vehtari2021] section 4.
    """
    return per_entry(lambda values: formulas.mcse_quantile(values, 0.5), draws)


def autocorrelation(draws: Tensor, max_lag: int | None = None) -> Tensor:
    """Autocorrelation of each chain by itself, around its own mean.

    Args:
        draws: Shape `(C, N, *event)`, floating point.
        max_lag: Last lag to return, below N; default N - 1.

    Returns:
        Shape `(C, max_lag + 1, *event)`, float64: 1 at lag 0. The autocovariance behind it is divided by N at every
        lag (biased, with less noise at long lags). NaN for invalid entries and constant chains.

    Raises:
        ParameterError: If `draws` is not a floating-point tensor with chain and draw axes, or `max_lag` is not an
            integer between 0 and N - 1.

    Warns:
        DiagnosticWarning: Fewer than 2 draws per chain, or draws that are not finite.

    Source: Geyer (1992), "Practical Markov chain Monte Carlo", Statistical Science 7(4), 473-483,
        on the division by N.
    """
    num_draws = check_draws(draws).shape[1]
    last = max(num_draws - 1, 0) if max_lag is None else check_count("max_lag", max_lag, 0)
    if last > max(num_draws - 1, 0):
        raise ParameterError(f"max_lag must be below the number of draws per chain, {num_draws}; got {max_lag}.")
    correlations = per_entry(lambda values: formulas.autocorrelation(values, last), draws, min_draws=2)
    return correlations.movedim((-2, -1), (0, 1))


def ebfmi(energies: Tensor) -> Tensor:
    """Energy Bayesian fraction of missing information: how freely momentum draws move HMC between energies.

    Mean squared step of the energy over its variance. Near 1 or above is good; below 0.3 (`MIN_EBFMI`) momentum
    draws change the energy too little to reach the tails: reparametrise, or adapt the mass.

    Args:
        energies: Total energy (the Hamiltonian: potential and kinetic) at the start of each transition, after its
            momentum was drawn, (C, N), floating point. Potential energies alone give another number.

    Returns:
        One value per chain, (C,), float64. NaN for invalid chains and constant energies.

    Raises:
        ParameterError: If `energies` is not a floating-point tensor (C, N).

    Warns:
        DiagnosticWarning: Fewer than 4 draws per chain, or energies that are not finite.

    Source: Betancourt (2016), "Diagnosing suboptimal cotangent disintegrations in Hamiltonian Monte Carlo",
        arXiv 1604.00695, the estimator E-BFMI.
    """
    if check_draws(energies).ndim != 2:
        raise ParameterError(f"energies must have shape (chain, draw); got {tuple(energies.shape)}.")
    # Every chain is judged alone, as an event entry is: (C, N) becomes one chain with C entries.
    return per_entry(lambda values: formulas.ebfmi(values).squeeze(-1), energies.T.unsqueeze(0), entries="chains")


def _check_prob(prob: tuple[float, float]) -> tuple[float, float]:
    if not isinstance(prob, Sequence) or len(prob) != 2 or not all(0 < p < 1 for p in prob):
        raise ParameterError(
            f"prob must be two probabilities strictly between 0 and 1; got {prob!r}. Pass e.g. (0.05, 0.95)."
        )
    return prob
