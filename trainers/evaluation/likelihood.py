"""Bounds on log Z and on log p(x), each labelled with the side it errs on.

The joint prior is p(z) = exp(-sum_i E_i(z_i)) p_{beta>0}(z) / Z, so that log p(x) = log p~(x) - log Z with the
un-normalised evidence p~(x) = E_base[p(x|z) exp(-sum_i E_i(z_i))]. A lower bound on log p(x) takes a lower bound on
log p~(x) and an *upper* bound on log Z:

| what | side, on average |
| --- | --- |
| log p~(x) by importance weights from q(z|x); with one draw it is the evidence lower bound | below |
| log p~(x) by forward annealed importance sampling (AIS) | below |
| log Z by forward AIS | below |
| log Z <= b - 1 + exp(-b) E[Z^] for any b and any unbiased estimate Z^ | above |
| log Z or log p~(x) by reverse AIS from *exact* draws | above |
| log Z or log p~(x) by reverse AIS from where chains ended | no bound |

Z^ = exp(-sum_i E_i(z_i)) at a draw of the base prior is an unbiased estimate of Z, and so is a weight of AIS, which is
the same but for its smaller spread; b is best at log Z, and comes from a run of its own.

Sources: log Z's tangent bound: Senetaire et al. (2025), arXiv 2503.07021; importance weights: Burda, Grosse and
Salakhutdinov (2016), ICLR; AIS: `lamina.samplers.ais`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.models import JointEBMPrior, LatentEBM, Latents
from lamina.samplers import HMC, Kernel, NormalBase, ParameterError, Schedule, ais, reverse_ais, tune
from lamina.samplers.annealing.ais import AISReport
from lamina.samplers.checks import check_count

from .layers import joint_log_density

_KERNEL: Kernel[Any] = HMC(step_size=0.2, num_leapfrog_steps=3, jitter=0.2)
"""Moves AIS whatever kernel the model was trained with, which may not be exact; its step sizes are tuned."""
_PILOT_CHAINS = 100


@dataclass(frozen=True)
class LogNormalizer:
    """log Z between two bounds, each in expectation over runs.

    Attributes:
        lower: Log of the mean weight, which under-estimates log Z on average.
        upper: b - 1 + exp(-b) times the mean weight, which over-estimates it on average, whatever b.
        lower_error: Standard error of `lower`.
        upper_error: Standard error of `upper`.
        tangent: b, from another run.
        num_chains: Of the run.
        ess: What its weights are worth, in chains. Where that is little, the bounds hold all the same on average, by
            rare runs far off; this one need not be among them.
    """

    lower: float
    upper: float
    lower_error: float
    upper_error: float
    tangent: float
    num_chains: int
    ess: float


def log_normalizer_bounds(
    prior: JointEBMPrior,
    *,
    generator: torch.Generator,
    num_chains: int = 1000,
    num_stops: int = 50,
    show_progress: bool | None = None,
) -> LogNormalizer:
    """Bounds on log Z from both sides, by forward AIS from the base prior's noise.

    Args:
        prior: The joint EBM prior.
        generator: Source of randomness, on the prior's device.
        num_chains: Of either run; the first gives b.
        num_stops: Intervals on the way from the base prior; 1 weighs its draws as they are.
        show_progress: None shows a bar where standard error is a terminal.
    """
    check_count("num_stops", num_stops, 1)
    schedule = prior_schedule(prior, num_stops, generator=generator)
    base = _base(prior)
    pilot, report = (
        ais(
            prior.energy_u,
            base,
            _KERNEL,
            schedule,
            num_chains=num_chains,
            generator=generator,
            show_progress=show_progress,
        )
        for _ in range(2)
    )
    tangent = float(pilot.log_normalizer) - base.log_normalizer
    lower = float(report.log_normalizer) - base.log_normalizer
    lower_error = float(report.standard_error)
    excess = math.exp(lower - tangent)
    return LogNormalizer(
        lower=lower,
        upper=tangent - 1 + excess,
        lower_error=lower_error,
        upper_error=excess * lower_error,
        tangent=tangent,
        num_chains=num_chains,
        ess=float(report.ess),
    )


def reverse_log_normalizer(
    prior: JointEBMPrior,
    draws: Latents,
    *,
    draws_are_exact: bool,
    generator: torch.Generator,
    num_stops: int = 50,
    show_progress: bool | None = None,
) -> AISReport:
    """log Z + log Z_base by AIS from draws of the prior back to the base; above on average if the draws are exact.

    Args:
        prior: The joint EBM prior.
        draws: z, (C, *event_i) per layer.
        draws_are_exact: Whether they are independent draws of the prior itself, as of a closed form or by rejection.
            The ends of chains are not, and the estimate is then no bound, which the report says.
        generator: Source of randomness, on the prior's device.
        num_stops: Intervals on the way.
        show_progress: None shows a bar where standard error is a terminal.

    Returns:
        The report; subtract `noise_log_normalizer(prior)` from its number.
    """
    return reverse_ais(
        prior.energy_u,
        _base(prior),
        _KERNEL,
        prior_schedule(prior, num_stops, generator=generator),
        draws=prior.from_latents(draws, "u"),
        draws_are_exact=draws_are_exact,
        generator=generator,
        show_progress=show_progress,
    )


def noise_log_normalizer(prior: JointEBMPrior) -> float:
    """Log of the integral of exp(-|u|^2 / 2): what AIS in u counts beside log Z."""
    return _base(prior).log_normalizer


def prior_schedule(prior: JointEBMPrior, num_stops: int, *, generator: torch.Generator) -> Schedule:
    """Stops from the base prior to the EBM prior with a step size for each, from pilot runs."""
    if num_stops == 1:
        return Schedule.linear(1)
    start = Schedule.linear(num_stops)
    return tune(start, prior.energy_u, _base(prior), _KERNEL, num_chains=_PILOT_CHAINS, generator=generator)


@torch.no_grad()
def importance_weights(
    model: LatentEBM, x: Tensor, num: int, *, generator: torch.Generator, with_energies: bool = True
) -> Tensor:
    """log [p(x|z) p_{beta>0}(z) exp(-sum_i E_i(z_i)) / q(z|x)] at draws z ~ q(z|x), (N, num) in nats.

    Their mean along the last axis is the evidence lower bound, `log_mean_exp` the importance-weighted one, both of
    log p~(x): subtract an upper bound on log Z.

    Args:
        model: With an inference model.
        x: Data, (N, *image).
        num: Draws for each row.
        generator: Source of the draws, on the device of x.
        with_energies: False leaves the energies out: of the Gaussian-prior model, whose Z is 1.

    Raises:
        ParameterError: If the model has no inference model.
    """
    if model.inference is None:
        raise ParameterError(
            "importance weights need q(z|x): make the model as LatentEBM(prior, likelihood, inference)."
        )
    check_count("num", num, 1)
    columns = []
    for _ in range(num):
        z, log_q = model.inference(x, generator=generator)
        energy = model.prior.energies(z) if not with_energies else 0.0
        columns.append(joint_log_density(model, x, z) + energy - log_q)
    return torch.stack(columns, dim=1)


def annealed_evidence(
    model: LatentEBM,
    x: Tensor,
    *,
    generator: torch.Generator,
    num_chains: int = 20,
    num_stops: int = 200,
    draws: Latents | None = None,
    draws_are_exact: bool = False,
    show_progress: bool | None = None,
) -> Tensor:
    """log p~(x) of each row by AIS over the posterior, (N,), for models without a trained inference model.

    Forward, from the base prior's noise: below log p~(x) on average. From `draws`, in reverse: above on average if
    they are exact, as latents are of the data that they made; else no bound.

    Args:
        model: The model.
        x: Data, (N, *image).
        generator: Source of randomness, on the device of x.
        num_chains: For each row.
        num_stops: Intervals from the base prior to the posterior.
        draws: Of the posterior, equally many for each row, row by row; None walks forward.
        draws_are_exact: See above; without draws it means nothing.
        show_progress: None shows a bar where standard error is a terminal.
    """
    energy, base = model.posterior_energy("u"), _base(model.prior)
    pilot = x[: max(1, _PILOT_CHAINS // num_chains)]
    start = Schedule.sigmoid(num_stops)
    schedule = tune(start, energy, base, _KERNEL, num_chains=num_chains, generator=generator, context=pilot)
    settings: dict[str, Any] = {"context": x, "generator": generator, "show_progress": show_progress}
    if draws is None:
        report = ais(energy, base, _KERNEL, schedule, num_chains=num_chains, **settings)
    else:
        position = model.prior.from_latents(draws, "u")
        report = reverse_ais(
            energy, base, _KERNEL, schedule, draws=position, draws_are_exact=draws_are_exact, **settings
        )
    return report.log_normalizer - base.log_normalizer


def log_mean_exp(values: Tensor) -> Tensor:
    """Log of the mean of exponentials along the last axis."""
    return torch.logsumexp(values, dim=-1) - math.log(values.shape[-1])


def _base(prior: JointEBMPrior) -> NormalBase:
    like = prior.base.noise(1, generator=_throwaway(prior))
    return NormalBase.like(like)


def _throwaway(prior: JointEBMPrior) -> torch.Generator:
    device = next(prior.parameters(), torch.empty(0)).device
    return torch.Generator(device).manual_seed(0)
