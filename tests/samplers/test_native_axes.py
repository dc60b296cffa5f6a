"""Long axes in native programs: loops over a hundred dimensions or some hundred rows, against the eager engine.

Values and gradients of many functions are told apart by chains: each function has five of its own, and their energy is
that function alone. So one program runs all of them, as one step of ULA, whose move is the gradient and known noise.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor
from torch.distributions import Exponential, Independent, Normal, StudentT
from torch.nn import functional

from lamina.samplers import (
    GHMC,
    HMC,
    KERNELS,
    MALA,
    NUTS,
    RWM,
    ULA,
    Clipped,
    Info,
    Kernel,
    Layout,
    ParallelTempering,
    State,
    Target,
    run,
    sample,
)
from lamina.samplers.errors import NotTraceableError
from lamina.samplers.kernel import Noise
from lamina.samplers.kernels.langevin import LangevinParams
from lamina.samplers.loops import repeat
from lamina.samplers.native import build
from lamina.samplers.native.trace import Subject, _max_in_matrices, trace

pytestmark = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C++ compiler on this machine")

Function: TypeAlias = Callable[[Tensor], Tensor]
"""From (C, D) to (C,)."""

DIM, LONG = 100, 32
CLOSE = 1e-9
"""Relative to numbers of order one; a decision taken otherwise is a difference of that order."""

_GENERATOR = torch.Generator().manual_seed(3)


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_GENERATOR, dtype=torch.float64)


def start(num_chains: int, dim: int = DIM) -> Tensor:
    return torch.randn(num_chains, dim, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


SCALES = numbers(DIM).exp()
MODES, WEIGHTS = 2 * numbers(40, 2), torch.log_softmax(numbers(40), 0)
ROWS, LABELS = numbers(200, 5), numbers(200) > 0


def gaussian(x: Tensor) -> Tensor:
    return 0.5 * (x / SCALES).square().sum(1)


def logistic(x: Tensor) -> Tensor:
    """Labels are truth values, which a program reads as numbers."""
    logits = x @ ROWS.T
    return 0.5 * x.square().sum(1) + (functional.softplus(logits) - torch.where(LABELS, logits, 0.0)).sum(1)


def mixture(x: Tensor) -> Tensor:
    return -torch.logsumexp(WEIGHTS - 0.5 * (x.unsqueeze(1) - MODES).square().sum(2), dim=1)


def is_looped(program: str) -> bool:
    return "for (int64_t a = 0; a < " in program


def assert_agree(energy: Any, kernel: Kernel[Any], initial: Any, **options: Any) -> None:
    options = {"num_samples": 20, "noise": 3, "collect": kernel.info_fields, "show_progress": False, **options}
    native, eager = (sample(energy, kernel, initial, engine=name, **options) for name in ("native", "eager"))
    for name in ("draws", "info", "accept_prob", "num_divergent", "num_grad_evals", "means", "ebfmi"):
        ours, theirs = getattr(native, name), getattr(eager, name)
        torch.testing.assert_close(ours, theirs, rtol=CLOSE, atol=CLOSE, equal_nan=True, msg=lambda m, n=name: n + m)
    torch.testing.assert_close(dict(native.chains.memory), dict(eager.chains.memory), rtol=CLOSE, atol=CLOSE)
    assert float((native.chains.matrix - Layout.of(initial).ravel(initial)).abs().amax(1).median()) > 0.01


# --- Kernels ---------------------------------------------------------------------------------------------------------

LEAPFROG = HMC(step_size=0.1, num_leapfrog_steps=4, jitter=0.3)
USUAL: dict[str, Kernel[Any]] = {
    "rwm": RWM(step_size=0.1),
    "clipped-mala": Clipped(kernel=MALA(step_size=0.02), max_norm=2.0),
    "hmc": LEAPFROG,
    "ghmc": GHMC(step_size=0.1, num_leapfrog_steps=2, persistence=0.7),
    "nuts": NUTS(step_size=0.05, max_tree_depth=6),
}
NAMED = ("malt",)
"""Their noise has several rows side by side in one, so that programs name every entry."""

OTHERS = {name: kind(step_size=0.02) for name, kind in KERNELS.items() if name not in (*USUAL, *NAMED)}


@pytest.mark.parametrize("name", USUAL)
def test_kernel(name: str, programs: list[str]) -> None:
    assert_agree(gaussian, USUAL[name], start(17))
    assert all(map(is_looped, programs))


@pytest.mark.matrix
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_kernel(name: str, programs: list[str]) -> None:
    assert_agree(gaussian, OTHERS[name], start(17), num_samples=10)
    assert all(map(is_looped, programs))


@pytest.mark.parametrize(("energy", "dim"), [(logistic, 5), (mixture, 2)], ids=["logistic", "mixture"])
@pytest.mark.parametrize("kernel", [LEAPFROG, NUTS(step_size=0.1, max_tree_depth=3)], ids=["hmc", "nuts"])
def test_energy(kernel: Kernel[Any], energy: Function, dim: int, programs: list[str]) -> None:
    assert_agree(energy, kernel, start(17, dim))
    assert all(map(is_looped, programs))


def test_what_is_carried_changes_in_place_where_nothing_reads_the_old(programs: list[str]) -> None:
    """Positions and momenta on a trajectory do; on it, gradients are stored in its last step alone."""
    assert_agree(gaussian, LEAPFROG, start(17))
    (program,) = programs
    assert len(re.findall(r"both\d+\[2\]", program)) == 2  # position and gradient of a chain, read where a move starts
    last, short = program.split("if (i0 + 1 == counts[0]) {")[1].split("else {")[:2]
    stores = [len(set(re.findall(r"(a\d+)\[a\] = v", branch))) for branch in (last, short.split("\n            }")[0])]
    assert stores == [3, 2]


def _summed_late(squares: Tensor, after: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of products comes after the new value of what they are products of."""
    return after, other * squares.sum(1, keepdim=True).tanh()


