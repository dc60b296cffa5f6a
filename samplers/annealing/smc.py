"""Sequential Monte Carlo: a path from a base to the target, with resampling and temperatures that it finds itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..checks import check_count, check_fraction
from ..energy import Energy
from ..errors import EnergyError
from ..kernel import Kernel
from ..position import Position
from ..progress import progress
from .ais import effective_size, log_mean_weight, standard_error
from .path import FIRST_STEPS, Base, Walk

_BISECTIONS = 50
"""Halvings of the interval in which the next inverse temperature is sought: to 1e-15."""


@dataclass(frozen=True)
class SMCReport:
    """Draws from the target, and an estimate of log Z; print it.

    Attributes:
        position: Draws of equal weight, those of each population together.
        log_normalizer: log Z, 0-d, float64.
        standard_error: Of it, from the spread of the populations, 0-d. It knows of no modes that all of them missed.
        inverse_temperatures: The stops that were found, from 0 to 1, float64.
        accept_prob: Mean acceptance at each stop after the first.
    """

    position: Position = field(repr=False)
    log_normalizer: Tensor
    standard_error: Tensor
    inverse_temperatures: Tensor
    accept_prob: Tensor

    def __str__(self) -> str:
        """The estimate in words."""
        return (
            f"log Z = {float(self.log_normalizer):.4f} +- {float(self.standard_error):.4f} by SMC over "
            f"{len(self.inverse_temperatures)} stops, mean acceptance {float(self.accept_prob.mean()):.2f}."
        )


def smc(
    energy: Energy,
    base: Base,
    kernel: Kernel[Any],
    *,
    num_chains: int,
    generator: torch.Generator,
    num_populations: int = 10,
    num_steps: int = 5,
    ess_fraction: float = 0.5,
    show_progress: bool | None = None,
) -> SMCReport:
    """Draw from exp(-energy) and estimate its log normaliser, with populations that walk from the base to the target.

    At every stop the chains are weighed, resampled within their population by systematic resampling, and moved. The
    next stop is where the weights of all chains are worth `ess_fraction` of them, found by bisection; as weights are
    equal after resampling, that is the conditional effective sample size of Zhou, Johansen and Aston (2016), Journal
    of Computational and Graphical Statistics 25. Stops and step sizes follow the chains, which costs the unbiasedness
    that `ais` has; the bias falls as 1 / chains.

    Args:
        energy: See `ais`, without a context.
        base: See there.
        kernel: See there.
        num_chains: In each population.
        generator: See there.
        num_populations: Populations that share the stops and nothing else; their spread gives the standard error.
        num_steps: Steps of the kernel at each stop.
        ess_fraction: In (0, 1); higher for more stops.
        show_progress: None shows a bar where standard error is a terminal.

    Raises:
        EnergyError: If the energy is NaN where a chain stands, or no chain of a population has a finite one.
        ParameterError: If the kernel is not exact or of several parts, or a number is out of range.

    Source: Del Moral, Doucet and Jasra (2006), JRSS-B 68, section 3.3, with kernels of the MCMC kind.
    """
    check_count("num_steps", num_steps, 1)
    check_fraction("ess_fraction", ess_fraction)
    total = check_count("num_chains", num_chains, 2) * check_count("num_populations", num_populations, 2)
    walk = Walk(energy, base, kernel, base.sample(total, generator=generator), None, generator)
    stops, accept_probs = [0.0], []
    log_z = torch.zeros(num_populations, dtype=torch.float64, device=generator.device)
    # Nobody knows how many stops there will be: the bar counts hundredths of the path.
    with progress(100, "SMC", enabled=show_progress) as bar:
        while stops[-1] < 1:
            work = walk.work()
            stops.append(_next_stop(work, stops[-1], ess_fraction))
            log_weights = ((stops[-1] - stops[-2]) * work).reshape(num_populations, num_chains)
            log_z = log_z + log_mean_weight(log_weights)
            if bool(torch.isneginf(log_z).any()):
                raise EnergyError(
                    "no chain of a population has a finite energy. Take more chains, or a base that covers the target."
                )
            walk.resample(_systematic(log_weights, generator))
            accept_prob = walk.adapt(stops[-1], max(num_steps, FIRST_STEPS) if len(stops) == 2 else num_steps)
            accept_probs.append(float(accept_prob.mean()))
            for _ in range(math.floor(100 * stops[-1]) - math.floor(100 * stops[-2])):
                bar.advance()
    return SMCReport(
        position=walk.position,
        log_normalizer=base.log_normalizer + log_mean_weight(log_z),
        standard_error=standard_error(log_z),
        inverse_temperatures=torch.tensor(stops, dtype=torch.float64),
        accept_prob=torch.tensor(accept_probs, dtype=torch.float64),
    )


def _next_stop(work: Tensor, here: float, ess_fraction: float) -> float:
    """The inverse temperature up to which the weights exp((b - here) work) are worth enough chains."""

    def is_enough(there: float) -> bool:
        return float(effective_size((there - here) * work)) >= ess_fraction * len(work)

    if is_enough(1.0):
        return 1.0
    low, high = here, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if is_enough(middle) else (low, middle)
    if low == here:
        raise EnergyError(
            f"the path is stuck at inverse temperature {here:.3g}: too few chains have a finite energy, or energies "
            "are too large for any step. Choose a base that covers the target, or a lower ess_fraction."
        )
    return low


def _systematic(log_weights: Tensor, generator: torch.Generator) -> Tensor:
    """Chains (C,) to go on with, resampled within populations (P, n): one uniform each, n even steps of its weights.

    Source: Carpenter, Clifford and Fearnhead (1999), IEE Proceedings 146.
    """
    num_populations, num_chains = log_weights.shape
    shape, device = (num_populations, 1), log_weights.device
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
    places = (torch.arange(num_chains, device=device) + uniform) / num_chains
    cumulative = torch.softmax(log_weights, dim=1).cumsum(dim=1)
    chosen = torch.searchsorted(cumulative / cumulative[:, -1:], places, right=True).clamp(max=num_chains - 1)
    return (chosen + num_chains * torch.arange(num_populations, device=device).unsqueeze(1)).flatten()
