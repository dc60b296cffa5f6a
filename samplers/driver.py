"""The one driver: `sample` for results people keep, `run` for short runs inside training loops.

It owns what kernels must not know: structures of positions, loops, warm-up, thinning, what is collected,
sub-batches of chains, progress, and resuming.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .adaptation.base import Adaptation
from .chains import Chains
from .checks import check_count
from .diagnostics import MIN_EBFMI, Summary, summary
from .eager import Eager, Record
from .energy import Energy, check_start
from .engines import EngineName, start_engine
from .errors import NumericalWarning, ParameterError
from .kernel import Kernel, Params, StateLike, is_per_chain
from .noise import CounterNoise, GeneratorNoise, NoiseSource, noise_from_state
from .position import Layout, Position
from .programs import Programs
from .progress import progress
from .totals import Totals
from .warmup import WarmupReport, warm_up

CHUNK_SECONDS = 0.1
"""How long the engine works between looks at the progress bar, about."""

_PARTS = 16
"""Parts of a run, at least, in which collected fields are handed over: what they are copied from is no larger."""

ROUNDING_LIMIT = 1e-3
"""Rounding of an energy, in nats, beyond which acceptance is visibly biased."""


@dataclass(frozen=True)
class Samples:
    """Draws of `sample`, and what it takes to continue.

    Attributes:
        draws: In the structure of the position, (chain, draw, *event).
        info: The collected fields of `Info`, (chain, draw) each, as of the step that made the draw; (chain, draw, B)
            for the decisions of a kernel of B parts.
        accept_prob: Mean acceptance of each chain over all its steps, (C,), or (C, B) of a kernel of B parts.
        num_divergent: Divergent steps of each chain, (C,).
        num_grad_evals: Gradients that each chain spent, warm-up apart, (C,).
        means: Means over all steps of what the kernel counts besides, `Kernel.counted`, (C, width) each.
        ebfmi: E-BFMI of each chain over all its steps, (C,), see `lamina.samplers.ebfmi`; None for kernels that tell no
            total energies, which are those without a momentum.
        kernel: The kernel.
        chains: Where the run stands: pass it to `sample` as `initial` to continue, bit for bit.
        warmup: Report of the warm-up, if there was one.
        engine: Which engine ran, and why, in words.
    """

    draws: Position
    info: dict[str, Tensor]
    accept_prob: Tensor
    num_divergent: Tensor
    num_grad_evals: Tensor
    means: dict[str, Tensor]
    ebfmi: Tensor | None
    kernel: Kernel[Any]
    chains: Chains
    warmup: WarmupReport | None
    engine: str

    def summary(self) -> Summary:
        """Mean, spread, Monte Carlo error, effective sample sizes and R-hat of every coordinate, and how it went."""
        return replace(summary(self.draws), notes=self._notes())

    def _notes(self) -> tuple[str, ...]:
        target = self.kernel.target_accept
        aim = f", {target:.2f} aimed for" if isinstance(target, float) else ""
        notes = [f"Mean acceptance {self.accept_prob.mean():.2f}{aim}.", *self.kernel.notes(self.means)]
        num_divergent, num_chains = int(self.num_divergent.sum()), int((self.num_divergent > 0).sum())
        if num_divergent:
            notes.append(
                f"{num_divergent} divergent steps in {num_chains} chains: the energy error was undefined or beyond "
                "1000. Take a smaller step size or a higher target acceptance, or reparametrise."
            )
        if self.ebfmi is not None and (lowest := float(self.ebfmi.min())) < MIN_EBFMI:
            notes.append(
                f"E-BFMI is as low as {lowest:.2f}: fresh momenta change the energy too little to reach the tails. "
                "Reparametrise, or adapt the mass with Windows()."
            )
        return (*notes, *(self.warmup.notes if self.warmup else ()))


@dataclass(frozen=True)
class Run:
    """Result of `run`.

    Attributes:
        position: Where the chains ended, in the structure they started in; no graph.
        energy: Energy there over the temperature, (C,).
        displacement: Root mean square distance from the start over coordinates, (C,).
        energies: Energies after each step, (C, num_steps + 1) with the start first, if they were asked for.
        chains: Where the run stands, to continue it.
        engine: Which engine ran, and why, in words.
        totals: What the steps add up to; nothing of it if that was not wanted.
    """

    position: Position
    energy: Tensor
    displacement: Tensor
    energies: Tensor | None
    chains: Chains
    engine: str
    totals: Totals

    @property
    def accept_prob(self) -> Tensor:
        """Mean acceptance of each chain, (C,), or (C, B) of a kernel of B parts."""
        return self.totals.accept_prob

    @property
    def num_divergent(self) -> Tensor:
        """Divergent steps of each chain, (C,)."""
        return self.totals.num_divergent


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
    adaptation: Adaptation | None = None,
    collect: Sequence[str] = (),
    chain_batch_size: int | None = None,
    engine: EngineName = "auto",
    show_progress: bool | None = None,
) -> Samples:
    """Draw from the density proportional to exp(-energy / temperature).

    Args:
        energy: Per-chain energy in nats, `(C, *event) -> (C,)`; with a context `energy(position, context)`.
        kernel: The sampler, such as `HMC(step_size=0.1)`.
        initial: One start per chain: a tensor `(C, *event)`, or a tuple or dict of tensors that share C.
            Or the `chains` of an earlier result, to continue it with the parameters that they have: choices of the
            kernel that are among its parameters, such as step sizes and lengths, are not read again.
        num_samples: Draws to keep from each chain, >= 1.
        num_warmup: Steps of warm-up before, in which parameters are adapted. The result is frozen.
        thinning: Steps per kept draw, >= 1.
        context: Structure of tensors with one row per chain, handed to the energy with the chains' positions.
        temperature: > 0, one number or (C,).
        generator: Source of randomness, on the chains' device. This or `noise` must be given for a new run.
        noise: A noise source, or a seed for counter-based noise, which does not depend on how chains are split.
        params: Parameters from `kernel.init_params(...)`: own step sizes, an inverse mass.
        adaptation: How to adapt the parameters in warm-up, e.g. `Windows()`; default: the kernel's own, for most
            `DualAveraging()` of the step size, pooled over chains.
        collect: Names of `Info` fields to keep for every draw, e.g. ("energy", "is_divergent").
        chain_batch_size: Evaluate at most this many chains at once, to bound memory; same draws. The native engine
            moves a few chains at a time anyway.
        engine: "native" turns kernel and energy into one compiled program, which moves chains many times faster; it
            needs a C++ compiler, chains on the CPU, and an energy of up to some thousand operations on numbers, whose
            course depends on no value, such as a density or a fully connected network (`docs/engines.md`). "compile"
            is `torch.compile` of the step, for convolutions and for GPUs; the first step takes ten to thirty seconds.
            "eager" runs any energy anywhere, operation by operation. "auto" is native where that is possible, compile
            for long runs, else eager; `Samples.engine` says which, and why, and `explain` says so beforehand. Engines
            see the same counter-based noise. With a generator the native engine asks it for a seed.
        show_progress: None shows a bar where standard error is a terminal.

    Returns:
        Draws as (chain, draw, *event), with acceptance, divergences and the state to continue from.

    Raises:
        EnergyError: If the energy breaks its contract, or a chain starts where it is not finite.
        PositionError: If the positions or the context do not fit together.
        ParameterError: If a count or number is out of range.
        NotTraceableError: If engine="native" or engine="compile" is not possible.
        BuildError: If engine="native" finds no compiler, or it fails.
    """
    check_count("num_samples", num_samples, 1)
    check_count("num_warmup", num_warmup, 0)
    check_count("thinning", thinning, 1)
    chains, source = start_chains(kernel, initial, params, generator, noise)
    _check_fields(kernel, collect)
    runner, state = start_engine(
        engine,
        Eager(energy, kernel, chains, source, context, temperature, chain_batch_size),
        num_steps=num_warmup + num_samples * thinning,
        new_record=partial(Record.of_all, kernel),
        check=check_start,
    )
    report = None
    with progress(num_warmup + num_samples, type(kernel).__name__, enabled=show_progress) as bar:
        if num_warmup:
            state, report = warm_up(runner, state, num_warmup, adaptation or kernel.default_adaptation(), bar)
        draws, totals = runner.new_draws(num_samples), Totals(kernel, state)
        fields: dict[str, Tensor] = {}
        longest = num_samples if not collect else -(-num_samples // _PARTS)
        for chunk in _chunks(num_samples, longest):
            record = Record(totals, thinning, draws[chunk], collect)
            state, told = runner.advance(state, chunk.stop - chunk.start, record)
            for name, values in told.items():
                if name not in fields:
                    fields[name] = values.new_empty(num_samples, *values.shape[1:])
                fields[name][chunk] = values
            bar.advance(totals.figures() if bar.is_shown else None, steps=chunk.stop - chunk.start)
    _warn_of_rounding(state.energy, runner.offset)
    return Samples(
        draws=chains.layout.unravel(draws.transpose(0, 1)),
        info={name: _by_chain(fields[name]) for name in collect},
        accept_prob=totals.accept_prob,
        num_divergent=totals.num_divergent,
        num_grad_evals=totals.num_grad_evals,
        means=totals.means(),
        ebfmi=totals.ebfmi,
        kernel=kernel,
        chains=runner.chains(state),
        warmup=report,
        engine=runner.reason,
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
    summarise: bool = True,
    chain_batch_size: int | None = None,
    engine: EngineName = "eager",
    programs: Programs | None = None,
) -> Run:
    """Move chains a few steps: the form for training loops.

    Nothing is stored on the way, the parameters stay as they are, and the host waits for nothing, save where a
    kernel's loops depend on values (NUTS, RandomisedHMC, MAMS). Values are not checked: a chain that starts where its
    energy is NaN is counted as divergent, and stays there unless the kernel is an unadjusted one, whose chains leave.
    A seed as `noise` makes the same draws in every call: in a loop pass a generator, or the `chains` of the last run.

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
        summarise: Add up acceptance and divergences. Without, what they alone need is left out, such as the acceptance
            that unadjusted kernels only tell: by the native engine always, by eager where the kernel says how.
        chain_batch_size: See `sample`.
        engine: See `sample`. Eager by default: the native engine traces the energy anew in every call, which is some
            tens of milliseconds, to see what has changed in it.
        programs: Keep the native engine's programs here for the next call, which is then not traced; a promise that
            nothing changes in the energy but the values of tensors, see `Programs`.

    Returns:
        Final positions without a graph, and a summary per chain.
    """
    check_count("num_steps", num_steps, 0)
    chains, source = start_chains(kernel, initial, params, generator, noise)

    def new_record(state: StateLike) -> Record:
        totals = Totals(kernel, state, has_sums=summarise, has_moves=False)
        return Record(totals, collect=("energy",) if record_energies else ())

    runner, state = start_engine(
        engine,
        Eager(energy, kernel, chains, source, context, temperature, chain_batch_size),
        num_steps,
        new_record,
        programs=programs if num_steps else None,  # or nobody would know the energies
    )
    start, record = state, new_record(state)
    energies = [start.energy.unsqueeze(0)]
    for chunk in _chunks(num_steps, num_steps):
        state, fields = runner.advance(state, chunk.stop - chunk.start, record)
        energies += fields.values()
    return Run(
        position=chains.layout.unravel(state.position),
        energy=state.energy.squeeze(1),
        displacement=(state.position - start.position).square().mean(dim=1).sqrt(),
        energies=_by_chain(torch.cat(energies)) if record_energies else None,
        chains=runner.chains(state),
        engine=runner.reason,
        totals=record.totals,
    )


def start_chains(
    kernel: Kernel[Any],
    initial: Position | Chains,
    params: Params | None,
    generator: torch.Generator | None,
    noise: NoiseSource | int | None,
) -> tuple[Chains, NoiseSource]:
    """Where a run begins, and where its randomness comes from; for the arguments, see `sample`."""
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


def _check_params(kernel: Kernel[Any], chains: Chains) -> None:
    """Raise unless the parameters are of this kernel and fit these chains."""
    matrix, params = chains.matrix, chains.params
    like = kernel.init_params(chains.position)
    if type(params) is not type(like):
        raise ParameterError(
            f"{type(kernel).__name__} has parameters {type(like).__name__}; got {type(params).__name__}. Make them "
            "with kernel.init_params(position), and continue chains with the kind of kernel that made them."
        )
    for name, field in params._asdict().items():
        wanted = getattr(like, name)
        is_other = wanted != field if isinstance(field, int) else _width(wanted) not in (None, _width(field))
        if name != "factor" and is_other:
            raise ParameterError(
                f"{name} of the chains does not fit {kernel!r}. Continue with the kernel that made them, or pass "
                "params=kernel.init_params(position)."
            )
    num_chains, dim = matrix.shape
    if params.factor.shape[-1:] not in ((), (dim,)):
        raise ParameterError(f"the inverse mass is for D = {params.factor.shape[-1]}; the chains have D = {dim}.")
    for name, field in params._asdict().items():
        if isinstance(field, Tensor) and (field.dtype, field.device) != (matrix.dtype, matrix.device):
            raise ParameterError(
                f"{name} is {field.dtype} on {field.device}; the chains are {matrix.dtype} on {matrix.device}. Make "
                "parameters from a position like theirs."
            )
    for name, field in params._asdict().items():
        if is_per_chain(name, field) and len(field) != num_chains:
            raise ParameterError(f"{name} is one number or one per chain, here {num_chains}; got {len(field)}.")


def _width(field: Any) -> int | None:
    """Numbers in a parameter of one number for each part of a kernel; None for other parameters."""
    return field.shape[-1] if isinstance(field, Tensor) and field.ndim and field.shape[-1] > 1 else None


def _by_chain(fields: Tensor) -> Tensor:
    """Collected fields (draw, C, B) as (C, draw, B), without the last axis where B is 1."""
    fields = fields.transpose(0, 1)
    return fields.squeeze(2) if fields.shape[2] == 1 else fields


def _chunks(num_draws: int, longest: int) -> Iterator[slice]:
    """Draws in growing stretches, each long enough to be worth while and short enough to see progress."""
    first, size = 0, 1
    while first < num_draws:
        started = time.perf_counter()
        yield slice(first, min(first + size, num_draws))
        first += size
        if time.perf_counter() - started < CHUNK_SECONDS:
            size = min(2 * size, longest)


def _check_fields(kernel: Kernel[Any], collect: Sequence[str]) -> None:
    known = kernel.info_fields
    if isinstance(collect, str) or not set(collect) <= set(known):
        raise ParameterError(f"collect takes names among {', '.join(known)}; got {collect!r}.")


def _warn_of_rounding(energy: Tensor, offset: Tensor | float) -> None:
    """Warn where energies, less a constant that no decision saw, are so large that rounding has a say in decisions."""
    decisive = (energy - offset)[torch.isfinite(energy)]
    largest = float(decisive.abs().max()) if len(decisive) else 0.0
    rounding = largest * torch.finfo(energy.dtype).eps
    if rounding > ROUNDING_LIMIT:
        warnings.warn(
            f"energies as large as {largest:.3g} in {energy.dtype} are rounded by about "
            f"{rounding:.1g} nats, which biases acceptance. Subtract a constant, or return float64 energies.",
            NumericalWarning,
            stacklevel=3,
        )
