"""Posteriors: their energies against SciPy, their references against quadrature, exact identities, and HMC.

The energies are compared with log-densities written down from the published models, up to the constant that an
energy leaves open. Statistical checks have a fixed seed and a stated rate of false alarms; controls plant errors.
"""

from __future__ import annotations

import functools
import json
import pickle
import zipfile
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from lamina.benchmarks.densities import (
    REFERENCE_TARGETS,
    CenteredEightSchools,
    EightSchools,
    Phi4,
    ReferenceTarget,
    Vote,
    make_phi4_references,
    make_reference_target,
    make_references,
)
from lamina.benchmarks.densities.reference_target import read_data
from lamina.samplers import HMC, mcse_mean, sample
from lamina.samplers.errors import ParameterError, PositionError, UnknownNameError

NAMES = sorted(REFERENCE_TARGETS)
LATTICES = ["phi4", "ordered_phi4"]
# A short run neither reaches the neck of the centred schools' funnel nor crosses often between the phases of a lattice.
SAMPLED = ["eight_schools", "vote", "wells", "phi4"]

# Rubin (1981), table 1.
Y = np.array([28, 8, -3, 7, -1, 1, 18, 12])
SIGMA = np.array([15, 10, 16, 11, 9, 11, 10, 18])

# Two-sided z-tests, with 1e-6 for all averages of a test together.
SCHOOLS_MAX_Z = float(stats.norm.isf(0.5e-6 / 20))
HMC_MAX_Z = float(stats.norm.isf(0.5e-6 / 44))
SMALL_LATTICE_MAX_Z = float(stats.norm.isf(0.5e-6 / 14))
MAX_Z = float(stats.norm.isf(0.5e-6))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(posterior: ReferenceTarget, num: int, seed: int = 0) -> Tensor:
    """Positions about as wide as the posterior: at the schools' scale, or near the mean of the regressions."""
    noise = torch.randn(num, posterior.dim, generator=seeded(seed), dtype=torch.float64)
    match posterior:
        case EightSchools():
            return noise + torch.tensor([4.0, 1.0, *[0.0] * 8], dtype=torch.float64)
        case CenteredEightSchools():
            return torch.tensor([4.0, 1.0, *[4.0] * 8]) + noise * torch.tensor([3.0, 1.0, *[4.0] * 8])
        case Phi4():
            return 0.5 * noise
        case _:
            return posterior.mean + (posterior.second_moment - posterior.mean**2).sqrt() * noise


# --- contract ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_declares_its_facts(name: str) -> None:
    posterior = make_reference_target(name)
    assert posterior.name == name
    for text in (posterior.reveals, posterior.formula, posterior.source, posterior.reference):
        assert text
        assert "\n" not in text
    facts = (posterior.mean, posterior.second_moment, posterior.mean_error, posterior.second_moment_error)
    for fact in facts:
        assert fact.shape == (len(posterior.parameter_names),)
        assert fact.dtype == torch.float64
    assert (posterior.second_moment > posterior.mean**2).all()
    assert (posterior.mean_error > 0).all()
    assert (posterior.mean_error < 0.02 * (posterior.second_moment - posterior.mean**2).sqrt()).all()
    assert (posterior.second_moment_error > 0).all()
    assert (posterior.second_moment_error < 0.025 * posterior.second_moment).all()


@pytest.mark.parametrize("name", NAMES)
def test_is_final_frozen_and_a_value(name: str) -> None:
    posterior = make_reference_target(name)
    assert getattr(type(posterior), "__final__", False)
    with pytest.raises(FrozenInstanceError):
        posterior.name = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(posterior)) == posterior == make_reference_target(name)
    assert hash(posterior) == hash(make_reference_target(name))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", NAMES)
def test_follows_its_input(name: str, device: str, dtype: torch.dtype) -> None:
    posterior = make_reference_target(name)
    x = points(posterior, 7).to(device=device, dtype=dtype)
    for values, shape in ((posterior(x), (7,)), (posterior.parameters(x), (7, len(posterior.parameter_names)))):
        assert values.shape == shape
        assert values.dtype == dtype
        assert values.device == x.device


