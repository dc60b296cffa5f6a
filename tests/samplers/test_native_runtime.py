"""The C++ header of the native engine, function by function: special values, errors in ulps, memory, random numbers.

One program around the header holds every function as a loop over arrays. It is compiled for each number of lanes as
users compile it, and twice for lesser machines, whose forms of the same functions lack AVX-512 or fused multiply-add.
"""

from __future__ import annotations

import ctypes
import math
import operator
import platform
import resource
import subprocess
import sys
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from lamina.samplers.native import build
from lamina.samplers.noise import CounterNoise, Site
from lamina.samplers.threefry import threefry2x32

HEADER = (Path(build.__file__).parent / "runtime.hpp").read_text(encoding="utf-8")
FLAGS = (
    *(
        "-std=c++17",
        "-O2",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
    ),
    *("-Wno-psabi", "-Wall", "-Wextra", "-Wno-unused-function", "-Wno-unused-but-set-variable", "-Werror"),
)
MACHINES = [(8, "native"), (16, "native"), (32, "native")]
if platform.machine() == "x86_64":
    MACHINES += [(8, "x86-64-v3"), (8, "x86-64")]
MEMORY = {"F": "float", "D": "double", "I": "int32_t", "U": "uint32_t", "B": "uint8_t"}
DTYPES: dict[str, Any] = {"F": np.float32, "D": np.float64, "I": np.int32, "U": np.uint32, "B": np.uint8}
REAL = pytest.mark.parametrize("kind", "FD")


class Function(NamedTuple):
    """A numpy-like function: C++ text in which x, y and z are blocks of the arguments, of these types."""

    arguments: str
    result: str
    body: str

    def source(self, name: str) -> str:
        parameters = "".join(f"const {MEMORY[kind]}* p{i}, " for i, kind in enumerate(self.arguments))
        loads = " ".join(
            f"[[maybe_unused]] {kind} {'xyz'[i]} = load<{kind}>(p{i} + i, n);" for i, kind in enumerate(self.arguments)
        )
        return (
            f'extern "C" void {name}({parameters}{MEMORY[self.result]}* to, int64_t total) {{\n'
            "    for (int64_t i = 0; i < total; i += LANES) {\n"
            f"        int64_t n = total - i < LANES ? total - i : LANES;\n        {loads}\n"
            f"        {self.result} out = {self.body};\n        store(to + i, out, n);\n    }}\n}}\n"
        )


# What the header promises, in ulps.
BOUNDS = {"exp_": 1.1, "expm1_": 1.5, "log_": 1.5, "log1p_": 1.5, "sin_": 3.0, "cos_": 3.0, "tanh_": 3.0}
BOUNDS |= {"sigmoid_": 3.0, "erf_": 2.0}
POWER_BOUND = 2.0
ROUNDED_ONCE = {"square_root": "sqrt", "floor_": "floor", "ceil_": "ceil", "round_": "rint", "trunc_": "trunc"}
ROUNDED_ONCE |= {"absolute": "abs", "-": "negative"}
ARITHMETIC = {"add": "+", "sub": "-", "mul": "*", "truediv": "/"}
COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
LOGICAL = {"and_": "&", "or_": "|", "xor": "^"}


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
        keys = {"zero": "uint32_t k0 = 0, k1 = 0", "scalar": "uint32_t k0 = 7, k1 = 0xdeadbeef"}
        for key, declared in (keys | {"lanes": "U k0 = x ^ y, k1 = x + y"}).items():
            body = f"[&] {{ U a = x, b = y; {declared}; threefry(k0, k1, a, b); return {which}; }}()"
            made[f"threefry_{key}_{which}"] = Function("UU", "U", body)
    made["uniform"] = Function("U", "D", "uniform(x)")
    for i in range(3):
        keys = "const uint32_t keys[] = {7, 0xdeadbeef}"
        for index in ("x", "5"):
            body = f"[&] {{ {keys}; return uniform_at<{i}>(keys, 3, {index}, y); }}()"
            made[f"uniform_{i}_at_{index}"] = Function("IU", "D", body)
    made["numbered"] = Function("I", "I", "x + lane_numbers(n)")
    made |= {f"full{kind}": Function(kind, kind, f"full<{kind}>({MEMORY[kind]}(p0[i]))") for kind in "FDI"}
    made["fullB"] = Function("B", "B", "full<B>(p0[i] != 0)")
    made["any_of"] = Function("B", "B", "full<B>(any(x))")
    made["all_of"] = Function("B", "B", "full<B>(all(x))")
    return made


