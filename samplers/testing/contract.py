"""The mechanical half of the battery: what a kernel owes its callers whatever it samples.

Each check runs a few steps of 64 chains and compares bits. Chains have an energy scale of their own, from a context,
so that rows that get mixed up show; and the target is a module, so that what happens to its weight shows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..chains import Chains
from ..driver import Run, run
from ..energy import Energy, Target
from ..kernel import InfoLike, Kernel, Noise, StateLike, with_step_size
from ..noise import CounterNoise, GeneratorNoise, NoiseSource, Stream
from ..position import Layout, Position
from .integrators import HasTrajectory, IntegratorReport, check_integrator
from .targets import ExactTarget

NUM_CHAINS = 64
"""A multiple of every vector width: the last chains of a batch are computed by the same instructions as the first."""


def _diagonal(dim: int) -> Tensor:
    return torch.linspace(0.5, 1.5, dim, dtype=torch.float64)


MASSES: Mapping[str, Callable[[int], Tensor | None]] = {
    "diagonal": _diagonal,
    "dense": lambda dim: torch.diag(_diagonal(dim)) + 0.5 / dim,
    "identity": lambda dim: None,
}
"""Inverse masses by dimension, unlike the covariance of any target here, so that a wrong use of one shows."""

_SENTINEL = 7.0
"""A gradient that somebody else has left on a weight."""

_LENIENT = 1e-30
"""A uniform draw that accepts whatever is not impossible, as far as anybody will ever see."""


class Finding(NamedTuple):
    """What one check found: whether that is right, and the numbers."""

    passed: bool
    found: str


class Scaled(nn.Module):
    """A target with a weight, and a scale of its own for each chain.

    Args:
        energy: The target.
        dtype: Of the weight.
    """

    def __init__(self, energy: Energy, dtype: torch.dtype) -> None:
        super().__init__()
        self.energy = energy
        self.weight = nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, position: Any, scale: Tensor) -> Tensor:
        """Energies (C,)."""
        return self.weight * scale * self.energy(position)


@dataclass(frozen=True)
class Bench:
    """Some chains of one kernel, ready to step.

    Attributes:
        kernel: The kernel.
        target: What it samples.
        start: Where its chains start.
        params: Its parameters.
        layout: Of the start.
        context: Scales of the chains, (C,).
        energy: The target as a module, a fresh one for each bench.
    """

    kernel: Kernel[Any]
    target: ExactTarget
    start: Position
    params: Any
    layout: Layout = field(init=False)
    context: Tensor = field(init=False)
    energy: Scaled = field(init=False)

    def __post_init__(self) -> None:
        layout = Layout.of(self.start)
        matrix = layout.ravel(self.start)
        object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "context", torch.linspace(0.8, 1.2, len(matrix)).to(matrix))
        object.__setattr__(self, "energy", Scaled(self.target, matrix.dtype))

    @property
    def matrix(self) -> Tensor:
        """The start as a matrix (C, D)."""
        return self.layout.ravel(self.start)

    def aim(self, energy: Energy | None = None, *, context: Tensor | None = None) -> Target:
        """What kernels see of an energy; default: the bench's own."""
        context = self.context if context is None else context
        return Target(energy or self.energy, self.layout, len(context), context=context)

    def noise(self, step: int) -> dict[str, Any]:
        """The noise of one step."""
        return CounterNoise(1).draw(self.kernel.sites, self.matrix, step)

    def walk(
        self,
        num_steps: int,
        *,
        target: Target | None = None,
        start: Tensor | None = None,
        noise: Callable[[int], Noise] | None = None,
        params: Any = None,
    ) -> Iterator[tuple[StateLike, InfoLike]]:
        """Every state and info of a few steps."""
        target, params, noise = target or self.aim(), params or self.params, noise or self.noise
        state = self.kernel.init(target, self.matrix if start is None else start, params)
        for step in range(num_steps):
            state, info = self.kernel.step(target, state, noise(step), params)
            yield state, info

    def end(self, num_steps: int, **options: Any) -> dict[str, Tensor]:
        """All fields of the last state and info of a walk."""
        *_, (state, info) = self.walk(num_steps, **options)
        return _fields(state, info)

    def run(self, num_steps: int, initial: Position | Chains | None = None, **options: Any) -> Run:
        """The chains as users run them."""
        params = self.params if initial is None else None
        initial = self.start if initial is None else initial
        return run(
            self.energy, self.kernel, initial, num_steps=num_steps, context=self.context, params=params, **options
        )


