"""What is built, what it holds, and that it works where it is installed, away from this checkout.

Nothing is downloaded: wheels are built with the installed setuptools, and the fresh environment borrows torch, numpy
and scipy from the current one by path. Such a path runs no .pth files, so an editable install of the checkout stays
out of it.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("samplers", "models", "trainers", "benchmarks")
LEFTOVERS = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "runs")

SHORT_RUN = """
import torch
from lamina.samplers import HMC, sample

result = sample(
    lambda x: 0.5 * x.square().sum(-1),
    HMC(step_size=0.5),
    torch.zeros(10, 2),
    num_samples=20,
    num_warmup=20,
    generator=torch.Generator().manual_seed(0),
)
assert result.draws.shape == (10, 20, 2)
assert result.draws.isfinite().all()
"""


# --- the list of packages ---


def _setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def _package_files() -> dict[str, bytes]:
    """Every file of a package, by its installed path; folders that are none, as of results, stay in the checkout."""
    found = [
        path
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
        for path in init.parent.iterdir()
        if path.is_file() and not path.name.startswith(".")
    ]
    return {f"lamina/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in found}


def test_packages_are_the_folders() -> None:
    folders = [path.parent.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("__init__.py")]
    listed = _setup_cfg()["options"]["packages"].split()
    assert sorted(listed) == sorted(".".join(("lamina", *folder.parts)) for folder in folders)
    assert len(listed) == len(set(listed))


def test_every_folder_with_code_is_a_package() -> None:
    """A module in a folder without `__init__.py` would import from the checkout and be missing in the wheel."""
    code = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    assert [path for path in code if not (path.parent / "__init__.py").exists()] == []


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_mapped_and_typed(room: str) -> None:
    config = _setup_cfg()
    assert f"lamina.{room} = {room}" in config["options"]["package_dir"].splitlines()
    assert "py.typed" in config["options.package_data"][f"lamina.{room}"].split()
    assert (ROOT / room / "py.typed").is_file()


def test_checkout_does_not_hide_the_namespace() -> None:
    """Python started in the checkout finds a folder of that name before the installed one."""
    assert not (ROOT / "lamina").exists()


# --- what is built ---


@dataclass(frozen=True)
class Built:
    """What a release is made of.

    Attributes:
        wheel: Built from a copy of the checkout.
        sdist: Built from the same copy.
        wheel_of_sdist: Built from the unpacked sdist.
    """

    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Build once, from a copy without leftovers of earlier builds, which setuptools would pack again."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFTOVERS)
    build = [sys.executable, "-m", "build", "--no-isolation"]
    _run([*build, "--wheel", "--outdir", folder / "direct", folder / "tree"], folder)
    _run([*build, "--outdir", folder / "release", folder / "tree"], folder)  # the wheel from the sdist
    return Built(
        wheel=_only(folder / "direct", "*.whl"),
        sdist=_only(folder / "release", "*.tar.gz"),
        wheel_of_sdist=_only(folder / "release", "*.whl"),
    )


def _only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def _run(command: list[str | Path], cwd: Path, **environment: str) -> str:
    """Run a command outside the checkout, with nothing of it on the path; its standard output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(
        command, cwd=cwd, env=kept | environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def _contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    contents = _contents(built.wheel)
    ours = {name: data for name, data in contents.items() if name.startswith("lamina/")}
    assert sorted(ours) == sorted(_package_files())
    assert ours == _package_files()
    (version,) = {name.split("/")[0] for name in contents.keys() - ours.keys()}
    assert version.startswith("lamina-")
    assert version.endswith(".dist-info")
    assert f"{version}/licenses/LICENSE" in contents


def test_wheel_of_the_sdist_is_the_same(built: Built) -> None:
    assert _contents(built.wheel_of_sdist) == _contents(built.wheel)


def test_sdist_builds_without_the_repository(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= names
    assert {name.removeprefix("lamina/") for name in _package_files()} <= names
    assert not any(name.startswith((".", "build/", "runs/")) for name in names)


# --- what is installed ---


@dataclass(frozen=True)
class Installed:
    """A fresh environment with the wheel in it.

    Attributes:
        python: Its interpreter.
        scripts: Where its commands lie.
        site_packages: Where the wheel's files lie.
    """

    python: Path
    scripts: Path
    site_packages: Path


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install the wheel; whatever it requires is found in the current environment."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    venv.create(folder, symlinks=os.name == "posix")
    paths = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    scripts, site_packages = Path(paths["scripts"]), Path(paths["purelib"])
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "--python", scripts / "python", "install", "--quiet", "--no-deps", "--no-index", built.wheel], folder)
    borrowed = [path for path in sys.path if path.rstrip(os.sep).endswith(("site-packages", "dist-packages"))]
    (site_packages / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    return Installed(python=scripts / "python", scripts=scripts, site_packages=site_packages)


def test_only_lamina_lands_in_site_packages(installed: Installed) -> None:
    names = {path.name for path in installed.site_packages.iterdir()} - {"borrowed.pth"}
    assert {name for name in names if not name.endswith(".dist-info")} == {"lamina"}
    assert len(names) == 2
    assert {path.name for path in (installed.site_packages / "lamina").iterdir()} == set(ROOMS)


def test_installed_packages_run_from_anywhere(installed: Installed, tmp_path: Path) -> None:
    files = "import lamina.samplers, lamina.models, lamina.trainers, lamina.benchmarks.densities as densities\n"
    files += "for room in (lamina.samplers, lamina.models, lamina.trainers, densities): print(room.__file__)\n"
    output = _run([installed.python, "-W", "error", "-c", SHORT_RUN + files], tmp_path)
    for file in output.splitlines():
        assert Path(file).is_relative_to(installed.site_packages)
    assert len(output.splitlines()) == 4


def test_every_installed_module_imports(installed: Installed, tmp_path: Path) -> None:
    modules = [name.removesuffix(".py").replace("/", ".") for name in _package_files() if name.endswith(".py")]
    runnable = [name for name in modules if not name.endswith("__main__")]
    _run([installed.python, "-W", "error", "-c", f"import {', '.join(runnable)}"], tmp_path)


@pytest.mark.parametrize("command", ["lamina", "lamina-bench"])
def test_commands_explain_themselves(installed: Installed, tmp_path: Path, command: str) -> None:
    output = _run([installed.scripts / command, "--help"], tmp_path)
    assert output.startswith(f"usage: {command} ")


def test_command_tells_its_version(installed: Installed, tmp_path: Path) -> None:
    version = _setup_cfg()["metadata"]["version"]
    assert _run([installed.scripts / "lamina", "--version"], tmp_path) == f"lamina {version}\n"


def test_projects_with_folders_of_the_same_names_keep_them(installed: Installed, tmp_path: Path) -> None:
    for name in ROOMS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'the user'", encoding="utf-8")
    main = f"import {', '.join(ROOMS)}\n" + SHORT_RUN
    main += f"print({', '.join(f'{name}.OWNER' for name in ROOMS)}, sep=',')\n"
    (tmp_path / "main.py").write_text(main, encoding="utf-8")
    assert _run([installed.python, tmp_path / "main.py"], tmp_path) == "the user,the user,the user,the user\n"


@pytest.mark.parametrize("environment", ["installed", "current"])
@pytest.mark.parametrize("order", ["lamina.other, lamina.samplers", "lamina.samplers, lamina.other"])
def test_other_distributions_may_add_to_the_namespace(
    request: pytest.FixtureRequest, tmp_path: Path, environment: str, order: str
) -> None:
    """Wherever the checkout is installed, as a wheel or, as usual in the current environment, editable."""
    python = sys.executable if environment == "current" else request.getfixturevalue("installed").python
    (tmp_path / "other" / "lamina").mkdir(parents=True)
    (tmp_path / "other" / "lamina" / "other.py").write_text("OWNER = 'another distribution'", encoding="utf-8")
    code = f"import {order}\nprint(lamina.other.OWNER, lamina.samplers.HMC.__name__)"
    output = _run([python, "-c", code], tmp_path, PYTHONPATH=str(tmp_path / "other"))
    assert output == "another distribution HMC\n"
