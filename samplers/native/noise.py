"""The noise of a step in C++: two numbers for each evaluation of Threefry. Compilers leave out what nothing reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from ..noise import Site, pairs_of_words
from .expressions import Expressions
from .program import Value
from .symbolic import KINDS
from .tables import TYPES
from .trace import site_dtype


def print_noise(sites: Mapping[str, Site], dtype: torch.dtype, dim: int, expressions: Expressions) -> Iterator[str]:
    """Statements that draw it.

    Args:
        sites: Its sites.
        dtype: Of the positions.
        dim: D, which normal sites are as wide as.
        expressions: Of the program.
    """
    numbers = expressions.numbers
    wanted: dict[object, dict[object, Value]] = {name: {} for name in sites}
    for value in numbers:
        if value.op in ("normal", "uniform"):
            site_name, _, offset, _ = value.args
            wanted[site_name][offset] = value
    for number, (name, site) in enumerate(sites.items()):
        pairs, values = pairs_of_words(site.columns(dim)), wanted[name]
        chain = "full<U>(0)" if site.is_shared else "chain"
        made = f"<{site.kind.capitalize()}s>(keys + {2 * number}, {chain}, (uint32_t)(step * {pairs}"
        along = next((value for value in values.values() if value.axis), None)
        if along:
            yield expressions.new_array(along, 2 * pairs)
            yield f"noise_along{made}), {pairs}, {expressions.arrays[along]});"
            continue
        if values:
            names = [f"v{numbers[values[i]]}" if i in values else f"unused{number}_{i}" for i in range(2 * pairs)]
            yield f"{TYPES[KINDS[site_dtype(site, dtype)]]} {', '.join(names)};"
            yield f"noise_of{made}), {', '.join(names)});"
