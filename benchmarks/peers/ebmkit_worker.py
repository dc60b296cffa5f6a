"""ebmkit's own sampler classes, which loop over steps in Python and draw from torch's global generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .problems import PROBLEMS, starts
from .protocol import MAX_TREE_DEPTH, NUM_LEAPFROG_STEPS, Case, Sampler, UnsupportedError, serve
from .torch_energies import make_energy


def main(options: Sequence[str]) -> None:
    """Serve."""
    from importlib.metadata import version

    torch.set_num_threads(1)
    serve(make, {"torch": torch.__version__, "ebmkit": version("ebmkit")})


def make(case: Case) -> Sampler:
    """See `protocol.Make`."""
    from ebm.samplers import HMC, MALA, NUTS, LangevinDynamics

    torch.manual_seed(5)
    problem = PROBLEMS[case.problem]
    h, tau = problem.leapfrog_step, problem.langevin(case.algorithm)
    made = {
        "hmc": lambda: HMC(step_size=h, leapfrog_steps=NUM_LEAPFROG_STEPS),
        "mala": lambda: MALA(step_size=tau),
        "ula": lambda: LangevinDynamics(step_size=tau, noise_scale=math.sqrt(2 * tau)),
        "nuts": lambda: NUTS(step_size=h, warmup=0, max_depth=MAX_TREE_DEPTH),
    }
    if case.algorithm not in made:
        raise UnsupportedError(f"ebmkit has no {case.algorithm}")
    return _Ebmkit(made[case.algorithm](), case)


class _Ebmkit:
    """See `protocol.Sampler`."""

    def __init__(self, sampler: Any, case: Case) -> None:
        self.num_steps, self.engine = case.num_looped_steps, "Python loop"
        self._sampler, self._energy = sampler, make_energy(case.problem, case.num_chains)
        self._x = torch.from_numpy(starts(case.problem, case.num_chains))

    def run(self) -> float | None:
        """The acceptance that is told is that of the last step alone."""
        self._x = self._sampler.sample(self._energy, self._x, steps=self.num_steps)
        return None

    def position(self) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        return np.asarray(self._x.numpy())

    def draws(self, num_draws: int) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        kept = self._sampler.sample(self._energy, self._x, steps=num_draws, return_trajectory=True)
        return np.asarray(kept[1:].numpy())
