"""Diagnostics against ArviZ, frozen numbers, closed forms, and on draws that they must complain about.

Statistical tests have fixed seeds and thresholds with a false-alarm rate of at most 1e-5.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.signal import lfilter
from torch import Tensor

from lamina.samplers.diagnostics import (
    DiagnosticWarning,
    Summary,
    autocorrelation,
    ebfmi,
    ess_bulk,
    ess_mean,
    ess_median,
    ess_quantile,
    ess_sd,
    ess_tail,
    mcse_mean,
    mcse_median,
    mcse_quantile,
    mcse_sd,
    nested_rhat,
    rhat,
    rhat_bulk,
    rhat_folded,
    summary,
)
from lamina.samplers.errors import ParameterError


def ess_decile(draws: Tensor) -> Tensor:
    return ess_quantile(draws, 0.1)


def mcse_decile(draws: Tensor) -> Tensor:
    return mcse_quantile(draws, 0.1)


RHATS = (rhat, rhat_bulk, rhat_folded)
ESSES = (ess_bulk, ess_tail, ess_mean, ess_sd, ess_median, ess_decile)
MCSES = (mcse_mean, mcse_sd, mcse_median, mcse_decile)
DIAGNOSTICS = {f.__name__: f for f in (*RHATS, *ESSES, *MCSES)}
every_diagnostic = pytest.mark.parametrize("diagnostic", DIAGNOSTICS.values(), ids=DIAGNOSTICS)


def ar1(shape: tuple[int, ...], correlation: float, seed: int = 0) -> Tensor:
    """Draw stationary chains x' = correlation * x + noise with unit noise, time along axis 1."""
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).numpy()
    noise[:, 0] /= math.sqrt(1 - correlation**2)
    return torch.from_numpy(lfilter([1.0], [1.0, -correlation], noise, axis=1))


def assert_close(ours: Tensor, theirs: object) -> None:
    reference = torch.as_tensor(np.asarray(theirs), dtype=torch.float64)
    torch.testing.assert_close(ours, reference, rtol=1e-8, atol=0.0, equal_nan=True)


# --- Agreement with ArviZ ----------------------------------------------------------------------------------


@pytest.fixture
def arviz() -> SimpleNamespace:
    """ArviZ's versions under our names, from (chain, draw, *event) tensors."""
    array_stats = pytest.importorskip("arviz_stats.base").array_stats
    axes = {"chain_axis": 0, "draw_axis": 1}

    def mcse_sd(draws: Tensor) -> np.ndarray:
        """By ArviZ's effective sample size, but of the squared deviations: see `mcse_sd` for the reason."""
        squares = (draws - draws.mean(dim=(0, 1))).square().numpy()
        variance = squares.mean(axis=(0, 1))
        ess = array_stats.ess(squares, method="mean", **axes)
        return np.asarray(np.sqrt(((squares**2).mean(axis=(0, 1)) - variance**2) / ess / variance / 4))

    def rhat(method: str) -> Callable[[Tensor], np.ndarray]:
        return lambda draws: np.asarray(array_stats.rhat(draws.numpy(), method=method, **axes))

    def ess(method: str, default: object = None) -> Callable[..., np.ndarray]:
        return lambda draws, prob=default: np.asarray(array_stats.ess(draws.numpy(), method=method, prob=prob, **axes))

    def mcse(method: str, default: object = None) -> Callable[..., np.ndarray]:
        return lambda draws, prob=default: np.asarray(array_stats.mcse(draws.numpy(), method=method, prob=prob, **axes))

    return SimpleNamespace(
        array_stats=array_stats,
        rhat=rhat("rank"),
        rhat_bulk=rhat("z_scale"),
        rhat_folded=rhat("folded"),
        ess_bulk=ess("bulk"),
        ess_tail=ess("tail", (0.05, 0.95)),
        ess_mean=ess("mean"),
        ess_sd=ess("sd"),
        ess_median=ess("median"),
        ess_decile=ess("quantile", 0.1),
        ess_quantile=ess("quantile"),
        mcse_mean=mcse("mean"),
        mcse_sd=mcse_sd,
        mcse_median=mcse("median"),
        mcse_decile=mcse("quantile", 0.1),
        mcse_quantile=mcse("quantile"),
    )