# --- The form of states and infos ------------------------------------------------------------------------------


def check_fields(bench: Bench) -> Finding:
    """States and infos have the declared fields, shapes and dtypes."""
    state, info = next(bench.walk(1))
    num_chains, dim = bench.matrix.shape
    width = info.accept_prob.shape[-1]
    column, decisions = (num_chains, 1), (num_chains, width)
    dtype, energy_dtype = bench.matrix.dtype, bench.aim()(bench.matrix)[0].dtype
    wanted: dict[str, tuple[Tensor, tuple[int, int], torch.dtype | None]] = {
        "state.position": (state.position, (num_chains, dim), dtype),
        "state.energy": (state.energy, column, energy_dtype),
        "state.grad": (state.grad, (num_chains, dim if state.grad.numel() else 0), dtype),
        "info.accept_prob": (info.accept_prob, decisions, torch.float64),
        "info.is_accepted": (info.is_accepted, decisions, torch.bool),
        "info.is_divergent": (info.is_divergent, decisions, torch.bool),
        "info.energy": (info.energy, column, energy_dtype),
        "info.energy_error": (info.energy_error, decisions, torch.float64),
        "info.num_grad_evals": (info.num_grad_evals, column, None),
    }
    wrong = [
        f"{name} is {tuple(value.shape)} {value.dtype}, wanted {shape} {kind or 'of any dtype'}"
        for name, (value, shape, kind) in wanted.items()
        if tuple(value.shape) != shape or kind not in (None, value.dtype)
    ]
    rows = {name: len(value) for name, value in _fields(state, info).items() if len(value) != num_chains}
    wrong += [f"{name} has {num} rows, wanted {num_chains}" for name, num in rows.items()]
    names = tuple(name for name in _fields(info=info))
    if names != tuple(f"info.{name}" for name in bench.kernel.info_fields):
        wrong.append(f"info_fields says {bench.kernel.info_fields}, the info has {names}")
    if bool(((info.accept_prob < 0) | (info.accept_prob > 1)).any()):
        wrong.append("info.accept_prob leaves [0, 1]")
    return Finding(not wrong, "; ".join(wrong) or f"{width} decision{'s' * (width > 1)} a step")


# --- Randomness --------------------------------------------------------------------------------------------------


def check_declared_noise(bench: Bench) -> Finding:
    """The same noise gives the same step, and the global generator stays where it was."""
    before = torch.get_rng_state()
    first, second = bench.end(3), bench.end(3)
    has_drawn = not torch.equal(torch.get_rng_state(), before)
    differing = _differences(first, second)
    drawn = "the global generator moved" if has_drawn else "the global generator stayed"
    return Finding(not differing and not has_drawn, f"{drawn}; {_named(differing)}")


def check_determinism(bench: Bench) -> Finding:
    """A seed gives the same run again, and another seed another."""
    differing, repeating = [], []
    for name, make in _SOURCES.items():
        ends = [bench.run(3, noise=make(seed)).chains.matrix for seed in (1, 1, 2)]
        if not torch.equal(ends[0], ends[1]):
            differing.append(name)
        if bench.kernel.sites and torch.equal(ends[0], ends[2]):
            repeating.append(name)
    found = f"not repeatable: {differing}, blind to their seed: {repeating}" if differing or repeating else "repeatable"
    return Finding(not differing and not repeating, f"{found}, with a generator and with counter-based noise")


def check_silence(bench: Bench) -> Finding:
    """A run that tells nothing about its steps goes where one goes that does."""
    ends = [bench.run(3, noise=1, summarise=tells).chains for tells in (True, False)]
    differing = _differences(*({"position": chains.matrix, **chains.memory} for chains in ends))
    return Finding(not differing, f"{_named(differing)} between what `step` and `move` lead to")