@pytest.mark.parametrize(
    "body",
    [
        lambda x, y: (0.5 * (x + y), torch.sin(x) * y),
        lambda x, y: (torch.sin(x) * y, 0.5 * (x + y)),
        lambda x, y: (0.5 * (x + y), x),
        lambda x, y: (y, x + 0.1 * y),
        lambda x, y: (0.9 * x, x * y.square().mean(1, keepdim=True)),
        lambda x, y: (x + (x * y).sum(1, keepdim=True), y * x.sum(1, keepdim=True).tanh()),
        lambda x, y: _summed_late(x * x, 0.9 * x, y),
    ],
    ids=["first", "second", "handed-on", "swapped", "sum-of-the-other", "sums-of-both", "summed-late"],
)
def test_old_entries_are_there_for_as_long_as_they_are_read(
    body: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], programs: list[str]
) -> None:
    @dataclass(frozen=True)
    class Mixing(ULA):
        """Not a sampler: two rows that make each other."""

        def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
            x, y = repeat(3, body, (state.position, 0.1 * noise["xi"]))
            moved, info = super().step(target, state._replace(position=0.5 * (x + y).tanh()), noise, params)
            return moved, info

    assert_agree(gaussian, Mixing(step_size=0.01), start(17))
    assert all(map(is_looped, programs))


@pytest.mark.parametrize("num_rows", range(LONG, LONG + 6))
def test_whatever_the_length_of_the_axis_no_row_is_left_out_or_read_twice(num_rows: int, programs: list[str]) -> None:
    """Several rows go together, and those that are left one by one; the energy waits for the end of a trajectory."""
    rows, labels = ROWS[:num_rows], LABELS[:num_rows]

    def energy(x: Tensor) -> Tensor:
        logits = x @ rows.T
        return 0.5 * x.square().sum(1) + (functional.softplus(logits) - torch.where(labels, logits, 0.0)).sum(1)

    assert_agree(energy, LEAPFROG, start(4, 5))
    assert is_looped(programs[-1])


@pytest.mark.parametrize("dim", [16, 31])
def test_axes_of_some_entries_are_looped_over_where_their_names_would_be_too_many(
    dim: int, programs: list[str]
) -> None:
    assert_agree(lambda x: 0.5 * (x / SCALES[:dim]).square().sum(1), NUTS(step_size=0.05), start(9, dim))
    assert all(map(is_looped, programs))


def test_replicas_lie_side_by_side_and_are_named(programs: list[str]) -> None:
    """A long axis of 3 x 11 numbers would be cut."""
    kernel = ParallelTempering(inner=MALA(step_size=0.05), inverse_temperatures=(1.0, 0.5, 0.2))
    assert_agree(lambda x: 0.5 * x.square().sum(1), kernel, start(5, 11), num_samples=5)
    assert not any(map(is_looped, programs))