@pytest.mark.parametrize("name", NAMES)
def test_float32_energy_agrees_with_float64(name: str) -> None:
    posterior = make_reference_target(name)
    x = points(posterior, 100).float()
    torch.testing.assert_close(posterior(x).double(), posterior(x.double()), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    posterior = make_reference_target(name)
    x = points(posterior, 4).requires_grad_()
    assert torch.autograd.gradcheck(posterior, x)
    assert torch.autograd.gradcheck(posterior.parameters, x)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_positions_are_refused(name: str) -> None:
    posterior = make_reference_target(name)
    for fn in (posterior, posterior.parameters):
        with pytest.raises(PositionError, match="shape"):
            fn(torch.zeros(3, 11))
        with pytest.raises(PositionError, match="floating"):
            fn(torch.zeros(3, posterior.dim, dtype=torch.int64))


def test_unknown_posterior() -> None:
    with pytest.raises(UnknownNameError, match="wells"):
        make_reference_target("well")


# --- energies ------------------------------------------------------------------------------------------


COUPLINGS = {"phi4": 6.008, "ordered_phi4": 4.25}


def lattice_averages(field: np.ndarray, coupling: float) -> np.ndarray:
    """Averages over lattices of m^2 = -4 from their definitions: (L, L, C) -> (7, C)."""
    side = len(field)
    right, below = np.roll(field, -1, axis=1), np.roll(field, -1, axis=0)
    action = (right - field) ** 2 + (below - field) ** 2 - 4.0 * field**2 + coupling * field**4
    averages = [values.mean((0, 1)) for values in (field, field**2, action, field * (right + below) / 2)]
    averages.insert(1, averages[0] ** 2)
    lines = [field.mean(0), field.mean(1)]
    for distance in (side // 2 - 1, side // 2):
        products = [line[t] * line[(t + distance) % side] for line in lines for t in range(side)]
        averages.append(np.mean(products, axis=0))
    return np.array(averages)


def log_density(name: str, x: np.ndarray) -> float:
    """Log of the unnormalised posterior at one position, as its model is published."""
    if name.endswith("eight_schools"):
        mu, tau, rest = x[0], np.exp(x[1]), x[2:]
        theta = rest if name.startswith("centered") else mu + tau * rest
        given = stats.norm(mu, tau) if name.startswith("centered") else stats.norm(0, 1)
        prior = stats.norm.logpdf(mu, 0, 5) + stats.halfcauchy.logpdf(tau, scale=5) + x[1]  # + log d tau / d log tau
        return float(given.logpdf(rest).sum() + stats.norm.logpdf(Y, theta, SIGMA).sum() + prior)
    if name in LATTICES:
        return float(-64 * lattice_averages(x.reshape(8, 8, 1), COUPLINGS[name])[3, 0])
    rows = np.array([line.split(",") for line in read_data(f"{name}.csv").split()[1:]], dtype=float)
    probability = special.expit(x[0] + rows[:, :-2] @ x[1:])
    return float(stats.binom.logpmf(rows[:, -1], rows[:, -2], probability).sum())


@pytest.mark.parametrize("name", NAMES)
def test_energy_agrees_with_scipy(name: str) -> None:
    posterior = make_reference_target(name)
    x = points(posterior, 20)
    constants = posterior(x).numpy() + [log_density(name, row) for row in x.numpy()]
    np.testing.assert_allclose(constants, constants[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize(("name", "trials", "successes"), [("vote", 1179, 477), ("wells", 3020, 1737)])
def test_data_are_complete(name: str, trials: int, successes: int) -> None:
    """1179 voters and 3020 households, as Gelman & Hill (2006) count."""
    rows = [line.split(",") for line in read_data(f"{name}.csv").split()[1:]]
    assert sum(int(row[-2]) for row in rows) == trials
    assert sum(int(row[-1]) for row in rows) == successes


def test_parametrisations_of_eight_schools_are_one_model() -> None:
    """The density of theta is that of eta over tau^8."""
    easy, centered = EightSchools(), CenteredEightSchools()
    x = points(easy, 50)
    moved = torch.cat([x[:, :2], easy.parameters(x)[:, 2:]], dim=1)
    torch.testing.assert_close(centered.parameters(moved), easy.parameters(x))
    torch.testing.assert_close(centered(moved), easy(x) + 8.0 * x[:, 1])
    for fact in ("mean", "second_moment", "mean_error", "second_moment_error", "parameter_names"):
        assert list(getattr(easy, fact)) == list(getattr(centered, fact))


# --- references ----------------------------------------------------------------------------------------


def schools_moments(scale: float) -> np.ndarray:
    """First and second moments of mu, tau and theta for tau ~ half-Cauchy(0, scale): exact but for one integral.

    Given tau all else is Gaussian: Gelman et al. (2013), Bayesian Data Analysis, section 5.4, here with a prior on mu.
    """

    def integrand(log_tau: float) -> np.ndarray:
        tau = np.exp(log_tau)
        spread = SIGMA**2 + tau**2
        precision = 1 / 25 + np.sum(1 / spread)
        mu = np.sum(Y / spread) / precision
        weight = tau * stats.halfcauchy.pdf(tau, scale=scale) * np.prod(stats.norm.pdf(Y, mu, np.sqrt(spread)))
        weight *= stats.norm.pdf(mu, 0, 5) / np.sqrt(precision)
        pull = tau**2 / spread
        theta = pull * Y + (1 - pull) * mu
        variances = pull * SIGMA**2 + (1 - pull) ** 2 / precision
        means = np.array([mu, tau, *theta])
        squares = means**2 + np.array([1 / precision, 0, *variances])
        return weight * np.array([1, *means, *squares])

    integrals, _ = integrate.quad_vec(integrand, -30, 15, epsrel=1e-9, points=[0, 3])
    return np.asarray(integrals[1:] / integrals[0])


@pytest.mark.parametrize(("scale", "is_the_model"), [(5.0, True), (10.0, False)])
def test_reference_of_eight_schools_agrees_with_quadrature(scale: float, is_the_model: bool) -> None:
    posterior = EightSchools()
    reference = torch.cat([posterior.mean, posterior.second_moment]).numpy()
    error = torch.cat([posterior.mean_error, posterior.second_moment_error]).numpy()
    z = (reference - schools_moments(scale)) / error
    assert (np.abs(z).max() < SCHOOLS_MAX_Z) == is_the_model, z


def test_reference_of_vote_agrees_with_cubature() -> None:
    posterior = Vote()

    def integrand(x: np.ndarray) -> np.ndarray:
        position = torch.from_numpy(x)
        weight = torch.exp(778.0 - posterior(position))[:, None]
        return torch.cat([weight, weight * position, weight * position**2], dim=1).numpy()

    box = np.array(posterior.plot_box)
    margin = 0.5 * (box[:, 1] - box[:, 0])
    result = integrate.cubature(integrand, box[:, 0] - margin, box[:, 1] + margin, rtol=1e-8, atol=0)
    moments = result.estimate[1:] / result.estimate[0]
    np.testing.assert_allclose(moments, torch.cat([posterior.mean, posterior.second_moment]), rtol=1e-6)


@pytest.mark.parametrize("name", LATTICES)
def test_parameters_of_lattices_are_their_definitions(name: str) -> None:
    lattice = make_reference_target(name)
    x = points(lattice, 20)
    expected = lattice_averages(x.T.numpy().reshape(8, 8, -1), COUPLINGS[name])
    np.testing.assert_allclose(lattice.parameters(x).T, expected, rtol=1e-12, atol=1e-14)


def small_lattice_moments(coupling: float, num_nodes: int) -> np.ndarray:
    """First and second moments for L = 2 by the trapezoid rule."""
    axis = np.linspace(-1.4, 1.4, num_nodes)
    averages = lattice_averages(np.array(np.meshgrid(*[axis] * 4)).reshape(2, 2, -1), coupling)
    weights = special.softmax(-4 * averages[3])
    return np.array([averages @ weights, averages**2 @ weights])


@functools.cache
def small_lattice_reference() -> tuple[np.ndarray, np.ndarray]:
    """Moments for L = 2 and their errors, as the script makes them."""
    rows = make_phi4_references.reference_of(Phi4(side=2), 100, 50)["parameters"].values()
    moments = [[row[key] for row in rows] for key in ("mean", "second_moment")]
    return np.array(moments), np.array([[row[f"{key}_error"] for row in rows] for key in ("mean", "second_moment")])


@pytest.mark.parametrize(("coupling", "is_the_lattice"), [(6.008, True), (7.2, False)])
def test_references_of_lattices_are_made_right(coupling: float, is_the_lattice: bool) -> None:
    """A lattice so small that quadrature tells its moments to 1e-6; and not those for 20 % more coupling."""
    exact = small_lattice_moments(coupling, 24)
    np.testing.assert_allclose(exact, small_lattice_moments(coupling, 22), rtol=1e-6, atol=1e-6)
    reference, error = small_lattice_reference()
    z = (reference - exact) / error
    assert (np.abs(z).max() < SMALL_LATTICE_MAX_Z) == is_the_lattice, z


@pytest.mark.parametrize("name", LATTICES)
def test_reference_of_lattices_has_converged(name: str) -> None:
    reference = json.loads(read_data("references.json"))["posteriors"][name]
    assert reference["largest_rhat"] < 1.01
    assert reference["smallest_ess"] > 5000
    assert reference["num_divergent"] == 0


def facts(name: str) -> dict[str, tuple[float, float]]:
    """Mean of each parameter, and its error."""
    posterior = make_reference_target(name)
    pairs = zip(posterior.mean.tolist(), posterior.mean_error.tolist(), strict=True)
    return dict(zip(posterior.parameter_names, pairs, strict=True))


@pytest.mark.parametrize("name", LATTICES)
def test_reference_of_lattices_obeys_exact_identities(name: str) -> None:
    """As many phi as -phi; and the virial theorem E[x . grad S] = D, here 4 E[action] + 8 E[neighbours] = 1.

    The two averages depend on each other, so their errors add up at most: alarms are rarer than 1e-6 each.
    """
    mean, error = facts(name)["magnetisation"]
    assert abs(mean) < MAX_Z * error
    (action, action_error), (neighbours, neighbours_error) = (facts(name)[key] for key in ("action", "neighbours"))
    deviation = 4 * action + 8 * neighbours - 1
    assert abs(deviation) < MAX_Z * (4 * action_error + 8 * neighbours_error)


@pytest.mark.parametrize(("name", "is_published"), [("phi4", True), ("ordered_phi4", False)])
def test_mass_of_phi4_is_as_published(name: str, is_published: bool) -> None:
    """L times the mass is 3.97(5) in table I of Albergo et al. (2019); and less where the lattice is ordered.

    Half the way round the lattice the mass is acosh(G(3) / G(4)). Errors of both correlators are taken to add up.
    """
    (near, near_error), (far, far_error) = (facts(name)[f"zero_momentum[{distance}]"] for distance in (3, 4))
    mass = np.arccosh(near / far)
    error = near / far * (near_error / near + far_error / far) / np.sinh(mass)
    assert (abs(8 * mass - 3.97) < MAX_Z * np.hypot(8 * error, 0.05)) == is_published


def test_only_the_lattices_of_the_registry_have_a_reference() -> None:
    with pytest.raises(ParameterError, match=r"Phi4\.ordered\(\)"):
        _ = Phi4(side=4).mean


@pytest.mark.parametrize("wrong", [{"side": 1}, {"coupling": 0.0}, {"mass_squared": float("nan")}], ids=str)
def test_wrong_lattices_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        Phi4(**wrong)  # type: ignore[arg-type]


@functools.cache
def draws(name: str) -> Tensor:
    """Draws of a short run, (C, N, D)."""
    posterior = make_reference_target(name)
    start = points(posterior, 30, seed=1)
    kernel = HMC(step_size=0.5, num_leapfrog_steps=6, jitter=0.3, target_accept=0.9)
    centered = start - start.mean(0)
    params = kernel.init_params(start, inverse_mass=(centered.T @ centered / len(start)).diagonal())
    run = sample(posterior, kernel, start, num_samples=200, num_warmup=100, params=params, generator=seeded(2))
    assert isinstance(run.draws, Tensor)
    return run.draws


@pytest.mark.parametrize(("shift", "is_right"), [(0.0, True), (0.3, False)])
@pytest.mark.parametrize("name", SAMPLED)
def test_hmc_agrees_with_the_reference(name: str, shift: float, is_right: bool) -> None:
    """And not with one that is shifted by 0.3 standard deviations."""
    posterior = make_reference_target(name)
    parameters = torch.stack([posterior.parameters(chain) for chain in draws(name)])
    both = torch.cat([parameters, parameters**2], dim=2)
    deviation = (posterior.second_moment - posterior.mean**2).sqrt()
    reference = torch.cat([posterior.mean + shift * deviation, posterior.second_moment])
    error = torch.cat([posterior.mean_error, posterior.second_moment_error]).hypot(mcse_mean(both))
    z = (both.mean((0, 1)) - reference) / error
    assert bool((z.abs() < HMC_MAX_Z).all()) == is_right, z


@pytest.mark.parametrize("name", SAMPLED)
def test_plot_box_holds_the_mass(name: str) -> None:
    low, high = torch.tensor(make_reference_target(name).plot_box, dtype=torch.float64).T
    inside = ((draws(name)[..., :2] > low) & (draws(name)[..., :2] < high)).all(2)
    assert inside.double().mean() > 0.9


def write_zip(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}", json.dumps(content))


def test_references_are_made_as_committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From an archive like posteriordb's with a few draws, the script writes our files and the draws' averages."""
    database, out = tmp_path / "posterior_database", tmp_path / "data"
    out.mkdir()
    data, published = database / "data/data", database / "reference_posteriors/draws/draws"
    write_zip(data / "eight_schools.json.zip", {"J": 8, "y": Y.tolist(), "sigma": SIGMA.tolist()})
    for name, file, keys in (
        ("vote", "nes_logit_data", ("income", "vote")),
        ("wells", "wells_data", ("dist", "arsenic", "switched")),
    ):
        write_zip(data / f"{file}.json.zip", ungrouped(name, keys))
    names = EightSchools().parameter_names
    chains = torch.randn(4, len(names), 100, generator=seeded(3), dtype=torch.float64)
    content = [dict(zip(names, chain.tolist(), strict=True)) for chain in chains]
    write_zip(published / "eight_schools-eight_schools_noncentered.json.zip", content)
    monkeypatch.setattr(make_references, "_DATA", out)
    make_references.main([str(database)])
    for name in ("eight_schools.json", "vote.csv", "wells.csv"):
        assert (out / name).read_text() == read_data(name)
    made, committed = (
        json.loads(text) for text in ((out / "references.json").read_text(), read_data("references.json"))
    )
    assert made["sha256"].keys() == committed["sha256"].keys()
    for name in ("vote", "wells"):
        for parameter, row in committed["posteriors"][name]["parameters"].items():
            assert made["posteriors"][name]["parameters"][parameter] == pytest.approx(row, rel=1e-7, abs=1e-9)
    of_tau = made["posteriors"]["eight_schools"]["parameters"]["tau"]
    assert of_tau["mean"] == pytest.approx(float(chains[:, 1].mean()))
    assert of_tau["second_moment_error"] == pytest.approx(float(mcse_mean(chains[:, 1] ** 2)))


def test_references_of_lattices_join_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A short run of the script replaces the references of the lattices in a copy of our file, and nothing else."""
    path = tmp_path / "references.json"
    path.write_text(read_data("references.json"))
    monkeypatch.setattr(make_references, "_DATA", tmp_path)
    monkeypatch.setattr(make_phi4_references, "_NUM_WARMUP", 20)
    monkeypatch.setattr(make_phi4_references, "_NUM_DRAWS", 4)
    make_phi4_references.main()
    made, committed = json.loads(path.read_text()), json.loads(read_data("references.json"))
    for name in LATTICES:
        one, other = made["posteriors"].pop(name), committed["posteriors"].pop(name)
        assert one["parameters"] != other["parameters"]
        assert one["parameters"].keys() == other["parameters"].keys()
        assert one.keys() == other.keys()
    assert made == committed


def ungrouped(name: str, keys: tuple[str, ...]) -> dict[str, list[float]]:
    """The rows of a data file one by one, under the names of posteriordb; wells lie at distances in metres there."""
    columns: dict[str, list[float]] = {key: [] for key in keys}
    for line in read_data(f"{name}.csv").split()[1:]:
        *covariates, trials, successes = map(float, line.split(","))
        if name == "wells":
            covariates[0] *= 100.0
        for trial in range(int(trials)):
            for key, value in zip(keys, [*covariates, int(trial < successes)], strict=True):
                columns[key].append(value)
    return columns
