"""The C++ header of the native engine, function by function: special values, errors in ulps, memory, random numbers.

One program around the header holds every function as a loop over arrays; it is compiled for each number of lanes as users
compile it, and twice for lesser machines, whose forms of the same functions lack AVX-512 or fused multiply-add.
"""

from __future__ import annotations

import ctypes
import math
import operator
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import lamina.samplers
from lamina.samplers.native.build import find_compiler
from lamina.samplers.noise import CounterNoise, Site
from lamina.samplers.threefry import threefry2x32

HEADER = Path("/tmp/rt/cand.hpp").read_text()
FLAGS = (
    *("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC"),
    *("-Wno-psabi", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-but-set-variable", "-Werror"),
)
MACHINES = [(8, "native"), (16, "native"), (32, "native")]
if platform.machine() == "x86_64":
    MACHINES += [(16, "x86-64-v3"), (16, "x86-64")]
MEMORY = {"F": "float", "D": "double", "I": "int32_t", "U": "uint32_t", "B": "uint8_t"}
DTYPES = {"F": np.float32, "D": np.float64, "I": np.int32, "U": np.uint32, "B": np.uint8}
REAL = pytest.mark.parametrize("kind", "FD")


class Function(NamedTuple):
    """A numpy-like function: C++ text in which x, y and z are blocks of the arguments, of these types."""

    arguments: str
    result: str
    body: str

    def source(self, name: str) -> str:
        parameters = "".join(f"const {MEMORY[kind]}* p{i}, " for i, kind in enumerate(self.arguments))
        loads = " ".join(f"{kind} {'xyz'[i]} = load<{kind}>(p{i} + i, n);" for i, kind in enumerate(self.arguments))
        return (
            f'extern "C" void {name}({parameters}{MEMORY[self.result]}* to, int64_t total) {{\n'
            "    for (int64_t i = 0; i < total; i += LANES) {\n"
            f"        int64_t n = total - i < LANES ? total - i : LANES;\n        {loads}\n"
            f"        {self.result} out = {self.body};\n        store(to + i, out, n);\n    }}\n}}\n"
        )


# What the header promises, in ulps.
BOUNDS = {"exp_": 1.1, "expm1_": 1.5, "log_": 1.5, "log1p_": 1.5, "sin_": 2.0, "cos_": 2.0, "tanh_": 3.0}
BOUNDS |= {"sigmoid_": 3.0, "erf_": 2.0}
POWER_BOUND = 2.0
ROUNDED_ONCE = {"square_root": "sqrt", "floor_": "floor", "ceil_": "ceil", "round_": "rint", "trunc_": "trunc"}
ROUNDED_ONCE |= {"absolute": "abs", "-": "negative"}
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
LOGICAL = {"and_": "&", "or_": "|", "xor": "^"}
TWO = "[&] {{ {kind} a{init}, b{more}; {call}; return {which}; }}()"


def _functions() -> dict[str, Function]:
    """All that the tests call, by name."""
    made: dict[str, Function] = {}
    for kind in "FD":
        for name in [*BOUNDS, *ROUNDED_ONCE]:
            made[f"{name.replace('-', 'negative')}{kind}"] = Function(kind, kind, f"{name}(x)")
        made[f"pow_{kind}"] = Function(kind * 2, kind, "pow_(x, y)")
        made[f"fma{kind}"] = Function(kind * 3, kind, "fma(x, y, z)")
        for name in ("is_finite", "is_nan"):
            made[f"{name}{kind}"] = Function(kind, "B", f"{name}(x)")
        for which in "ab":
            body = f"[&] {{ {kind} a, b; normals(x, y, a, b); return {which}; }}()"
            made[f"normals_{which}{kind}"] = Function("UU", kind, body)
    for kind in "FDI":
        for name, sign in ARITHMETIC.items():
            made[f"{name}{kind}"] = Function(kind * 2, kind, f"x {sign} y")
        for name, sign in COMPARISONS.items():
            made[f"{name}{kind}"] = Function(kind * 2, "B", f"x {sign} y")
        for name in ("minimum", "maximum"):
            made[f"{name}{kind}"] = Function(kind * 2, kind, f"{name}(x, y)")
    for kind in "BIU":
        for name, sign in LOGICAL.items():
            made[f"{name}{kind}"] = Function(kind * 2, kind, f"x {sign} y")
        made[f"invert{kind}"] = Function(kind, kind, "~x")
    for kind in "IU":
        made[f"lshift{kind}"], made[f"rshift{kind}"] = Function(kind, kind, "x << 5"), Function(kind, kind, "x >> 5")
    made |= {"lshift_each": Function("II", "I", "x << y"), "rshift_each": Function("II", "I", "x >> y")}
    made |= {"negativeI": Function("I", "I", "-x"), "absoluteI": Function("I", "I", "absolute(x)")}
    for kind in "FDIB":
        made[f"select{kind}"] = Function("B" + kind * 2, kind, "select(x, y, z)")
        for target in "FDIB":
            made[f"to_{target.lower()}{kind}"] = Function(kind, target, f"to_{target.lower()}(x)")
    for which in "ab":
        for key, declared in (("scalar", "uint32_t k0 = 7, k1 = 0xdeadbeef"), ("lanes", "U k0 = x ^ y, k1 = x + y")):
            body = f"[&] {{ U a = x, b = y; {declared}; threefry(k0, k1, a, b); return {which}; }}()"
            made[f"threefry_{key}_{which}"] = Function("UU", "U", body)
    made["uniform"] = Function("U", "D", "uniform(x)")
    made["numbered"] = Function("I", "I", "x + lane_numbers()")
    made |= {f"full{kind}": Function(kind, kind, f"full<{kind}>({MEMORY[kind]}(p0[i]))") for kind in "FDI"}
    made["fullB"] = Function("B", "B", "full<B>(p0[i] != 0)")
    made["any_of"] = Function("B", "B", "full<B>(any(x))")
    made["all_of"] = Function("B", "B", "full<B>(all(x))")
    return made


FUNCTIONS = _functions()
PROGRAM = "".join(function.source(name) for name, function in FUNCTIONS.items())


def _compile(program: str, lanes: int, machine: str, folder: Path) -> Path:
    compiler = find_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler on this machine")
    source, library = folder / "program.cpp", folder / f"program{lanes}{machine}.so"
    source.write_text(f"#define LANES {lanes}\n{HEADER}\n{program}", encoding="utf-8")
    command = [compiler.path, *FLAGS, f"-march={machine}", str(source), "-o", str(library)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[:4000]
    return library


class Library(NamedTuple):
    """The compiled functions, which take and give numpy arrays."""

    lanes: int
    path: Path
    code: ctypes.CDLL

    def __call__(self, name: str, *arguments: Any) -> np.ndarray:
        function = FUNCTIONS[name]
        pairs = zip(arguments, function.arguments, strict=True)
        given = [np.ascontiguousarray(argument, dtype=DTYPES[kind]) for argument, kind in pairs]
        result = np.empty(given[0].shape, dtype=DTYPES[function.result])
        getattr(self.code, name)(*(ctypes.c_void_p(a.ctypes.data) for a in (*given, result)), ctypes.c_int64(result.size))
        return result


@pytest.fixture(scope="module", params=MACHINES, ids=lambda machine: f"{machine[0]}-{machine[1]}")
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Library:
    lanes, machine = request.param
    path = _compile(PROGRAM, lanes, machine, tmp_path_factory.mktemp("runtime"))
    return Library(lanes, path, ctypes.CDLL(str(path)))


# --- Arguments -------------------------------------------------------------------------------------------------------


def _specials(kind: str) -> np.ndarray:
    info = np.finfo(DTYPES[kind])
    positive = [0, info.tiny, 1e-10, 0.25, 0.5, 1, 1.5, 2, 3, 19, 100, 1e6, info.max, np.inf]
    return np.array([sign * value for sign in (1, -1) for value in positive] + [np.nan], dtype=DTYPES[kind])


def _anywhere(kind: str, size: int = 20_000) -> np.ndarray:
    """Numbers of all magnitudes, both signs, denormals too: random bits."""
    word = {"F": np.uint32, "D": np.uint64}[kind]
    bits = np.random.default_rng(1).integers(0, np.iinfo(word).max, size, dtype=word, endpoint=True)
    numbers = bits.view(DTYPES[kind])
    return numbers[np.isfinite(numbers)]


def _between(kind: str, low: float, high: float, size: int = 40_000) -> np.ndarray:
    return np.random.default_rng(2).uniform(low, high, size).astype(DTYPES[kind])


def _small(kind: str, most: float, size: int = 20_000) -> np.ndarray:
    """Both signs, evenly spread in the logarithm."""
    generator = np.random.default_rng(3)
    return (generator.choice([-1, 1], size) * most * 10 ** generator.uniform(-12, 0, size)).astype(DTYPES[kind])


def _near_multiples(kind: str, most: float) -> np.ndarray:
    """The neighbours of multiples of pi / 2, where sine or cosine is tiny."""
    count = int(most / (math.pi / 2)) - 1
    multiples = np.unique(np.linspace(1, count, 20_000).astype(np.int64)) * (np.longdouble(np.pi) / 2)
    return multiples.astype(DTYPES[kind])


def _arguments(name: str, kind: str) -> np.ndarray:
    exp_most = {"F": 104.0, "D": 746.0}[kind]
    sin_most = {"F": 1e5, "D": 1e8}[kind]
    parts = [_anywhere(kind), _small(kind, 1), _between(kind, -2, 2)]
    match name:
        case "exp_" | "expm1_" | "sigmoid_":
            parts += [_between(kind, -exp_most, exp_most), _between(kind, 0.85 * exp_most, 0.87 * exp_most)]
        case "log_":
            parts += [abs(parts[0]), 1 + _small(kind, 0.5), _between(kind, 0, 10)]
        case "log1p_":
            parts += [abs(parts[0]), _small(kind, 1) - 1, _between(kind, -1, 10), _small(kind, 1e6)]
        case "sin_" | "cos_":
            parts += [_between(kind, -10, 10), _between(kind, -sin_most, sin_most), _near_multiples(kind, sin_most)]
        case "tanh_" | "erf_":
            parts += [_between(kind, -7, 7), _between(kind, -25, 25)]
    return np.concatenate(parts)


# --- Measures --------------------------------------------------------------------------------------------------------


def _exact(name: str, x: np.ndarray) -> np.ndarray:
    """The function, with more digits than x has."""
    wide: np.ndarray = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    match name:
        case "sigmoid_":
            e = np.exp(-abs(wide))
            return np.where(wide < 0, e, 1) / (1 + e)
        case "erf_":
            return _exact_erf(wide)
        case _:
            return getattr(np, name.rstrip("_"))(wide)


def _exact_erf(x: np.ndarray) -> np.ndarray:
    """2 / sqrt(pi) exp(-x**2) sum_k 2**k x**(2k + 1) / (2k + 1)!!, all of whose terms have one sign."""
    inside = np.clip(x, -7, 7)
    term = total = inside * np.exp(-inside * inside)
    for k in range(1, 250):
        term = term * (2 * inside * inside / (2 * k + 1))
        total = total + term
    result: np.ndarray = total * (2 / np.sqrt(4 * np.arctan(np.ones((), dtype=x.dtype))))
    return result


def _ulps(got: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distances in units of the last place; where the exact value overflows or is NaN, 0 or infinity."""
    nearest = exact.astype(got.dtype)
    is_ordinary = np.isfinite(nearest) & np.isfinite(got)
    distance = np.abs(got - exact) / np.spacing(np.abs(nearest))
    is_equal = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
    # Next to the overflow threshold, both the largest number and infinity are less than one ulp away.
    return np.where(is_ordinary, distance, np.where(is_equal, 0, np.inf)).astype(np.float64)


def _same(got: np.ndarray, wanted: np.ndarray) -> None:
    """NaN where NaN is wanted, and otherwise the same numbers, with the same signs of zero."""
    np.testing.assert_array_equal(got, wanted)
    is_zero = wanted == 0
    np.testing.assert_array_equal(np.signbit(got[is_zero]), np.signbit(wanted[is_zero]))


# --- Elementary functions --------------------------------------------------------------------------------------------


@REAL
@pytest.mark.parametrize("name", BOUNDS)
@np.errstate(all="ignore")
def test_errors_are_within_the_stated_bound(library: Library, name: str, kind: str) -> None:
    x = _arguments(name, kind)
    errors = _ulps(library(f"{name}{kind}", x), _exact(name, x))
    worst = int(errors.argmax())
    print(f"ULP {library.path.stem} {name}{kind} {errors.max():.3f} at {x[worst]!r}")
    assert errors.max() <= BOUNDS[name], f"{name}({x[worst]!r}) is off by {errors[worst]:.2f} ulp"


@REAL
@pytest.mark.parametrize("name", BOUNDS)
def test_special_values_are_those_of_torch(library: Library, name: str, kind: str) -> None:
    x = _specials(kind)
    wanted = getattr(torch, name.rstrip("_"))(torch.from_numpy(x.astype(np.float64))).numpy()
    with np.errstate(over="ignore", under="ignore"):
        wanted = wanted.astype(x.dtype)
    got = library(f"{name}{kind}", x)
    is_special = ~np.isfinite(wanted) | (wanted == 0)
    _same(got[is_special], wanted[is_special])
    np.testing.assert_allclose(got[~is_special], wanted[~is_special], rtol=4 * np.finfo(x.dtype).eps)


@REAL
@np.errstate(all="ignore")
def test_powers(library: Library, kind: str) -> None:
    generator = np.random.default_rng(4)
    base = np.concatenate([abs(_anywhere(kind)), _between(kind, 0.5, 2), _between(kind, 0, 30)])
    reach = np.log(np.finfo(base.dtype).max) / np.abs(np.log(base.astype(np.float64)))
    exponent = (generator.uniform(-1.05, 1.05, base.size) * np.minimum(reach, 1e6)).astype(base.dtype)
    wide = np.float64 if kind == "F" else np.longdouble
    errors = _ulps(library(f"pow_{kind}", base, exponent), base.astype(wide) ** exponent.astype(wide))
    worst = int(errors.argmax())
    print(f"ULP {library.path.stem} pow_{kind} {errors.max():.3f} at {base[worst]!r}, {exponent[worst]!r}")
    assert errors.max() <= POWER_BOUND, f"pow({base[worst]!r}, {exponent[worst]!r}) is off by {errors[worst]:.2f} ulp"


@REAL
def test_special_powers_are_those_of_torch(library: Library, kind: str) -> None:
    base, exponent = (part.ravel() for part in np.meshgrid(_specials(kind), _specials(kind)))
    wanted = (torch.from_numpy(base).double() ** torch.from_numpy(exponent).double()).numpy()
    with np.errstate(over="ignore", under="ignore"):
        wanted = wanted.astype(base.dtype)
    got = library(f"pow_{kind}", base, exponent)
    is_special = ~np.isfinite(wanted) | (wanted == 0)
    _same(got[is_special], wanted[is_special])
    np.testing.assert_allclose(got[~is_special], wanted[~is_special], rtol=4 * np.finfo(base.dtype).eps)


@REAL
@pytest.mark.parametrize("name", ["sin_", "cos_"])
def test_huge_angles(library: Library, name: str, kind: str) -> None:
    x = np.concatenate([_between(kind, -1e15, 1e15, 999), _between(kind, -1e30, 1e30, 999), [np.finfo(DTYPES[kind]).max]])
    assert _ulps(library(f"{name}{kind}", x), _exact(name, x.astype(DTYPES[kind]))).max() <= BOUNDS[name]


# --- Arithmetic, comparisons, choices --------------------------------------------------------------------------------


@REAL
@pytest.mark.parametrize("name", ROUNDED_ONCE)
@np.errstate(all="ignore")
def test_functions_that_are_exact_or_rounded_once(library: Library, name: str, kind: str) -> None:
    x = np.concatenate([_specials(kind), _anywhere(kind), _between(kind, -9, 9), np.arange(-9, 9) / 2])
    _same(library(f"{name.replace('-', 'negative')}{kind}", x), getattr(np, ROUNDED_ONCE[name])(x.astype(DTYPES[kind])))


def _pairs(kind: str) -> tuple[np.ndarray, np.ndarray]:
    if kind == "I":
        values = np.arange(-12, 13)
        x, y = np.meshgrid(values, values[values != 0])
    else:
        x, y = np.meshgrid(_specials(kind), _specials(kind))
    return x.ravel().astype(DTYPES[kind]), y.ravel().astype(DTYPES[kind])


@pytest.mark.parametrize("kind", "FDI")
@np.errstate(all="ignore")
def test_operators(library: Library, kind: str) -> None:
    x, y = _pairs(kind)
    for name in ARITHMETIC:
        wanted = getattr(operator, name)(x, y)
        if kind == "I":
            wanted = np.trunc(wanted).astype(np.int32)  # C++ divides integers towards zero
        _same(library(f"{name}{kind}", x, y), wanted)
    for name in COMPARISONS:
        np.testing.assert_array_equal(library(f"{name}{kind}", x, y), getattr(operator, name)(x, y))
    for name in ("minimum", "maximum"):
        wanted = getattr(torch, name)(torch.from_numpy(x), torch.from_numpy(y)).numpy()
        np.testing.assert_array_equal(library(f"{name}{kind}", x, y), wanted)
