"""Streaming diagnostics: equal to the offline formulas, constant in memory, right on a closed form.

Statistical tests have fixed seeds and thresholds with a false-alarm rate of at most 1e-5.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import toeplitz
from scipy.signal import lfilter
from torch import Tensor

from lamina.samplers import ess_mean, mcse_mean
from lamina.samplers.diagnostics import nested_rhat
from lamina.samplers.diagnostics.streaming import StreamingDiagnostics, StreamingMoments
from lamina.samplers.errors import ParameterError

BLOCKER = Path(__file__).parent / "data" / "blocker.csv"
LENGTHS = [1, 2, 3, 5, 31, 32, 33, 64, 100, 257]


def ar1(shape: tuple[int, ...], correlation: float, seed: int = 0) -> Tensor:
    """Draw stationary chains x' = correlation * x + noise with unit noise, time along axis 1."""
    noise = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).numpy()
    noise[:, 0] /= math.sqrt(1 - correlation**2)
    return torch.from_numpy(lfilter([1.0], [1.0, -correlation], noise, axis=1))


def moments_of(draws: Tensor) -> StreamingMoments:
    moments = StreamingMoments.empty_like(draws[:, 0])
    for draw in draws.unbind(dim=1):
        moments = moments.update(draw)
    return moments


def diagnostics_of(draws: Tensor, max_batches: int = 32) -> StreamingDiagnostics:
    diagnostics = StreamingDiagnostics.empty_like(draws[:, 0], max_batches)
    for draw in draws.unbind(dim=1):
        diagnostics = diagnostics.update(draw)
    return diagnostics


def assert_close(ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-13, equal_nan=True)


def classic_rhat(chains: Tensor) -> Tensor:
    """R-hat of chains (C, N, *event) as they are."""
    num_draws = chains.shape[1]
    within = chains.var(dim=1).mean(dim=0)
    return (((num_draws - 1) / num_draws * within + chains.mean(dim=1).var(dim=0)) / within).sqrt()


# --- Moments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_draws", LENGTHS[1:])
def test_moments_are_those_of_stored_draws(num_draws: int) -> None:
    draws = ar1((3, num_draws, 2, 2), 0.5)
    for moments in (moments_of(draws), diagnostics_of(draws, 8).moments):
        assert moments.num_draws == num_draws
        assert_close(moments.mean, draws.mean(dim=1))
        assert_close(moments.variance, draws.var(dim=1))
        assert_close(moments.pooled_mean, draws.mean(dim=(0, 1)))
        assert_close(moments.pooled_variance, draws.flatten(0, 1).var(dim=0))
        assert_close(moments.rhat(), classic_rhat(draws))


@pytest.mark.parametrize("num_draws", LENGTHS)
@pytest.mark.parametrize("superchains", [2, [1, 0, 0, 1], torch.tensor([3, 7, 3, 7])], ids=str)
def test_nested_rhat_is_that_of_stored_draws(superchains: int | list[int] | Tensor, num_draws: int) -> None:
    draws = ar1((4, num_draws, 3), 0.5)
    assert_close(moments_of(draws).nested_rhat(superchains), nested_rhat(draws, superchains))


def test_nested_rhat_of_single_chains_is_that_of_stored_draws() -> None:
    draws = ar1((4, 20, 3), 0.5)
    assert_close(moments_of(draws).nested_rhat(4), nested_rhat(draws, 4))


def test_rhat_is_the_reference_of_posterior() -> None:
    """R's posterior::rhat_basic(split = FALSE); `test_diagnostics.test_reference_of_posterior` names the source."""
    draws = torch.from_numpy(np.loadtxt(BLOCKER, delimiter=",")).reshape(1000, 2, 2).transpose(0, 1)
    expected = torch.tensor([1.0004168232094, 1.00035874354121], dtype=torch.float64)
    assert_close(moments_of(draws).rhat(), expected)
    assert_close(diagnostics_of(draws).moments.rhat(), expected)


def test_moments_survive_a_large_offset() -> None:
    """Sums of squares would lose all digits of the variance: 1e16 against 1."""
    draws = ar1((2, 100, 3), 0.5)
    variance = moments_of(draws + 1e8).variance
    torch.testing.assert_close(variance, (draws + 1e8).var(dim=1), rtol=1e-6, atol=0.0)


def test_stretches_and_groups_of_chains_join() -> None:
    draws = ar1((6, 70, 2), 0.5)
    whole = moments_of(draws)
    in_time = moments_of(draws[:, :13]).followed_by(moments_of(draws[:, 13:]))
    over_chains = moments_of(draws[:2]).merge(moments_of(draws[2:]))
    for joined in (in_time, over_chains, StreamingMoments.empty_like(draws[:, 0]).followed_by(whole)):
        assert joined.num_draws == 70
        assert_close(joined.mean, whole.mean)
        assert_close(joined.squares, whole.squares)