@every_diagnostic
@pytest.mark.parametrize("correlation", [-0.9, 0.5, 0.97])
@pytest.mark.parametrize(
    "shape", [(4, 400), (2, 301, 3), (3, 50, 2, 2), (5, 16, 7), (2, 13, 20), (2, 9, 20), (4, 5, 3), (2, 4, 5)], ids=str
)
def test_agrees_with_arviz(
    arviz: SimpleNamespace, diagnostic: Callable[[Tensor], Tensor], shape: tuple[int, ...], correlation: float
) -> None:
    draws = ar1(shape, correlation)
    ours = diagnostic(draws)
    assert ours.shape == shape[2:]
    assert_close(ours, getattr(arviz, diagnostic.__name__)(draws))


@every_diagnostic
@pytest.mark.parametrize("grid", [0.1, 1.0, 2.0])
def test_agrees_with_arviz_on_ties(arviz: SimpleNamespace, diagnostic: Callable[[Tensor], Tensor], grid: float) -> None:
    draws = (ar1((3, 61, 4), 0.5) / grid).round() * grid
    assert_close(diagnostic(draws), getattr(arviz, diagnostic.__name__)(draws))


@every_diagnostic
def test_agrees_with_arviz_on_chains_that_disagree(
    arviz: SimpleNamespace, diagnostic: Callable[[Tensor], Tensor]
) -> None:
    draws = ar1((4, 200, 3), 0.3) * torch.tensor([1.0, 1.0, 2.0, 3.0])[:, None, None]
    draws[0] += 2.0
    assert_close(diagnostic(draws), getattr(arviz, diagnostic.__name__)(draws))


@pytest.mark.parametrize("diagnostic", [*ESSES, *MCSES])
@pytest.mark.parametrize("num_draws", [150, 151])
def test_agrees_with_arviz_on_one_chain(
    arviz: SimpleNamespace, diagnostic: Callable[[Tensor], Tensor], num_draws: int
) -> None:
    draws = ar1((1, num_draws, 3), 0.6)
    assert_close(diagnostic(draws), getattr(arviz, diagnostic.__name__)(draws))


@pytest.mark.parametrize("num_draws", [150, 151])
def test_rhat_of_one_chain_is_that_of_its_halves(arviz: SimpleNamespace, num_draws: int) -> None:
    """ArviZ refuses one chain; its two halves, normalised by hand, go through its plain R-hat instead."""
    draws = ar1((1, num_draws, 3), 0.6)
    half = num_draws // 2
    halves = np.concatenate([draws[:, :half], draws[:, -half:]]).T
    versions = []
    for values in (halves, np.abs(halves - np.median(halves, axis=(1, 2), keepdims=True))):
        ranks = stats.rankdata(values.reshape(3, -1), axis=1).reshape(values.shape)
        scores = stats.norm.ppf((ranks - 3 / 8) / (2 * half + 1 / 4))
        versions.append(arviz.array_stats.rhat(scores, chain_axis=-1, draw_axis=-2, method="identity"))
    assert_close(rhat_bulk(draws), versions[0])
    assert_close(rhat_folded(draws), versions[1])
    assert_close(rhat(draws), np.maximum(*versions))


@pytest.mark.parametrize("prob", [(0.01, 0.5), (0.9, 0.2)])
def test_tail_probabilities_agree_with_arviz(arviz: SimpleNamespace, prob: tuple[float, float]) -> None:
    draws = ar1((4, 250, 3), 0.7)
    assert_close(ess_tail(draws, prob), arviz.ess_tail(draws, prob))


@pytest.mark.parametrize("prob", [0.001, 0.25, 0.5, 0.999])
def test_quantiles_agree_with_arviz(arviz: SimpleNamespace, prob: float) -> None:
    draws = ar1((4, 250, 3), 0.7)
    assert_close(ess_quantile(draws, prob), arviz.ess_quantile(draws, prob))
    assert_close(mcse_quantile(draws, prob), arviz.mcse_quantile(draws, prob))


def test_autocorrelation_and_ebfmi_agree_with_arviz(arviz: SimpleNamespace) -> None:
    draws = ar1((3, 101, 2), 0.7)
    assert_close(autocorrelation(draws), arviz.array_stats.autocorr(draws.numpy(), axis=1))
    assert_close(ebfmi(draws[..., 0]), arviz.array_stats.bfmi(draws[..., 0].numpy()))


@pytest.mark.parametrize("diagnostic", [*ESSES, mcse_mean, mcse_median, mcse_decile])
def test_constant_draws_agree_with_arviz(arviz: SimpleNamespace, diagnostic: Callable[[Tensor], Tensor]) -> None:
    draws = torch.full((3, 21, 2), 0.5, dtype=torch.float64)
    assert_close(diagnostic(draws), getattr(arviz, diagnostic.__name__)(draws))


# --- Frozen reference --------------------------------------------------------------------------------------


