"""The one driver: `sample` for results people keep, `run` for short runs inside training loops.

It owns what kernels must not know: structures of positions, loops, warm-up, thinning, what is collected,
sub-batches of chains, progress, and resuming.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .adaptation import DualAveraging
from .chains import Chains
from .checks import check_count
from .diagnostics import Summary, summary
from .energy import Energy, Target, check_start
from .errors import NumericalWarning, ParameterError
from .kernel import Info, Kernel, Params, State, with_step_size
from .noise import CounterNoise, GeneratorNoise, NoiseSource, noise_from_state
from .position import Layout, Position
from .progress import Progress, progress

ROUNDING_LIMIT = 1e-3
"""Rounding of an energy, in nats, beyond which acceptance is visibly biased."""


@dataclass(frozen=True)
class WarmupReport:
    """What adaptation did; its result is frozen.

    Attributes:
        num_steps: Steps of warm-up.
        target_accept: Acceptance aimed for; None where the kernel has nothing to adapt.
        accept_prob: Mean acceptance over chains and the second half of warm-up.
        num_divergent: Divergent steps, over all chains.
        step_size: The frozen step size: 0-d, or (C,) where each chain has its own.
    """

    num_steps: int
    target_accept: float | None
    accept_prob: float
    num_divergent: int
    step_size: Tensor


@dataclass(frozen=True)
class Samples:
    """Draws of `sample`, and what it takes to continue.

    Attributes:
        draws: In the structure of the position, (chain, draw, *event).
        info: The collected fields of `Info`, (chain, draw) each, as of the step that made the draw.
        accept_prob: Mean acceptance of each chain over all its steps, (C,).
        num_divergent: Divergent steps of each chain, (C,).
        num_grad_evals: Gradients that each chain spent, warm-up apart, (C,).
        kernel: The kernel.
        chains: Where the run stands: pass it to `sample` as `initial` to continue, bit for bit.
        warmup: Report of the warm-up, if there was one.
    """

    draws: Position
    info: dict[str, Tensor]
    accept_prob: Tensor
    num_divergent: Tensor
    num_grad_evals: Tensor
    kernel: Kernel[Any]
    chains: Chains
    warmup: WarmupReport | None

    def summary(self) -> Summary:
        """Mean, spread, Monte Carlo error, effective sample sizes and R-hat of every coordinate, and how it went."""
        return replace(summary(self.draws), notes=self._notes())

    def _notes(self) -> tuple[str, ...]:
        target = self.kernel.target_accept
        aim = "" if target is None else f", {target:.2f} aimed for"
        notes = [f"Mean acceptance {self.accept_prob.mean():.2f}{aim}."]
        num_divergent, num_chains = int(self.num_divergent.sum()), int((self.num_divergent > 0).sum())
        if num_divergent:
            notes.append(
                f"{num_divergent} divergent steps in {num_chains} chains: the energy error was undefined or beyond "
                "1000. Take a smaller step size or a higher target acceptance, or reparametrise."
            )
        return tuple(notes)


@dataclass(frozen=True)
class Run:
    """Result of `run`.

    Attributes:
        position: Where the chains ended, in the structure they started in; no graph.
        energy: Energy there over the temperature, (C,).
        accept_prob: Mean acceptance of each chain, (C,).
        num_divergent: Divergent steps of each chain, (C,).
        displacement: Root mean square distance from the start over coordinates, (C,).
        energies: Energies after each step, (C, num_steps + 1) with the start first, if they were asked for.
        chains: Where the run stands, to continue it.
    """

    position: Position
    energy: Tensor
    accept_prob: Tensor
    num_divergent: Tensor
    displacement: Tensor
    energies: Tensor | None
    chains: Chains


def sample(
    energy: Energy,
    kernel: Kernel[Any],
    initial: Position | Chains,
    *,
    num_samples: int,
    num_warmup: int = 0,
    thinning: int = 1,
    context: Any = None,
    temperature: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
    noise: NoiseSource | int | None = None,
    params: Params | None = None,
    adaptation: DualAveraging | None = None,
    collect: Sequence[str] = (),
    chain_batch_size: int | None = None,
    show_progress: bool | None = None,
) -> Samples:
    """Draw from the density proportional to exp(-energy / temperature).

    Args:
        energy: Per-chain energy in nats, `(C, *event) -> (C,)`; with a context `energy(position, context)`.
        kernel: The sampler, such as `HMC(step_size=0.1)`.
        initial: One start per chain: a tensor `(C, *event)`, or a tuple or dict of tensors that share C.
            Or the `chains` of an earlier result, to continue it.
        num_samples: Draws to keep from each chain, >= 1.
        num_warmup: Steps of warm-up before, with step-size adaptation where the kernel has a target
            acceptance. Its result is frozen.
        thinning: Steps per kept draw, >= 1.
        context: Structure of tensors with one row per chain, handed to the energy with the chains' positions.
        temperature: > 0, one number or (C,).
        generator: Source of randomness, on the chains' device. This or `noise` must be given for a new run.
        noise: A noise source, or a seed for counter-based noise, which does not depend on how chains are split.
        params: Parameters from `kernel.init_params(...)`: own step sizes, an inverse mass.
        adaptation: How to adapt the step size in warm-up; default `DualAveraging()`, pooled over chains.
        collect: Names of `Info` fields to keep for every draw, e.g. ("energy", "is_divergent").
        chain_batch_size: Evaluate at most this many chains at once, to bound memory; same draws.
        show_progress: None shows a bar where standard error is a terminal.

    Returns:
        Draws as (chain, draw, *event), with acceptance, divergences and the state to continue from.

    Raises:
        EnergyError: If the energy breaks its contract, or a chain starts where it is not finite.
        PositionError: If the positions or the context do not fit together.
        ParameterError: If a count or number is out of range.
    """
    check_count("num_samples", num_samples, 1)
    check_count("num_warmup", num_warmup, 0)
    check_count("thinning", thinning, 1)
    _check_fields(collect)
    chains, source = _start(kernel, initial, params, generator, noise)
    engine = _Eager(energy, kernel, chains, source, context, temperature, chain_batch_size)
    state = engine.init()
    check_start(state.energy, state.grad)
    report = None
    with progress(num_warmup + num_samples, type(kernel).__name__, enabled=show_progress) as bar:
        if num_warmup:
            state, report = _warm_up(engine, state, num_warmup, adaptation or DualAveraging(), bar)
        draws = state.position.new_empty((num_samples, *state.position.shape))
        kept: dict[str, list[Tensor]] = {name: [] for name in collect}
        totals = _Totals(state)
        for draw in range(num_samples):
            for _ in range(thinning):
                state, info = engine.step(state)
                totals.add(info)
            draws[draw] = state.position
            for name, columns in kept.items():
                columns.append(getattr(info, name))
            bar.advance(totals.figures() if bar.is_shown else None)
    _warn_of_rounding(state.energy)
    return Samples(
        draws=chains.layout.unravel(draws.transpose(0, 1)),
        info={name: torch.cat(columns, dim=1) for name, columns in kept.items()},
        accept_prob=totals.accept_prob,
        num_divergent=totals.num_divergent,
        num_grad_evals=totals.num_grad_evals,
        kernel=kernel,
        chains=engine.chains(state),
        warmup=report,
    )


def run(
    energy: Energy,
    kernel: Kernel[Any],
    initial: Position | Chains,
    *,
    num_steps: int,
    context: Any = None,
    temperature: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
    noise: NoiseSource | int | None = None,
    params: Params | None = None,
    record_energies: bool = False,
    chain_batch_size: int | None = None,
) -> Run:
    """Move chains a few steps: the form for training loops.

    Nothing is stored on the way, the parameters stay as they are, and the host waits for nothing. Values are
    not checked: a chain that starts where its energy is NaN stays there and is counted as divergent. A seed as
    `noise` makes the same draws in every call: in a loop pass a generator, or the `chains` of the last run.

    Args:
        energy: See `sample`.
        kernel: See `sample`.
        initial: See `sample`.
        num_steps: >= 0.
        context: See `sample`.
        temperature: See `sample`.
        generator: See `sample`.
        noise: See `sample`.
        params: See `sample`.
        record_energies: Keep the energy of every step.
        chain_batch_size: See `sample`.

    Returns:
        Final positions without a graph, and a summary per chain.
    """
    check_count("num_steps", num_steps, 0)
    chains, source = _start(kernel, initial, params, generator, noise)
    engine = _Eager(energy, kernel, chains, source, context, temperature, chain_batch_size)
    state = start = engine.init()
    totals = _Totals(state)
    energies = [state.energy]
    for _ in range(num_steps):
        state, info = engine.step(state)
        totals.add(info)
        if record_energies:
            energies.append(state.energy)
    return Run(
        position=chains.layout.unravel(state.position),
        energy=state.energy.squeeze(1),
        accept_prob=totals.accept_prob,
        num_divergent=totals.num_divergent,
        displacement=(state.position - start.position).square().mean(dim=1).sqrt(),
        energies=torch.cat(energies, dim=1) if record_energies else None,
        chains=engine.chains(state),
    )


class _Eager:
    """Runs a kernel step by step, whole or in sub-batches of chains that see the same noise."""

    def __init__(
        self,
        energy: Energy,
        kernel: Kernel[Any],
        chains: Chains,
        noise: NoiseSource,
        context: Any,
        temperature: float | Tensor,
        chain_batch_size: int | None,
    ) -> None:
        num_chains = chains.matrix.shape[0]
        size = num_chains if chain_batch_size is None else check_count("chain_batch_size", chain_batch_size, 1)
        target = Target(energy, chains.layout, num_chains, context=context, temperature=temperature)
        slices = [slice(first, first + size) for first in range(0, num_chains, size)]
        self._parts = [(index, target.rows(index)) for index in slices] if len(slices) > 1 else [(slice(None), target)]
        self._layout, self._matrix, self._noise = chains.layout, chains.matrix, noise
        self._steps = chains.num_steps
        self.kernel = kernel
        self.params = chains.params
        self.num_chains = num_chains

    def init(self) -> State:
        with torch.no_grad():
            state: State = _join(
                [
                    self.kernel.init(target, self._matrix[index], _rows_of_params(self.params, index))
                    for index, target in self._parts
                ]
            )
        return state

    def step(self, state: State) -> tuple[State, Info]:
        with torch.no_grad():
            noise = self._noise.draw(self.kernel.sites, state.position, self._steps)
            self._steps += 1
            if len(self._parts) == 1:
                return self.kernel.step(self._parts[0][1], state, noise, self.params)
            results = [
                self.kernel.step(
                    target,
                    type(state)(*(field[index] for field in state)),
                    {name: site[index] for name, site in noise.items()},
                    _rows_of_params(self.params, index),
                )
                for index, target in self._parts
            ]
            return _join([state for state, _ in results]), _join([info for _, info in results])

    def chains(self, state: State) -> Chains:
        return Chains(state.position, self._layout, self.params, self._noise.state_dict(), self._steps)


class _Totals:
    """Running sums over steps, a column each."""

    def __init__(self, state: State) -> None:
        zero = torch.zeros_like(state.energy, dtype=torch.float64)
        self._accept, self._divergent, self._evals = zero, zero, zero
        self._steps = 0

    def add(self, info: Info) -> None:
        self._accept = self._accept + info.accept_prob
        self._divergent = self._divergent + info.is_divergent
        self._evals = self._evals + info.num_grad_evals
        self._steps += 1

    @property
    def accept_prob(self) -> Tensor:
        return (self._accept / max(self._steps, 1)).squeeze(1)

    @property
    def num_divergent(self) -> Tensor:
        return self._divergent.squeeze(1).long()

    @property
    def num_grad_evals(self) -> Tensor:
        return self._evals.squeeze(1).long()

    def figures(self) -> dict[str, str]:
        return {"accept": f"{self.accept_prob.mean():.2f}", "divergent": str(int(self._divergent.sum()))}


def _warm_up(
    engine: _Eager, state: State, num_steps: int, adaptation: DualAveraging, bar: Progress
) -> tuple[State, WarmupReport]:
    """Adapt the step size where the kernel has a target, and leave the result in the engine's parameters."""
    target = engine.kernel.target_accept
    if target is not None and adaptation.target_accept is not None:
        target = adaptation.target_accept
    adapted = adaptation.init(engine.params.step_size, engine.num_chains)
    totals = _Totals(state)
    for step in range(num_steps):
        if step == num_steps // 2:
            second_half = _Totals(state)
        state, info = engine.step(state)
        totals.add(info)
        if step >= num_steps // 2:
            second_half.add(info)
        if target is not None:
            adapted = adaptation.update(adapted, info.accept_prob, target)
            engine.params = engine.params._replace(step_size=adaptation.current(adapted).to(state.position.dtype))
        bar.advance()
    if target is not None:
        engine.params = with_step_size(engine.params, adaptation.final(adapted))
    step_size = engine.params.step_size
    return state, WarmupReport(
        num_steps=num_steps,
        target_accept=target,
        accept_prob=float(second_half.accept_prob.mean()),
        num_divergent=int(totals.num_divergent.sum()),
        step_size=step_size.squeeze(1) if step_size.ndim else step_size,
    )


