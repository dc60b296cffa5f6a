"""Make the references of the lattices, in some minutes: `python -m lamina.benchmarks.densities.make_phi4_references`.

They are averages over long runs of HMC from hot starts, where sites are independent, and from cold ones, where all
are equal: half of these of either sign. R-hat tells whether the chains have forgotten where they began.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from lamina.samplers import HMC, ess_mean, rhat, sample

from .make_references import rows_of_draws, write_references
from .phi4 import Phi4

_COMMAND = "python -m lamina.benchmarks.densities.make_phi4_references"
# Acceptance is high because phi^4 is so stiff far out that the longest of jittered steps would diverge there.
_KERNEL = HMC(step_size=0.1, num_leapfrog_steps=12, jitter=0.3, target_accept=0.9)
_NUM_CHAINS = 64
_NUM_WARMUP = 1000
_NUM_DRAWS = 4000
_THINNING = 8  # steps per draw
_SEED = 0


def main() -> None:
    """Write the references of both lattices."""
    lattices = (Phi4(), Phi4.ordered())
    write_references({lattice.name: reference_of(lattice, _NUM_WARMUP, _NUM_DRAWS) for lattice in lattices})


def reference_of(lattice: Phi4, num_warmup: int, num_draws: int) -> dict[str, Any]:
    """Averages over a run, with Monte Carlo standard errors, and how it was made."""
    generator = torch.Generator().manual_seed(_SEED)
    run = sample(
        lattice,
        _KERNEL,
        _starts(lattice, generator),
        num_samples=num_draws,
        num_warmup=num_warmup,
        thinning=_THINNING,
        generator=generator,
    )
    assert isinstance(run.draws, Tensor)
    draws = torch.stack([lattice.parameters(chain) for chain in run.draws])
    return {
        "method": f"{len(draws)} chains of HMC from hot and cold starts, {num_draws} draws {_THINNING} steps apart "
        "each, with Monte Carlo standard errors",
        "command": _COMMAND,
        "seed": _SEED,
        "versions": {package: version(package) for package in ("lamina", "torch")},
        "largest_rhat": float(rhat(draws).max()),
        "smallest_ess": float(ess_mean(draws).min()),
        "num_divergent": int(run.num_divergent.sum()),
        "parameters": rows_of_draws(lattice, draws),
    }


def _starts(lattice: Phi4, generator: torch.Generator) -> Tensor:
    """Hot chains, then cold ones, (C, D)."""
    hot = torch.randn(_NUM_CHAINS // 2, lattice.dim, generator=generator, dtype=torch.float64)
    cold = torch.ones_like(hot)
    cold[::2] = -1.0
    return torch.cat([hot, cold])


if __name__ == "__main__":
    main()
