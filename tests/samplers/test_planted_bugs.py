"""Kernels with one planted bug each: `check_kernel` finds it, by the check that is meant for it.

Next to a bug that only its context makes one stands the right version, which passes. Chains start from exact draws;
an exact kernel fails with probability below 1e-6, so that failures are the bugs' own.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from torch import Tensor

from lamina.samplers import HMC, MALA, Info, Kernel, Position, Site, State, Target
from lamina.samplers.accept import accept, half_square, log_ratio
from lamina.samplers.kernel import Noise
from lamina.samplers.kernels.hmc import HMCInfo, HMCParams
from lamina.samplers.kernels.langevin import LangevinKernel, LangevinParams, log_hastings, propose
from lamina.samplers.kernels.leapfrog import leapfrog
from lamina.samplers.metric import from_white, to_white
from lamina.samplers.testing import CDF, TARGETS, Banana, Report, Skewed, SmallTarget, check_kernel
from lamina.samplers.testing.contract import CONTRACT, NUM_CHAINS, Bench, Finding, contract_findings


def failed(report: Report) -> set[str]:
    """Names of the checks that failed."""
    return {check.name for check in report.failures}


def proposal(target: Target, state: State, xi: Tensor, params: LangevinParams) -> tuple[State, Tensor]:
    """What MALA proposes, and its log ratio."""
    proposed = propose(target, state, xi, params)
    return proposed, log_hastings(state, proposed, xi, params)


# --- The wrong law -----------------------------------------------------------------------------------------------


class WithoutCorrection(MALA):
    """Forgets the proposal densities."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed = propose(target, state, noise["xi"], params)
        ratio = log_ratio(state.energy, proposed.energy, torch.zeros_like(proposed.energy))
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))


class CorrectionReversed(MALA):
    """Adds the log ratio of the proposal densities where it should be subtracted."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed = propose(target, state, noise["xi"], params)
        ratio = 2 * (state.energy - proposed.energy) - log_hastings(state, proposed, noise["xi"], params)
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))


class RatioClamped(MALA):
    """Takes bad moves with a probability of 0.1 at least."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed = propose(target, state, noise["xi"], params)
        ratio = log_hastings(state, proposed, noise["xi"], params).exp().clamp(min=0.1).log()
        return accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))


class MomentumOfWrongScale(HMC):
    """Draws momenta as if they were not white; the kinetic energy knows better."""

    def step(self, target: Target, state: State, noise: Noise, params: HMCParams) -> tuple[State, HMCInfo]:
        return super().step(target, state, {**noise, "momentum": to_white(params.factor, noise["momentum"])}, params)


class KineticEnergyReversed(HMC):
    """Has the wrong sign of the kinetic energy in the acceptance rule."""

    def step(self, target: Target, state: State, noise: Noise, params: HMCParams) -> tuple[State, HMCInfo]:
        start = noise["momentum"]
        proposed, end, evals = leapfrog(
            target, state, start, params.step_size, params.factor, params.num_leapfrog_steps
        )
        ratio = log_ratio(state.energy, proposed.energy, half_square(start) - half_square(end))
        after, info = accept(proposed, state, ratio, noise["u"], evals)
        return after, HMCInfo(*info, state.energy + half_square(start))


