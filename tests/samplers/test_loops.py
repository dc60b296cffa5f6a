"""The loops of a step over values: each chain goes as far as it should, and no further."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from lamina.samplers.loops import repeat_each


class Pair(NamedTuple):
    count: Tensor
    power: Tensor


@pytest.mark.parametrize("counts", [[0, 1, 5, 2], [3, 3, 3, 3], [0, 0, 0, 0]])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_each_chain_does_its_own_number_of_rounds(counts: list[int], dtype: torch.dtype) -> None:
    calls = []

    def body(pair: Pair, rows: Tensor) -> tuple[Pair, Tensor]:
        calls.append(1)
        return Pair(pair.count + 1, 2 * pair.power), rows - pair.count

    num = torch.tensor(counts, dtype=dtype).unsqueeze(1)
    start = (Pair(torch.zeros(4, 1), torch.ones(4, 1)), torch.zeros(4, 2))
    pair, rows = repeat_each(num, body, start)
    assert isinstance(pair, Pair)
    assert pair.count.flatten().tolist() == counts
    assert pair.power.flatten().tolist() == [2.0**n for n in counts]
    assert rows.tolist() == [2 * [-n * (n - 1) / 2] for n in counts]
    assert len(calls) == max(counts)
    assert num.flatten().tolist() == counts