def reference_draws() -> Tensor:
    """AR(1) chains (3, 101, 2), coefficients 0.8 and -0.4, driven by ANSI C's linear congruential generator."""
    state, chains = 1, []
    for _ in range(3):
        for coefficient in (0.8, -0.4):
            x, chain = 0.0, []
            for _ in range(101):
                state = (1103515245 * state + 12345) % 2**31
                x = coefficient * x + state / 2**31 - 0.5
                chain.append(x)
            chains.append(chain)
    return torch.tensor(chains, dtype=torch.float64).reshape(3, 2, 101).movedim(2, 1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rhat", [1.1362114698605228, 0.9941971214753262]),
        ("ess_bulk", [20.08650760359299, 657.7464671232902]),
        ("ess_tail", [85.59058050754217, 306.9623599069571]),
        ("ess_mean", [17.973278591965105, 644.4126230221881]),
        ("mcse_mean", [0.1259279853109666, 0.012028704683437984]),
        ("mcse_sd", [0.033842320537787594, 0.010165809987915862]),
    ],
)
def test_frozen_reference(name: str, expected: list[float]) -> None:
    """Numbers of ArviZ, so that a machine without it still compares.

    2026-11-22, Python 3.11.7, arviz-stats 0.8.0, numpy 2.4.6, scipy 1.17.1. Script:

        from arviz_stats.base import array_stats
        draws, axes = reference_draws().numpy(), {"chain_axis": 0, "draw_axis": 1}
        print("rhat", array_stats.rhat(draws, **axes).tolist())
        for method in ("bulk", "tail", "mean"):
            prob = (0.05, 0.95) if method == "tail" else None
            print("ess", method, array_stats.ess(draws, method=method, prob=prob, **axes).tolist())
        print("mcse mean", array_stats.mcse(draws, method="mean", **axes).tolist())
        squares = (draws - draws.mean((0, 1))) ** 2; variance = squares.mean((0, 1))
        ess = array_stats.ess(squares, method="mean", **axes)
        print("mcse sd", (((squares**2).mean((0, 1)) - variance**2) / ess / variance / 4) ** 0.5)
    """
    assert_close(DIAGNOSTICS[name](reference_draws()), expected)


BLOCKER = Path(__file__).parent / "data" / "blocker.csv"


@pytest.mark.parametrize(
    ("diagnostic", "expected"),
    [
        (rhat, [1.00780272388603, 1.01090196780102]),
        (ess_bulk, [465.136513484671, 73.249623982678]),
        (ess_tail, [349.135270438316, 48.5806371372426]),
        (ess_mean, [467.84472286415, 134.497570910906]),
        (ess_sd, [488.89443945697, 801.332161569803]),
        (ess_median, [311.806319792458, 132.049677080929]),
        (lambda draws: ess_quantile(draws, 0.01), [1500.2193689464, 33.1982442776445]),
        (lambda draws: ess_quantile(draws, 0.1), [754.211496074801, 63.6980562732759]),
        (lambda draws: ess_quantile(draws, 0.3), [354.746981701936, 98.6290985074029]),
        (mcse_mean, [0.00265985849234941, 0.00114848510125919]),
        (mcse_sd, [0.00206270285278761, 0.0010201024173082]),
        (mcse_median, [0.005242, 0.00095392]),
        (lambda draws: mcse_quantile(draws, 0.01), [0.00812199999999999, 0.0003001]),
        (lambda draws: mcse_quantile(draws, 0.1), [0.003997, 0.00044662]),
        (lambda draws: mcse_quantile(draws, 0.3), [0.00375200000000001, 0.00058668]),
    ],
)
def test_reference_of_posterior(diagnostic: Callable[[Tensor], Tensor], expected: list[float]) -> None:
    """Numbers of R's posterior package, on draws of Stan that had not mixed well.

    Published with the tests of ArviZ at commit 27bd755a, arviz/tests/saved_models/stan_diagnostics:
    reference_posterior.csv, rows d and sigmasq_delta. The data file says where the draws come from.
    """
    draws = torch.from_numpy(np.loadtxt(BLOCKER, delimiter=",")).reshape(1000, 2, 2).transpose(0, 1)
    assert_close(diagnostic(draws), expected)


# --- Nested R-hat ------------------------------------------------------------------------------------------