FUNCTIONS = _functions()
PROGRAM = "".join(function.source(name) for name, function in FUNCTIONS.items()) + "".join(
    f'extern "C" void partial{kind}(const {MEMORY[kind]}* from, {MEMORY[kind]}* to, int64_t n) '
    f"{{ store(to, load<{kind}>(from, n), LANES); }}\n"
    for kind in "FDIB"
)
PROGRAM += 'extern "C" void numbers(int32_t* to, int64_t n) { store(to, lane_numbers(n), LANES); }\n'


def _compile(program: str, lanes: int, machine: str, folder: Path) -> Path:
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("there is no C++ compiler on this machine")
    source, library = folder / "program.cpp", folder / f"program{lanes}{machine}.so"
    source.write_text(f"#define LANES {lanes}\n{HEADER}\n{program}", encoding="utf-8")
    command = [*compiler.command, *FLAGS, f"-march={machine}", str(source), "-o", str(library)]
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
        getattr(self.code, name)(
            *(ctypes.c_void_p(a.ctypes.data) for a in (*given, result)), ctypes.c_int64(result.size)
        )
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
    x = np.concatenate(
        [_between(kind, -1e15, 1e15, 999), _between(kind, -1e30, 1e30, 999), [np.finfo(DTYPES[kind]).max]]
    )
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


@pytest.mark.parametrize("kind", "BIU")
def test_operators_on_bits(library: Library, kind: str) -> None:
    generator = np.random.default_rng(5)
    if kind == "B":
        x, y = generator.integers(0, 2, (2, 1001)).astype(np.uint8)
        np.testing.assert_array_equal(library("invertB", x), 1 - x)
    else:
        x, y = generator.integers(0, 2**32, (2, 1001), dtype=np.uint32).view(DTYPES[kind])
        np.testing.assert_array_equal(library(f"invert{kind}", x), ~x)
        np.testing.assert_array_equal(library(f"lshift{kind}", x), x << 5)
        np.testing.assert_array_equal(library(f"rshift{kind}", x), x >> 5)
    for name in LOGICAL:
        np.testing.assert_array_equal(library(f"{name}{kind}", x, y), getattr(operator, name)(x, y))


def test_integers(library: Library) -> None:
    x = np.random.default_rng(6).integers(-(2**30), 2**30, 1001, dtype=np.int32)
    counts = (np.arange(1001) % 32).astype(np.int32)
    np.testing.assert_array_equal(library("lshift_each", x, counts), x << counts)
    np.testing.assert_array_equal(library("rshift_each", x, counts), x >> counts)
    np.testing.assert_array_equal(library("negativeI", x), -x)
    np.testing.assert_array_equal(library("absoluteI", x), abs(x))
    np.testing.assert_array_equal(library("numbered", x), x + np.arange(1001) % library.lanes)


@REAL
@np.errstate(all="ignore")
def test_fma_is_rounded_once(library: Library, kind: str) -> None:
    x, y = _between(kind, 1, 2, 999), _between(kind, 1, 3, 999)
    z = -(x * y)  # so that only the rounding error of the product is left
    wanted = [
        float(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))) for a, b, c in zip(x, y, z, strict=True)
    ]
    np.testing.assert_array_equal(library(f"fma{kind}", x, y, z), np.array(wanted, dtype=x.dtype))


@REAL
def test_classes_of_numbers(library: Library, kind: str) -> None:
    x = np.concatenate([_specials(kind), _anywhere(kind, 100)])
    np.testing.assert_array_equal(library(f"is_finite{kind}", x), np.isfinite(x))
    np.testing.assert_array_equal(library(f"is_nan{kind}", x), np.isnan(x))


@pytest.mark.parametrize("kind", "FDIB")
def test_select(library: Library, kind: str) -> None:
    generator = np.random.default_rng(7)
    mask = generator.integers(0, 2, 1001).astype(np.uint8)
    x, y = generator.integers(0, 2 if kind == "B" else 1000, (2, 1001)).astype(DTYPES[kind])
    np.testing.assert_array_equal(library(f"select{kind}", mask, x, y), np.where(mask, x, y))


def test_any_and_all_look_at_every_lane(library: Library) -> None:
    for one in range(library.lanes):
        mask = np.zeros(library.lanes, dtype=np.uint8)
        mask[one] = 1
        assert library("any_of", mask).all()
        assert not library("all_of", mask).any()
        assert not library("all_of", 1 - mask).any()
    assert not library("any_of", np.zeros(library.lanes)).any()
    assert library("all_of", np.ones(library.lanes)).all()


