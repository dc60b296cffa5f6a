"""Every declared fact of every density, against an independent computation.

Statistical checks share one set of draws per density with a fixed seed. Designed false-alarm rates:
moments 1e-6 for the whole file, marginal distributions 1e-7 each. The controls at the end plant wrong
facts and require that the same checks object.
"""

from __future__ import annotations

import functools
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from lamina.benchmarks.densities import (
    DENSITIES,
    Banana,
    BlockRosenbrock,
    Density,
    DoubleWell,
    DualMoon,
    Funnel,
    Gaussian,
    GaussianMixture,
    LogGamma,
    ManyWell,
    NetworkTilt,
    Rastrigin,
    Rosenbrock,
    StyblinskiTang,
    density_names,
    make_density,
)
from lamina.samplers import PluginError
from lamina.samplers.errors import ParameterError, PositionError, UnknownNameError

NAMES = sorted(DENSITIES)
known = functools.cache(make_density)  # tables are made once
MANY_MODES = ("forty_modes", "rastrigin")  # cubature takes too long there; smaller ones of their classes stand in
PLANAR = [name for name in NAMES if known(name).dim == 2 and name not in MANY_MODES]
REFERENCED = [  # those scipy.stats has
    name
    for name in NAMES
    if not isinstance(known(name), DoubleWell | DualMoon | ManyWell | NetworkTilt | Rastrigin | StyblinskiTang)
]
DTYPES = [torch.float32, torch.float64]
NUM_DRAWS = 100_000

# The file compares about 1000 averages with their truth; Bonferroni for 1e-6 over 1200, two-sided.
MAX_Z = float(stats.norm.isf(0.5e-6 / 1200))
# Dvoretzky-Kiefer-Wolfowitz with Massart's constant, 1e-7 for each marginal.
MAX_KS = math.sqrt(math.log(2 / 1e-7) / (2 * NUM_DRAWS))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@functools.cache
def draws(name: str, dtype: torch.dtype) -> Tensor:
    return known(name).sample(NUM_DRAWS, generator=seeded(20), dtype=dtype)


