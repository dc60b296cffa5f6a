"""What the native engine makes of PyTorch's operators: values and gradients against PyTorch itself.

A probe, a kernel that stays where it is, tells values and gradients of many functions at once; both engines run it, and
have to agree: on random numbers up to rounding, and on NaN, infinities, zeros and denormals about what is undefined or
infinite. Where an input is NaN or a value infinite, gradients are not compared: no chain stands there, and PyTorch
itself gives now zero, now NaN.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import pytest
import torch
import torch.distributions as dist
from torch import Tensor
from torch.nn import functional

from lamina.samplers import ULA, Chains, CounterNoise, Info, Layout
from lamina.samplers.eager import Eager, Record
from lamina.samplers.native import Native, build

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")

Function: TypeAlias = Callable[[Tensor], Tensor]
"""From (C, 3) to (C, *anything)."""

_GENERATOR = torch.Generator().manual_seed(0)


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_GENERATOR, dtype=torch.float64)


V2, V3, V4, ROW = _numbers(2), _numbers(3), _numbers(4), _numbers(1, 3)
M32, M33, M34, M43, M24, T233 = (_numbers(*s) for s in ((3, 2), (3, 3), (3, 4), (4, 3), (2, 4), (2, 3, 3)))
SPREAD = torch.eye(3, dtype=torch.float64) + 0.3
YES = (ROW > 0).double()


def _covariance(x: Tensor) -> Tensor:
    """A positive definite matrix for each chain, (C, 3, 3)."""
    return x.unsqueeze(1) * x.unsqueeze(2) + torch.eye(3, dtype=x.dtype)


def _write(x: Tensor, put: Callable[[Tensor], Any]) -> Tensor:
    put(x)
    return x


def _labels(x: Tensor, label: int) -> Tensor:
    return torch.full((len(x),), label)


POINTWISE: dict[str, Function] = {
    **{name: getattr(torch, name) for name in ("exp", "log", "log1p", "expm1", "sqrt", "rsqrt", "sin", "cos", "tan")},
    **{name: getattr(torch, name) for name in ("tanh", "sinh", "cosh", "atanh", "sigmoid", "erf", "exp2", "log2")},
    **{name: getattr(torch, name) for name in ("log10", "floor", "ceil", "round", "trunc", "frac", "neg", "abs")},
    **{name: getattr(torch, name) for name in ("sign", "sgn", "reciprocal", "square", "nan_to_num", "isnan", "isinf")},
    **{name: getattr(torch, name) for name in ("isfinite", "logit", "sinc", "deg2rad")},
    "entr": torch.special.entr,
    "xlogy": lambda x: torch.xlogy(x, x.abs() + 1),
    "xlog1py": lambda x: torch.special.xlog1py(x, x.abs()),
}

ACTIVATIONS: dict[str, Function] = {
    **{
        name: getattr(functional, name) for name in ("relu", "relu6", "elu", "selu", "celu", "silu", "mish", "softplus")
    },
    **{
        name: getattr(functional, name)
        for name in ("logsigmoid", "hardtanh", "hardswish", "leaky_relu", "softsign", "gelu")
    },
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "softplus_scaled": lambda x: functional.softplus(x, beta=2.0, threshold=3.0),
    "threshold": lambda x: functional.threshold(x, 0.1, 20.0),
    "prelu": lambda x: functional.prelu(x, V2[:1]),
    "glu": lambda x: functional.glu(x.repeat(1, 2), 1),
    "softmax": lambda x: torch.softmax(x, 1),
    "log_softmax": lambda x: torch.log_softmax(x, 1),
    "softmin": lambda x: functional.softmin(x, 1),
    "dropout_that_is_off": lambda x: functional.dropout(x, 0.5, training=False),
}

ARITHMETIC: dict[str, Function] = {
    "add": lambda x: x + x.flip(1),
    "add_scaled": lambda x: torch.add(x, x.flip(1), alpha=0.3),
    "sub": lambda x: x - x.flip(1),
    "rsub": lambda x: 1 - x,
    "mul": lambda x: x * x.flip(1),
    "div": lambda x: x / x.flip(1),
    "div_by_a_number": lambda x: x / 3,
    "div_by_a_tensor": lambda x: x / V3,
    "div_of_a_number": lambda x: 2 / x,
    "pow_2": lambda x: x**2,
    "pow_3": lambda x: x**3,
    "pow_minus_2": lambda x: x**-2,
    "pow_half": lambda x: x**0.5,
    "pow_minus_half": lambda x: x**-0.5,
    "pow_one_and_a_half": lambda x: x.abs() ** 1.5,
    "pow_0": lambda x: x**0,
    "pow_of_two_tensors": lambda x: (x.abs() + 0.1) ** x.flip(1),
    "pow_of_integers": lambda x: x ** torch.tensor([1, 2, 3]),
    "power_of_a_number": lambda x: 2.0**x,
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.minimum(x, x.flip(1)),
    "logaddexp": lambda x: torch.logaddexp(x, x.flip(1)),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(1), value=0.5),
    "addcdiv": lambda x: torch.addcdiv(x, x, x.abs().flip(1) + 10, value=0.5),
}

CHOICES: dict[str, Function] = {
    "where": lambda x: torch.where(x > 0.2, x**2, torch.sin(x)),
    "where_with_a_number": lambda x: torch.where(x > 0, x, 1.0),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "clamp_by_tensors": lambda x: torch.clamp(x, V3 - 1, V3 + 1),
    "masked_fill": lambda x: x.masked_fill(x > 0, 3.0),
    "masked_fill_constant": lambda x: x.masked_fill(torch.tensor([True, False, True]), 3.0),
    "comparisons": lambda x: (x > 0).double() + (x <= x.flip(1)).double() + (x == 0) + (x != x),
    "logic": lambda x: (x > 0) & ~(x < 1) | (x < -1) ^ (x > 0.5),
    "logical_and": lambda x: torch.logical_and(x, x > 1),
    "logical_xor": lambda x: torch.logical_xor(x > 0, x.flip(1) > 0),
    "isclose": lambda x: torch.isclose(x, x.flip(1)),
    "mask_as_a_factor": lambda x: torch.sin(x) * (x > 0),
}

REDUCTIONS: dict[str, Function] = {
    "sum": lambda x: x.sum(1),
    "mean": lambda x: x.mean(1),
    "prod": lambda x: x.prod(1),
    "var": lambda x: x.var(1),
    "var_biased": lambda x: x.var(1, unbiased=False),
    "std": lambda x: x.std(1),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: x.amin(1),
    "max_with_index": lambda x: x.max(1).values,
    "min_with_index": lambda x: x.min(1).values,
    "argmax": lambda x: x.argmax(1),
    "argmin": lambda x: x.argmin(1),
    "norm": lambda x: x.norm(dim=1),
    "norm_1": lambda x: x.norm(p=1, dim=1),
    "norm_3": lambda x: torch.linalg.vector_norm(x, 3, dim=1),
    "norm_inf": lambda x: torch.linalg.vector_norm(x, math.inf, dim=1),
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(1),
    "diff": lambda x: x.diff(dim=1),
    "trapezoid": lambda x: torch.trapezoid(x, dim=1),
    "any": lambda x: (x > 0).any(1),
    "all": lambda x: (x > 0).all(1),
    "count": lambda x: (x > 0).sum(1),
    "nansum": lambda x: x.nansum(1),
    "normalize": lambda x: functional.normalize(x, dim=1),
    "cosine_similarity": lambda x: functional.cosine_similarity(x, ROW, dim=1),
    "layer_norm": lambda x: functional.layer_norm(x, (3,), V3, V3),
    "rms_norm": lambda x: functional.rms_norm(x, (3,)),
    "batch_norm_that_is_frozen": lambda x: functional.batch_norm(x, V3, V3.abs(), V3, V3),
}

PRODUCTS: dict[str, Function] = {
    "matmul": lambda x: x @ M34,
    "matmul_of_a_vector": lambda x: x @ V3,
    "linear": lambda x: functional.linear(x, M43, V4),
    "einsum": lambda x: torch.einsum("ci,kij,cj->ck", x, T233, x),
    "bmm": lambda x: torch.bmm(x.unsqueeze(1), x.unsqueeze(2)),
    "outer": lambda x: x.unsqueeze(1) * x.unsqueeze(2),
    "baddbmm": lambda x: torch.baddbmm(V2[:1], x.unsqueeze(1), x.unsqueeze(2)),
    "tensordot": lambda x: torch.tensordot(x, M32, dims=1),
    "vecdot": lambda x: torch.linalg.vecdot(x, x),
    "matvec": lambda x: (M43 @ x.unsqueeze(-1)).squeeze(-1),
    "cross": lambda x: torch.linalg.cross(x, ROW.expand_as(x)),
    "transposed_columns": lambda x: (M33 @ x.T).T,
    "pairwise_distance": lambda x: functional.pairwise_distance(x, ROW),
    "cdist": lambda x: torch.cdist(x, M43, compute_mode="donot_use_mm_for_euclid_dist"),
}

FACTORS: dict[str, Function] = {
    "var_mean": lambda x: torch.cat(torch.var_mean(x, 1, keepdim=True), 1),
    "group_norm": lambda x: functional.group_norm(x.repeat(1, 2), 2),
    "solve_triangular": lambda x: torch.linalg.solve_triangular(M33.tril() + SPREAD, x.T, upper=False).T,
    "solve_triangular_upper": lambda x: torch.linalg.solve_triangular(M33.triu() + SPREAD, x.T, upper=True).T,
    "solve_triangular_right": lambda x: torch.linalg.solve_triangular(
        M33.triu(), x.unsqueeze(1), upper=True, left=False, unitriangular=True
    ),
    "solve_with_own_matrix": lambda x: torch.linalg.solve_triangular(
        _covariance(x).tril(), x.unsqueeze(2), upper=False
    ),
    "cholesky": lambda x: torch.linalg.cholesky(_covariance(x)),
    "cholesky_of_a_capture": lambda x: x @ torch.linalg.cholesky(SPREAD),
    "log_determinant": lambda x: torch.linalg.cholesky(_covariance(x)).diagonal(dim1=1, dim2=2).log().sum(1),
}

LOSSES: dict[str, Function] = {
    "mse": lambda x: functional.mse_loss(x, ROW.expand_as(x), reduction="none").mean(1),
    "l1": lambda x: functional.l1_loss(x, ROW.expand_as(x), reduction="none"),
    "huber": lambda x: functional.huber_loss(x, ROW.expand_as(x), reduction="none", delta=0.4),
    "smooth_l1": lambda x: functional.smooth_l1_loss(x, ROW.expand_as(x), reduction="none"),
    "bce_with_logits": lambda x: functional.binary_cross_entropy_with_logits(x, YES.expand_as(x), reduction="none"),
    "cross_entropy": lambda x: functional.cross_entropy(x, _labels(x, 1), reduction="none"),
    "cross_entropy_of_shares": lambda x: functional.cross_entropy(x, torch.full_like(x, 1 / 3), reduction="none"),
    "nll": lambda x: functional.nll_loss(torch.log_softmax(x, 1), _labels(x, 2), reduction="none"),
    "kl_div": lambda x: functional.kl_div(
        torch.log_softmax(x, 1), torch.softmax(ROW, 1).expand_as(x), reduction="none"
    ),
    "gaussian_nll": lambda x: functional.gaussian_nll_loss(
        x, ROW.expand_as(x), torch.full_like(x, 2.0), reduction="none"
    ),
    "poisson_nll": lambda x: functional.poisson_nll_loss(x, torch.ones_like(x), reduction="none"),
}

SHAPES: dict[str, Function] = {
    "view": lambda x: x.view(-1, 3, 1).reshape(-1, 1, 3).transpose(1, 2).flatten(1),
    "transposes": lambda x: x.T.T * x.mT.mT,
    "permute": lambda x: x.unsqueeze(1).permute(0, 2, 1),
    "movedim": lambda x: x.unsqueeze(1).movedim(1, 2),
    "unflatten": lambda x: x.unflatten(1, (3, 1)),
    "squeeze": lambda x: x.unsqueeze(1).squeeze(),
    "expand": lambda x: x.unsqueeze(1).expand(-1, 2, 3),
    "repeat": lambda x: x.repeat(1, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "flip": lambda x: x.flip(1),
    "roll": lambda x: x.roll(1, 1),
    "cat": lambda x: torch.cat([x, x * 2, torch.ones(len(x), 1, dtype=x.dtype)], 1),
    "stack": lambda x: torch.stack([x[:, 0], x[:, 1]], 1),
    "chunk": lambda x: x.chunk(2, 1)[0],
    "split": lambda x: torch.cat([part * i for i, part in enumerate(x.split([1, 2], 1))], 1),
    "unbind": lambda x: x.unbind(1)[2],
    "pad": lambda x: functional.pad(x, (1, 2), value=0.5),
    "pad_negative": lambda x: functional.pad(x, (-1, 1)),
    "pad_circular": lambda x: functional.pad(x.unsqueeze(1), (1, 1), mode="circular"),
    "diagonal": lambda x: (x.unsqueeze(1) * x.unsqueeze(2)).diagonal(dim1=1, dim2=2),
    "diag_embed": torch.diag_embed,
    "tril": lambda x: torch.tril(x.unsqueeze(1) * x.unsqueeze(2)),
    "triu": lambda x: torch.triu(x.unsqueeze(1) * x.unsqueeze(2), 1),
    "arange": lambda x: x * torch.arange(3),
    "linspace": lambda x: x * torch.linspace(0, 1, 3, dtype=x.dtype),
    "meshgrid": lambda x: x * torch.meshgrid(torch.arange(2.0), torch.arange(3.0), indexing="ij")[0].sum(0),
}

INDICES: dict[str, Function] = {
    "slice": lambda x: x[:, ::2],
    "slice_from_the_end": lambda x: x[:, -2:],
    "list": lambda x: x[:, [2, 0, 0]],
    "tensor": lambda x: x[:, torch.tensor([2, 0])],
    "constant_mask": lambda x: x[:, torch.tensor([True, False, True])],
    "ellipsis": lambda x: x[..., 1],
    "new_axis": lambda x: x[:, None, :],
    "pairs": lambda x: (x[:, :, None] - x[:, None, :])[:, *torch.triu_indices(3, 3, 1)],
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 1])),
    "gather": lambda x: x.gather(1, torch.tensor([[1, 1]]).expand(len(x), 2)),
    "gather_by_value": lambda x: x.gather(1, (x[:, :1] > 0).long()),
    "lookup_by_value": lambda x: M24[0].expand(len(x), 4).gather(1, (x > 0).sum(1, keepdim=True)),
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.tensor([[1, 0]]), 1),
    "index_add": lambda x: torch.zeros(len(x), 2, dtype=x.dtype).index_add(1, torch.tensor([0, 1, 0]), x),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, torch.tensor([[2, 0, 1]]).expand(len(x), 3), x),
    "scatter_add": lambda x: torch.zeros_like(x).scatter_add(1, torch.tensor([[2, 0, 2]]).expand(len(x), 3), x),
    "one_hot": lambda x: x * functional.one_hot(torch.tensor([0, 2]), 3).sum(0),
    "embedding": lambda x: x * functional.embedding(torch.tensor([0, 2, 1]), M32)[:, 0],
    "write_to_a_column": lambda x: _write(torch.zeros_like(x), lambda y: y[:, 1].copy_(x[:, 0] * 2)),
    "write_a_number": lambda x: _write(x.clone(), lambda y: y[:, :2].fill_(5.0)),
    "add_in_place": lambda x: torch.zeros_like(x).add_(x).mul_(2),
    "add_to_what_is_flipped": lambda x: _write(x * 1, lambda y: y.flip(1).add_(1)) * x,
    "add_to_a_view": lambda x: _write(x * 1, lambda y: y[:, 0].add_(x[:, 1])),
}

MIXED: dict[str, Function] = {
    "float32_and_back": lambda x: (x.float() * 3).double(),
    "float32_constants": lambda x: x * torch.tensor([0.1, 0.2, 0.3]),
    "integers": lambda x: x * (torch.arange(3) * 2 + 1),
    "booleans": lambda x: x.bool(),
    "vmap": torch.func.vmap(lambda row: (row**2).sum()),
    "vmap_of_grad": torch.func.vmap(torch.func.grad(lambda row: (row**3).sum())),
}

# Arguments of the same dtype as the position: PyTorch casts values to the dtype of some distributions' parameters.
_TWO, _THREE, _HALF = (torch.tensor(number, dtype=torch.float64) for number in (2.0, 3.0, 0.5))
_COUNTS = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)

DISTRIBUTIONS: dict[str, Function] = {
    "normal": lambda x: dist.Normal(0.5, 2.0).log_prob(x),
    "normal_with_own_scale": lambda x: dist.Normal(x.flip(1), x.exp()).log_prob(V3),
    "log_normal": lambda x: dist.LogNormal(_HALF, _TWO).log_prob(x.exp()),
    "student_t": lambda x: dist.StudentT(_THREE).log_prob(x),
    "cauchy": lambda x: dist.Cauchy(0.0, 1.0).log_prob(x),
    "laplace": lambda x: dist.Laplace(0.0, 1.0).log_prob(x),
    "gamma": lambda x: dist.Gamma(_TWO, _THREE).log_prob(x.exp()),
    "inverse_gamma": lambda x: dist.InverseGamma(_TWO, _THREE).log_prob(x.exp()),
    "beta": lambda x: dist.Beta(_TWO, _THREE).log_prob(torch.sigmoid(x)),
    "dirichlet": lambda x: dist.Dirichlet(V3.exp()).log_prob(torch.softmax(x, 1)),
    "exponential": lambda x: dist.Exponential(2.0).log_prob(x.exp()),
    "half_normal": lambda x: dist.HalfNormal(_TWO).log_prob(x.exp()),
    "half_cauchy": lambda x: dist.HalfCauchy(_TWO).log_prob(x.exp()),
    "weibull": lambda x: dist.Weibull(_TWO, _THREE).log_prob(x.exp()),
    "gumbel": lambda x: dist.Gumbel(_HALF, _TWO).log_prob(x),
    "von_mises": lambda x: dist.VonMises(_HALF, _TWO).log_prob(x),
    "bernoulli": lambda x: dist.Bernoulli(logits=x).log_prob(YES),
    "bernoulli_of_probabilities": lambda x: dist.Bernoulli(torch.sigmoid(x)).log_prob(YES),
    "binomial": lambda x: dist.Binomial(5, logits=x).log_prob(_COUNTS),
    "poisson": lambda x: dist.Poisson(x.exp()).log_prob(_COUNTS),
    "negative_binomial": lambda x: dist.NegativeBinomial(5.0, logits=x).log_prob(_COUNTS),
    "categorical": lambda x: dist.Categorical(logits=x).log_prob(torch.tensor(1)),
    "multivariate_normal": lambda x: dist.MultivariateNormal(V3, SPREAD).log_prob(x),
    "multivariate_normal_by_factor": lambda x: dist.MultivariateNormal(
        V3, scale_tril=torch.linalg.cholesky(SPREAD)
    ).log_prob(x),
    "low_rank_normal": lambda x: dist.LowRankMultivariateNormal(V3, M32, V3.exp()).log_prob(x),
    "mixture": lambda x: dist.MixtureSameFamily(
        dist.Categorical(logits=V2), dist.Independent(dist.Normal(M32.T, 0.5), 1)
    ).log_prob(x),
}

GROUPS: dict[str, Mapping[str, Function]] = {
    "pointwise": POINTWISE,
    "activations": ACTIVATIONS,
    "arithmetic": ARITHMETIC,
    "choices": CHOICES,
    "reductions": REDUCTIONS,
    "products": PRODUCTS,
    "losses": LOSSES,
    "shapes": SHAPES,
    "indices": INDICES,
    "mixed": MIXED,
}
CASES = [(group, name) for group, functions in GROUPS.items() for name in functions]
INFINITE = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 30.0, -30.0, 100.0, -100.0, 1e-9]


# --- The probe -------------------------------------------------------------------------------------------------------


class Probe(ULA):
    """Stays where it is, and tells values and gradients of functions of the position."""

    functions: ClassVar[Mapping[str, Function]]
    told: ClassVar[Any]
    sites: ClassVar[Any] = {}

    def step(self, target: Any, state: Any, noise: Any, params: Any) -> Any:
        none = torch.zeros_like(state.energy, dtype=torch.float64)
        told = [none, none > 0, none > 0, state.energy, none, none.long()]
        for function in self.functions.values():
            told += _value_and_grad(function, state.position)
        return state, self.told(*told)


def _value_and_grad(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        value = function(leaf).reshape(len(x), -1)
        if not value.requires_grad:
            return value, torch.zeros_like(x)
        # Weighed, since the sum of a softmax has no gradient.
        (grad,) = torch.autograd.grad((value * torch.arange(1, value.shape[1] + 1)).sum(), leaf)
    return value.detach(), grad


def probe(functions: Mapping[str, Function]) -> Probe:
    fields = (*Info._fields, *(f"{name}_{what}" for name in functions for what in ("value", "grad")))
    told = collections.namedtuple("told", fields)  # type: ignore[misc]
    kind = type("Probe", (Probe,), {"functions": functions, "told": told, "info_fields": fields})
    return kind()  # type: ignore[no-any-return]


def told_by_both(functions: Mapping[str, Function], x: Tensor) -> tuple[Any, Any]:
    """What the probe tells under the native and the eager engine."""
    kernel = probe(functions)
    chains = Chains(x, Layout.of(x), kernel.init_params(x), {}, 0)
    eager = Eager(_round, kernel, chains, CounterNoise(0), None, 1.0, None)
    native, state = Native.started(eager, functools.partial(Record.of_all, kernel))
    return native.step(state)[1], eager.step(eager.init())[1]


def _round(x: Tensor) -> Tensor:
    return x.square().sum(1)


@functools.cache
def inputs(dtype: torch.dtype, *, has_special: bool) -> Tensor:
    """Random rows, and rows of special numbers in different orders."""
    x = torch.randn(61, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    tiny, huge = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max ** 0.49  # its square is finite
    special = torch.tensor([*INFINITE, tiny / 8, -tiny / 64, huge, -huge], dtype=dtype)
    rows = torch.stack([special, special.roll(7), special.roll(3)], 1)
    return torch.cat([x, rows]) if has_special else x


@functools.cache
def told(group: str, dtype: torch.dtype) -> tuple[Any, Any]:
    return told_by_both(GROUPS[group], inputs(dtype, has_special=True))


def assert_same(told: tuple[Any, Any], name: str, x: Tensor, tolerance: float) -> None:
    """Up to a tolerance relative to the largest number of a row."""
    is_ordinary = getattr(told[1], f"{name}_value").isfinite().all(1, keepdim=True) & ~x.isnan().any(1, keepdim=True)
    for what in ("value", "grad"):
        ours, theirs = (getattr(one, f"{name}_{what}") for one in told)
        assert ours.dtype == theirs.dtype
        if what == "grad":
            ours, theirs = (torch.where(is_ordinary, one, 0.0) for one in (ours, theirs))
        ours, theirs = ours.double(), theirs.double()
        scale = torch.where(theirs.isfinite(), theirs.abs(), 0.0).amax(1, keepdim=True) + 1
        torch.testing.assert_close(ours / scale, theirs / scale, rtol=0, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize(("group", "name"), CASES, ids=[f"{group}-{name}" for group, name in CASES])
def test_operator(group: str, name: str) -> None:
    """Up to some fifty roundings."""
    assert_same(told(group, torch.float64), name, inputs(torch.float64, has_special=True), 1e-14)


@pytest.mark.parametrize("name", POINTWISE)
def test_operator_in_float32(name: str) -> None:
    assert_same(told("pointwise", torch.float32), name, inputs(torch.float32, has_special=True), 5e-6)


@functools.cache
def told_inside(group: str) -> tuple[Any, Any]:
    functions = {"factors": FACTORS, "distributions": DISTRIBUTIONS}[group]
    return told_by_both(functions, inputs(torch.float64, has_special=False))


INSIDE = [("factors", name) for name in FACTORS] + [("distributions", name) for name in DISTRIBUTIONS]


@pytest.mark.parametrize(("group", "name"), INSIDE, ids=[f"{group}-{name}" for group, name in INSIDE])
def test_where_it_is_defined(group: str, name: str) -> None:
    """Functions that raise elsewhere when they are run eagerly."""
    assert_same(told_inside(group), name, inputs(torch.float64, has_special=False), 1e-13)