def test_matrices_that_do_not_stay_near_the_processor_are_left_to_their_libraries() -> None:
    """A program reads them once for each block of chains."""
    wide = torch.ones(100, 2**21 // 200 + 1, dtype=torch.float64)

    def energy(x: Tensor) -> Tensor:
        return (x @ wide).square().sum(1) + (x @ wide.neg()).square().sum(1)

    one = run(
        lambda x: (x @ wide).square().sum(1), RWM(step_size=0.1), start(20), num_steps=1, noise=0, engine="native"
    )
    assert one.engine.startswith("native")
    with pytest.raises(NotTraceableError, match="matrices of 2097200 numbers"):
        run(energy, RWM(step_size=0.1), start(20), num_steps=1, noise=0, engine="native")


@pytest.mark.parametrize(("num_chains", "most"), [(10, 200_000), (1000, 8000)])
def test_devices_leave_what_many_chains_multiply_to_their_libraries(num_chains: int, most: int) -> None:
    assert _max_in_matrices(torch.empty(num_chains, DIM, device="meta")) == most


@pytest.mark.parametrize("name", [*USUAL, *NAMED])
def test_dense_mass(name: str, programs: list[str]) -> None:
    """A factor and its transpose, which is not the same."""
    kernel, x = {**USUAL, "malt": KERNELS["malt"](step_size=0.05)}[name], start(17)
    precision = torch.diag(SCALES) + 0.1 * SCALES.min() * (MATRIX + MATRIX.T)
    params = kernel.init_params(x, inverse_mass=torch.linalg.inv(precision + DIM * torch.eye(DIM, dtype=x.dtype)))
    assert_agree(lambda x: 0.5 * DIM * x.square().sum(1), kernel, 0.1 * x, params=params)
    assert all(map(is_looped, programs))


@dataclass(frozen=True)
class Odd(ULA):
    """Not a sampler: one that does something with the factor of the mass."""

    change: Callable[[Tensor], Tensor] = torch.t

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        return super().step(target, state, noise, params._replace(factor=self.change(params.factor)))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.flip(0),
        lambda m: m.roll(1, 1),
        lambda m: torch.cat([m[1:], m[:1]]),
        lambda m: m.tril(-1),
        lambda m: 2 * m,
        lambda m: m.diagonal(),
    ],
    ids=["flip", "roll", "cut", "triangle", "multiple", "diagonal"],
)
def test_a_dense_mass_is_transposed_and_multiplied_by_and_else_refused(change: Callable[[Tensor], Tensor]) -> None:
    params = ULA(step_size=0.01).init_params(start(5), inverse_mass=torch.eye(DIM) + 0.001)
    for kernel in (Odd(step_size=0.01), Odd(step_size=0.01, change=lambda m: m.T.mT.transpose(0, -1).permute(-1, 0))):
        assert_agree(gaussian, kernel, start(5), params=params)
    with pytest.raises(NotTraceableError, match=r"two long axes|both axes are long"):
        run(
            gaussian, Odd(step_size=0.01, change=change), start(5), num_steps=1, noise=0, params=params, engine="native"
        )


@pytest.mark.parametrize("is_per_chain", [False, True], ids=["shared", "per-chain"])
def test_diagonal_mass_and_step_sizes(is_per_chain: bool, programs: list[str]) -> None:
    x = start(17)
    params = LEAPFROG.init_params(x, inverse_mass=SCALES.square())
    if is_per_chain:
        scales = torch.linspace(0.5, 1.5, 17, dtype=torch.float64)[:, None, None]
        params = params._replace(factor=scales * params.factor, step_size=scales[:, 0] / 10)
    assert_agree(gaussian, LEAPFROG, x, params=params)
    assert all(map(is_looped, programs))


def test_context_with_long_rows(programs: list[str]) -> None:
    """Numbers, integers and truth values, a row per chain; and a temperature for each."""

    def energy(x: Tensor, context: Mapping[str, Tensor]) -> Tensor:
        apart = torch.where(context["is_on"], x - context["y"], 0.5 * x)
        return 0.5 * (apart.square() * context["times"]).sum(1)

    context = {"y": start(17).roll(1, 0), "is_on": start(17) > 0, "times": (start(17).abs() * 3).long() + 1}
    temperature = torch.linspace(0.5, 2, 17, dtype=torch.float64)
    assert_agree(energy, MALA(step_size=0.05), start(17), context=context, temperature=temperature)
    assert all(map(is_looped, programs))


def test_some_of_the_chains() -> None:
    """Bit for bit: blocks that are not full."""
    whole = run(gaussian, LEAPFROG, start(33), num_steps=5, noise=3, engine="native")
    first = run(gaussian, LEAPFROG, start(33)[:9], num_steps=5, noise=3, engine="native")
    assert torch.equal(first.chains.matrix, whole.chains.matrix[:9])