def check_resuming(bench: Bench) -> Finding:
    """A run that is stored and continued half-way ends as one that was not."""
    differing = []
    for name, make in _SOURCES.items():
        whole = bench.run(6, noise=make(1)).chains
        half = bench.run(3, noise=make(1)).chains
        rest = bench.run(3, Chains.from_state_dict(half.state_dict(), bench.kernel)).chains
        fields = [{"position": chains.matrix, **chains.memory} for chains in (whole, rest)]
        differing += [f"{field} with {name} noise" for field in _differences(*fields)]
    return Finding(not differing, f"{_named(differing)} after 3 + 3 steps and after 6")


# --- Side effects ------------------------------------------------------------------------------------------------


def check_inputs(bench: Bench) -> Finding:
    """Nothing that is passed in changes, no gradient of a model is touched, and no result carries a graph."""
    weight = bench.energy.weight
    weight.grad = torch.full_like(weight, _SENTINEL)
    target, noise, start = bench.aim(), bench.noise(0), bench.matrix.clone()
    state = bench.kernel.init(target, start, bench.params)
    given = {
        "position": start,
        "context": bench.context,
        "weight": weight.detach(),
        "the weight's grad": weight.grad,
        **{f"noise[{name!r}]": value for name, value in noise.items() if isinstance(value, Tensor)},
        **{f"params.{name}": value for name, value in bench.params._asdict().items() if isinstance(value, Tensor)},
        **_fields(state),
    }
    copies = {name: value.clone() for name, value in given.items()}
    after = _fields(*bench.kernel.step(target, state, noise, bench.params))
    changed = _differences(copies, given)
    attached = [name for name, value in after.items() if value.requires_grad]
    weight.grad = None
    found = [f"changed: {', '.join(changed)}"] * bool(changed) + [f"with a graph: {', '.join(attached)}"] * bool(
        attached
    )
    return Finding(
        not found, "; ".join(found) or f"{len(given)} inputs unchanged, {len(after)} results without a graph"
    )


# --- Caches ------------------------------------------------------------------------------------------------------


def check_cache(bench: Bench) -> Finding:
    """After every step the state's energy and gradient are those of its position, and `restore` finds them again."""
    kernel, target = bench.kernel, bench.aim()
    num_steps, num_moves, stale = 20, 0, set[str]()
    before = bench.matrix
    for state, info in bench.walk(num_steps, target=target):
        energy, _ = target(state.position)
        anew = kernel.init(target, state.position, bench.params)  # keeps a clipped gradient, or none at all
        fresh = {"state.energy": energy, "state.grad": anew.grad, "info.energy": energy}
        carried = {"state.energy": state.energy, "state.grad": state.grad, "info.energy": info.energy}
        restored = kernel.restore(target, state.position, kernel.memory(state), bench.params)
        stale |= {f"{name} is not that of the position" for name in _differences(fresh, carried, is_exact=False)}
        stale |= {f"{name} is not restored" for name in _differences(_fields(state), _fields(restored), is_exact=False)}
        num_moves += int((state.position != before).any(dim=1).sum())
        before = state.position
    num_stays = num_steps * NUM_CHAINS - num_moves
    found = f"{num_moves} moves, {num_stays} stays"
    if num_moves == 0 or (num_stays == 0 and kernel.target_accept is not None):
        return Finding(False, f"{found}: only one of the two was tested; take another step size")
    return Finding(not stale, "; ".join([found, *sorted(stale)]))


def check_new_weights(bench: Bench) -> Finding:
    """A run that is continued after the energy has changed starts from the new energy."""
    changed, anew = replace(bench), replace(bench)
    first = changed.run(3, noise=2).chains
    for either in (changed, anew):
        with torch.no_grad():
            either.energy.weight.mul_(3.0)
    ends = [either.run(3, first, record_energies=True) for either in (changed, anew)]
    started = ends[0].energies
    assert started is not None
    is_fresh = _agree(started[:, :1], anew.aim()(first.matrix)[0], is_exact=False)
    is_fresh &= torch.equal(ends[0].chains.matrix, ends[1].chains.matrix)
    return Finding(is_fresh, "new weights are noticed" if is_fresh else "the chains still see the old weights")


# --- Chains ------------------------------------------------------------------------------------------------------