def naive_nested_rhat(draws: Tensor, ids: list[int]) -> Tensor:
    """The definition in loops, for draws (C, N): Margossian et al. (2024), equations 4 to 8."""
    superchain_means, within = [], []
    for superchain in sorted(set(ids)):
        chains = [draws[chain] for chain in range(len(ids)) if ids[chain] == superchain]
        means = [chain.sum() / len(chain) for chain in chains]
        mean = sum(means) / len(means)
        between = sum((m - mean) ** 2 for m in means) / (len(means) - 1) if len(means) > 1 else 0.0
        variances = [
            sum((x - m) ** 2 for x in chain) / (len(chain) - 1) if len(chain) > 1 else 0.0
            for chain, m in zip(chains, means, strict=True)
        ]
        superchain_means.append(mean)
        within.append(between + sum(variances) / len(variances))
    grand_mean = sum(superchain_means) / len(superchain_means)
    between_superchains = sum((m - grand_mean) ** 2 for m in superchain_means) / (len(superchain_means) - 1)
    return (1 + between_superchains / (sum(within) / len(within))) ** 0.5


@pytest.mark.parametrize("num_draws", [1, 2, 7])
@pytest.mark.parametrize("ids", [[0, 0, 0, 1, 1, 1], [2, 0, 2, 5, 5, 0], [1, 2, 1, 2, 2, 1]])
def test_nested_rhat_is_its_definition(ids: list[int], num_draws: int) -> None:
    draws = ar1((6, num_draws, 2), 0.5)
    draws[:2] += 0.7
    expected = torch.stack([naive_nested_rhat(draws[..., entry], ids) for entry in range(2)])
    assert_close(nested_rhat(draws, ids), expected)
    assert_close(nested_rhat(draws, torch.tensor(ids)), expected)


def test_nested_rhat_agrees_with_arviz(arviz: SimpleNamespace) -> None:
    ids = np.array([0, 1, 0, 1, 2, 2])
    draws = ar1((6, 30), 0.5)
    reference = arviz.array_stats.rhat_nested(draws.numpy(), superchain_ids=ids, method="identity")
    assert_close(nested_rhat(draws, torch.from_numpy(ids)), reference)


def test_nested_rhat_of_single_chains_is_almost_the_classic_one() -> None:
    """The classic value has 1 - 1/N where the nested one has 1: their squares differ by 1/N (footnote 3)."""
    draws = ar1((5, 40, 3), 0.5)
    means, variances = draws.mean(dim=1), draws.var(dim=1)
    classic_squared = (1 - 1 / 40) + means.var(dim=0) / variances.mean(dim=0)
    assert_close(nested_rhat(draws, 5).square(), classic_squared + 1 / 40)


def test_a_number_of_superchains_means_consecutive_chains() -> None:
    draws = ar1((6, 10), 0.5)
    assert_close(nested_rhat(draws, 3), nested_rhat(draws, [0, 0, 1, 1, 2, 2]))


def test_nested_rhat_sees_starting_points_that_are_not_forgotten() -> None:
    """Single draws of 4 superchains of 256 chains.

    Forgotten starts: R-hat > 1.01 needs the variance of 4 means of 256 draws to be 5.1 times its expectation:
    chi-square with 3 degrees of freedom above 15.4, 1.5e-3 for each entry; of the median of 20 entries far below
    1e-10. Remembered starts: their spread is that of the target itself.
    """
    forgotten = ar1((1024, 1, 20), 0.0)
    starts = ar1((4, 1, 20), 0.0, seed=1).repeat_interleave(256, dim=0)
    assert nested_rhat(forgotten, 4).median() < 1.01
    assert nested_rhat(0.7 * forgotten + 0.7 * starts, 4).median() > 1.1


@pytest.mark.parametrize(
    ("superchains", "message"),
    [
        (1, "the number of superchains must be an integer of at least 2; got 1"),
        (True, "at least 2; got True"),
        (4, "6 chains do not divide into 4"),
        ([0] * 6, r"two or more of the same size; got sizes \[6\]"),
        ([0, 0, 0, 0, 1, 1], r"got sizes \[4, 2\].*same number of chains"),
        ([0, 0, 1, 1], r"one integer per chain, here 6; got torch.int64 of shape \(4,\)"),
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], r"here 6; got torch.float32"),
    ],
)
def test_wrong_superchains_are_refused(superchains: int | list[int], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        nested_rhat(ar1((6, 10), 0.5), superchains)


def test_nested_rhat_without_spread_to_compare_is_nan() -> None:
    with pytest.warns(DiagnosticWarning, match="2 draws per chain or more; got 1"):
        assert nested_rhat(torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(0)), 4).isnan().all()
    with pytest.warns(DiagnosticWarning, match="1 draws per chain or more; got 0"):
        assert nested_rhat(torch.zeros(4, 0, 3), 2).isnan().all()
    assert nested_rhat(torch.ones(4, 5), 2).isnan()


