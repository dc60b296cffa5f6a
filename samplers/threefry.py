"""Threefry-2x32-13, the counter-based generator of Salmon, Moraes, Dror and Shaw (SC 2011), in torch integers.

Torch lacks unsigned 32-bit arithmetic on most operators, so words are worked on as int32, whose additions wrap
around; only the shift to the right has to be kept from copying the sign. Known answers of the Random123 distribution
are in the tests. Decision 8 says why there are 13 rounds.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Word: TypeAlias = int | Tensor
"""A word in [0, 2**32), or an int64 tensor of words."""

ROUNDS = 13
"""As few as the authors know no flaw of, and as their tests passed (Random123, `Threefry2x32_R`)."""

_MASK = 0xFFFFFFFF
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def threefry2x32(
    key: tuple[Word, Word], counter: tuple[Tensor, Tensor], *, rounds: int = ROUNDS
) -> tuple[Tensor, Tensor]:
    """Encrypt counters with a key.

    Args:
        key: Two words, each in [0, 2**32); or tensors of them, which broadcast against the counters.
        counter: Two int64 tensors of words in [0, 2**32), which broadcast against each other.
        rounds: How often they are mixed.

    Returns:
        Two int64 tensors of pseudo-random words in [0, 2**32), of the broadcast shape.
    """
    keys = [_signed(word) for word in (*key, key[0] ^ key[1] ^ _PARITY)]
    start = _signed(counter[0]) + keys[0], _signed(counter[1]) + keys[1]
    broadcast = torch.broadcast_tensors(*start)  # type: ignore[no-untyped-call]
    x, y = (word.clone(memory_format=torch.contiguous_format) for word in broadcast)
    for i in range(rounds):
        x += y
        _rotate_left(y, _ROTATIONS[i % 8])
        y ^= x
        if i % 4 == 3:
            injection = i // 4 + 1
            x += keys[injection % 3]
            y += keys[(injection + 1) % 3] + injection
    return x.long() & _MASK, y.long() & _MASK


def _signed(word: Word) -> Tensor:
    return torch.as_tensor(word).to(torch.int32)


def _rotate_left(word: Tensor, bits: int) -> None:
    high = word << bits
    word >>= 32 - bits
    word &= (1 << bits) - 1
    word |= high
