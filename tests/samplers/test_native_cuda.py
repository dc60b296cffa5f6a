"""Programs for CUDA devices, on the processor: their text is compiled as C++, and a loop takes the place of threads.

What only a device can tell, that NVRTC takes the text and the driver launches it, is left to the last test.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.samplers import HMC, KERNELS, NUTS, RWM, BuildError, GeneratorNoise, Kernel, run, sample
from lamina.samplers.engines import DEFAULT_VARIABLE
from lamina.samplers.native import build, cuda, engine
from lamina.samplers.testing import TARGETS, check_kernel

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")

_BEFORE = """
#define __global__
struct Index { unsigned x; };
static Index blockIdx, blockDim, threadIdx;
"""
_AFTER = """
extern "C" void launch(unsigned grid, unsigned block, void** p) {
    blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < block; ++threadIdx.x)
            move((const void* const*)p[0], (void* const*)p[1], (void* const*)p[2], (const float*)p[3],
                 (const double*)p[4], (const int64_t*)p[5], (const void* const*)p[6], (const uint32_t*)p[7],
                 (const int64_t*)p[8]);
}
"""


def compile_kernel(text: str, name: str, nvcc_options: Sequence[str]) -> Callable[..., None]:
    """What `torch.cuda._compile_kernel` does, for the processor."""
    assert name == "move"
    assert "--fmad=false" in nvcc_options
    function = build.load(_BEFORE + text + _AFTER).launch
    function.restype = None

    def kernel(grid: tuple[int, int, int], block: tuple[int, int, int], args: list[Tensor]) -> None:
        pointers = (ctypes.c_void_p * len(args))(*(arg.data_ptr() for arg in args))
        function(ctypes.c_uint(grid[0]), ctypes.c_uint(block[0]), pointers)

    return kernel


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The processor in the device's place; the numbers of chains of its launches."""
    numbers: list[int] = []

    class Counting(cuda.OnCUDA):
        def __init__(self, printed: Any, num_chains: int) -> None:
            super().__init__(printed, torch.device("cpu"))

        def __call__(self, given: Any) -> None:
            numbers.append(given.num_chains)
            super().__call__(given)

    monkeypatch.setattr(torch.cuda, "_compile_kernel", compile_kernel, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(engine, "OnProcessor", Counting)
    cuda._load.cache_clear()
    yield numbers
    cuda._load.cache_clear()


def start(num_chains: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 0.7 * torch.randn(num_chains, 3, generator=torch.Generator().manual_seed(5), dtype=dtype)


def funnel(x: Tensor) -> Tensor:
    """NaN beyond v = 2.5, and infinite where its second coordinate is below -3."""
    v, rest = x[:, 0], x[:, 1:]
    inside = torch.where(v < 2.5, v, torch.nan)
    value = inside.square() / 4 + 0.5 * torch.exp(-v) * rest.square().sum(-1) + 0.5 * rest.shape[1] * v
    return torch.where(x[:, 1] > -3, value, torch.inf)


WEIGHTS = torch.linspace(-1, 1, 120, dtype=torch.float64).reshape(40, 3)


def of_every_kind(x: Tensor) -> Tensor:
    """Every function that programs call, loops over forty rows and parts of them, and a product with forty columns."""
    a, b, c = x.unbind(1)
    value = torch.log1p(a.square()) + torch.tanh(b) * torch.erf(c) + torch.sigmoid(a - b) + torch.expm1(0.1 * c)
    value = value + torch.sin(a) * torch.cos(b) + (1 + c.square()).pow(0.7) + torch.sqrt(1 + a.abs())
    value = value + torch.maximum(a, b) - torch.minimum(b, c) + 0.1 * (a.round() + b.floor() + c.ceil() + a.trunc())
    value = value + torch.where((a > 0) & ~(b > c), a, b * c) + torch.logsumexp(x, dim=1)
    rows = x @ WEIGHTS.to(x).T
    value = (
        value + (rows[:, 1:] - rows[:, :-1]).square().mean(1) + 0.1 * (rows.roll(3, 1) * rows.flip(1)).tanh().mean(1)
    )
    value = value + 0.1 * (rows @ (WEIGHTS.to(x) @ WEIGHTS.to(x).T)).tanh().mean(1)
    value = value + rows[:, 0] * 0.1 + 0.1 * torch.where(rows[:, ::2].abs().amax(1) > 1, a, b)
    return value + torch.nn.functional.softplus(rows).sum(1) + x.square().sum(1)


def results(energy: Any, kernel: Kernel[Any], x: Tensor, name: Any, **options: Any) -> dict[str, Any]:
    options = {"num_samples": 20, "noise": 3, "collect": kernel.info_fields, "show_progress": False, **options}
    made = sample(energy, kernel, x, engine=name, **options)
    assert made.engine.startswith(name)
    return {"draws": made.draws, "info": made.info, "accept_prob": made.accept_prob, "ebfmi": made.ebfmi}


KINDS: dict[str, Kernel[Any]] = {
    **{name: kind() for name, kind in KERNELS.items()},
    "nuts": NUTS(step_size=0.4, max_tree_depth=4),
    "hmc": HMC(step_size=0.6, num_leapfrog_steps=5, jitter=0.3),
}


@pytest.mark.parametrize("name", KINDS)
def test_kernels_move_as_eagerly(name: str, launches: list[int]) -> None:
    """For more chains than a block has threads, and not a multiple of them."""
    kernel, x = KINDS[name], start(133)
    found = [results(funnel, kernel, x, engine) for engine in ("native", "eager")]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9, equal_nan=True)
    assert set(launches) == {133}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)], ids=["f64", "f32"])
