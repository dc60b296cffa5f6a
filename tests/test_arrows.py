"""Imports run one way, samplers <- models <- trainers <- benchmarks, and optional packages are optional.

The arrows are read from the source, the optional packages are taken away from a fresh interpreter.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("samplers", "models", "trainers", "benchmarks")  # each may import those to its left
DENSITIES = "lamina.benchmarks.densities"
OPTIONAL = ("tqdm", "matplotlib", "sklearn", "arviz", "arviz_stats", "arviz_base", "pandas", "pytest", "hypothesis")


# --- the arrows, as the source states them ---


def wrong_arrows(root: Path) -> list[str]:
    """Every import below `root` against the arrows, as `file:line: module imports module`."""
    wrong = []
    for path in (path for room in ROOMS for path in sorted((root / room).rglob("*.py"))):
        module = ".".join(("lamina", *path.relative_to(root).with_suffix("").parts))
        for line, target in _imports(ast.parse(path.read_text(encoding="utf-8")), _package(module)):
            if not _may_import(module, target):
                wrong.append(f"{path.relative_to(root)}:{line}: {module} imports {target}")
    return wrong


def _package(module: str) -> str:
    """What relative imports of a module start from: its folder, for `__init__` as for the modules beside it."""
    return module.rpartition(".")[0]


def _imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Line and full name of all that is imported anywhere in a module, also inside functions and type checks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join((*base, *([node.module] if node.module else [])))
            # `from lamina import models` names its room only in what it imports.
            yield from ((node.lineno, f"{source}.{name.name}") for name in node.names)


def _may_import(module: str, target: str) -> bool:
    if target.split(".")[0] != "lamina":
        return True
    if target == "lamina" or target.split(".")[1] not in ROOMS:
        return False  # the namespace alone, or something in it that is not ours
    if _is_within(module, DENSITIES):
        return _is_within(target, "lamina.samplers") or _is_within(target, DENSITIES)
    return ROOMS.index(target.split(".")[1]) <= ROOMS.index(module.split(".")[1])


def _is_within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def test_imports_run_one_way() -> None:
    assert wrong_arrows(ROOT) == []


@pytest.mark.parametrize(
    ("file", "code", "found"),
    [
        ("samplers/kernels/hmc.py", "from lamina.models import Prior", "lamina.models.Prior"),
        ("samplers/__init__.py", "from ..models import Prior", "lamina.models.Prior"),
        ("samplers/kernels/hmc.py", "from ... import trainers", "lamina.trainers"),
        ("samplers/kernels/hmc.py", "from lamina import benchmarks", "lamina.benchmarks"),
        ("samplers/kernels/hmc.py", "def f():\n    import lamina.trainers.loop", "lamina.trainers.loop"),
        ("samplers/kernels/hmc.py", "import lamina", "lamina"),
        ("models/prior.py", "from lamina.trainers.loop import train", "lamina.trainers.loop.train"),
        ("trainers/schemes/base.py", "from ...benchmarks.densities import Banana", f"{DENSITIES}.Banana"),
        ("benchmarks/densities/base.py", "from lamina.models import Prior", "lamina.models.Prior"),
        ("benchmarks/densities/base.py", "from ..cli import main", "lamina.benchmarks.cli.main"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, file: str, code: str, found: str) -> None:
    allowed = {
        "samplers/kernels/mala.py": "import torch\nfrom .hmc import HMC\nfrom . import hmc",
        "models/gaussian.py": "from lamina.samplers import HMC",
        "trainers/schemes/plan.py": "from ..loop import train\nfrom ...models import Prior",
        "benchmarks/densities/banana.py": "from .base import Density\nfrom lamina.samplers.errors import LaminaError",
        "benchmarks/run.py": "import lamina.trainers, lamina.models, lamina.samplers\nfrom .densities import Banana",
    }
    for name, text in (*allowed.items(), (file, code)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (wrong,) = wrong_arrows(tmp_path)
    assert wrong.startswith(f"{file}:{code.count(chr(10)) + 1}: ")
    assert wrong.endswith(f" imports {found}")


# --- without the optional packages ---

_TAKE_AWAY = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def _run_without_extras(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds none of the optional packages."""
    command = [sys.executable, "-W", "error", "-c", _TAKE_AWAY + code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr
    return result


def test_samplers_and_densities_need_torch_numpy_and_scipy_only() -> None:
    result = _run_without_extras("""
import importlib, pkgutil
import torch

def import_all(name):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(module.name)

import_all("lamina.samplers")
import_all("lamina.benchmarks.densities")
from lamina.samplers import HMC, sample
from lamina.samplers.diagnostics import rhat
from lamina.samplers.testing import check_invariance
from lamina.benchmarks.densities import DENSITIES, make_density

generator = torch.Generator().manual_seed(0)
for name in DENSITIES:
    density = make_density(name)
    start = density.sample(50, generator=generator)
    result = sample(density, HMC(step_size=0.1), start, num_samples=4, generator=generator)
    assert result.draws.shape == (50, 4, density.dim)
banana = make_density("banana")
exact, fresh = banana.sample(500, generator=generator), banana.sample(500, generator=generator)
report = check_invariance(HMC(step_size=0.3), banana, exact, fresh, noise=0)
assert report.passed, report
print(*sorted({name.partition(".")[0] for name in sys.modules}))
""")
    loaded = set(result.stdout.split())
    assert {"lamina", "torch", "numpy", "scipy"} <= loaded
    assert not loaded & set(OPTIONAL)


def test_every_module_imports_without_extras_and_use_names_the_extra() -> None:
    result = _run_without_extras("""
import importlib, pkgutil
from pathlib import Path
import torch

for room in ("samplers", "models", "trainers", "benchmarks"):
    package = importlib.import_module(f"lamina.{room}")
    for module in pkgutil.walk_packages(package.__path__, f"lamina.{room}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

from lamina.samplers import MissingExtraError
from lamina.trainers import pictures
from lamina.trainers.evaluation import features
for use in (
    lambda: features.train_features(None),
    lambda: pictures.sample_grid({"ebm": torch.zeros(1, 1, 2, 2)}, Path("never-written.png")),
):
    try:
        use()
    except MissingExtraError as error:
        print(error)
""")
    features, pictures = result.stdout.splitlines()
    assert "scikit-learn" in features
    assert "matplotlib" in pictures
    for message in (features, pictures):
        assert "pip install 'lamina[train]'" in message


def test_progress_is_plain_lines_without_tqdm() -> None:
    result = _run_without_extras("""
from lamina.samplers import progress
with progress(20, "walking", enabled=True) as bar:
    for step in range(20):
        bar.advance({"step": str(step)})
""")
    lines = result.stderr.splitlines()
    assert len(lines) == 10  # one for each tenth of the way
    assert lines[-1] == "walking: 20/20  step 19"