# --- Autocorrelation and energies --------------------------------------------------------------------------


def test_autocorrelation_is_its_definition() -> None:
    draws = ar1((2, 30, 3), 0.6)
    centred = draws - draws.mean(dim=1, keepdim=True)
    covariances = [(centred[:, lag:] * centred[:, : 30 - lag]).sum(dim=1) / 30 for lag in range(12)]
    expected = torch.stack(covariances, dim=1) / covariances[0][:, None]
    result = autocorrelation(draws, max_lag=11)
    assert result.shape == (2, 12, 3)
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(autocorrelation(draws)[:, :12], result, rtol=1e-10, atol=1e-12)


def test_autocorrelation_of_invalid_and_constant_chains_is_nan() -> None:
    draws = ar1((2, 30, 2), 0.6)
    draws[0, :, 0] = 1.0
    draws[1, 3, 1] = torch.nan
    with pytest.warns(DiagnosticWarning, match="1 of 2") as caught:
        result = autocorrelation(draws, 5)
    assert caught[0].filename == __file__
    assert result[0, :, 0].isnan().all()
    assert result[1, :, 0].isfinite().all()
    assert result[:, :, 1].isnan().all()
    with pytest.warns(DiagnosticWarning, match="2 draws per chain or more; got 1"):
        assert autocorrelation(torch.zeros(3, 1, 2)).shape == (3, 1, 2)


@pytest.mark.parametrize("max_lag", [-1, 30, 2.5])
def test_wrong_lags_are_refused(max_lag: int) -> None:
    with pytest.raises(ParameterError, match="max_lag must be"):
        autocorrelation(torch.zeros(2, 30), max_lag)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_ebfmi_of_ar1_is_the_closed_form(correlation: float) -> None:
    """E (e' - e)**2 / Var e = 2 (1 - r). 200 chains estimate it; |z| < 4.4, after a bias of order 1/N, below 1%."""
    estimates = ebfmi(ar1((200, 2000), correlation))
    assert estimates.shape == (200,)
    standard_error = estimates.std() / math.sqrt(200)
    assert abs(estimates.mean() - 2 * (1 - correlation)) < 0.02 * (1 - correlation) + 4.4 * standard_error


def test_ebfmi_judges_every_chain_by_itself() -> None:
    energies = ar1((3, 50), 0.5)
    expected = ebfmi(energies)
    energies[1, 7] = torch.inf
    expected[1] = torch.nan
    with pytest.warns(DiagnosticWarning, match="1 of 3 chains are NaN.*finite") as caught:
        result = ebfmi(energies)
    assert caught[0].filename == __file__
    torch.testing.assert_close(result, expected, rtol=0.0, atol=0.0, equal_nan=True)
    with pytest.raises(ParameterError, match=r"shape \(chain, draw\); got \(3, 50, 1\)"):
        ebfmi(energies[..., None])


# --- Closed forms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ess", [ess_mean, ess_bulk])
@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_ess_of_ar1_is_the_closed_form(ess: Callable[[Tensor], Tensor], correlation: float) -> None:
    """The autocorrelation time of AR(1) is (1 + r) / (1 - r); 256 replicates estimate it 256 times.

    Truncating at the first pair that is not positive biases the estimate by 1 to 2.5% at this length (the
    allowance is 4%); beyond that 4.4 standard errors of the mean over replicates, a false-alarm rate of 1e-5.
    """
    draws = ar1((4, 2000, 256), correlation, seed=1)
    ratio = 8000 / ess(draws) / ((1 + correlation) / (1 - correlation))
    standard_error = ratio.std() / math.sqrt(256)
    assert abs(ratio.mean() - 1) < 0.04 + 4.4 * standard_error


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.9])
def test_mcse_mean_is_the_error_of_the_mean(correlation: float) -> None:
    """(mean / MCSE)**2 is chi-square with one degree of freedom, of mean 1 and variance 2; |z| < 4.4."""
    draws = ar1((4, 2000, 256), correlation, seed=2)
    z_squared = (draws.mean(dim=(0, 1)) / mcse_mean(draws)).square()
    assert abs(z_squared.mean() - 1) < 4.4 * math.sqrt(2 / 256)


@pytest.mark.parametrize("correlation", [-0.8, 0.0, 0.9])
def test_mcse_sd_is_the_error_of_the_sd(correlation: float) -> None:
    """((sd - truth) / MCSE)**2 has mean 1 and variance 2, also for antithetic chains; |z| < 4.4 as for the mean."""
    draws = ar1((4, 2000, 256), correlation, seed=3)
    truth = 1 / math.sqrt(1 - correlation**2)
    z_squared = ((draws.std(dim=(0, 1)) - truth) / mcse_sd(draws)).square()
    assert abs(z_squared.mean() - 1) < 4.4 * math.sqrt(2 / 256)