def test_functions_agree(dtype: torch.dtype, tolerance: float, launches: list[int]) -> None:
    found = [
        results(of_every_kind, HMC(step_size=0.05, num_leapfrog_steps=2), start(40, dtype), name, collect=())["draws"]
        for name in ("native", "eager")
    ]
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)
    assert launches


def test_uniforms_are_the_same_bits_and_normals_up_to_rounding(launches: list[int]) -> None:
    """Chains on a flat energy go where the noise says, and accept what the uniforms say."""
    flat = lambda x: 0 * x.sum(1)  # noqa: E731
    x = torch.zeros(5000, 3, dtype=torch.float32)
    ours, eager = (run(flat, RWM(step_size=1.0), x, num_steps=1, noise=8, engine=name) for name in ("native", "eager"))
    torch.testing.assert_close(ours.chains.matrix, eager.chains.matrix, rtol=1e-6, atol=1e-6)


def test_thinning_and_runs_that_go_on(launches: list[int]) -> None:
    kernel, x = HMC(step_size=0.3, num_leapfrog_steps=3), start(20)
    whole = sample(funnel, kernel, x, num_samples=6, thinning=2, noise=1, engine="native", show_progress=False)
    half = sample(funnel, kernel, x, num_samples=3, thinning=2, noise=1, engine="native", show_progress=False)
    rest = sample(funnel, kernel, half.chains, num_samples=3, thinning=2, engine="native", show_progress=False)
    assert torch.equal(whole.draws, torch.cat([half.draws, rest.draws], dim=1))


def test_it_leaves_the_law_as_it_is(launches: list[int]) -> None:
    kernel, targets = HMC(step_size=0.3, num_leapfrog_steps=3), [TARGETS["funnel"]]
    check_kernel(kernel, targets=targets, engine="native", dtype=torch.float32).assert_passed()
    assert launches


def test_a_compiler_that_fails_is_a_reason(launches: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("Kernel compilation failed")

    monkeypatch.setattr(torch.cuda, "_compile_kernel", refuse)
    with pytest.raises(BuildError, match="NVRTC could not compile the program: Kernel compilation failed"):
        sample(funnel, RWM(), start(5), num_samples=2, noise=1, engine="native")
    monkeypatch.delenv(DEFAULT_VARIABLE, raising=False)
    assert "NVRTC could not" in sample(funnel, RWM(), start(5), num_samples=2, noise=1, engine="auto").engine
    monkeypatch.delattr(torch.cuda, "_compile_kernel")
    with pytest.raises(BuildError, match="does not compile CUDA programs"):
        sample(funnel, RWM(), start(5), num_samples=2, noise=1, engine="native")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine")
def test_kernels_move_as_eagerly_on_a_device() -> None:
    x = start(133).cuda()
    for kernel in KINDS.values():
        found = [results(funnel, kernel, x, engine) for engine in ("native", "eager")]
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9, equal_nan=True)
    generator = torch.Generator("cuda").manual_seed(1)
    sample(funnel, HMC(), x, num_samples=2, noise=GeneratorNoise(generator), engine="native")