# --- Batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_draws", LENGTHS)
def test_batches_cover_the_draws_in_order(num_draws: int) -> None:
    draws = ar1((2, num_draws), 0.5)
    diagnostics = diagnostics_of(draws, 8)
    size, num_full = diagnostics.batch_size, len(diagnostics.batches)
    assert num_full == num_draws // size < 8
    assert num_full >= 4 or size == 1
    for index, batch in enumerate(diagnostics.batches):
        assert_close(batch.mean, draws[:, index * size : (index + 1) * size].mean(dim=1))


@pytest.mark.parametrize(("num_draws", "half"), [(4, 2), (31, 15), (64, 32), (100, 48)])
def test_split_rhat_is_that_of_stored_halves(num_draws: int, half: int) -> None:
    """Of 100 draws, 25 batches of 4 are full: the middle one is left out."""
    draws = ar1((3, num_draws, 2), 0.5)
    expected = classic_rhat(torch.cat([draws[:, :half], draws[:, num_draws - half :]]))
    assert_close(diagnostics_of(draws).rhat(), expected)


def test_split_rhat_sees_a_trend_of_a_single_chain() -> None:
    draws = ar1((1, 500, 20), 0.0) + torch.linspace(-2.0, 2.0, 500)[:, None]
    assert diagnostics_of(draws).rhat().min() > 1.05


@pytest.mark.parametrize("num_draws", [40, 128, 200])
def test_precision_is_that_of_stored_batches(num_draws: int) -> None:
    draws = ar1((3, num_draws, 2), 0.5)
    diagnostics = diagnostics_of(draws, 16)
    size = diagnostics.batch_size
    num_full = num_draws // size
    means = draws[:, : num_full * size].reshape(3, num_full, size, 2).mean(dim=2).flatten(0, 1)
    long_run_variance = size * (means - means.mean(dim=0)).square().sum(dim=0) / (3 * num_full - 1)
    assert_close(diagnostics.mcse_mean(), (long_run_variance / (3 * num_draws)).sqrt())
    assert_close(diagnostics.ess_mean(), 3 * num_draws * draws.flatten(0, 1).var(dim=0) / long_run_variance)


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.5, 0.9])
def test_mcse_of_ar1_is_its_exact_expectation(correlation: float) -> None:
    """The expected squared MCSE follows from the covariance of the batch means; 400 replicates, |z| < 4.4.

    It is the true squared error of the mean, sigma^2 / (1 - r)^2 / S, up to batches that remember their neighbours:
    relative bias 2 r / (1 - r^2) / batch size, up to 15% here.
    """
    num_chains, num_draws = 2, 2048 - 1
    diagnostics = diagnostics_of(ar1((num_chains, num_draws, 400), correlation, seed=5), 32)
    size, num_full = diagnostics.batch_size, len(diagnostics.batches)
    assert (size, num_full) == (64, 31)
    row = correlation ** np.arange(size * num_full) / (1 - correlation**2)
    covariance = toeplitz(row).reshape(num_full, size, num_full, size).mean(axis=(1, 3))  # of batch means
    num_means = num_chains * num_full
    spread = num_chains * (np.trace(covariance) - covariance.sum() / num_means) / (num_means - 1)
    expected = size * spread / (num_chains * num_draws)

    squared = diagnostics.mcse_mean().square()
    assert abs(squared.mean() - expected) < 4.4 * squared.std() / math.sqrt(400)
    truth = 1 / (1 - correlation) ** 2 / (num_chains * num_draws)
    bias = 2 * correlation / (1 - correlation**2) / size
    assert expected == pytest.approx(truth * (1 - bias), rel=0.01)


def test_precision_agrees_with_that_of_stored_draws() -> None:
    """Two estimators of one number, in the mean over 200 entries; |z| < 4.4.

    Batches bias the logarithm of the ratio by up to 2% at this length, its own noise by another 1%.
    """
    draws = ar1((4, 1500, 200), 0.5)
    diagnostics = diagnostics_of(draws)
    for ours, theirs in ((diagnostics.mcse_mean(), mcse_mean(draws)), (diagnostics.ess_mean(), ess_mean(draws))):
        difference = (ours / theirs).log()
        assert abs(difference.mean()) < 0.03 + 4.4 * difference.std() / math.sqrt(200)


def test_groups_of_chains_join_with_their_batches() -> None:
    draws = ar1((6, 75, 2), 0.5)
    whole = diagnostics_of(draws, 8)
    joined = diagnostics_of(draws[:2], 8).merge(diagnostics_of(draws[2:], 8))
    for name in ("rhat", "mcse_mean", "ess_mean"):
        assert_close(getattr(joined, name)(), getattr(whole, name)())
    assert_close(joined.update(draws[:, 0]).moments.mean, whole.update(draws[:, 0]).moments.mean)


