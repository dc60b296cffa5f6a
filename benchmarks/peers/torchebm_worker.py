"""torchebm's own sampler classes, which loop over steps in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .problems import PROBLEMS, starts
from .protocol import NUM_LEAPFROG_STEPS, Case, Sampler, UnsupportedError, serve
from .torch_energies import make_energy


def main(options: Sequence[str]) -> None:
    """Serve."""
    import torchebm

    torch.set_num_threads(1)
    serve(make, {"torch": torch.__version__, "torchebm": torchebm.__version__})


def make(case: Case) -> Sampler:
    """See `protocol.Make`."""
    from torchebm.core import BaseModel
    from torchebm.samplers import HamiltonianMonteCarlo, LangevinDynamics

    problem, energy = PROBLEMS[case.problem], make_energy(case.problem, case.num_chains)

    class Model(BaseModel):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return energy(x)

    if case.algorithm == "hmc":
        sampler = HamiltonianMonteCarlo(Model(), step_size=problem.leapfrog_step, n_leapfrog_steps=NUM_LEAPFROG_STEPS)
    elif case.algorithm == "ula":
        sampler = LangevinDynamics(Model(), step_size=problem.langevin(case.algorithm))
    else:
        raise UnsupportedError(f"torchebm has no {case.algorithm}")
    return _TorchEBM(sampler, case)


class _TorchEBM:
    """See `protocol.Sampler`."""

    def __init__(self, sampler: Any, case: Case) -> None:
        self.num_steps, self.engine = case.num_looped_steps, "Python loop"
        self._sample = sampler.sample
        self._x = torch.from_numpy(starts(case.problem, case.num_chains))
        self._generator = torch.Generator().manual_seed(5)

    def run(self) -> float | None:
        """Acceptance is told with other diagnostics only, which cost time."""
        self._x = self._sample(x=self._x, n_steps=self.num_steps, generator=self._generator)
        return None

    def position(self) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        return np.asarray(self._x.numpy())

    def draws(self, num_draws: int) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        kept = self._sample(x=self._x, n_steps=num_draws, return_trajectory=True, generator=self._generator)
        return np.asarray(kept.transpose(0, 1).numpy())