@pytest.mark.parametrize(
    ("bug", "name"),
    [
        (WithoutCorrection(step_size=0.2), "skewed"),
        (CorrectionReversed(step_size=0.2), "skewed"),
        (RatioClamped(step_size=0.8), "skewed"),
        (MomentumOfWrongScale(step_size=0.6, num_leapfrog_steps=4), "bimodal"),
        (KineticEnergyReversed(step_size=0.6, num_leapfrog_steps=4), "bimodal"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Kernel) else value,
)
def test_a_wrong_law_is_found(bug: Kernel[Any], name: str) -> None:
    report = check_kernel(bug, targets=[TARGETS[name]], num_warmup=0)
    assert f"invariance, {name}" in failed(report), str(report)
    assert f"movement, {name}" not in failed(report), str(report)


class WrongTemperature(SmallTarget):
    """Draws of one target and the energy of a slightly colder one."""

    name = "wrong"
    dim = 3

    def __call__(self, x: Tensor, /) -> Tensor:
        return 1.05 * Skewed()(x)

    def marginal_cdf(self, d: int) -> CDF:
        return Skewed().marginal_cdf(d)

    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        return Skewed().sample(num, generator=generator, temperature=1 / beta)


def test_a_wrong_target_is_found() -> None:
    report = check_kernel(HMC(num_leapfrog_steps=4), targets=[WrongTemperature()])
    assert failed(report) == {"invariance, wrong"}, str(report)


class NeverMoves(MALA):
    """Rejects everything."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        ratio = torch.full_like(state.energy, -torch.inf)
        return accept(state, state, ratio.double(), noise["u"], torch.ones_like(ratio))


def test_standing_still_is_found_by_the_movement() -> None:
    report = check_kernel(NeverMoves(), targets=[Banana()], num_warmup=0)
    assert "movement, banana" in failed(report)
    assert "invariance, banana" not in failed(report)


# --- A sign that symmetry hides ----------------------------------------------------------------------------------


class Gaussian(SmallTarget):
    """What too many samplers are tested on."""

    name = "gaussian"
    dim = 3

    def __call__(self, x: Tensor, /) -> Tensor:
        return x.square().sum(1) / 2

    def marginal_cdf(self, d: int) -> CDF:
        cdf: CDF = torch.special.ndtr
        return cdf

    def _draw(self, num: int, beta: float, generator: torch.Generator) -> Tensor:
        return torch.randn(num, self.dim, generator=generator, dtype=torch.float64) / math.sqrt(beta)


class TurnsThePosition(HMC):
    """Turns the position round at the end of a trajectory, where it is the momentum that turns."""

    def step(self, target: Target, state: State, noise: Noise, params: HMCParams) -> tuple[State, HMCInfo]:
        after, info = super().step(target, state, noise, params)
        turned = State(-after.position, *target(-after.position))
        after = State(*(torch.where(info.is_accepted, new, old) for new, old in zip(turned, after, strict=True)))
        return after, info._replace(energy=after.energy)


def test_a_sign_that_a_gaussian_hides_is_found_on_the_skewed_target() -> None:
    bug = TurnsThePosition(num_leapfrog_steps=4)
    report = check_kernel(bug, targets=[Gaussian(), Skewed()])
    assert "invariance, gaussian" not in failed(report), str(report)
    assert "movement, gaussian" not in failed(report), str(report)
    assert "invariance, skewed" in failed(report), str(report)


# --- Momentum that persists --------------------------------------------------------------------------------------


class PersistentState(NamedTuple):
    position: Tensor
    energy: Tensor
    grad: Tensor
    momentum: Tensor
    is_fresh: Tensor


@dataclass(frozen=True, kw_only=True)
class PersistentHMC(LangevinKernel):
    """HMC that keeps half of its momentum, the least that shows what its rejections need: a turn round."""

    step_size: float = 0.3
    target_accept: float = 0.6
    rejected_momentum: ClassVar[int] = -1
    sites: ClassVar[Mapping[str, Site]] = {"momentum": Site("normal", "D"), "u": Site("uniform", 1)}
    is_exact: ClassVar[bool] = True

    def init(self, target: Target, position: Tensor, params: LangevinParams) -> PersistentState:  # type: ignore[override]
        energy, grad = target(position)
        return PersistentState(position, energy, grad, torch.zeros_like(position), torch.ones_like(energy).bool())

    def step(
        self, target: Target, state: PersistentState, noise: Noise, params: LangevinParams
    ) -> tuple[PersistentState, Info]:
        kept = 0.9 * state.momentum + (1 - 0.9**2) ** 0.5 * noise["momentum"]
        start = torch.where(state.is_fresh, noise["momentum"], kept)
        here = State(state.position, state.energy, state.grad)
        there, end, evals = leapfrog(target, here, start, params.step_size, params.factor, 2)
        ratio = log_ratio(state.energy, there.energy, half_square(end) - half_square(start))
        is_fresh = torch.zeros_like(state.is_fresh)
        stay = PersistentState(*here, self.rejected_momentum * start, is_fresh)
        return accept(PersistentState(*there, end, is_fresh), stay, ratio, noise["u"], evals)

    def memory(self, state: PersistentState) -> dict[str, Tensor]:
        return {"momentum": state.momentum, "is_fresh": state.is_fresh}

    def restore(
        self, target: Target, position: Tensor, memory: Mapping[str, Tensor], params: LangevinParams
    ) -> PersistentState:
        return self.init(target, position, params)._replace(**memory)


class WithoutTurn(PersistentHMC):
    """Goes on in the direction that was just refused."""

    rejected_momentum = 1


class ForgetsMomenta(PersistentHMC):
    """Does not say what its chains remember."""

    def memory(self, state: PersistentState) -> dict[str, Tensor]:
        return {}


def test_a_missing_turn_of_the_momentum_is_found() -> None:
    check = functools.partial(check_kernel, targets=[Skewed()], num_steps=10)
    check(PersistentHMC()).assert_passed()
    assert failed(check(WithoutTurn())) == {"invariance, skewed"}


# --- Swaps between two temperatures ------------------------------------------------------------------------------

HOT = 0.25
"""Inverse temperature of the second replica; a power of two, so that tempering and back changes no bit."""


class PairState(NamedTuple):
    position: Tensor
    energy: Tensor
    grad: Tensor
    hot: Tensor
    hot_energy: Tensor
    hot_grad: Tensor


@dataclass(frozen=True, kw_only=True)
class Pair(LangevinKernel):
    """Parallel tempering at its smallest: MALA at two temperatures, then a swap. Hot energies are untempered."""

    step_size: float = 0.3
    target_accept: float = 0.574
    sites: ClassVar[Mapping[str, Site]] = {
        "xi": Site("normal", "D", times=2),
        "u": Site("uniform", 1, times=2),
        "swap": Site("uniform", 1),
    }
    is_exact: ClassVar[bool] = True

    def init(self, target: Target, position: Tensor, params: LangevinParams) -> PairState:  # type: ignore[override]
        return self.restore(target, position, {}, params)

    def memory(self, state: PairState) -> dict[str, Tensor]:
        return {"hot": state.hot}

    def restore(
        self, target: Target, position: Tensor, memory: Mapping[str, Tensor], params: LangevinParams
    ) -> PairState:
        hot = memory.get("hot", position)
        return PairState(position, *target(position), hot, *target(hot))

    def step(self, target: Target, state: PairState, noise: Noise, params: LangevinParams) -> tuple[PairState, Info]:
        xi, u = noise["xi"].chunk(2, dim=1), noise["u"].chunk(2, dim=1)
        cold, info = self.tempered_move(target, State(*state[:3]), 1.0, xi[0], u[0], params)
        hot, _ = self.tempered_move(target, State(*state[3:]), HOT, xi[1], u[1], params)
        ratio = self.swap_ratio(cold.energy.double(), hot.energy.double())
        after, _ = accept(PairState(*hot, *cold), PairState(*cold, *hot), ratio, noise["swap"], ratio)
        return after, info._replace(energy=after.energy)

    def tempered_move(
        self, target: Target, state: State, beta: float, xi: Tensor, u: Tensor, params: LangevinParams
    ) -> tuple[State, Info]:
        """A step of MALA on the density to the power beta, from energies that are not tempered to such."""
        tempered = target.replicated(torch.full_like(state.energy, beta))
        current = State(state.position, beta * state.energy, beta * state.grad)
        proposed, ratio = proposal(tempered, current, xi, params)
        proposed = State(proposed.position, proposed.energy / beta, proposed.grad / beta)
        return accept(proposed, state, ratio, u, torch.ones_like(ratio))

    def swap_ratio(self, cold: Tensor, hot: Tensor) -> Tensor:
        return (1 - HOT) * (cold - hot)


class SwapReversed(Pair):
    """Has the wrong sign in the swap ratio."""

    def swap_ratio(self, cold: Tensor, hot: Tensor) -> Tensor:
        return (1 - HOT) * (hot - cold)


class SwapAtOneTemperature(Pair):
    """Swaps as if the hot replica had no law of its own."""

    def swap_ratio(self, cold: Tensor, hot: Tensor) -> Tensor:
        return cold - hot


class CorrectionNotTempered(Pair):
    """Tempers the energies of the hot replica, but not the gradients in the correction of its proposal."""

    def tempered_move(
        self, target: Target, state: State, beta: float, xi: Tensor, u: Tensor, params: LangevinParams
    ) -> tuple[State, Info]:
        tempered = State(state.position, state.energy, beta * state.grad)
        drift = params.step_size * to_white(params.factor, tempered.grad)
        position = state.position + from_white(params.factor, torch.sqrt(2 * params.step_size) * xi - drift)
        proposed = State(position, *target(position))
        back = torch.sqrt(params.step_size / 2) * to_white(params.factor, state.grad + proposed.grad) - xi
        kinetic = half_square(back) - half_square(xi)
        ratio = log_ratio(beta * state.energy, beta * proposed.energy, kinetic)
        return accept(proposed, state, ratio, u, torch.ones_like(ratio))


def exact_hot_replicas(target: SmallTarget, start: Position, generator: torch.Generator) -> dict[str, Tensor]:
    assert isinstance(start, Tensor)
    return {"hot": target.sample(len(start), generator=generator, dtype=start.dtype, temperature=1 / HOT)}


check_pair = functools.partial(check_kernel, targets=[Banana()], memory=exact_hot_replicas, num_steps=6)


def test_a_right_swap_passes_from_exact_replicas() -> None:
    check_pair(Pair(), targets=[Banana(), Skewed()]).assert_passed()


def test_replicas_that_are_not_drawn_exactly_are_no_exact_start() -> None:
    assert failed(check_pair(Pair(), targets=[Skewed()], memory=None)) == {"invariance, skewed"}


@pytest.mark.parametrize("bug", [SwapReversed(), SwapAtOneTemperature(), CorrectionNotTempered()], ids=repr)
def test_a_wrong_swap_is_found(bug: Pair) -> None:
    report = check_pair(bug)
    assert failed(report) == {"invariance, banana"}, str(report)


# --- Tempered transitions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TemperedTransition(LangevinKernel):
    """Up to two hotter densities and down again by MALA, then one decision (Neal 1996, Statistics and Computing 6).

    Attributes:
        num_extra_sweeps: Sweeps at the target's own temperature after the last weight: inside the move, where none
            belongs.
    """

    step_size: float = 0.3
    num_extra_sweeps: int = 0
    target_accept: None = None
    betas: ClassVar[tuple[float, ...]] = (0.5, 0.25)
    is_exact: ClassVar[bool] = True

    @property
    def sites(self) -> Mapping[str, Site]:
        num = 2 * len(self.betas) + self.num_extra_sweeps
        return {"xi": Site("normal", "D", times=num), "u": Site("uniform", 1, times=num), "last": Site("uniform", 1)}

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        num_sweeps = 2 * len(self.betas) + self.num_extra_sweeps
        draws = zip(noise["xi"].chunk(num_sweeps, dim=1), noise["u"].chunk(num_sweeps, dim=1), strict=True)
        ladder = (1.0, *self.betas)
        there, log_weight = state, torch.zeros_like(state.energy, dtype=torch.float64)
        for lower, upper in itertools.pairwise(ladder):
            log_weight = log_weight + (lower - upper) * there.energy.double()
            there = self._sweep(target, there, upper, *next(draws), params)
        for upper, lower in zip(ladder[:0:-1], ladder[-2::-1], strict=False):
            there = self._sweep(target, there, upper, *next(draws), params)
            log_weight = log_weight - (lower - upper) * there.energy.double()
        for xi, u in draws:
            there = self._sweep(target, there, 1.0, xi, u, params)
        return accept(there, state, log_weight, noise["last"], torch.full_like(log_weight, num_sweeps))

    def _sweep(self, target: Target, state: State, beta: float, xi: Tensor, u: Tensor, params: LangevinParams) -> State:
        return Pair().tempered_move(target, state, beta, xi, u, params)[0]


def test_an_extra_sweep_inside_a_tempered_move_is_found() -> None:
    check = functools.partial(check_kernel, targets=[Skewed()])
    right, wrong = check(TemperedTransition()), check(TemperedTransition(num_extra_sweeps=1))
    assert "invariance, skewed" not in failed(right), str(right)
    assert "movement, skewed" not in failed(right), str(right)
    assert "invariance, skewed" in failed(wrong), str(wrong)


# --- A broken contract -------------------------------------------------------------------------------------------


class RowsOfWrongShape(MALA):
    """Hands out acceptance as a row of numbers."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        after, info = super().step(target, state, noise, params)
        return after, info._replace(accept_prob=info.accept_prob.float(), num_grad_evals=info.num_grad_evals.mT)


class DrawsByItself(MALA):
    """Takes a little noise from the global generator."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        xi = noise["xi"] + 1e-9 * torch.randn_like(noise["xi"])
        return super().step(target, state, {**noise, "xi": xi}, params)


class IsBlindToItsSeed(MALA):
    """Moves by noise of its own making."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        generator = torch.Generator().manual_seed(0)
        noise = {
            "xi": torch.randn(state.position.shape, generator=generator, dtype=state.position.dtype),
            "u": 1 - torch.rand(state.energy.shape, generator=generator, dtype=torch.float64),
        }
        return super().step(target, state, noise, params)


class WorksInPlace(MALA):
    """Saves memory where it should not."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        after, info = super().step(target, state, noise, params)
        state.position.copy_(after.position)
        return after, info


class LeavesGradients(MALA):
    """Lets autograd fill the gradients of a model's weights."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        after, info = super().step(target, state, noise, params)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = after.position.clone().requires_grad_(True)
            energy = target._energy(leaf, *target._arguments()).sum()
            if energy.requires_grad:
                energy.backward()  # type: ignore[no-untyped-call]
        return after, info


class KeepsGradientOfProposal(MALA):
    """Carries the proposal's gradient along, even where the proposal was rejected. Invariance tests miss it."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = proposal(target, state, noise["xi"], params)
        after, info = accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))
        return after._replace(grad=proposed.grad), info


class KeepsEnergyOfStart(HMC):
    """Forgets to update the energy of an accepted move."""

    def step(self, target: Target, state: State, noise: Noise, params: HMCParams) -> tuple[State, HMCInfo]:
        after, info = super().step(target, state, noise, params)
        return after._replace(energy=state.energy), info


class RemembersPositions(MALA):
    """Takes the energy of a position seen before from a notebook."""

    notebook: dict[bytes, State] = {}  # noqa: RUF012 (the planted bug)

    def init(self, target: Target, position: Tensor, params: LangevinParams) -> State:
        known = self.notebook.get(position.numpy().tobytes())
        return known or super().init(target, position, params)

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        after, info = super().step(target, state, noise, params)
        self.notebook[after.position.numpy().tobytes()] = after
        return after, info


class FavoursEarlyRows(MALA):
    """Gives each row of the batch a step size of its own."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        steps = params.step_size * torch.linspace(0.9, 1.1, len(state.energy)).to(state.position).unsqueeze(1)
        return super().step(target, state, noise, params._replace(step_size=steps))


class MixesChains(MALA):
    """Takes the mean over the batch for a mean over coordinates."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        xi = noise["xi"] + 1e-3 * state.position.mean(dim=0)
        return super().step(target, state, {**noise, "xi": xi}, params)


class NaNBecomesZero(MALA):
    """Replaces an undefined log ratio by a number."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = proposal(target, state, noise["xi"], params)
        return accept(proposed, state, torch.nan_to_num(ratio), noise["u"], torch.ones_like(ratio))


class NaNGradientBecomesZero(MALA):
    """Replaces an undefined gradient by zero."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        def cleaned(x: Tensor) -> tuple[Tensor, Tensor]:
            energy, grad = target(x)
            return energy, torch.nan_to_num(grad)

        return super().step(cleaned, state, noise, params)  # type: ignore[arg-type]


class LogRatioClamped(MALA):
    """Clamps the log ratio, so that what is impossible becomes unlikely."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = proposal(target, state, noise["xi"], params)
        return accept(proposed, state, ratio.clamp(-50, 50), noise["u"], torch.ones_like(ratio))


class FallsIntoTheBottomless(MALA):
    """Takes whatever has the lower energy."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = proposal(target, state, noise["xi"], params)
        after, info = accept(proposed, state, ratio, noise["u"], torch.ones_like(ratio))
        is_lower = proposed.energy == -torch.inf
        return State(*(torch.where(is_lower, new, old) for new, old in zip(proposed, after, strict=True))), info


class OverflowsBeforeDeciding(MALA):
    """Decides by the energies alone where a proposal is far away."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = proposal(target, state, noise["xi"], params)
        is_far = ~((proposed.position - state.position).abs() < 1e10).all(dim=1, keepdim=True)
        return accept(proposed, state, torch.where(is_far, 0.0, ratio), noise["u"], torch.ones_like(ratio))


class EnergiesClamped(MALA):
    """Clamps energies, so that two huge ones compare equal."""

    def step(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> tuple[State, Info]:
        proposed, ratio = proposal(target, state, noise["xi"], params)
        change = log_ratio(state.energy, proposed.energy, torch.zeros_like(ratio))
        clamped = log_ratio(state.energy.clamp(max=1e10), proposed.energy.clamp(max=1e10), torch.zeros_like(ratio))
        return accept(proposed, state, ratio - change + clamped, noise["u"], torch.ones_like(ratio))


class MovesWithoutDeciding(MALA):
    """Rejects where it tells about it, and accepts everything elsewhere."""

    def move(self, target: Target, state: State, noise: Noise, params: LangevinParams) -> State:
        return propose(target, state, noise["xi"], params)


class WithTrajectory(HMC):
    """HMC that shows its trajectory."""

    def trajectory(self, target: Target, state: State, momentum: Tensor, params: HMCParams) -> tuple[State, Tensor]:
        end, turned, _ = leapfrog(target, state, momentum, params.step_size, params.factor, params.num_leapfrog_steps)
        return end, turned


class WithoutLastHalfKick(WithTrajectory):
    """Shows a trajectory that begins with half a kick and ends with a whole one."""

    def trajectory(self, target: Target, state: State, momentum: Tensor, params: HMCParams) -> tuple[State, Tensor]:
        end, turned = super().trajectory(target, state, momentum, params)
        return end, turned - 0.5 * params.step_size * to_white(params.factor, end.grad)


class ShrinksPhaseSpace(WithTrajectory):
    """Lets friction into a trajectory without saying so."""

    def trajectory(self, target: Target, state: State, momentum: Tensor, params: HMCParams) -> tuple[State, Tensor]:
        end, turned = super().trajectory(target, state, momentum, params)
        return end, 0.99 * turned


BROKEN: Sequence[tuple[Kernel[Any], str]] = (
    (RowsOfWrongShape(step_size=0.3), "fields"),
    (DrawsByItself(step_size=0.3), "declared noise"),
    (DrawsByItself(step_size=0.3), "determinism"),
    (IsBlindToItsSeed(step_size=0.3), "determinism"),
    (MovesWithoutDeciding(step_size=0.3), "silence"),
    (ForgetsMomenta(step_size=0.3), "resuming"),
    (ForgetsMomenta(step_size=0.3), "cache"),
    (WorksInPlace(step_size=0.3), "inputs"),
    (LeavesGradients(step_size=0.3), "inputs"),
    (KeepsGradientOfProposal(step_size=0.3), "cache"),
    (KeepsEnergyOfStart(step_size=0.3, num_leapfrog_steps=4), "cache"),
    (RemembersPositions(step_size=0.3), "new weights"),
    (FavoursEarlyRows(step_size=0.3), "permutation"),
    (MixesChains(step_size=0.3), "splitting"),
    (MixesChains(step_size=0.3), "neighbours"),
    (NaNBecomesZero(step_size=0.3), "NaN energy"),
    (NaNGradientBecomesZero(step_size=0.3), "NaN gradient"),
    (LogRatioClamped(step_size=0.3), "infinite energy"),
    (FallsIntoTheBottomless(step_size=0.3), "bottomless energy"),
    (OverflowsBeforeDeciding(step_size=0.3), "overflow"),
    (EnergiesClamped(step_size=0.3), "offset"),
    (WithoutLastHalfKick(step_size=0.3, num_leapfrog_steps=4), "trajectory"),
    (ShrinksPhaseSpace(step_size=0.3, num_leapfrog_steps=4), "trajectory"),
)


def findings(kernel: Kernel[Any]) -> dict[str, Finding]:
    """What the checks of the contract say of a kernel."""
    start = Skewed().sample(NUM_CHAINS, generator=torch.Generator().manual_seed(0))
    bench = Bench(kernel, Skewed(), start, kernel.init_params(start))
    with torch.random.fork_rng(devices=[]):
        return {name: finding for name, finding, _ in contract_findings(bench)}


@pytest.mark.parametrize(
    ("bug", "check"), BROKEN, ids=lambda value: type(value).__name__ if isinstance(value, Kernel) else value
)
def test_a_broken_contract_is_found(bug: Kernel[Any], check: str) -> None:
    found = findings(bug)
    assert not found[check].passed, found


def test_every_check_of_the_contract_has_a_bug_that_it_finds() -> None:
    assert {check for _, check in BROKEN} == {*CONTRACT, "trajectory"}


def test_a_shown_trajectory_is_tested() -> None:
    finding = findings(WithTrajectory(step_size=0.3, num_leapfrog_steps=4))["trajectory"]
    assert finding.passed, finding