def check_permutation(bench: Bench) -> Finding:
    """Chains in another order, with their noise, end in that order."""
    order = torch.randperm(NUM_CHAINS, generator=torch.Generator().manual_seed(3)).to(bench.matrix.device)
    sites = bench.kernel.sites

    def noise(step: int) -> dict[str, Any]:
        return {name: x if sites[name].is_shared else x[order] for name, x in bench.noise(step).items()}

    plain = {name: value[order] for name, value in bench.end(4).items()}
    shuffled = bench.end(4, target=bench.aim(context=bench.context[order]), start=bench.matrix[order], noise=noise)
    differing = _differences(plain, shuffled)
    return Finding(not differing, f"{_named(differing)} after 4 steps in either order")


def check_splitting(bench: Bench) -> Finding:
    """Chains evaluated in two halves end as they do in one batch."""
    whole, halves = (bench.run(4, noise=1, chain_batch_size=size).chains for size in (None, NUM_CHAINS // 2))
    differing = _differences({"position": whole.matrix, **whole.memory}, {"position": halves.matrix, **halves.memory})
    return Finding(not differing, f"{_named(differing)} after 4 steps in one batch and in two")


def check_neighbours(bench: Bench) -> Finding:
    """A chain that is NaN leaves all others as they were, bit for bit."""
    start = bench.matrix.clone()
    start[5] = torch.nan
    others = torch.arange(NUM_CHAINS, device=start.device) != 5
    plain, beside = ({name: x[others] for name, x in bench.end(4, start=x).items()} for x in (bench.matrix, start))
    differing = _differences(plain, beside)
    return Finding(not differing, f"{_named(differing)} with and without a NaN chain among them")


# --- What is undefined, infinite or huge -------------------------------------------------------------------------


class Wall:
    """An energy that breaks beyond a value of the first coordinate, and counts how often it was asked there.

    Args:
        energy: What it is before the wall.
        layout: Of the positions.
        at: Where the wall stands.
        value: Energy beyond; None: as before.
        grad: Gradient beyond; None: as before.
    """

    def __init__(
        self, energy: Energy, layout: Layout, at: float, *, value: float | None = None, grad: float | None = None
    ) -> None:
        self.energy, self.layout, self.at, self.value, self.grad = energy, layout, at, value, grad
        self.num_met = 0

    def __call__(self, position: Any, /, *context: Any) -> Tensor:
        """Energies (C,)."""
        return self.value_and_grad(position, *context)[0]

    def value_and_grad(self, position: Any, /, *context: Any) -> tuple[Tensor, Position]:
        """Energies (C,) and gradient."""
        x = self.layout.ravel(position)
        value, grad = Target(self.energy, self.layout, len(x), context=context[0])(x)
        is_beyond = ~(x[:, :1] <= self.at)
        self.num_met += int(is_beyond.sum())
        if self.value is not None:
            value = torch.where(is_beyond, self.value, value)
        if self.grad is not None:
            grad = torch.where(is_beyond, self.grad, grad)
        return value.squeeze(1), self.layout.unravel(grad)


def check_nan_energy(bench: Bench) -> Finding:
    """A proposal whose energy is NaN is rejected and flagged."""
    return _meet_the_wall(bench, is_flagged=True, value=torch.nan)


def check_nan_gradient(bench: Bench) -> Finding:
    """A proposal whose gradient is NaN is rejected and flagged, by kernels that look at gradients."""
    if not _takes_gradients(bench):
        return Finding(True, "takes no gradients")
    return _meet_the_wall(bench, is_flagged=True, grad=torch.nan)


def check_infinite_energy(bench: Bench) -> Finding:
    """A proposal outside the support is plainly rejected, whatever the uniform draw."""
    return _meet_the_wall(bench, is_flagged=False, value=torch.inf)


def check_bottomless_energy(bench: Bench) -> Finding:
    """A proposal of energy minus infinity, which no chain could ever leave, is rejected and flagged."""
    return _meet_the_wall(bench, is_flagged=True, value=-torch.inf)


def check_overflow(bench: Bench) -> Finding:
    """With a step size that is absurdly large chains stay where energies are finite."""
    factor = 1e30 if bench.matrix.dtype == torch.float32 else 1e200
    params = with_step_size(bench.params, bench.params.step_size * factor)
    *_, (state, _) = bench.walk(4, params=params)
    num_lost = _num_lost(state)
    return Finding(num_lost == 0, f"{num_lost} of {NUM_CHAINS} chains lost with steps {factor:g} times as large")


def check_offset(bench: Bench) -> Finding:
    """A constant added to the energy, as large as rounding allows, changes no acceptance."""
    offset = 1e-4 / torch.finfo(bench.matrix.dtype).eps
    energies: tuple[Energy, Energy] = (bench.energy, lambda x, scale: bench.energy(x, scale) + offset)
    plain, lifted = (next(bench.walk(1, target=bench.aim(energy)))[1].accept_prob for energy in energies)
    change = float((plain - lifted).abs().max())
    return Finding(change < 0.01, f"acceptance changes by {change:.1e} under an offset of {offset:.0e}, allowed 0.01")


def _meet_the_wall(bench: Bench, *, is_flagged: bool, **broken: float) -> Finding:
    """Walk before a wall, and once more take single steps with uniform draws that accept what is not impossible."""
    first = bench.matrix[:, 0]
    at = float(first.median())
    inside = bench.matrix[first <= at]
    start = torch.cat((inside, inside))[:NUM_CHAINS]
    wall = Wall(bench.energy, bench.layout, at, **broken)
    walk = list(bench.walk(10, target=bench.aim(wall), start=start))
    leaps = [next(bench.walk(1, target=bench.aim(wall), start=start, noise=_lenient(bench, k))) for k in range(5)]
    flags = [info.is_divergent if is_flagged else info.is_divergent & info.energy_error.isinf() for _, info in walk]
    num_flags = sum(int(flag.sum()) for flag in flags)
    num_through = sum(
        int((~(state.position[:, 0] <= at)).sum()) + _num_lost(state) for state, _ in itertools.chain(walk, leaps)
    )
    found = f"asked {wall.num_met} times beyond the wall: {num_flags} flags, {num_through} chains got through"
    if wall.num_met == 0:
        return Finding(False, f"{found}; nothing was tested, take a larger step size")
    return Finding(num_through == 0 and (num_flags > 0) == is_flagged, found)


def _lenient(bench: Bench, number: int) -> Callable[[int], Noise]:
    """The noise of a step, with uniform draws that accept whatever is not impossible."""

    def fill(x: Any) -> Any:
        return torch.full_like(x, _LENIENT) if isinstance(x, Tensor) else Stream(lambda k: fill(x.at(torch.tensor(k))))

    sites = bench.kernel.sites
    noise = {name: fill(x) if sites[name].kind == "uniform" else x for name, x in bench.noise(number).items()}
    return lambda step: noise


def _takes_gradients(bench: Bench) -> bool:
    """Whether a step comes out differently where all gradients are zero."""
    flat = Wall(bench.energy, bench.layout, -torch.inf, grad=0.0)
    return not torch.equal(bench.end(2)["state.position"], bench.end(2, target=bench.aim(flat))["state.position"])


def _num_lost(state: StateLike) -> int:
    """Chains whose position or energy is no longer finite."""
    is_finite = state.position.isfinite().all(dim=1) & state.energy.isfinite().squeeze(1)
    return int((~is_finite).sum())


# --- Trajectories ------------------------------------------------------------------------------------------------


def check_trajectory(bench: Bench) -> Finding:
    """The trajectory that the kernel shows is reversible and keeps volume, with every kind of inverse mass."""
    kernel, x = bench.kernel, bench.matrix
    assert isinstance(kernel, HasTrajectory)
    momentum = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype).to(x.device)

    def check(mass: Tensor | None) -> IntegratorReport:
        params = with_step_size(kernel.init_params(bench.start, inverse_mass=mass), bench.params.step_size)

        def integrate(position: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
            target = Target(bench.target, bench.layout, len(position))
            end, turned = kernel.trajectory(target, kernel.init(target, position, params), momentum, params)
            return end.position, turned

        return check_integrator(integrate, x, momentum)

    reports = {name: check(mass(x.shape[1])) for name, mass in MASSES.items()}
    found = "; ".join(f"{name} mass: {report}" for name, report in reports.items() if not report.passed)
    return Finding(not found, found or f"diagonal mass: {reports['diagonal']}; likewise dense and identity")


# --- Shared ------------------------------------------------------------------------------------------------------

_SOURCES: Mapping[str, Callable[[int], NoiseSource]] = {
    "generator": lambda seed: GeneratorNoise(torch.Generator().manual_seed(seed)),
    "counter": CounterNoise,
}


def _fields(state: Any = None, info: Any = None) -> dict[str, Tensor]:
    """All tensors of a state and an info, by name."""
    return {
        f"{kind}.{name}": value
        for kind, part in (("state", state), ("info", info))
        if part is not None
        for name, value in part._asdict().items()
    }


def _differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor], *, is_exact: bool = True) -> list[str]:
    """Names of the tensors that differ, in bits or by more than some roundings; NaN equals NaN."""
    return [name for name in one if not _agree(one[name], other[name], is_exact=is_exact)]


