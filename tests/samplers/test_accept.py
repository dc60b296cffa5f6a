"""The rule of acceptance, chain by chain: the same alone as beside others, whatever shortcut a step takes."""

import math

import pytest
import torch
from torch import Tensor

from lamina.samplers.accept import DIVERGENCE_THRESHOLD, accept, can_stand, where_chains_can_stand
from lamina.samplers.kernel import Info, State

INF, NAN = math.inf, math.nan
NOT_FINITE = (INF, -INF, NAN)
RATIOS = (0.0, 0.5, -0.5, -40.0, -800.0, -DIVERGENCE_THRESHOLD, DIVERGENCE_THRESHOLD, -1000.5, 1000.5, *NOT_FINITE)
ENERGIES = (1.0, *NOT_FINITE)


def state(energies: list[float], dim: int, position: float) -> State:
    energy = torch.tensor(energies).unsqueeze(1)
    return State(torch.full((len(energies), dim), position), energy, torch.full((len(energies), dim), -position))


def decide(cases: list[tuple[float, float, float]], dim: int) -> tuple[State, Info]:
    """Accept or reject for some chains of log ratio, proposed energy, and uniform noise."""
    ratios, energies, uniforms = map(list, zip(*cases, strict=True))
    column = torch.tensor(ratios, dtype=torch.float64).unsqueeze(1)
    noise = torch.tensor(uniforms, dtype=torch.float64).unsqueeze(1)
    return accept(
        state(energies, dim, 2.0), state([3.0] * len(cases), dim, 1.0), column, noise, torch.ones_like(column)
    )


def rule(ratio: float, energy: float, uniform: float) -> tuple[bool, bool, float]:
    """Whether a proposal is taken, whether it is flagged, and how likely it was to be taken."""
    if math.isnan(ratio) or energy == -INF:
        return False, True, 0.0
    prob = math.exp(min(ratio, 0.0))
    return uniform <= prob, DIVERGENCE_THRESHOLD < abs(ratio) < INF, prob


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_a_chain_is_decided_by_the_rule_alone_and_beside_others(dim: int) -> None:
    possible = [
        (ratio, energy) for ratio in RATIOS for energy in ENERGIES if math.isfinite(energy) or ratio in NOT_FINITE
    ]
    cases = [(*case, uniform) for case in possible for uniform in (2.0**-33, 0.6, 1.0)]
    together, info = decide(cases, dim)
    for row, case in enumerate(cases):
        is_taken, is_flagged, prob = rule(*case)
        alone, own = decide([case], dim)
        for chosen, told in ((alone, own), (State(*(f[row : row + 1] for f in together)), [f[row] for f in info])):
            told = Info(*told)
            assert chosen.position.tolist() == [[2.0 if is_taken else 1.0] * dim], case
            assert chosen.grad.tolist() == [[-2.0 if is_taken else -1.0] * dim], case
            assert bool(told.is_accepted) is is_taken, case
            assert bool(told.is_divergent) is is_flagged, case
            assert float(told.accept_prob) == pytest.approx(prob, rel=1e-15), case


def test_noise_on_the_very_edge_accepts() -> None:
    prob = float(torch.exp(torch.tensor(-0.5, dtype=torch.float64)))
    above = math.nextafter(prob, 1.0)
    _, info = decide([(-0.5, 1.0, prob), (-0.5, 1.0, above), (0.0, 1.0, 1.0), (-800.0, 1.0, 2.0**-53)], 2)
    assert info.is_accepted.flatten().tolist() == [True, False, True, False]


@pytest.mark.parametrize("bad", NOT_FINITE)
@pytest.mark.parametrize("field", State._fields)
@pytest.mark.parametrize("others", [0, 3])
def test_no_chain_stands_where_a_number_is_not_finite(bad: float, field: str, others: int) -> None:
    def spoilt(values: Tensor) -> Tensor:
        return torch.cat([values[:-1], torch.full_like(values[-1:], bad)])

    current, proposed = state([1.0] * (others + 1), 3, 1.0), state([2.0] * (others + 1), 3, 2.0)
    proposed = proposed._replace(**{field: spoilt(getattr(proposed, field))})
    wanted = [True] * others + [False]
    assert can_stand(proposed).flatten().tolist() == wanted
    assert [row[0] == 2.0 for row in where_chains_can_stand(proposed, current).position.tolist()] == wanted
    ratio = torch.zeros(others + 1, 1, dtype=torch.float64)
    chosen, info = accept(proposed, current, ratio, None, torch.ones_like(ratio))
    assert info.is_accepted.flatten().tolist() == wanted
    assert [row[0] == 2.0 for row in chosen.position.tolist()] == wanted


def test_chains_stand_on_numbers_whose_squares_are_too_large() -> None:
    far = state([1e30, 1.0], 2, 1e30)
    assert can_stand(far).all()
    assert where_chains_can_stand(far, state([1.0, 1.0], 2, 0.0)).position.eq(1e30).all()