@pytest.mark.parametrize("prob", [0.1, 0.5])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_mcse_quantile_is_the_error_of_the_quantile(prob: float, correlation: float) -> None:
    """Mean squared error over mean squared MCSE is 1; errors are near normal, so |z| < 4.4 as for the mean.

    An MCSE from two order statistics has a relative variance of 1 to 2% at this length: the allowance of 2%.
    """
    draws = ar1((4, 2000, 256), correlation, seed=4)
    truth = stats.norm.ppf(prob) / math.sqrt(1 - correlation**2)
    errors = torch.quantile(draws.flatten(0, 1), prob, dim=0) - truth
    ratio = errors.square().mean() / mcse_quantile(draws, prob).square().mean()
    assert abs(ratio - 1) < 0.02 + 4.4 * math.sqrt(2 / 256)


def test_mcse_sd_of_independent_draws() -> None:
    """For independent normal draws the sample sd has the error sigma / sqrt(2 S)."""
    draws = ar1((4, 2000, 256), 0.0, seed=3)
    torch.testing.assert_close(mcse_sd(draws).mean().item(), 1 / math.sqrt(2 * 8000), rtol=0.03, atol=0.0)


def test_antithetic_draws_are_capped() -> None:
    draws = ar1((4, 1000), -0.99)
    torch.testing.assert_close(ess_mean(draws).item(), 4000 * math.log10(4000))


# --- What the diagnostics are for --------------------------------------------------------------------------


def test_rhat_accepts_chains_that_agree() -> None:
    """With independent draws R-hat > 1.01 needs F(7, 3992) > 11: probability 1e-13 for each entry."""
    assert rhat(ar1((4, 1000, 100), 0.0)).max() < 1.01


def test_rhat_sees_a_shifted_chain() -> None:
    draws = ar1((4, 500, 20), 0.0)
    draws[2] += 1.0
    assert rhat(draws).min() > 1.05


def test_rhat_sees_different_scales_around_one_median() -> None:
    """Means agree, so only the folded version can see it."""
    draws = ar1((4, 500, 20), 0.0)
    draws[2] *= 4.0
    assert rhat(draws).min() > 1.05


def test_rhat_sees_a_trend_in_a_single_chain() -> None:
    draws = ar1((1, 500, 20), 0.0) + torch.linspace(-2.0, 2.0, 500)[:, None]
    assert rhat(draws).min() > 1.05


def test_rhat_needs_no_moments() -> None:
    """Cauchy draws have neither mean nor variance; ranks do not mind. Probability as for normal draws."""
    assert rhat(ar1((4, 1000, 50), 0.0) / ar1((4, 1000, 50), 0.0, seed=1)).max() < 1.01


def test_rhat_sees_chains_stuck_at_different_points() -> None:
    draws = torch.arange(4.0)[:, None].expand(4, 100)
    assert rhat(draws) > 1e3
    assert ess_mean(draws) < 10


def test_constant_draws_have_full_ess_but_no_rhat() -> None:
    draws = torch.full((4, 101), 0.5)
    assert rhat(draws).isnan()
    assert ess_mean(draws) == ess_bulk(draws) == ess_tail(draws) == 400


def test_tail_ess_counts_draws_that_tie_with_the_quantile() -> None:
    """The 5% quantile of zeros and ones is 0, and `draws <= 0` is one minus the draws."""
    draws = (ar1((4, 200), 0.5) > 0).double()
    assert_close(ess_tail(draws, (0.05, 0.05)), ess_mean(draws))


def test_rhat_of_draws_that_fold_to_a_constant() -> None:
    """Fair coins at +-1 are one distance from their median, which leaves the bulk version alone."""
    draws = torch.tensor([-1.0, 1.0]).repeat(4, 50)
    torch.testing.assert_close(rhat(draws).item(), math.sqrt(49 / 50), rtol=1e-12, atol=0.0)


def test_ess_is_free_of_monotone_transformations_and_scale() -> None:
    draws = ar1((4, 200, 3), 0.5)
    assert_close(ess_bulk(draws.exp()), ess_bulk(draws))
    assert_close(ess_tail(1e-3 * draws + 5.0), ess_tail(draws))
    assert_close(ess_mean(-1e3 * draws), ess_mean(draws))


# --- Tensors in, tensors out -------------------------------------------------------------------------------