@pytest.mark.parametrize("source", "FDIB")
@pytest.mark.parametrize("target", "FDIB")
def test_conversions(library: Library, source: str, target: str) -> None:
    values: list[float] = [0, 1, 1] if source == "B" else [0, 1, -1, 7, -123456, 16777217, 2147483520]
    if source in "FD":
        values += [0.3, -0.7, 1.9, -1.9, 1e9 + 0.5]
    if source in "FD" and target in "FDB":
        values += [math.nan, math.inf, -math.inf, 1e-30]
    if source + target == "DF":
        values += [1e-42, 1 / 3, 1e39]
    x = np.array(values).astype(DTYPES[source])
    with np.errstate(over="ignore", under="ignore"):
        wanted = (x != 0) if target == "B" else x.astype(DTYPES[target])
    np.testing.assert_array_equal(library(f"to_{target.lower()}{source}", x), wanted)


@pytest.mark.parametrize("kind", "FDIB")
def test_full(library: Library, kind: str) -> None:
    for value in (1, 0) if kind == "B" else (3, -0.0, -7):
        x = np.full(library.lanes, value).astype(DTYPES[kind])
        _same(library(f"full{kind}", x), x)


# --- Memory ----------------------------------------------------------------------------------------------------------

# In a process of its own, because a byte read too much ends it: the array touches a page that may not be read.
_AT_THE_EDGE = """
import ctypes, mmap, sys
library, name, size, count = ctypes.CDLL(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pages = mmap.mmap(-1, 2 * mmap.PAGESIZE)
first = ctypes.addressof(ctypes.c_char.from_buffer(pages))
page = ctypes.c_void_p(first + mmap.PAGESIZE)
assert ctypes.CDLL(None).mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
for n in range(1, count):
    edge = ctypes.c_void_p(first + mmap.PAGESIZE - n * size)
    getattr(library, name)(edge, edge, ctypes.c_int64(n))
print("alive")
"""