# --- Memory ------------------------------------------------------------------------------------------------


def bytes_held(diagnostics: StreamingDiagnostics) -> int:
    parts = (*diagnostics.batches, diagnostics.current)
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage() for part in parts for t in (part.mean, part.squares)
    }
    return sum(storage.nbytes() for storage in storages.values())


def test_memory_is_flat() -> None:
    """The most held at any time of 300 and of 3000 draws; 16 batches and the current one are the limit."""
    draws = ar1((5, 3000, 7), 0.0)
    diagnostics = StreamingDiagnostics.empty_like(draws[:, 0], 16)
    held = []
    for draw in draws.unbind(dim=1):
        diagnostics = diagnostics.update(draw)
        held.append(bytes_held(diagnostics))
    assert max(held) == max(held[:300]) <= 2 * 17 * 8 * 5 * 7


# --- Values and guards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_draws_are_computed_in_float64(dtype: torch.dtype) -> None:
    draws = ar1((2, 100, 3), 0.5).to(dtype)
    diagnostics = diagnostics_of(draws)
    assert diagnostics.current.mean.dtype == torch.float64
    assert_close(diagnostics.moments.mean, draws.double().mean(dim=1))


def test_updates_change_nothing_and_carry_no_graph() -> None:
    draws = ar1((2, 30, 3), 0.5)
    before = diagnostics_of(draws)
    mean, rhat = before.moments.mean.clone(), before.rhat()
    after = before.update(draws[:, 0].clone().requires_grad_())
    assert_close(before.moments.mean, mean)
    assert_close(before.rhat(), rhat)
    assert not after.moments.mean.requires_grad


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_stays_on_the_device() -> None:
    draws = ar1((4, 100, 3), 0.5)
    ours, expected = diagnostics_of(draws.cuda()), diagnostics_of(draws)
    for name in ("rhat", "mcse_mean", "ess_mean"):
        value = getattr(ours, name)()
        assert value.is_cuda
        assert_close(value.cpu(), getattr(expected, name)())
    assert_close(ours.moments.nested_rhat([0, 1, 0, 1]).cpu(), expected.moments.nested_rhat([0, 1, 0, 1]))


def test_too_few_draws_give_nan() -> None:
    diagnostics = StreamingDiagnostics.empty_like(torch.zeros(2, 3))
    for num_draws in range(2):
        assert diagnostics.moments.num_draws == num_draws
        for value in (diagnostics.rhat(), diagnostics.mcse_mean(), diagnostics.ess_mean()):
            assert value.shape == (3,)
            assert value.isnan().all()
        assert diagnostics.moments.variance.isnan().all()
        assert diagnostics.moments.rhat().isnan().all()
        diagnostics = diagnostics.update(torch.ones(2, 3))
    assert StreamingMoments.empty_like(torch.zeros(1, 3)).pooled_variance.isnan().all()
    assert moments_of(ar1((4, 1, 3), 0.0)).nested_rhat(4).isnan().all()  # single draws of single chains


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_draws_that_are_not_finite_make_their_entries_nan(bad: float) -> None:
    draws = ar1((2, 200, 2), 0.5)
    expected = diagnostics_of(draws)
    draws[1, 3, 0] = bad
    diagnostics = diagnostics_of(draws)
    for name in ("rhat", "mcse_mean", "ess_mean"):
        value = getattr(diagnostics, name)()
        assert value[0].isnan()
        assert_close(value[1], getattr(expected, name)()[1])


def test_wrong_use_is_refused() -> None:
    diagnostics = StreamingDiagnostics.empty_like(torch.zeros(2, 3))
    with pytest.raises(ParameterError, match=r"shape \(2, 3\); got \(3,\)"):
        diagnostics.update(torch.zeros(3))
    with pytest.raises(ParameterError, match="even, since batches are joined in pairs; got 7"):
        StreamingDiagnostics.empty_like(torch.zeros(2, 3), 7)
    with pytest.raises(ParameterError, match="integer of at least 4; got 2"):
        StreamingDiagnostics.empty_like(torch.zeros(2, 3), 2)
    with pytest.raises(ParameterError, match="1 draws in at most 32 batches, and 0 in 32"):
        diagnostics.update(torch.zeros(2, 3)).merge(diagnostics)
    with pytest.raises(ParameterError, match="equally many draws; got 1 and 0"):
        diagnostics.moments.update(torch.zeros(2, 3)).merge(diagnostics.moments)
    with pytest.raises(ParameterError, match="two chains or more; got 1"):
        StreamingMoments.empty_like(torch.zeros(1, 3)).rhat()
    with pytest.raises(ParameterError, match="2 chains do not divide into 3"):
        diagnostics.moments.nested_rhat(3)