@every_diagnostic
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_draws_are_computed_in_float64(
    diagnostic: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    draws = ar1((2, 100, 3), 0.5).to(dtype)
    result = diagnostic(draws)
    assert result.dtype == torch.float64
    torch.testing.assert_close(result, diagnostic(draws.double()), rtol=0.0, atol=0.0)


@every_diagnostic
def test_entries_do_not_see_each_other(diagnostic: Callable[[Tensor], Tensor]) -> None:
    draws = ar1((3, 80, 2, 3), 0.5)
    one_by_one = torch.stack([diagnostic(entry) for entry in draws.flatten(2).unbind(-1)])
    assert_close(diagnostic(draws), one_by_one.reshape(2, 3))


@every_diagnostic
def test_inputs_stay_as_they_are_and_outputs_carry_no_graph(diagnostic: Callable[[Tensor], Tensor]) -> None:
    draws = ar1((2, 50, 2), 0.5)
    draws[0, 0, 0] = torch.nan
    before = draws.clone()
    with pytest.warns(DiagnosticWarning):
        result = diagnostic(draws.requires_grad_())
    assert not result.requires_grad
    torch.testing.assert_close(draws.detach(), before, rtol=0.0, atol=0.0, equal_nan=True)


@every_diagnostic
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_stays_on_the_device(diagnostic: Callable[[Tensor], Tensor]) -> None:
    draws = ar1((4, 101, 3), 0.5)
    result = diagnostic(draws.cuda())
    assert result.is_cuda
    assert_close(result.cpu(), diagnostic(draws))


# --- Guards ------------------------------------------------------------------------------------------------


@every_diagnostic
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_entries_that_are_not_finite_become_nan(diagnostic: Callable[[Tensor], Tensor], bad: float) -> None:
    draws = ar1((2, 50, 3), 0.5)
    expected = diagnostic(draws)
    expected[1] = torch.nan
    draws[1, 7, 1] = bad
    with pytest.warns(DiagnosticWarning, match=r"1 of 3 event entries.*finite") as caught:
        result = diagnostic(draws)
    assert caught[0].filename == __file__
    torch.testing.assert_close(result, expected, rtol=0.0, atol=0.0, equal_nan=True)


@every_diagnostic
@pytest.mark.parametrize("num_draws", [0, 1, 3])
def test_too_few_draws_give_nan(diagnostic: Callable[[Tensor], Tensor], num_draws: int) -> None:
    with pytest.warns(DiagnosticWarning, match=f"4 draws per chain or more; got {num_draws}"):
        result = diagnostic(torch.zeros(2, num_draws, 3))
    assert result.shape == (3,)
    assert result.isnan().all()


@every_diagnostic
@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ([[0.0] * 10], r"got list.*torch\.as_tensor"),
        (np.zeros((2, 10)), r"got ndarray.*torch\.as_tensor"),
        (torch.zeros(2, 10, dtype=torch.int64), r"got dtype torch\.int64.*double"),
        (torch.zeros(2, 10, dtype=torch.complex64), r"got dtype torch\.complex64"),
        (torch.zeros(10), r"got shape \(10,\).*draws\[None\]"),
        (torch.zeros(0, 10), r"empty; got shape \(0, 10\)"),
        (torch.zeros(2, 10, 0), r"empty; got shape \(2, 10, 0\)"),
    ],
)
def test_wrong_draws_are_refused(diagnostic: Callable[[object], Tensor], draws: object, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        diagnostic(draws)


@pytest.mark.parametrize("prob", [0.0, 1.0, -0.1, math.nan, (0.1, 0.9)])
@pytest.mark.parametrize("diagnostic", [ess_quantile, mcse_quantile])
def test_wrong_probability_is_refused(diagnostic: Callable[[Tensor, float], Tensor], prob: float) -> None:
    with pytest.raises(ParameterError, match="prob must lie strictly between 0 and 1"):
        diagnostic(torch.zeros(2, 10), prob)


@pytest.mark.parametrize("prob", [0.05, (0.05,), (0.0, 0.5), (0.5, 1.0), (0.1, math.nan), (0.1, 0.5, 0.9)])
def test_wrong_probabilities_are_refused(prob: tuple[float, float]) -> None:
    with pytest.raises(ParameterError, match="two probabilities"):
        ess_tail(torch.zeros(2, 10), prob)


# --- Summary -----------------------------------------------------------------------------------------------


def test_summary_rows_hold_the_diagnostics() -> None:
    draws = ar1((4, 101, 2, 3), 0.5)
    table = summary(draws)
    assert (table.num_chains, table.num_draws) == (4, 101)
    assert [row.name for row in table.rows] == ["x[0,0]", "x[0,1]", "x[0,2]", "x[1,0]", "x[1,1]", "x[1,2]"]
    pooled = draws.flatten(0, 1)
    columns = {
        "mean": pooled.mean(dim=0),
        "sd": pooled.std(dim=0),
        "mcse_mean": mcse_mean(draws),
        "q5": pooled.quantile(0.05, dim=0),
        "q50": pooled.quantile(0.5, dim=0),
        "q95": pooled.quantile(0.95, dim=0),
        "ess_bulk": ess_bulk(draws),
        "ess_tail": ess_tail(draws),
        "rhat": rhat(draws),
    }
    for column, expected in columns.items():
        values = torch.tensor([getattr(row, column) for row in table.rows], dtype=torch.float64)
        torch.testing.assert_close(values, expected.flatten(), rtol=1e-12, atol=1e-14)


def test_summary_names_layers() -> None:
    top, bottom = ar1((2, 50, 2), 0.0), ar1((2, 50), 0.0)

    def names(table: Summary) -> list[str]:
        return [row.name for row in table.rows]

    assert names(summary((top, bottom))) == ["z1[0]", "z1[1]", "z2"]
    assert names(summary({"w": bottom, "b": top})) == ["w", "b[0]", "b[1]"]
    assert names(summary(top, names="theta")) == ["theta[0]", "theta[1]"]
    assert names(summary((bottom, top), names=["mu", "tau"])) == ["mu", "tau[0]", "tau[1]"]


def test_summary_prints_an_aligned_table_without_complaint() -> None:
    table = summary({"long_name": ar1((4, 1000), 0.0), "y": 1e6 * ar1((4, 1000, 2), 0.0)})
    lines = str(table).splitlines()
    assert lines[0].split() == ["mean", "sd", "mcse_mean", "5%", "50%", "95%", "ess_bulk", "ess_tail", "rhat"]
    assert [line.split()[0] for line in lines[1:4]] == ["long_name", "y[0]", "y[1]"]
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4:] == ["4 chains of 1000 draws"]
    assert table.advice == ()