def _start(
    kernel: Kernel[Any],
    initial: Position | Chains,
    params: Params | None,
    generator: torch.Generator | None,
    noise: NoiseSource | int | None,
) -> tuple[Chains, NoiseSource]:
    if not isinstance(kernel, Kernel):
        raise ParameterError(f"kernel must be a Kernel, such as HMC(step_size=0.1); got {kernel!r}.")
    source = _noise_source(generator, noise)
    if isinstance(initial, Chains):
        chains = initial if params is None else replace(initial, params=params)
        _check_params(kernel, chains)
        return chains, source or noise_from_state(initial.noise_state, initial.matrix.device)
    if source is None:
        raise ParameterError("randomness is explicit: pass generator=torch.Generator().manual_seed(0), or noise=0.")
    layout = Layout.of(initial)
    params = kernel.init_params(initial) if params is None else params
    chains = Chains(layout.ravel(initial).detach(), layout, params, source.state_dict(), 0)
    _check_params(kernel, chains)
    return chains, source


def _noise_source(generator: torch.Generator | None, noise: NoiseSource | int | None) -> NoiseSource | None:
    if generator is not None and noise is not None:
        raise ParameterError("pass either a generator or noise, not both.")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ParameterError(f"generator is a torch.Generator; got {generator!r}. A seed goes to noise=.")
    if noise is not None and not isinstance(noise, int) and not hasattr(noise, "draw"):
        raise ParameterError(f"noise is a seed or a noise source; got {noise!r}.")
    if generator is not None:
        return GeneratorNoise(generator)
    return CounterNoise(noise) if isinstance(noise, int) else noise


