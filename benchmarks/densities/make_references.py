"""Make `data` from posteriordb: `python -m lamina.benchmarks.densities.make_references posterior_database`.

The argument is the folder of that name in a checkout of https://github.com/stan-dev/posteriordb. Eight schools takes
its moments from the 10,000 reference draws published there. The logistic regressions have none; with two or three
coordinates quadrature gives their moments to many digits. The lattices are the matter of `make_phi4_references`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamina.samplers import mcse_mean

from .eight_schools import EightSchools
from .logistic_regression import Vote, Wells
from .reference_target import ReferenceTarget

_DATA = Path(__file__).parent / "data"
_INPUTS = {
    "eight_schools": "data/data/eight_schools.json.zip",
    "vote": "data/data/nes_logit_data.json.zip",
    "wells": "data/data/wells_data.json.zip",
    "draws": "reference_posteriors/draws/draws/eight_schools-eight_schools_noncentered.json.zip",
}
_STEP = 0.5  # of the quadrature, in standard deviations: its error is about exp(-2 pi^2 / step^2)
_REACH = 7.0  # in standard deviations


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the data, then the references, which are those of the posteriors of that data."""
    parser = argparse.ArgumentParser(prog="make_references", description="Make the data of the posteriors.")
    parser.add_argument("database", type=Path, help="folder posterior_database of a checkout of posteriordb")
    archives = {name: parser.parse_args(arguments).database / path for name, path in _INPUTS.items()}
    content = {name: _read(path) for name, path in archives.items()}
    _write("eight_schools.json", json.dumps({key: content["eight_schools"][key] for key in ("y", "sigma")}))
    vote, wells = content["vote"], content["wells"]
    _write_counts("vote.csv", ["income"], [vote["income"]], vote["vote"])
    distance = [metres / 100.0 for metres in wells["dist"]]
    _write_counts("wells.csv", ["distance", "arsenic"], [distance, wells["arsenic"]], wells["switched"])
    references = {
        "eight_schools": _from_draws(EightSchools(), content["draws"]),
        "vote": _by_quadrature(Vote()),
        "wells": _by_quadrature(Wells()),
    }
    sha256 = {_INPUTS[name]: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in archives.items()}
    write_references(references, origin="https://github.com/stan-dev/posteriordb", sha256=sha256)


def write_references(references: dict[str, Any], **about: Any) -> None:
    """Write references by name, and what is to be said about all, into `references.json`; keep the others there."""
    path = _DATA / "references.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    posteriors = content.get("posteriors", {}) | references
    _write(path.name, json.dumps(content | about | {"posteriors": posteriors}, indent=2))


def rows_of_draws(posterior: ReferenceTarget, draws: Tensor) -> dict[str, dict[str, float]]:
    """Averages of draws of the parameters, (C, N, K), with their Monte Carlo standard errors."""
    averages = [draws.mean((0, 1)), mcse_mean(draws), draws.square().mean((0, 1)), mcse_mean(draws.square())]
    return _rows(posterior, averages)


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(archive.namelist()[0]))


def _write(name: str, text: str) -> None:
    (_DATA / name).write_text(f"{text}\n", encoding="utf-8")


def _write_counts(name: str, header: list[str], covariates: list[list[float]], outcomes: list[int]) -> None:
    """Write the numbers of trials and of successes of each row of covariates."""
    rows = list(zip(*covariates, strict=True))
    trials = Counter(rows)
    successes = Counter(row for row, outcome in zip(rows, outcomes, strict=True) if outcome)
    # Metres have gone through single precision on their way; six digits give back what was measured.
    lines = [[f"{value:.6g}" for value in (*row, trials[row], successes[row])] for row in sorted(trials)]
    _write(name, "\n".join(",".join(line) for line in [[*header, "trials", "successes"], *lines]))


def _from_draws(posterior: ReferenceTarget, chains: list[dict[str, list[float]]]) -> dict[str, Any]:
    """The averages of published draws."""
    draws = torch.tensor([[chain[name] for name in posterior.parameter_names] for chain in chains], dtype=torch.float64)
    draws = draws.transpose(1, 2)  # (C, K, N) -> (C, N, K)
    method = f"{len(chains)} chains of {draws.shape[1]} draws of posteriordb, with Monte Carlo standard errors"
    return {"method": method, "parameters": rows_of_draws(posterior, draws)}


def _by_quadrature(posterior: ReferenceTarget) -> dict[str, Any]:
    """Moments by the trapezoid rule; the error is bounded by what halving the number of nodes changes."""
    mode, scale = _gaussian_fit(posterior, posterior.dim)
    fine, coarse = (_grid_moments(posterior, mode, scale, step) for step in (_STEP, 2.0 * _STEP))
    errors = [(one - other).abs() for one, other in zip(fine, coarse, strict=True)]
    return {
        "method": "quadrature, with a bound on its error",
        "parameters": _rows(posterior, [fine[0], errors[0], fine[1], errors[1]]),
    }


def _gaussian_fit(energy: Callable[[Tensor], Tensor], dim: int) -> tuple[Tensor, Tensor]:
    """The mode of a convex energy by Newton's method from zero, and a square root of the inverse Hessian there."""
    mode = torch.zeros(dim, dtype=torch.float64)
    for _ in range(20):
        x = mode.requires_grad_()
        (gradient,) = torch.autograd.grad(energy(x[None])[0], x, create_graph=True)
        hessian = torch.stack([torch.autograd.grad(slope, x, retain_graph=True)[0] for slope in gradient])
        mode = (mode - torch.linalg.solve(hessian, gradient)).detach()
    return mode, torch.linalg.inv(torch.linalg.cholesky(hessian)).T


def _grid_moments(posterior: ReferenceTarget, mode: Tensor, scale: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """First and second moments of the parameters on a grid in whitened coordinates."""
    axis = torch.arange(-_REACH, _REACH + step, step, dtype=torch.float64)
    nodes = torch.tensor(list(itertools.product(axis.tolist(), repeat=len(mode))), dtype=torch.float64)
    x = mode + nodes @ scale.T
    weights = torch.softmax(-torch.cat([posterior(part) for part in torch.split(x, 1000)]), dim=0)
    parameters = posterior.parameters(x)
    return weights @ parameters, weights @ parameters.square()


def _rows(posterior: ReferenceTarget, columns: list[Tensor]) -> dict[str, dict[str, float]]:
    keys = ("mean", "mean_error", "second_moment", "second_moment_error")
    rows = torch.stack(columns, dim=1).tolist()
    named = zip(posterior.parameter_names, rows, strict=True)
    return {name: dict(zip(keys, row, strict=True)) for name, row in named}


if __name__ == "__main__":
    main()