def test_summary_says_what_is_wrong_and_what_to_try() -> None:
    draws = ar1((4, 1000, 3), 0.0)
    draws[0, :, 1] += 2.0
    draws[:, :, 2] = 0.5
    undefined, unmixed, imprecise = summary(draws).advice
    assert "undefined for 1 of 3 rows, x[2] the first" in undefined
    assert "Check that proposals are accepted" in undefined
    assert "above 1.01 for 1 of 3 rows, x[1] the worst" in unmixed
    assert "Warm up and run longer" in unmixed
    assert "below 100 per chain (400 in all) for 1 of 3 rows, x[1] the worst" in imprecise
    assert "Collect more draws" in imprecise
    assert str(summary(draws)).endswith(f"Warning: {undefined}\nWarning: {unmixed}\nWarning: {imprecise}")


def test_summary_of_invalid_entries_is_nan() -> None:
    draws = ar1((2, 50, 2), 0.0)
    draws[0, 3, 1] = torch.inf
    with pytest.warns(DiagnosticWarning, match="1 of 2") as caught:
        table = summary(draws)
    assert caught[0].filename == __file__
    assert all(math.isnan(value) for value in dataclasses.astuple(table.rows[1])[1:])
    assert not math.isnan(table.rows[0].rhat)
    assert "x[1] the first" in table.advice[0]


def test_summary_prints_the_first_of_many_rows() -> None:
    table = summary(ar1((2, 50, 70), 0.0))
    lines = str(table).splitlines()
    assert len(table.rows) == 70
    assert lines[51:53] == ["... and 20 more rows, see .rows", "2 chains of 50 draws"]


@pytest.mark.parametrize(
    ("draws", "names", "message"),
    [
        ((), None, "at least one tensor"),
        ([torch.zeros(2, 10)], None, "got list"),
        ((torch.zeros(2, 10), torch.zeros(2, 9)), None, r"share \(chain, draw\); got \[\(2, 9\), \(2, 10\)\]"),
        (torch.zeros(2, 10, 3), ["a", "b", "c"], "each of the 1 tensors"),
        ((torch.zeros(2, 10), torch.zeros(2, 10)), ["a", "a"], "each of the 2 tensors its own name"),
    ],
)
def test_wrong_summaries_are_refused(draws: Tensor, names: list[str] | None, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        summary(draws, names)


def test_summary_is_frozen() -> None:
    table = summary(ar1((2, 50), 0.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.num_chains = 3  # type: ignore[misc]