@pytest.mark.parametrize("dim", [20_000, 200_000])
def test_axes_that_do_not_fit_the_stack_are_refused(dim: int) -> None:
    """What lies along them would end the process."""
    with pytest.raises(NotTraceableError):
        run(lambda x: x.square().sum(1), LEAPFROG, torch.zeros(2, dim), num_steps=1, noise=0, engine="native")


# --- Functions -------------------------------------------------------------------------------------------------------

NUM_EACH = 5
VECTOR, FEW = numbers(DIM), numbers(3, DIM)
WHOLE, CHOSEN = torch.randint(-3, 4, (DIM,), generator=_GENERATOR), numbers(DIM) > 0.3
MATRIX, OTHER = numbers(DIM, DIM) / DIM, numbers(200, 64) / 64
ORDER = torch.randperm(DIM, generator=_GENERATOR)

LOOPED: dict[str, Function] = {
    "mean": lambda x: x.mean(1),
    "var": lambda x: x.var(1),
    "length": lambda x: x.square().sum(1).sqrt(),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: torch.minimum(x.amin(1), x[:, None].mean((1, 2))),
    "amax_of_integers": lambda x: (x > 2.5).long().amax(1) * x.sum(1),
    "amin_of_integers": lambda x: (x > -2.5).long().amin(1) * x.sum(1),
    "any": lambda x: torch.where((x > 2.5).any(1), x.mean(1), 2 * x.mean(1)),
    "all": lambda x: torch.where((x > -2.5).all(1), x.mean(1), 2 * x.mean(1)),
    "count": lambda x: (x > 0).sum(1) * x.mean(1),
    "softmax": lambda x: (torch.softmax(x, 1) * VECTOR).sum(1),
    "log_softmax": lambda x: (torch.log_softmax(x * VECTOR, 1) * VECTOR.abs()).mean(1),
    "logsumexp": lambda x: torch.logsumexp(3 * x, 1),
    "logsumexp_of_sums": lambda x: torch.logsumexp((x.unsqueeze(1) * FEW).sum(2), 1),
    "layer_norm": lambda x: (functional.layer_norm(x, (DIM,), VECTOR, VECTOR) * VECTOR).sum(1),
    "centred": lambda x: (x - x.mean(1, keepdim=True)).pow(4).mean(1),
    "centred_twice": lambda x: torch.sin((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)).mul(VECTOR).sum(1),
    "product_of_sums": lambda x: x.sum(1) * (x * VECTOR).sum(1),
    "matmul_few": lambda x: torch.tanh(x @ FEW.T).square().sum(1),
    "few_and_back": lambda x: ((x @ FEW.T) @ FEW).mul(x).mean(1),
    "einsum": lambda x: torch.einsum("ci,ji,ci->c", x, FEW, x),
    "integers": lambda x: (x * WHOLE).sum(1),
    "integer_powers": lambda x: (x / 3).pow(3).mul(WHOLE % 3).sum(1),
    "truths": lambda x: torch.where(CHOSEN, x.square(), torch.sin(x)).sum(1),
    "masked_fill": lambda x: x.masked_fill(CHOSEN, 0.5).square().sum(1),
    "truths_as_factors": lambda x: (x.square() * CHOSEN).sum(1),
    "arange": lambda x: (x * torch.arange(DIM)).mean(1),
    "linspace": lambda x: (x * torch.linspace(0, 1, DIM, dtype=x.dtype)).sum(1),
    "constants": lambda x: (torch.full_like(x, 0.5) * x + torch.zeros(DIM, dtype=x.dtype)).sum(1),
    "same_along_another_axis": lambda x: x.unsqueeze(2).expand(-1, -1, 200).sin().mean(2).sum(1),
    "two_axes_in_turn": lambda x: torch.sin(x[:, :, None].mean(1) + ROWS[:, 0]).mean(1) * x.mean(1),
    "stack": lambda x: (torch.stack([x, x.sin(), x * VECTOR], 1) * FEW).sum((1, 2)),
    "permuted": lambda x: (x.unsqueeze(2).permute(2, 0, 1)[0] * VECTOR).sum(1),
    "transposed": lambda x: (x.T * VECTOR[:, None]).T.sum(1),
    "transposed_capture": lambda x: (x.unsqueeze(2) * FEW.T).tanh().sum((1, 2)),
    "capture_that_lies_otherwise": lambda x: (x * MATRIX.T[3]).sum(1) + (x * MATRIX.diagonal()).sum(1),
    "every_other_of_a_capture": lambda x: (x * OTHER.flatten()[: 2 * DIM : 2]).sum(1),
    "reverse_of_a_capture": lambda x: (x * VECTOR.flip(0)).sum(1),
    "some_rows_of_a_capture": lambda x: (x * MATRIX[ORDER[:3]].sum(0)).sum(1),
    "view": lambda x: (x.view(-1, 1, DIM, 1).squeeze(3) * FEW).sum((1, 2)),
    "writes": lambda x: _written(x).sum(1),
    "in_place": lambda x: _in_place(x).square().sum(1),
    "clamp": lambda x: (x.clamp(-1, 1) * x).sum(1),
    "norm": lambda x: x.norm(dim=1),
    "normalize": lambda x: functional.normalize(x, dim=1).pow(3).sum(1),
    "slice": lambda x: x[:, 1:].square().sum(1),
    "neighbours": lambda x: (x[:, :-1] * x[:, 1:]).sum(1),
    "every_other": lambda x: x[:, ::2].square().sum(1),
    "first": lambda x: x[:, 0] * x.sum(1),
    "last_kept": lambda x: x[:, -1:].square().sum(1),
    "flip": lambda x: (x * x.flip(1)).sum(1),
    "roll": lambda x: (x * x.roll(1, 1)).sum(1),
    "diff": lambda x: x.diff(dim=1).square().sum(1),
    "cat": lambda x: torch.cat([x, 2 * x], 1).square().mean(1),
    "split": lambda x: x.split(x.shape[1] // 2, 1)[1].square().sum(1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1).square().mean(1),
    "pad": lambda x: (functional.pad(x, (1, -1)) * x).sum(1),
    "pad_more": lambda x: functional.pad(x, (1, 0), value=2.0).square().sum(1),
    "backwards_in_steps": lambda x: (x[:, ::2].flip(1) * x[:, 1::2]).sum(1),
    "in_steps_of_three": lambda x: x[:, 2::3].pow(3).sum(1),
    "second_differences": lambda x: x.diff(n=2, dim=1).tanh().square().sum(1),
    "autoregression": lambda x: x[:, 0].square() + (x[:, 1:] - 0.9 * torch.sin(x[:, :-1])).square().sum(1),
    "ends": lambda x: x[:, 0] * x[:, -1] * x[:, 17].tanh() * x.mean(1),
    "roll_back": lambda x: (x * x.roll(-7, 1).roll(2, 1).square()).mean(1),
    "ring": lambda x: (x - x.roll(1, 1)).pow(4).mean(1),
    "cat_of_parts": lambda x: (torch.cat([x[:, 5:], x[:, :5]], 1) * x).sum(1),
    "cat_of_one": lambda x: (torch.cat([x[:, 1:], x[:, :1]], 1).sin() * x).sum(1),
    "cat_of_truths": lambda x: torch.where(torch.cat([x[:, 3:] > 0, x[:, :3] > 0.5], 1), x, x.square()).sum(1),
    "cat_of_nothing_more": lambda x: torch.cat([x[:, :0], x * VECTOR], 1).add_(functional.pad(x, (0, 0))).pow(2).sum(1),
    "cat_with_constants": lambda x: (torch.cat([torch.ones_like(x[:, :2]), x[:, 1:-1]], 1) * x).sum(1),
    "largest_of_neighbours": lambda x: torch.maximum(x[:, 1:], x[:, :-1]).sum(1),
    "sum_of_a_part": lambda x: (x * x[:, 40:80].mean(1, keepdim=True)).sum(1),
    "rows": lambda x: (x.view(len(x), 2, -1).prod(1) * VECTOR[:50]).sum(1),
    "columns": lambda x: (x.unflatten(1, (50, 2)) - torch.ones(2, dtype=x.dtype)).square().sum(2).sqrt().sum(1),
    "columns_and_back": lambda x: (x.reshape(len(x), -1, 2).flip(2).reshape(x.shape) * x).sum(1),
    "rows_and_back": lambda x: (x.reshape(len(x), 2, -1).roll(1, (1,)).reshape(x.shape) * x * VECTOR).sum(1),
    "ladder": lambda x: (x.view(len(x), -1, 2) - x.view(len(x), -1, 2).roll((1, 1), (1, 2))).square().sum((1, 2)),
    "part_of_a_capture": lambda x: (x[:, 1:] * (VECTOR * 2)[1:]).sum(1) + (x * MATRIX[0]).sum(1),
    "normal": lambda x: -Normal(VECTOR, 1.5, validate_args=True).log_prob(x).sum(1),
    "student": lambda x: -Independent(StudentT(3.0, VECTOR, validate_args=True), 1).log_prob(x),
    "hierarchical": lambda x: (
        -Normal(x[:, :1], x[:, 1:2].exp()).log_prob(x[:, 2:]).mean(1)
        - Normal(x[:, 2:], 1.0).log_prob(VECTOR[2:]).mean(1)
    ),
    "vmap": torch.func.vmap(lambda row: (row * VECTOR).square().mean()),
}


PRODUCTS: dict[str, Function] = {
    "matrix": lambda x: (x @ MATRIX * x).sum(1),
    "matrix_of_ones": lambda x: (x @ torch.ones(DIM, DIM, dtype=x.dtype)).tanh().sum(1),
    "transposed_matrix": lambda x: (x @ MATRIX.T).tanh().sum(1),
    "matrix_from_the_left": lambda x: (MATRIX @ x.T).T.sin().mul(VECTOR).sum(1),
    "matrix_and_back": lambda x: (torch.tanh(x[:, :64] @ OTHER.T) @ OTHER).square().sum(1),
    "matrix_times_vector": lambda x: torch.einsum("ci,ij,cj->c", x, MATRIX, x),
    "linear": lambda x: functional.softplus(functional.linear(x[:, 36:], OTHER, OTHER[:, 0])).mean(1),
    "matrix_of_neighbours": lambda x: ((x[:, 1:] @ MATRIX[1:]) * x.roll(1, 1)).sum(1),
}
"""By captured matrices of which both axes are long."""


def _written(x: Tensor) -> Tensor:
    y = torch.zeros(3, dtype=x.dtype)
    y[1] = 5.0
    return y * x.mean(1, keepdim=True)


def _in_place(x: Tensor) -> Tensor:
    """On what is new, whole; a name for it sees it."""
    product, total = x * VECTOR, torch.zeros_like(x)
    alias = product.detach()
    product += 1
    total += product
    return total.add_(x.clone().mul_(0.5)) * alias


def _with_ones(x: Tensor) -> Tensor:
    x[:, :30] = 1.0
    return x


def _written_after(x: Tensor, part: Function) -> Tensor:
    """A part sees what happens to the whole."""
    y = x * x
    seen = part(y)
    y += 1
    return seen.square().flatten().unflatten(0, (len(x), -1)).sum(1)


TAKEN_APART: dict[str, Function] = {
    "permutation": lambda x: (x[:, torch.arange(x.shape[1] - 1, -1, -1)] * x).sum(1),
    "index_select": lambda x: x.index_select(1, torch.tensor([2, 1])).prod(1),
    "gather": lambda x: x.gather(1, torch.tensor([[1, 0]]).expand(len(x), 2)).prod(1),
    "cumsum": lambda x: x.cumsum(1).square().mean(1),
    "unbind": lambda x: x.unbind(1)[3] * x.unbind(1)[4],
    "repeat": lambda x: x.repeat(1, 2).square().mean(1),
    "pad_around": lambda x: (functional.pad(x[:, None], (1, 1), mode="circular")[:, 0, 2:] * x).sum(1),
    "grid": lambda x: x.view(len(x), 4, -1).sum(1).square().sum(1),
    "interleaved": lambda x: (x.unsqueeze(2).expand(-1, -1, 2).reshape(len(x), 2, -1).cumsum(1) * x[:, None]).sum(
        (1, 2)
    ),
    "moved": lambda x: (x[:, None].expand(-1, 2, -1).reshape(len(x), -1, 2)[:, :, 0] * x).sum(1),
    "max_with_index": lambda x: x.max(1).values,
    "write": lambda x: x.clone().index_fill_(1, torch.tensor([3]), 2.0).square().sum(1),
    "write_to_a_part": lambda x: (_with_ones(torch.zeros_like(x)) * x).square().sum(1),
    "write_to_a_part_of_products": lambda x: _with_ones(x * x).square().sum(1),
    "write_under_a_part": lambda x: _written_after(x, lambda y: y[:, 1:]),
    "write_under_an_entry": lambda x: _written_after(x, lambda y: y[:, 3]),
    "write_under_rows": lambda x: _written_after(x, lambda y: y.view(len(y), -1, 2)),
    "write_to_rows": lambda x: (x * x).view(len(x), -1, 2).add_(1).square().sum((1, 2)),
    "write_to_a_view": lambda x: (x * x).view(x.shape).add_(1).square().sum(1),
}
"""What long axes cannot do; a program then names every entry, which 36 of them allow."""

TWO_AT_ONCE: dict[str, Function] = {
    "outer": lambda x: (x[:, None] * x[:, :, None]).tanh().sum((1, 2)),
    "outer_by_product": lambda x: torch.bmm(x.unsqueeze(2), x.unsqueeze(1)).tanh().sum((1, 2)),
    "outer_of_a_capture": lambda x: (x[:, :, None] * VECTOR[: x.shape[1]]).tanh().mean((1, 2)),
    "pairs": lambda x: torch.cdist(x[:, :, None], x[:, :, None]).sum((1, 2)),
    "rows_and_columns": lambda x: (x[:, None] * OTHER[:, : x.shape[1]]).sum(2).square().sum(1),
    "diag_embed": lambda x: torch.diag_embed(x).sum((1, 2)),
    "triangle": lambda x: torch.tril(x[:, None] * x[:, :, None]).sum((1, 2)),
}
"""What would need two loops, one in the other."""

NEVER: dict[str, Function] = {
    "unfold": lambda x: x.unfold(1, 2, 1).prod(2).sum(1),
    "sort": lambda x: (x.sort(dim=1).values * torch.arange(x.shape[1])).sum(1),
    "median": lambda x: x.median(1).values,
    "mixed_chains": lambda x: (x.T.reshape(x.shape) * x).sum(1),
}


def loops(energy: Any, dim: int = DIM, **context: Tensor) -> bool:
    """Whether the tracer takes it with long axes; nothing is held against eager."""
    x, kernel = start(6, dim), ULA()
    subject = Subject(
        kernel=kernel,
        target=Target(energy, Layout.of(x), 6, context=None, temperature=1.0),
        params=kernel.init_params(x),
        matrix=x,
        memory={},
        sums=(),
        moves={},
    )
    try:
        trace(subject, 2, LONG)
    except NotTraceableError:
        return False
    return True


def assert_all_agree(functions: Mapping[str, Function], dim: int) -> None:
    """One step of ULA, from values to gradients; every function has chains of its own."""

    def energy(x: Tensor, is_mine: Mapping[str, Tensor]) -> Tensor:
        return sum((is_mine[name] * function(x) for name, function in functions.items()), 0.5 * x.square().sum(1))

    num_chains = NUM_EACH * len(functions)
    chain = torch.arange(num_chains) // NUM_EACH
    is_mine = {name: (chain == i).double() for i, name in enumerate(functions)}
    options: dict[str, Any] = {"num_steps": 1, "noise": 0, "context": is_mine, "record_energies": True}
    native, eager = (
        run(energy, ULA(step_size=0.5), start(num_chains, dim), engine=name, **options)  # type: ignore[arg-type]
        for name in ("native", "eager")
    )
    assert native.engine.startswith("native")
    for one, other in ((native.energies, eager.energies), (native.chains.matrix, eager.chains.matrix)):
        assert one is not None
        assert other is not None
        apart = ((one - other).abs() / (1 + other.abs().amax(1, keepdim=True))).amax(1)
        wrong = {name: float(apart[chain == i].max()) for i, name in enumerate(functions)}
        assert {name: size for name, size in wrong.items() if not size < 1e-12} == {}


def some(functions: Mapping[str, Function], part: int, num_parts: int) -> dict[str, Function]:
    return {name: functions[name] for name in list(functions)[part::num_parts]}


@pytest.mark.parametrize("name", [*LOOPED, *PRODUCTS])
def test_is_looped(name: str) -> None:
    assert loops({**LOOPED, **PRODUCTS}[name])


@pytest.mark.parametrize("part", range(5))
def test_loops_agree(part: int, programs: list[str]) -> None:
    assert_all_agree(some(LOOPED, part, 5), DIM)
    assert all(map(is_looped, programs))


def test_products_agree(programs: list[str]) -> None:
    assert_all_agree(PRODUCTS, DIM)
    assert all(map(is_looped, programs))


def test_what_a_distribution_demands_of_all_entries_rejects_chains_where_one_breaks_it(programs: list[str]) -> None:
    """Eager raises there; a program, which cannot, says NaN. By name, see `test_native_safety`."""
    x = 0.01 * torch.rand(50, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.005
    result = run(
        lambda x: -Exponential(torch.ones((), dtype=x.dtype), validate_args=True).log_prob(x).sum(1),
        RWM(step_size=0.003),
        x,
        num_steps=40,
        noise=0,
        engine="native",
    )
    assert isinstance(result.position, Tensor)
    assert (result.position >= 0).all()
    assert 0 < int(result.num_divergent.sum()) < 40 * 50
    assert is_looped(programs[-1])


@pytest.mark.parametrize("name", [*TAKEN_APART, *TWO_AT_ONCE, *NEVER])
def test_is_not_looped(name: str) -> None:
    """Nothing but the tracer is there to notice."""
    function = {**TAKEN_APART, **TWO_AT_ONCE, **NEVER}[name]
    assert not loops(function, 36)
    assert not loops(function, 64)


@pytest.mark.parametrize(
    "names",
    [
        ("permutation", "gather", "grid"),
        ("write", "write_to_a_part", "write_to_a_part_of_products", "write_to_a_view", "write_to_rows"),
        ("write_under_a_part", "write_under_an_entry", "write_under_rows"),
    ],
    ids=["places", "writes", "writes-under-views"],
)
def test_what_is_taken_apart_agrees(names: tuple[str, ...], programs: list[str]) -> None:
    assert_all_agree({name: TAKEN_APART[name] for name in names}, 36)
    assert not any(map(is_looped, programs))


# --- Random functions ------------------------------------------------------------------------------------------------

NUM_RANDOM, NUM_PARTS = 48, 6


def _steps(choice: random.Random) -> Callable[[Tensor], Tensor]:
    """One step of a random function, from (C, D) to (C, D); some cut the long axis, or carry entries elsewhere."""
    vector, few = (FEW[choice.randrange(3)], FEW)
    times, shift = choice.choice((2, 4, 5)), choice.randrange(-2, 3)
    steps: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
        "sin": (3, torch.sin),
        "tanh": (3, torch.tanh),
        "scale": (4, lambda y: y * vector),
        "shift": (4, lambda y: y + vector),
        "choose": (3, lambda y: torch.where(y > vector, y, 0.5 * y)),
        "truths": (3, lambda y: torch.where(CHOSEN, y, y.square() / 4)),
        "centre": (4, lambda y: y - y.mean(1, keepdim=True)),
        "clamp": (3, lambda y: y.clamp(-1, 2)),
        "in_place": (3, lambda y: (y + vector).mul_(few[0]).clamp_(min=-2)),
        "largest": (3, lambda y: y - y.amax(1, keepdim=True)),
        "soft": (3, lambda y: DIM * torch.softmax(y, 1)),
        "soft_scale": (3, lambda y: y * torch.logsumexp(y, 1, keepdim=True) / 8),
        "few": (3, lambda y: torch.tanh(y @ few.T / 5) @ few),
        "three": (3, lambda y: (y.unsqueeze(1) * few).tanh().mean(1)),
        "there_and_back": (2, lambda y: y.T.contiguous().T.reshape(len(y), 1, -1).flatten(1)),
        "spread": (2, lambda y: y.unsqueeze(2).expand(-1, -1, 40).cos().mean(2)),
        "roll": (1, lambda y: y.roll(shift, 1)),
        "interleave": (1, lambda y: y.unsqueeze(2).expand(-1, -1, times).reshape(len(y), times, -1)[:, times - 1]),
        "deal": (1, lambda y: y[:, None].expand(-1, times, -1).reshape(len(y), -1, times)[:, :, 1]),
        "fold": (1, lambda y: y.reshape(len(y), times, -1).transpose(1, 2).reshape(len(y), -1)),
        "cut": (1, lambda y: torch.cat([y[:, times:], y[:, :times]], 1)),
    }
    name = choice.choices(list(steps), [often for often, _ in steps.values()])[0]
    return steps[name][1]


def random_function(seed: int) -> Function:
    choice = random.Random(seed)
    steps = [_steps(choice) for _ in range(choice.randrange(2, 6))]

    def function(x: Tensor) -> Tensor:
        y, kept = x, [x]
        for i, step in enumerate(steps):
            y = step(y) + 0.3 * kept[i // 2]
            kept.append(y)
        return (y * kept[len(kept) // 2]).mean(1)

    return function


RANDOM = {f"function {seed}": random_function(seed) for seed in range(NUM_RANDOM)}


def test_most_random_functions_are_looped() -> None:
    """But not all: some move entries."""
    num_taken = sum(map(loops, RANDOM.values()))
    assert NUM_RANDOM / 2 < num_taken < NUM_RANDOM


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_random_functions(part: int, programs: list[str]) -> None:
    """What the tracer takes is right to the last bits."""
    functions = some(RANDOM, part, NUM_PARTS)
    assert_all_agree({name: function for name, function in functions.items() if loops(function)}, DIM)
    assert all(map(is_looped, programs))