def _rows_of_params(params: Any, index: slice) -> Any:
    """Parameters of some chains: columns (C, 1) are per chain, everything else is shared."""
    if index == slice(None):
        return params
    return type(params)(*(field[index] if _is_column(field) else field for field in params))


def _is_column(field: Any) -> bool:
    return isinstance(field, Tensor) and field.ndim == 2 and field.shape[1] == 1


def _check_params(kernel: Kernel[Any], chains: Chains) -> None:
    """Raise unless the parameters are of this kernel and fit these chains."""
    matrix, params = chains.matrix, chains.params
    like = kernel.init_params(chains.position)
    if type(params) is not type(like):
        raise ParameterError(
            f"{type(kernel).__name__} has parameters {type(like).__name__}; got {type(params).__name__}. Make them "
            "with kernel.init_params(position), and continue chains with the kind of kernel that made them."
        )
    num_chains, dim = matrix.shape
    if params.factor.shape not in ((), (dim,), (dim, dim)):
        raise ParameterError(f"the inverse mass is for D = {len(params.factor)}; the chains have D = {dim}.")
    for name, field in params._asdict().items():
        if isinstance(field, Tensor) and (field.dtype, field.device) != (matrix.dtype, matrix.device):
            raise ParameterError(
                f"{name} is {field.dtype} on {field.device}; the chains are {matrix.dtype} on {matrix.device}. Make "
                "parameters from a position like theirs."
            )
    for name, field in params._asdict().items():
        if _is_column(field) and len(field) != num_chains:
            raise ParameterError(f"{name} is one number or one per chain, here {num_chains}; got {len(field)}.")


def _join(parts: list[Any]) -> Any:
    """Concatenate the states or infos of sub-batches."""
    return parts[0] if len(parts) == 1 else type(parts[0])(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def _check_fields(collect: Sequence[str]) -> None:
    unknown = [name for name in collect if name not in Info._fields]
    if unknown or isinstance(collect, str):
        raise ParameterError(f"collect takes names among {', '.join(Info._fields)}; got {collect!r}.")


def _warn_of_rounding(energy: Tensor) -> None:
    finite = energy[torch.isfinite(energy)]
    rounding = float(finite.abs().max()) * torch.finfo(energy.dtype).eps if len(finite) else 0.0
    if rounding > ROUNDING_LIMIT:
        warnings.warn(
            f"energies as large as {float(finite.abs().max()):.3g} in {energy.dtype} are rounded by about "
            f"{rounding:.1g} nats, which biases acceptance. Subtract a constant, or return float64 energies.",
            NumericalWarning,
            stacklevel=3,
        )
