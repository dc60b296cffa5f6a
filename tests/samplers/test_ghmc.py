"""GHMC is exact for position and momentum together, and is what it should be in its limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lamina.benchmarks.densities import LogGamma
from lamina.samplers import HMC, GeneratorNoise, Layout, ParameterError, Target, run
from lamina.samplers.accept import accept
from lamina.samplers.kernel import Info, Noise
from lamina.samplers.kernels.ghmc import GHMC, GHMCParams
from lamina.samplers.kernels.momentum import MomentumState, propose
from lamina.samplers.testing import dkw_half_width, ks_one_sample

DENSITY = LogGamma(dim=2)
MASS = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
NUM_CHAINS = 50_000
FALSE_ALARM = 1e-6


def draws(num: int) -> Tensor:
    return DENSITY.sample(num, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def prepared(kernel: Any, num: int) -> tuple[Target, Any, Any, dict[str, Tensor]]:
    """Target, parameters, state, and noise for a first step."""
    x = draws(num)
    target, params = Target(DENSITY, Layout.of(x), num), kernel.init_params(x, inverse_mass=MASS)
    noise = GeneratorNoise(torch.Generator().manual_seed(1)).draw(kernel.sites, x, 0)
    return target, params, kernel.init(target, x, params), noise


# --- The joint law ---------------------------------------------------------------------------------------------


def momentum_after(kernel: GHMC) -> tuple[Tensor, Tensor]:
    """Energies of the positions, and the momenta, after four steps from exact draws."""
    params = kernel.init_params(draws(1), inverse_mass=MASS)
    result = run(DENSITY, kernel, draws(NUM_CHAINS), num_steps=4, params=params, noise=2)
    assert 0.2 < float(result.accept_prob.mean()) < 0.9
    return result.energy, result.chains.memory["momentum"]


def is_standard_normal_everywhere(energy: Tensor, momentum: Tensor) -> bool:
    """Whether each momentum is N(0, 1), where energies are low and where they are high: so the two are independent."""
    low = energy < energy.median()
    return all(
        ks_one_sample(part, torch.special.ndtr) < dkw_half_width(len(part), FALSE_ALARM / 4)
        for r in momentum.unbind(1)
        for part in (r[low], r[~low])
    )


def test_momentum_stays_normal_and_independent_of_the_position() -> None:
    assert is_standard_normal_everywhere(*momentum_after(GHMC(step_size=1.4, persistence=0.9)))


class NeverTurnsRound(GHMC):
    """Keeps the direction of its momentum where it rejects."""

    def step(
        self, target: Target, state: MomentumState, noise: Noise, params: GHMCParams
    ) -> tuple[MomentumState, Info]:
        proposed, turned, ratio = propose(
            target, state, noise["momentum"], params.persistence, params.step_size, params.factor, 1
        )
        return accept(proposed, turned._replace(momentum=-turned.momentum), ratio, noise["u"], ratio)


def test_joint_law_of_a_chain_that_never_turns_round_is_found() -> None:
    assert not is_standard_normal_everywhere(*momentum_after(NeverTurnsRound(step_size=1.4, persistence=0.9)))


# --- Special cases ---------------------------------------------------------------------------------------------


def test_without_persistence_it_is_hmc() -> None:
    """Bit for bit, whatever momentum it had."""
    options: dict[str, Any] = {"step_size": 0.8, "num_leapfrog_steps": 3}
    ghmc, hmc = GHMC(persistence=0.0, **options), HMC(**options)
    target, params, state, noise = prepared(ghmc, 500)
    state = state._replace(momentum=torch.full_like(state.momentum, 7.0), is_fresh=torch.zeros_like(state.is_fresh))
    hmc_params, hmc_noise = hmc.init_params(state.position, inverse_mass=MASS), noise | {"jitter": noise["u"]}

    ours, info = ghmc.step(target, state, noise, params)
    theirs, hmc_info = hmc.step(target, hmc.init(target, state.position, hmc_params), hmc_noise, hmc_params)

    assert torch.equal(ours.position, theirs.position)
    for ours_field, theirs_field in zip(info, hmc_info[: len(info)], strict=True):
        assert torch.equal(ours_field, theirs_field.to(ours_field.dtype))
    assert not info.is_accepted.all()


def test_metropolised_obabo_takes_the_same_way() -> None:
    """Half O, BAB with a Metropolis test and a flip, half O, written out: GHMC joins the halves, noise and all."""
    friction, h, num_steps, x = 0.5, 0.8, 5, draws(500)
    kernel = GHMC(step_size=h, persistence=float(torch.exp(torch.tensor(-friction * h, dtype=torch.float64))))
    target, params, state, _ = prepared(kernel, 500)
    half = torch.exp(torch.tensor(-friction * h / 2, dtype=torch.float64))
    spread = torch.sqrt(1 - half**2)
    generator = torch.Generator().manual_seed(3)
    position, momentum, last = x, torch.randn(x.shape, generator=generator, dtype=torch.float64), None
    factor = torch.linalg.cholesky(MASS)
    num_rejected = 0
    for step in range(num_steps):
        one, other = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64)
        u = torch.rand(len(x), 1, generator=generator, dtype=torch.float64)

        first = start = half * momentum + spread * one
        kick = start - h / 2 * target(position)[1] @ factor
        there = position + h * kick @ factor.T
        end = kick - h / 2 * target(there)[1] @ factor
        error = DENSITY(there) - DENSITY(position) + (end.square() - start.square()).sum(1) / 2
        accepted = u < torch.exp(-error).unsqueeze(1)
        position, momentum = torch.where(accepted, there, position), torch.where(accepted, end, -start)
        momentum = half * momentum + spread * other

        # Joined halves: variance spread^2 half^2 + spread^2 = 1 - half^4 = 1 - persistence^2.
        joined = first if last is None else (half * spread * last + spread * one) / torch.sqrt(1 - half**4)
        last = other
        state, info = kernel.step(target, state, {"momentum": joined, "u": u}, params)
        torch.testing.assert_close(state.position, position, rtol=1e-9, atol=1e-9, msg=f"step {step}")
        num_rejected += int((~info.is_accepted).sum())
    assert num_rejected > 50


def test_a_rejected_chain_stays_and_turns_round() -> None:
    kernel = GHMC(step_size=0.8, persistence=0.6)
    target, params, state, noise = prepared(kernel, 500)
    state, _ = kernel.step(target, state, noise, params)
    noise = GeneratorNoise(torch.Generator().manual_seed(2)).draw(kernel.sites, state.position, 1)

    after, info = kernel.step(target, state, noise, params)

    rejected = ~info.is_accepted.squeeze(1)
    assert 50 < int(rejected.sum()) < 450
    assert torch.equal(after.position[rejected], state.position[rejected])
    refreshed = 0.6 * state.momentum + 0.8 * noise["momentum"]
    torch.testing.assert_close(after.momentum[rejected], -refreshed[rejected])
    assert not after.is_fresh.any()


@pytest.mark.parametrize("bad", [1.0, -0.1, float("nan"), "0.5"])
def test_persistence_out_of_range(bad: Any) -> None:
    with pytest.raises(ParameterError, match=r"persistence must lie in \[0, 1\); got"):
        GHMC(persistence=bad)