def reference_log_prob(density: Density, x: np.ndarray) -> np.ndarray:
    """Normalised log density of rows of x from scipy.stats, as the draws are described, not the energies."""
    log_prob: np.ndarray
    match density:
        case Gaussian():
            log_prob = stats.multivariate_normal(density.center, density.covariance).logpdf(x)
        case GaussianMixture():
            parts = zip(density.weights, density.means, density.scales, strict=True)
            log_prob = np.log(sum(w * stats.multivariate_normal(m, s**2).pdf(x) for w, m, s in parts))
        case Banana(scale=s, bend=b):
            ridge = b * (x[:, 0] ** 2 - s**2)
            log_prob = stats.norm.logpdf(x[:, 0], 0, s) + stats.norm.logpdf(x[:, 1], ridge, 1)
        case Rosenbrock(center=a, sharpness=b):
            along = stats.norm.logpdf(x[:, 0], a, math.sqrt(1 / 2))
            log_prob = along + stats.norm.logpdf(x[:, 1], x[:, 0] ** 2, math.sqrt(1 / (2 * b)))
        case BlockRosenbrock(dim=dim, noise=q):
            along, off = x[:, : dim // 2], x[:, dim // 2 :]
            terms = stats.norm.logpdf(along, 1, 1) + stats.norm.logpdf(off, along**2, math.sqrt(q))
            log_prob = terms.sum(1)
        case Funnel(scale=s):
            rest = np.sum(stats.norm.logpdf(x[:, 1:], 0, np.exp(x[:, :1] / 2)), axis=1)
            log_prob = stats.norm.logpdf(x[:, 0], 0, s) + rest
        case LogGamma(shape=a):
            log_prob = np.sum(stats.loggamma.logpdf(x, a), axis=1)
        case _:
            raise AssertionError(f"no reference for {density.name}")
    return log_prob


def check_against_reference(density: Density) -> None:
    x = draws(density.name, torch.float64)[:2000]
    log_prob = (-density(x) - density.log_normalizer).numpy()
    truth = reference_log_prob(known(density.name), x.numpy())
    np.testing.assert_allclose(log_prob, truth, rtol=1e-9, atol=1e-9)


@functools.cache
def planar_integrals(density: Density) -> tuple[float, Tensor, Tensor]:
    """Log normaliser, mean and second moment of a planar density by adaptive cubature of exp(-energy)."""

    def integrand(points: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(points)
        weight = torch.exp(-density(x))[:, None]
        return torch.cat([weight, weight * x, weight * x**2], dim=1).numpy()

    reach = 40 * density.variance.sqrt()
    low, high = (density.mean - reach).numpy(), (density.mean + reach).numpy()
    # A few draws as corners of the first cells: without them cubature can overlook a thin ridge altogether.
    corners = list(density.sample(4, generator=seeded(5)).numpy())
    result = integrate.cubature(integrand, low, high, rtol=1e-7, atol=1e-9, points=corners)
    assert result.status == "converged"
    total, moments = result.estimate[0], torch.from_numpy(result.estimate[1:] / result.estimate[0])
    return math.log(total), moments[:2], moments[2:]


def check_by_quadrature(facts: Density, density: Density) -> None:
    log_normalizer, mean, second_moment = planar_integrals(density)
    error = 1e-6 + facts.moments_error
    assert abs(facts.log_normalizer - log_normalizer) < error, "normaliser"
    torch.testing.assert_close(facts.mean, mean, rtol=0, atol=error)
    torch.testing.assert_close(facts.second_moment, second_moment, rtol=1e-6, atol=error)


def check_average(values: Tensor, truth: Tensor, what: str) -> None:
    """z-test of column averages against the truth, with the standard error of the draws."""
    values = values.double()
    error = values.std(0) / math.sqrt(len(values))
    z = (values.mean(0) - truth) / error
    assert (z.abs() < MAX_Z).all(), f"{what}: off by {z.tolist()} standard errors, {MAX_Z:.1f} allowed"


def check_moments(density: Density, x: Tensor) -> None:
    # The funnel's x_i^2 has no useful standard error; test_funnel_standardised tests those coordinates.
    columns = slice(0, 1) if density.name == "funnel" else slice(None)
    check_average(x[:, columns], density.mean[columns], "mean")
    check_average(x[:, columns].double() ** 2, density.second_moment[columns], "second moment")


def check_marginals(density: Density, x: Tensor) -> None:
    """Kolmogorov distance of the draws from each declared marginal against the DKW bound."""
    ranks = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    # The first two x_i speak for the others where all share one law and each costs a quadrature.
    for d in range(min(density.dim, 3)):
        cdf = density.marginal_cdf(d)
        assert cdf is not None
        levels = cdf(x[:, d].sort().values)
        distance = float(torch.maximum(ranks[1:] - levels, levels - ranks[:-1]).max())
        allowed = MAX_KS + density.sampling_error + 1e-7
        assert distance < allowed, f"coordinate {d}: distance {distance:.4f}, {allowed:.4f} allowed"


# --- contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_declares_its_facts(name: str) -> None:
    density = known(name)
    assert density.name == name
    for text in (density.reveals, density.formula, density.source):
        assert text
        assert "\n" not in text
    for moment in (density.mean, density.second_moment, density.variance):
        assert moment.shape == (density.dim,)
        assert moment.dtype == torch.float64
    assert (density.variance > 0).all()
    torch.testing.assert_close(density.variance, density.second_moment - density.mean.square())
    assert 0 <= density.moments_error < 1e-8
    assert 0 <= density.sampling_error < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_plot_box_holds_the_mass(name: str) -> None:
    density = known(name)
    (low0, high0), (low1, high1) = density.plot_box
    x = draws(name, torch.float64)[:, :2]
    low, high = torch.tensor([low0, low1]), torch.tensor([high0, high1])
    inside = ((x > low) & (x < high)).all(1).double().mean()
    assert inside > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_is_final_frozen_and_a_value(name: str) -> None:
    density = known(name)
    assert getattr(type(density), "__final__", False)
    with pytest.raises(FrozenInstanceError):
        density.name = "other"  # type: ignore[misc]
    assert density == make_density(name)
    assert hash(density) == hash(make_density(name))
    restored = pickle.loads(pickle.dumps(density))
    x = draws(name, torch.float64)[:10]
    assert restored == density
    assert torch.equal(restored(x), density(x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, *DTYPES], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", NAMES)
def test_energy_follows_its_input(name: str, device: str, dtype: torch.dtype) -> None:
    density = known(name)
    x = draws(name, torch.float64)[:7].to(device=device, dtype=dtype)
    energy = density(x)
    assert energy.shape == (7,)
    assert energy.dtype == dtype
    assert energy.device == x.device
    assert density(x[:0]).shape == (0,)


@pytest.mark.parametrize("name", NAMES)
def test_float32_energy_agrees_with_float64(name: str) -> None:
    density = known(name)
    x = draws(name, torch.float32)[:1000]
    exact = density(x.double())
    # Rounding grows with the terms that cancel: the sharpest density multiplies squares of x by 100.
    torch.testing.assert_close(density(x).double(), exact, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_independent(name: str) -> None:
    density = known(name)
    x = draws(name, torch.float64)[:20]
    one_by_one = torch.cat([density(row[None]) for row in x])
    torch.testing.assert_close(density(x), one_by_one, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    density = known(name)
    x = draws(name, torch.float64)[:8].clone()
    if name == "dual_moon":
        x[0] = 0.0  # the classical form of this one has a kink at the origin
    assert torch.autograd.gradcheck(density, x.requires_grad_())


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 11), (3, 2, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_wrong_positions_are_refused(name: str, shape: tuple[int, ...]) -> None:
    density = known(name)
    with pytest.raises(PositionError, match="shape"):
        density(torch.zeros(shape))
    with pytest.raises(PositionError, match="floating"):
        density(torch.zeros(3, density.dim, dtype=torch.int64))


# --- draws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_sampling_is_reproducible_and_private(name: str, dtype: torch.dtype) -> None:
    density = known(name)
    before = torch.random.get_rng_state()
    generator = seeded(1)
    first, second = (density.sample(50, generator=generator, dtype=dtype) for _ in range(2))
    assert first.shape == (50, density.dim)
    assert first.dtype == dtype
    assert torch.equal(first, density.sample(50, generator=seeded(1), dtype=dtype))
    assert not torch.equal(first, second)
    assert not torch.equal(density.sample(50), density.sample(50))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.double(), density.sample(50, generator=seeded(1)).to(dtype).double())


@pytest.mark.parametrize("name", NAMES)
def test_draws_are_finite_and_have_finite_energy(name: str) -> None:
    x = draws(name, torch.float64)
    assert x.isfinite().all()
    assert known(name)(x).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_bad_requests_are_refused(name: str) -> None:
    density = known(name)
    with pytest.raises(ParameterError, match="at least 1"):
        density.sample(0)
    for d in (-1, density.dim):
        with pytest.raises(ParameterError, match="coordinates"):
            density.marginal_cdf(d)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_declared_moments(name: str, dtype: torch.dtype) -> None:
    check_moments(known(name), draws(name, dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_declared_marginals(name: str, dtype: torch.dtype) -> None:
    check_marginals(known(name), draws(name, dtype))


@pytest.mark.parametrize("name", NAMES)
def test_draws_have_the_mean_energy_of_the_density(name: str) -> None:
    """Mean energy of exact draws: a joint property, where marginals see one coordinate at a time."""
    density = known(name)
    entropy = MEAN_ENERGY[name](density)
    energy = density(draws(name, torch.float64))[:, None]
    check_average(energy, torch.tensor([entropy], dtype=torch.float64), "energy")


def _planar_mean_energy(density: Density) -> float:
    """E[energy] on a grid by the trapezoid rule."""
    reach = 8 * density.variance.sqrt()
    axes = [torch.linspace(-float(r), float(r), 501, dtype=torch.float64) for r in reach]
    energy = density(torch.cartesian_prod(axes[0], axes[1]) + density.mean)
    weight = torch.exp(-energy)
    return float((weight * energy).sum() / weight.sum())


MEAN_ENERGY: dict[str, Callable[[Any], float]] = {
    "correlated_gaussian": lambda density: density.dim / 2,
    "stiff_gaussian": lambda density: density.dim / 2,
    "ill_conditioned_gaussian": lambda density: density.dim / 2,
    "ring_mixture": _planar_mean_energy,
    "unequal_mixture": _planar_mean_energy,
    "forty_modes": _planar_mean_energy,
    "banana": lambda density: 1.0,
    "rosenbrock": lambda density: 1.0,
    "block_rosenbrock": lambda density: density.dim / 2,
    "funnel": lambda density: density.dim / 2,  # E[v] = 0, so the log-variances drop out
    "double_well": _planar_mean_energy,
    "product_double_well": lambda density: density.dim / 2 * _planar_mean_energy(DoubleWell()),
    "many_well": lambda density: density.dim / 2 * _planar_mean_energy(ManyWell(dim=2)),
    "dual_moon": _planar_mean_energy,
    "log_gamma": lambda density: density.dim * (density.shape - density.shape * float(density.mean[0])),
    "styblinski_tang": _planar_mean_energy,
    "rastrigin": _planar_mean_energy,
    "network_tilt": _planar_mean_energy,
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_funnel_standardised(dtype: torch.dtype) -> None:
    """v / 3 and x_i exp(-v / 2) are independent standard normals."""
    x = draws("funnel", dtype).double()
    white = torch.cat([x[:, :1] / 3.0, x[:, 1:] * torch.exp(-0.5 * x[:, :1])], dim=1)
    check_average(white, torch.zeros(10, dtype=torch.float64), "mean")
    check_average(white**2, torch.ones(10, dtype=torch.float64), "second moment")
    check_average(white[:, :1] * white[:, 1:], torch.zeros(9, dtype=torch.float64), "covariance with v")


# --- facts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFERENCED)
def test_energy_and_normaliser_agree_with_scipy(name: str) -> None:
    check_against_reference(known(name))


@pytest.mark.parametrize("name", PLANAR)
def test_normaliser_and_moments_agree_with_quadrature(name: str) -> None:
    density = known(name)
    check_by_quadrature(density, density)


def test_funnel_moment_by_quadrature() -> None:
    moment, _ = integrate.quad(lambda v: stats.norm.pdf(v, 0, 3) * math.exp(v), -30, 60, points=[0, 9])
    torch.testing.assert_close(known("funnel").second_moment[1:], torch.full((9,), moment).double())


@pytest.mark.parametrize(
    ("name", "variances"),
    [
        ("stiff_gaussian", np.logspace(-2, 2, 10)),
        ("ill_conditioned_gaussian", stats.invgamma(0.5).ppf((np.arange(100) + 0.5) / 100)),
    ],
)
def test_gaussian_moments_from_the_covariance(name: str, variances: np.ndarray) -> None:
    density = cast(Gaussian, known(name))
    eigenvalues = np.linalg.eigvalsh(density.covariance)
    np.testing.assert_allclose(eigenvalues, variances, rtol=1e-9)
    np.testing.assert_allclose(density.second_moment, np.diag(density.covariance))


def test_rastrigin_normaliser_in_closed_form() -> None:
    a, k = 10.0, np.arange(1, 10)
    total = special.iv(0, a) + 2 * np.sum(special.iv(k, a) * np.exp(-((math.pi * k) ** 2)))
    truth = -a + 0.5 * math.log(math.pi) + math.log(total)
    assert abs(Rastrigin(dim=1, ripple=a).log_normalizer - truth) < 1e-12


def test_published_normalisers() -> None:
    """Of the many-well as in Midgley et al. (2023), and of one double well."""
    assert ManyWell(dim=2).log_normalizer == pytest.approx(math.log(11784.50927 * math.sqrt(2 * math.pi)), abs=1e-9)
    assert math.exp(DoubleWell(dim=1).log_normalizer) == pytest.approx(1.41091, abs=1e-5)
    assert float(DoubleWell(dim=1).second_moment) == pytest.approx(0.852136, abs=1e-6)


def test_places_of_the_forty_modes_never_change() -> None:
    means = torch.tensor(cast(GaussianMixture, known("forty_modes")).means)
    assert means.shape == (40, 2)
    assert means.abs().max() < 40
    torch.testing.assert_close(means[0], torch.tensor([10.956935, -18.417063]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "density",
    [
        DoubleWell(dim=1),
        DoubleWell(dim=1, height=5.0, offset=2.0),
        StyblinskiTang(dim=1),
        Rastrigin(dim=1),
        ManyWell(dim=2),
        DualMoon(),
    ],
    ids=lambda density: f"{density.name}-{density.plot_box[0][1]:.1f}",
)
def test_tables_keep_their_stated_error(density: Density) -> None:
    """Tabulated CDFs against cubature of the joint density over half planes."""

    def integrand(points: np.ndarray) -> np.ndarray:
        return torch.exp(-density(torch.from_numpy(points)) - density.log_normalizer).numpy()

    (low, high), _ = density.plot_box
    low, high = 2 * low, 2 * high
    for d in range(density.dim):
        cdf = density.marginal_cdf(d)
        assert cdf is not None
        for fraction in (0.27, 0.31, 0.4, 0.5, 0.66, 0.72):
            upper = np.full(density.dim, high)
            upper[d] = low + fraction * (high - low)
            mass = integrate.cubature(integrand, np.full(density.dim, low), upper, rtol=1e-9, atol=1e-11).estimate
            level = cdf(torch.tensor(upper[d]))
            assert abs(float(level) - mass) < 1e-7


@pytest.mark.parametrize("noise", [1.0, 0.1])
def test_table_of_block_rosenbrock_keeps_its_stated_error(noise: float) -> None:
    cdf = BlockRosenbrock(noise=noise).marginal_cdf(35)
    assert cdf is not None
    for y in (-0.3, 0.0123, 0.1, 0.5, 1.7, 4.0, 12.3):
        mass, _ = integrate.quad(
            lambda x, y=y: stats.norm.pdf(x, 1, 1) * special.ndtr((y - x**2) / math.sqrt(noise)),
            *(-8, 10),
            epsabs=1e-10,
            limit=500,
            points=[-math.sqrt(abs(y)), math.sqrt(abs(y))],
        )
        assert abs(float(cdf(torch.tensor(y, dtype=torch.float64))) - mass) < 1e-7


@pytest.mark.parametrize("name", NAMES)
def test_marginal_cdf_runs_from_zero_to_one(name: str) -> None:
    density = known(name)
    for d in range(density.dim):
        cdf = density.marginal_cdf(d)
        assert cdf is not None
        reach = torch.linspace(-1, 1, 2001) * 1e3 * density.variance[d].sqrt() + density.mean[d]
        levels = cdf(reach)
        assert levels.dtype == torch.float64
        assert levels.shape == reach.shape
        assert (levels.diff() >= -1e-12).all()
        torch.testing.assert_close(levels[[0, -1]], torch.tensor([0.0, 1.0]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "density",
    [
        Banana(scale=1.0, bend=2.0),
        Rosenbrock(center=-0.5, sharpness=3.0),
        Funnel(dim=2, scale=0.5),
        BlockRosenbrock(dim=2, noise=1.0),
        DoubleWell(dim=2, height=0.5, offset=1.5),
        Rastrigin(dim=2, ripple=1.0),
        StyblinskiTang(dim=2, temperature=20.0),
        DualMoon(radius=3.0, width=0.6, bump=1.5),
        LogGamma(dim=2, shape=0.7),
        GaussianMixture.ring(num_modes=3, radius=1.0),
        Gaussian.from_covariance([[2.0, -1.0], [-1.0, 1.0]], center=[0.5, 3.0]),
    ],
    ids=lambda density: density.name,
)
def test_facts_follow_the_parameters(density: Density) -> None:
    check_by_quadrature(density, density)
    x = density.sample(NUM_DRAWS, generator=seeded(3))
    check_moments(density, x)
    check_marginals(density, x)


# --- registry and constructors -------------------------------------------------------------------------


def test_unknown_density() -> None:
    with pytest.raises(UnknownNameError, match="banana"):
        make_density("bananna")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An installed distribution that adds a density, what is none, what is not there, and one under a name of ours."""
    info = tmp_path / "elsewhere-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[lamina.densities]\n"
        "spike = lamina.benchmarks.densities:LogGamma\n"
        "number = builtins:float\n"
        "broken = lamina.benchmarks.densities:Nothing\n"
        "banana = lamina.benchmarks.densities:LogGamma\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("plugins")
def test_densities_of_other_distributions() -> None:
    assert density_names() == [*DENSITIES, "broken", "number", "spike"]
    assert make_density("spike") == LogGamma()
    assert make_density("banana") == Banana()
    with pytest.raises(ParameterError, match=r"'builtins:float' should build a Density; got a float"):
        make_density("number")
    with pytest.raises(PluginError, match=r"density 'broken' .* cannot be built: AttributeError"):
        make_density("broken")
    with pytest.raises(UnknownNameError, match="spike"):
        make_density("spikes")


@pytest.mark.parametrize(
    "build",
    [
        lambda: Gaussian.from_covariance([[1.0, 2.0], [2.0, 1.0]]),
        lambda: Gaussian.from_covariance([[1.0, 0.5], [0.0, 1.0]]),
        lambda: Gaussian.from_covariance([[1.0, math.nan], [math.nan, 1.0]]),
        lambda: Gaussian.from_covariance([[1.0]], center=[0.0, 0.0]),
        lambda: Gaussian.from_covariance(torch.ones(2)),
        lambda: GaussianMixture(means=((0.0,),), scales=(1.0,), weights=(0.5,)),
        lambda: GaussianMixture(means=((0.0,),), scales=(0.0,), weights=(1.0,)),
        lambda: GaussianMixture(means=((0.0,), (1.0, 2.0)), scales=(1.0, 1.0), weights=(0.5, 0.5)),
        lambda: Banana(scale=-1.0),
        lambda: Rosenbrock(sharpness=0.0),
        lambda: Funnel(dim=1),
        lambda: DoubleWell(height=math.nan),
        lambda: DoubleWell(dim=0),
        lambda: BlockRosenbrock(dim=3),
        lambda: BlockRosenbrock(noise=0.0),
        lambda: ManyWell(dim=0),
        lambda: NetworkTilt(tilt=0.0),
        lambda: Rastrigin(ripple=-1.0),
        lambda: StyblinskiTang(temperature=math.inf),
        lambda: DualMoon(bump=math.inf),
        lambda: LogGamma(dim=0),
    ],
)
def test_bad_parameters_are_refused(build: Callable[[], Density]) -> None:
    with pytest.raises(ParameterError):
        build()


# --- controls: planted errors must be caught -----------------------------------------------------------


class Tampered:
    """A density with some of its facts replaced."""

    def __init__(self, density: Density, **facts: object) -> None:
        self._density, self._facts = density, facts

    def __call__(self, x: Tensor) -> Tensor:
        energy = cast(Callable[[Tensor], Tensor], self._facts.get("energy", self._density))
        return energy(x)

    def __getattr__(self, name: str) -> object:
        return self._facts[name] if name in self._facts else getattr(self._density, name)


def tampered(density: Density, **facts: object) -> Density:
    return cast(Density, Tampered(density, **facts))


@pytest.mark.parametrize("name", NAMES)
def test_a_shifted_mean_is_caught(name: str) -> None:
    density = known(name)
    shifted = tampered(density, mean=density.mean + 0.03 * density.variance.sqrt())
    with pytest.raises(AssertionError, match="mean: off"):
        check_moments(shifted, draws(name, torch.float64))


@pytest.mark.parametrize("name", PLANAR)
def test_wrong_moments_and_normalisers_are_caught_by_quadrature(name: str) -> None:
    density = known(name)
    for facts in (
        {"mean": density.mean + 1e-5},
        {"second_moment": density.second_moment * (1 + 1e-5)},
        {"log_normalizer": density.log_normalizer + 1e-5},
    ):
        with pytest.raises(AssertionError, match=r"normaliser|not close"):
            check_by_quadrature(tampered(density, **facts), density)


@pytest.mark.parametrize("name", REFERENCED)
def test_wrong_normalisers_and_energies_are_caught_by_scipy(name: str) -> None:
    density = known(name)
    for facts in (
        {"log_normalizer": density.log_normalizer + 1e-6},
        {"energy": lambda x: 1.00001 * density(x)},
    ):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            check_against_reference(tampered(density, **facts))


@pytest.mark.parametrize("name", NAMES)
def test_scaled_draws_are_caught(name: str) -> None:
    density = known(name)
    wide = density.mean + 1.08 * (draws(name, torch.float64) - density.mean)
    with pytest.raises(AssertionError, match="second moment: off"):
        check_moments(density, wide)
    with pytest.raises(AssertionError, match="distance"):
        check_marginals(density, wide)
