"""Threefry-2x32-20, the counter-based generator of Salmon, Moraes, Dror and Shaw (SC 2011), in torch integers.

Torch lacks unsigned 32-bit arithmetic on most operators, so words travel in int64 and are masked after every
addition. Known answers of the Random123 distribution are in the tests.
"""

from __future__ import annotations

from torch import Tensor

_MASK = 0xFFFFFFFF
_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
_PARITY = 0x1BD11BDA


def threefry2x32(key: tuple[int, int], counter: tuple[Tensor, Tensor], *, rounds: int = 20) -> tuple[Tensor, Tensor]:
    """Encrypt counters with a key.

    Args:
        key: Two words, each in [0, 2**32).
        counter: Two int64 tensors of words in [0, 2**32), which broadcast against each other.
        rounds: 20 by default, as published.

    Returns:
        Two int64 tensors of pseudo-random words in [0, 2**32), of the broadcast shape.
    """
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = (counter[0] + keys[0]) & _MASK, (counter[1] + keys[1]) & _MASK
    for i in range(rounds):
        x = (x + y) & _MASK
        y = _rotate_left(y, _ROTATIONS[i % 8]) ^ x
        if i % 4 == 3:
            injection = i // 4 + 1
            x = (x + keys[injection % 3]) & _MASK
            y = (y + keys[(injection + 1) % 3] + injection) & _MASK
    return x, y


def _rotate_left(word: Tensor, bits: int) -> Tensor:
    return ((word << bits) | (word >> (32 - bits))) & _MASK