@pytest.mark.parametrize("kind", "FDIB")
def test_loads_and_stores_keep_to_the_first_lanes(library: Library, kind: str) -> None:
    name, size = f"to_{kind.lower()}{kind}", np.dtype(DTYPES[kind]).itemsize
    command = [sys.executable, "-c", _AT_THE_EDGE, str(library.path), name, str(size), str(2 * library.lanes)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout == "alive\n", (result.returncode, result.stderr)


@pytest.mark.parametrize("kind", "FDIB")
def test_lanes_beyond_the_first_repeat_the_last_one(library: Library, kind: str) -> None:
    x = (np.arange(library.lanes) % 2 + (kind != "B")).astype(DTYPES[kind])
    for count in range(1, library.lanes + 1):
        wanted = x[np.minimum(np.arange(library.lanes), count - 1)]
        got = np.empty_like(x)
        arrays = (ctypes.c_void_p(a.ctypes.data) for a in (x, got))
        getattr(library.code, f"partial{kind}")(*arrays, ctypes.c_int64(count))
        np.testing.assert_array_equal(got, wanted)


def test_so_do_their_numbers(library: Library) -> None:
    for count in range(1, library.lanes + 1):
        got = np.empty(library.lanes, dtype=np.int32)
        library.code.numbers(ctypes.c_void_p(got.ctypes.data), ctypes.c_int64(count))
        np.testing.assert_array_equal(got, np.minimum(np.arange(library.lanes), count - 1))


# --- Random numbers --------------------------------------------------------------------------------------------------


def _words(size: int) -> tuple[np.ndarray, np.ndarray]:
    edges = np.array(
        [0, 1, 2, 2**29 - 1, 2**29, 2**30, 2**31 - 1, 2**31, 3 * 2**30 - 1, 3 * 2**30, 2**32 - 2, 2**32 - 1]
    )
    pairs = np.stack(np.meshgrid(edges, edges)).reshape(2, -1)
    random = np.random.default_rng(8).integers(0, 2**32, (2, size))
    one, other = np.concatenate([pairs, random], axis=1).astype(np.uint32)
    return one, other


def test_threefry_known_answer(library: Library) -> None:
    """Of the Random123 distribution, for the key and the counter 0."""
    zeros = np.zeros(library.lanes, dtype=np.uint32)
    got = [library(f"threefry_zero_{which}", zeros, zeros)[0] for which in "ab"]
    assert got == [0x9D1C5EC6, 0x8BD50731]


def test_threefry_equals_the_eager_generator(library: Library) -> None:
    x, y = _words(3000)
    counter = (torch.from_numpy(x.astype(np.int64)), torch.from_numpy(y.astype(np.int64)))
    wanted = threefry2x32((7, 0xDEADBEEF), counter)
    for which, words in zip("ab", wanted, strict=True):
        np.testing.assert_array_equal(library(f"threefry_scalar_{which}", x, y), words.numpy())
    for i in range(0, x.size, 211):  # a key of its own in each lane
        one = threefry2x32((int(x[i] ^ y[i]), (int(x[i]) + int(y[i])) % 2**32), (counter[0][i], counter[1][i]))
        for which, word in zip("ab", one, strict=True):
            assert library(f"threefry_lanes_{which}", x[i : i + 1], y[i : i + 1])[0] == int(word)


def test_uniforms_and_normals_equal_counter_noise(library: Library) -> None:
    chains, seed, step = 4001, 7, 3
    sites = {"u": Site("uniform", 2), "xi": Site("normal", 2)}
    noise = CounterNoise(seed).draw(sites, torch.zeros(chains, 2, dtype=torch.float64), step)
    for name in sites:
        key = zlib.crc32(name.encode())
        words = threefry2x32((seed, key), (torch.arange(chains), torch.tensor(step)))
        one, other = (word.numpy() for word in words)
        if name == "u":
            got = np.stack([library("uniform", one), library("uniform", other)], axis=1)
            np.testing.assert_array_equal(got, noise[name].numpy())
        else:
            got = np.stack([library("normals_aD", one, other), library("normals_bD", one, other)], axis=1)
            assert (np.abs(got - noise[name].numpy()).max(axis=1) <= 1e-14 * np.hypot(*got.T)).all()


def test_indexed_uniforms_equal_counter_noise(library: Library) -> None:
    """Where chains share the index, and where each has its own."""
    chain = np.arange(100, dtype=np.uint32)
    for index, name in ((chain.astype(np.int32) % 7, "x"), (np.full(100, 5, dtype=np.int32), "5")):
        keys = threefry2x32((7, 0xDEADBEEF), (torch.tensor(3), torch.from_numpy(index.astype(np.int64))))
        for i in range(3):
            words = [
                threefry2x32((int(one), int(other)), (torch.tensor(k), torch.tensor(i // 2)))[i % 2]
                for k, (one, other) in enumerate(zip(*keys, strict=True))
            ]
            wanted = library("uniform", np.array(words, dtype=np.uint32))
            np.testing.assert_array_equal(library(f"uniform_{i}_at_{name}", index, chain), wanted)


def test_normals_are_exact_from_tail_to_tail(library: Library) -> None:
    one, other = _words(200_000)
    half = np.longdouble(0.5)
    u, v = (one + half) * np.longdouble(2) ** -32, (other + half) * np.longdouble(2) ** -32
    # log1p knows u near 1 better than log does; and pi needs all of its digits.
    radius = np.sqrt(-2 * np.where(one < 2**31, np.log(u), np.log1p(-((2**32 - one.astype(np.int64)) - half) / 2**32)))
    turn = 8 * np.arctan(np.longdouble(1)) * v
    for which, wanted in (("a", radius * np.cos(turn)), ("b", radius * np.sin(turn))):
        single, double = (library(f"normals_{which}{kind}", one, other) for kind in "FD")
        assert np.abs(single - wanted).max() < 1e-6
        assert (np.abs(double - wanted) / radius).max() < 1e-14
        near_one = radius < 1e-3  # where single precision of u would know nothing
        assert (np.abs(single - wanted) / radius)[near_one].max() < 1e-6


def test_moments_of_normals(library: Library) -> None:
    size = 500_000
    one, other = np.random.default_rng(9).integers(0, 2**32, (2, size), dtype=np.uint32)
    a, b = (library(f"normals_{which}F", one, other).astype(np.float64) for which in "ab")
    # The variances of x, x**2, x**3, x**4 and xy are 1, 2, 15, 96 and 1; |z| < 5 for 9 of them: false alarm 5e-6.
    for x in (a, b):
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs((x**power).mean() - mean) < 5 * math.sqrt(variance / size)
    assert abs((a * b).mean()) < 5 / math.sqrt(size)


# --- The compiler ----------------------------------------------------------------------------------------------------


def test_a_small_program_compiles_in_little_time(tmp_path: Path) -> None:
    """A bound with room for slow machines: 0.2 s where this was written, of which the header is nearly all."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _compile(Function("F", "F", "select(x < full<F>(0), exp_(x), x + x)").source("small"), 16, "native", tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    assert spent < 2
