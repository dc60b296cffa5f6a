"""Parallel tempering: replicas at several temperatures that trade places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..accept import accept
from ..adaptation.base import Adaptation
from ..adaptation.ladder import LadderAdaptation, check_ladder
from ..energy import Target
from ..errors import ParameterError
from ..kernel import Kernel, Noise, State
from ..metric import factorise
from ..noise import Site, Stream
from ..position import Layout, Position
from ..step_size import step_sizes_of_parts


class TemperingParams(NamedTuple):
    """Parameters of parallel tempering.

    Attributes:
        step_size: Of the inner kernel on every rung, (K,), or (C, K).
        factor: L with inverse mass L L^T on all rungs, see `lamina.samplers.metric`.
        inverse_temperatures: (K,), falling from 1.
    """

    step_size: Tensor
    factor: Tensor
    inverse_temperatures: Tensor


class TemperingState(NamedTuple):
    """Where all replicas stand, side by side from the coldest rung to the hottest.

    Energies and gradients are kept as the inner kernel met them, times the inverse temperature at which the replica
    last moved, and are divided by it where they are read: so they are the same bits when a run is taken up again.

    Attributes:
        position: The replica on the cold rung, which is the draw, (C, D).
        energy: Its energy over the temperature, (C, 1); equal to a fresh evaluation up to rounding.
        grad: Its gradient, (C, D), likewise.
        positions: Of all replicas, (C, K D).
        energies: Times `evaluated_at`, (C, K).
        grads: Times `evaluated_at`, (C, K D).
        evaluated_at: Inverse temperature at which each replica last moved, (C, K).
        trips: What each replica has behind it, (C, K): 0 not yet the cold rung, 1 last of both ends the cold one,
            2 the hot one after it.
        num_sweeps: Sweeps of swaps so far, (C, 1): its parity says which pairs are next.
    """

    position: Tensor
    energy: Tensor
    grad: Tensor
    positions: Tensor
    energies: Tensor
    grads: Tensor
    evaluated_at: Tensor
    trips: Tensor
    num_sweeps: Tensor


class TemperingInfo(NamedTuple):
    """What happened in a step; the first six fields are those of `Info`, with a column for each rung's own move.

    Attributes:
        accept_prob: Of the inner kernel, (C, K).
        is_accepted: Likewise.
        is_divergent: Likewise.
        energy: Of the cold replica after the step, over the temperature, (C, 1).
        energy_error: Of the inner kernel, (C, K).
        num_grad_evals: Over all replicas, (C, 1).
        swap_prob: Probability that neighbours trade places if it is their turn, (C, K - 1), for all pairs in every
            step: its mean over a run is their swap rate.
        round_trips: Replicas that came back to the cold rung from the hot one in this step, (C, 1).
    """

    accept_prob: Tensor
    is_accepted: Tensor
    is_divergent: Tensor
    energy: Tensor
    energy_error: Tensor
    num_grad_evals: Tensor
    swap_prob: Tensor
    round_trips: Tensor


@dataclass(frozen=True, kw_only=True)
class ParallelTempering(Kernel[TemperingParams]):
    """Replicas of every chain at K temperatures, moved by an inner kernel, with swaps between neighbours.

    Exact where the inner kernel is: for the product of the densities pi^beta_k, of which the cold one is the target.
    Chains cross barriers by way of the hot rungs. Swaps alternate between the even and the odd pairs, which carries
    replicas through the ladder in one direction for long stretches; random pairs would make them diffuse.

    Every chain starts with all its replicas in one place. A temperature that `sample` is given applies to all rungs.
    The inner kernel must make one decision per step, and remember nothing but positions.

    Attributes:
        inner: What moves the replicas on their rungs, such as `MALA()` or `HMC()`. Of its choices only the step size
            and the inverse mass are adapted.
        inverse_temperatures: beta_1 = 1 > ... > beta_K > 0, such as `geometric_ladder(8, hottest=0.05)`;
            `LadderAdaptation` moves them.

    Source: Syed, Bouchard-Cote, Deligiannidis and Doucet (2022), JRSS-B 84(2), the scheme that they call DEO
    (deterministic even-odd). Differs: the inner kernel moves first.
    """

    inner: Kernel[Any]
    inverse_temperatures: tuple[float, ...]

    info_fields: ClassVar[tuple[str, ...]] = TemperingInfo._fields
    counted: ClassVar[tuple[str, ...]] = ("swap_prob", "round_trips")

    def __post_init__(self) -> None:
        check_ladder(self.inverse_temperatures)
        if not isinstance(self.inner, Kernel):
            raise ParameterError(f"inner must be a Kernel, such as MALA(step_size=0.1); got {self.inner!r}.")
        if isinstance(self.inner.target_accept, tuple):
            raise ParameterError(
                f"{type(self.inner).__name__} cannot move replicas: it is made of parts. Use MALA, HMC or another "
                "kernel of one decision per step."
            )

    @property
    def num_temperatures(self) -> int:
        """K."""
        return len(self.inverse_temperatures)

    @property
    def sites(self) -> Mapping[str, Site]:
        """The inner kernel's noise for K replicas, and a uniform for each pair of neighbours."""
        inner = {
            name: site if site.is_shared else site._replace(times=site.times * self.num_temperatures)
            for name, site in self.inner.sites.items()
        }
        return {**inner, "swap": Site("uniform", 1, times=self.num_temperatures - 1)}

    @property
    def is_exact(self) -> bool:
        """As the inner kernel."""
        return self.inner.is_exact

    @property
    def target_accept(self) -> tuple[float, ...] | None:  # type: ignore[override]
        """The inner kernel's for each rung."""
        target = self.inner.target_accept
        assert not isinstance(target, tuple)
        return None if target is None else (target,) * self.num_temperatures

    def init_params(
        self,
        position: Position,
        *,
        step_size: float | Tensor | None = None,
        inverse_mass: Position | None = None,
    ) -> TemperingParams:
        """See `Kernel.init_params`; the step size is one number, (K,) for the rungs, or (C, K)."""
        factor = factorise(inverse_mass, position)
        if step_size is None:
            step_size = self.inner.init_params(position).step_size
        steps = step_sizes_of_parts(step_size, self.num_temperatures, "rungs", factor)
        return TemperingParams(steps, factor, factor.new_tensor(self.inverse_temperatures))

    def init(self, target: Target, position: Tensor, params: TemperingParams) -> TemperingState:
        """See `Kernel.init`: all replicas start at the position."""
        num_chains, num_rungs = len(position), self.num_temperatures
        trips = position.new_zeros(num_chains, num_rungs, dtype=torch.int64)
        trips[:, 0] = 1
        memory = {
            "replicas": position.repeat(1, num_rungs - 1),
            "evaluated_at": params.inverse_temperatures.expand(num_chains, num_rungs),
            "trips": trips,
            "num_sweeps": trips.new_zeros(num_chains, 1),
        }
        return self.restore(target, position, memory, params)

    def memory(self, state: TemperingState) -> dict[str, Tensor]:
        """See `Kernel.memory`: the other replicas, and how they got there."""
        return {
            "replicas": state.positions[:, state.position.shape[1] :].contiguous(),
            "evaluated_at": state.evaluated_at,
            "trips": state.trips,
            "num_sweeps": state.num_sweeps,
        }

    def restore(
        self, target: Target, position: Tensor, memory: Mapping[str, Tensor], params: TemperingParams
    ) -> TemperingState:
        """See `Kernel.restore`."""
        if not memory:
            return self.init(target, position, params)
        positions, evaluated_at = torch.cat((position, memory["replicas"]), dim=1), memory["evaluated_at"]
        at = target.replicated(evaluated_at)
        rows = _rows(positions, self.num_temperatures)
        inner = self.inner.init(at, rows, self._inner_params(target.layout, params, rows))
        if type(inner) is not State:
            raise ParameterError(
                f"{type(self.inner).__name__} cannot move replicas: its chains remember more than their positions. "
                "Use MALA, HMC or another kernel without memory."
            )
        return _state(
            positions,
            inner.energy.reshape(evaluated_at.shape),
            _side_by_side(inner.grad, self.num_temperatures),
            evaluated_at,
            memory["trips"],
            memory["num_sweeps"],
        )

    def step(
        self, target: Target, state: TemperingState, noise: Noise, params: TemperingParams
    ) -> tuple[TemperingState, TemperingInfo]:
        """See `Kernel.step`: every replica moves on its rung, then neighbours may trade places."""
        moved, info = self._move(target, state, noise, params)
        swapped, swap_prob, round_trips = _swap(moved, noise["swap"], params.inverse_temperatures)
        per_rung = moved.energies.shape
        return swapped, TemperingInfo(
            accept_prob=info.accept_prob.reshape(per_rung),
            is_accepted=info.is_accepted.reshape(per_rung),
            is_divergent=info.is_divergent.reshape(per_rung),
            energy=swapped.energy,
            energy_error=info.energy_error.reshape(per_rung),
            num_grad_evals=info.num_grad_evals.reshape(per_rung).sum(dim=1, keepdim=True),
            swap_prob=swap_prob,
            round_trips=round_trips,
        )

    def default_adaptation(self) -> Adaptation:
        """See `Kernel.default_adaptation`: the ladder, and a step size for each rung."""
        return LadderAdaptation()

    def notes(self, means: Mapping[str, Tensor]) -> tuple[str, ...]:
        """See `Kernel.notes`."""
        rates = means["swap_prob"].mean(dim=0)
        trips = 1000 * float(means["round_trips"].mean())
        listed = ", ".join(f"{rate:.2f}" for rate in rates.tolist())
        return (
            f"Swap rates {listed} from the coldest pair to the hottest, a spread of {rates.max() - rates.min():.2f}; "
            f"{trips:.1f} round trips per chain and 1,000 steps.",
        )

    def _move(self, target: Target, state: TemperingState, noise: Noise, params: TemperingParams) -> tuple[Any, Any]:
        """One step of the inner kernel for all replicas, as one batch of C K rows."""
        num_chains, num_rungs = state.energies.shape
        beta = params.inverse_temperatures.expand(num_chains, num_rungs)
        rescale = (beta / state.evaluated_at).reshape(-1, 1)
        grads = _rows(state.grads, num_rungs)
        before = State(_rows(state.positions, num_rungs), state.energies.reshape(-1, 1) * rescale, grads * rescale)
        own = {
            name: noise[name] if site.is_shared else _rows_of_noise(noise[name], num_rungs)
            for name, site in self.inner.sites.items()
        }
        inner_params = self._inner_params(target.layout, params, before.position)
        after, info = self.inner.step(target.replicated(beta), before, own, inner_params)
        has_moved = (after.position != before.position).any(dim=1, keepdim=True)
        by_rung = has_moved.reshape(num_chains, num_rungs)
        moved = _state(
            _side_by_side(after.position, num_rungs),
            torch.where(by_rung, after.energy.reshape(num_chains, num_rungs), state.energies),
            _side_by_side(torch.where(has_moved, after.grad, grads), num_rungs),
            torch.where(by_rung, beta, state.evaluated_at),
            state.trips,
            state.num_sweeps,
        )
        return moved, info

    def _inner_params(self, layout: Layout, params: TemperingParams, rows: Tensor) -> Any:
        """The inner kernel's parameters for C K rows: its own choices, with the step sizes and the mass from here."""
        num_rows, num_rungs = len(rows), self.num_temperatures
        factor = params.factor
        own = self.inner.init_params(layout.unravel(rows[:1]))
        return own._replace(
            step_size=params.step_size.expand(num_rows // num_rungs, num_rungs).reshape(-1, 1),
            factor=factor.repeat_interleave(num_rungs, dim=0) if factor.ndim == 3 else factor,
        )


def _state(
    positions: Tensor, energies: Tensor, grads: Tensor, evaluated_at: Tensor, trips: Tensor, num_sweeps: Tensor
) -> TemperingState:
    """All replicas, with the cold one's energy and gradient at inverse temperature 1."""
    num_rungs = energies.shape[1]
    cold = evaluated_at[:, :1]
    return TemperingState(
        position=positions[:, : positions.shape[1] // num_rungs],
        energy=energies[:, :1] / cold,
        grad=grads[:, : grads.shape[1] // num_rungs] / cold,
        positions=positions,
        energies=energies,
        grads=grads,
        evaluated_at=evaluated_at,
        trips=trips,
        num_sweeps=num_sweeps,
    )


def _swap(
    state: TemperingState, uniform: Tensor, inverse_temperatures: Tensor
) -> tuple[TemperingState, Tensor, Tensor]:
    """One sweep of swaps: the state after it, the swap probability of every pair, and the round trips completed."""
    rung = torch.arange(state.energies.shape[1], device=state.energies.device)
    energies = state.energies.double() / state.evaluated_at.double()
    colder, hotter = energies[:, :-1], energies[:, 1:]
    difference = inverse_temperatures[:-1].double() - inverse_temperatures[1:].double()
    # A swap is a proposal to the colder rung of a pair: what stands there may become what stands on the hotter one.
    _, info = accept(
        State(hotter, hotter, hotter),
        State(colder, colder, colder),
        difference * (colder - hotter),
        uniform,
        torch.zeros_like(colder),
    )
    is_turn = (rung[:-1] + state.num_sweeps) % 2 == 0
    swaps = (info.is_accepted & is_turn).long()
    source = rung + pad(swaps, (0, 1)) - pad(swaps, (1, 0))

    trips = state.trips.gather(1, source)
    is_back = trips[:, :1] == 2
    cold, between, hot = trips[:, :1], trips[:, 1:-1], trips[:, -1:]
    trips = torch.cat((torch.ones_like(cold), between, torch.where(hot == 1, 2, hot)), dim=1)
    swapped = _state(
        _trade(state.positions, source),
        state.energies.gather(1, source),
        _trade(state.grads, source),
        state.evaluated_at.gather(1, source),
        trips,
        state.num_sweeps + 1,
    )
    return swapped, info.accept_prob, is_back


def _trade(matrix: Tensor, source: Tensor) -> Tensor:
    """Vectors of all rungs, (C, K W), each taken from the rung that `source` (C, K) names."""
    num_chains, num_rungs = source.shape
    vectors = matrix.reshape(num_chains, num_rungs, matrix.shape[1] // num_rungs)
    return vectors.gather(1, source.unsqueeze(2).expand_as(vectors)).reshape(matrix.shape)


def _rows(matrix: Tensor, num_rungs: int) -> Tensor:
    """Vectors of all rungs, (C, K W), as rows of their own, (C K, W). W may be 0: not every kernel has gradients."""
    return matrix.reshape(len(matrix) * num_rungs, matrix.shape[1] // num_rungs)


def _rows_of_noise(noise: Tensor | Stream, num_rungs: int) -> Tensor | Stream:
    """`_rows` of the noise for all rungs, or of that at every index."""
    if isinstance(noise, Stream):
        return Stream(lambda k: _rows(noise.at(torch.tensor(k)), num_rungs))
    return _rows(noise, num_rungs)


def _side_by_side(rows: Tensor, num_rungs: int) -> Tensor:
    """The inverse of `_rows`."""
    return rows.reshape(len(rows) // num_rungs, num_rungs * rows.shape[1])