def _agree(one: Tensor, other: Tensor, *, is_exact: bool) -> bool:
    tolerance = 0.0 if is_exact or not one.is_floating_point() else 1e4 * torch.finfo(one.dtype).eps
    return one.shape == other.shape and torch.allclose(
        one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True
    )


def _named(differing: list[str]) -> str:
    return f"differing: {', '.join(differing)}" if differing else "no difference"


CONTRACT: Mapping[str, tuple[Callable[[Bench], Finding], str]] = {
    "fields": (
        check_fields,
        "Per-chain numbers are columns (C, 1), decisions float64 or bool. The other checks wait for this.",
    ),
    "declared noise": (check_declared_noise, "Look for a draw inside the step: all noise comes from declared sites."),
    "determinism": (check_determinism, "Look for state outside of State and Params, or for noise that is not used."),
    "silence": (check_silence, "Let `move` lead where `step` leads; a kernel that says nothing else inherits that."),
    "resuming": (check_resuming, "Look for what the next step reads but neither `memory` nor `restore` knows."),
    "inputs": (check_inputs, "Look for operations in place (names ending in _), and for backward() on the energy."),
    "cache": (check_cache, "Look for fields that are not selected together with the position on acceptance."),
    "new weights": (check_new_weights, "Look for energies kept outside of the state."),
    "permutation": (check_permutation, "Look for noise or parameters that are tied to a row's number."),
    "splitting": (check_splitting, "Look for a mean, sum or maximum over the batch."),
    "neighbours": (check_neighbours, "Look for a mean, sum or maximum over the batch, which NaN would poison."),
    "NaN energy": (check_nan_energy, "Reject and flag what is NaN; look for nan_to_num, and for comparisons with NaN."),
    "NaN gradient": (check_nan_gradient, "Reject and flag what is NaN; look for gradients that become zero."),
    "infinite energy": (check_infinite_energy, "Look for a clamped log ratio or energy; support is no divergence."),
    "bottomless energy": (check_bottomless_energy, "Reject minus infinity: no chain could leave it."),
    "overflow": (check_overflow, "Look for proposals that are taken although their energy is not finite."),
    "offset": (check_offset, "Look for clamped energies, and for ratios of densities in place of differences of logs."),
}
"""Every check by name, with what to look for where it fails."""

ROUNDED = ("fields", "resuming", "cache", "overflow", "offset", "trajectory")
"""The checks that another precision may change; the others are made in float64 alone."""

TRAJECTORY = (check_trajectory, "Look for a half step forgotten, or a kick that uses a stale gradient.")


def contract_findings(bench: Bench) -> Iterator[tuple[str, Finding, str]]:
    """Name, finding and advice of every check that applies to the kernel and its dtype; none after wrong fields."""
    applicable = {**CONTRACT, **({"trajectory": TRAJECTORY} if isinstance(bench.kernel, HasTrajectory) else {})}
    for name, (check, advice) in applicable.items():
        if bench.matrix.dtype != torch.float64 and name not in ROUNDED:
            continue
        finding = check(bench)
        yield name, finding, advice
        if check is check_fields and not finding.passed:
            return
