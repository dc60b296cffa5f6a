"""Lamina: `run` with an ordinary torch energy, each call going on with the chains of the last."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lamina import samplers
from lamina.samplers.diagnostics.streaming import StreamingMoments
from lamina.samplers.engines import EngineName

from .problems import PROBLEMS, Problem, starts
from .protocol import MAX_TREE_DEPTH, NUM_LEAPFROG_STEPS, PERSISTENCE, Case, UnsupportedError, serve
from .torch_energies import Gauss2, autocast, make_energy, observed, posterior

SEED = 5

Make = Callable[[Case], "LaminaSampler"]


def main(options: Sequence[str]) -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--torch-threads", type=int, default=1)
    parser.add_argument("--gradient", action="store_true", help="with a gradient written by hand")
    parser.add_argument("--bfloat16", action="store_true", help="with matrix products in bfloat16")
    choice = parser.parse_args(options)
    torch.set_num_threads(choice.torch_threads)
    plain = functools.partial(make_sampler, engine=choice.engine, with_gradient=choice.gradient)
    make = functools.partial(plain, in_bfloat16=choice.bfloat16)
    versions = {"torch": torch.__version__, "lamina": version("lamina")}
    serve(make, versions, {"memory": functools.partial(memory, make), "bias": functools.partial(bias, make, plain)})


def make_sampler(
    case: Case, *, engine: EngineName, with_gradient: bool = False, in_bfloat16: bool = False
) -> LaminaSampler:
    """See `protocol.Make`.

    Args:
        case: The case.
        engine: Of `samplers.run`.
        with_gradient: Let the energy bring its own gradient.
        in_bfloat16: Let the energy's matrix products, and those of its gradient, be made in bfloat16.
    """
    problem = PROBLEMS[case.problem]
    context = None
    energy: Any
    if with_gradient:
        if case.problem != "gauss2":
            raise UnsupportedError(f"{case.problem} has no gradient written by hand here")
        energy = Gauss2()
    elif case.problem == "decoder":
        energy, context = posterior(), observed(case.num_chains)
    else:
        energy = make_energy(case.problem, case.num_chains)
    if in_bfloat16:
        energy = autocast(energy)
    kernel = make_kernel(case.algorithm, problem)
    return LaminaSampler(
        move=functools.partial(
            samplers.run,
            energy,
            kernel,
            context=context,
            engine=engine,
            programs=samplers.Programs(),  # as the peers keep what they compiled
            summarise=kernel.is_exact,  # unadjusted peers tell no acceptance either
        ),
        start=torch.from_numpy(starts(case.problem, case.num_chains)),
        num_steps=case.num_looped_steps if engine == "eager" else case.num_steps,
    )


def make_kernel(algorithm: str, problem: Problem) -> samplers.Kernel[Any]:
    """The kernel of an algorithm with the step size of a problem."""
    h, tau = problem.leapfrog_step, problem.langevin(algorithm)
    made: Mapping[str, Callable[[], samplers.Kernel[Any]]] = {
        "hmc": lambda: samplers.HMC(step_size=h, num_leapfrog_steps=NUM_LEAPFROG_STEPS),
        "mala": lambda: samplers.MALA(step_size=tau),
        "ula": lambda: samplers.ULA(step_size=tau),
        "barker": lambda: samplers.Barker(step_size=math.sqrt(2 * tau)),
        "ghmc": lambda: samplers.GHMC(step_size=h, num_leapfrog_steps=1, persistence=PERSISTENCE),
        "nuts": lambda: samplers.NUTS(step_size=h, max_tree_depth=MAX_TREE_DEPTH),
    }
    return made[algorithm]()


@dataclass
class LaminaSampler:
    """See `protocol.Sampler`.

    Attributes:
        move: `samplers.run` of an energy and a kernel.
        start: Where the chains start, (C, D).
        num_steps: Of a call.
        engine: Which engine ran, and why.
        chains: Of the last call.
    """

    move: Callable[..., samplers.Run]
    start: torch.Tensor
    num_steps: int
    engine: str = ""
    chains: samplers.Chains | None = None

    def run(self) -> float | None:
        """See `protocol.Sampler`."""
        totals = self.advance(self.num_steps).totals
        return float(totals.accept_prob.mean()) if totals.sums else None

    def position(self) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        return np.asarray((self.start if self.chains is None else self.chains.matrix).numpy())

    def draws(self, num_draws: int) -> NDArray[np.float32]:
        """See `protocol.Sampler`; by the calls that are timed, a step each."""
        kept = np.empty((num_draws, *self.start.shape), dtype=np.float32)
        for index in range(num_draws):
            self.advance(1)
            kept[index] = self.position()
        return kept

    def advance(self, num_steps: int) -> samplers.Run:
        """Move the chains."""
        result = (
            self.move(self.start, num_steps=num_steps, generator=torch.Generator().manual_seed(SEED))
            if self.chains is None
            else self.move(self.chains, num_steps=num_steps)
        )
        self.chains, self.engine = result.chains, result.engine
        return result

    def stream(self, num_draws: int) -> StreamingMoments:
        """Moments of draws that are not kept."""
        moments = StreamingMoments.empty_like(self.start)
        for _ in range(num_draws):
            self.advance(1)
            assert self.chains is not None
            moments = moments.update(self.chains.matrix)
        return moments


def memory(make: Make, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """Peak memory of streaming moments, in MiB above what the chains and the loaded engine weigh."""
    from lamina.benchmarks.memory import PeakMemory

    sampler = make(Case(**request["case"]))
    sampler.stream(1)  # loads the engine
    with PeakMemory(torch.device("cpu")) as peak:
        sampler.stream(request["num_draws"])
    return {"mib": peak.mib}


def bias(make: Make, make_exact: Make, request: Mapping[str, Any]) -> Mapping[str, Any]:
    """What rounding does to the second moment E|x|^2, by chains that see the same noise with it and without.

    Args:
        make: Of the sampler that rounds.
        make_exact: Of the one that does not.
        request: "case", whose chains and length count, and "every": steps from one look at the chains to the next.

    Returns:
        "bias", relative to the second moment, and its "bias_error", standard error over chains.
    """
    case = Case(**request["case"])
    both = [make(case), make_exact(case)]
    sums = np.zeros((2, case.num_chains))
    for _ in range(case.num_steps // request["every"]):
        for index, sampler in enumerate(both):
            sampler.advance(request["every"])
            sums[index] += np.square(sampler.position().astype(np.float64)).sum(axis=1)
    difference, whole = sums[0] - sums[1], sums[1].mean()
    error = difference.std(ddof=1) / math.sqrt(case.num_chains)
    return {"bias": float(difference.mean() / whole), "bias_error": float(error / whole)}
