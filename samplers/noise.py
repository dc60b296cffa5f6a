"""Where the randomness of a step comes from.

A kernel declares its noise sites; a source fills them. The user's `torch.Generator` is the default;
counter-based noise is a pure function of (seed, chain, step, site), so that it does not depend on how chains
are split over batches or processes; replayed noise serves tests. The global generator is never touched.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import ParameterError, StateError
from .threefry import Word, threefry2x32

_NUMBERS_AHEAD = 2**16
"""Counter-based numbers of a site that are worked out at once: enough to hide what calling torch costs."""


class Site(NamedTuple):
    """One named place where a step needs noise.

    Attributes:
        kind: "normal": standard normal, in the position's dtype. "uniform": on (0, 1], float64, as acceptance
            is decided in float64.
        width: Numbers per chain: an integer, or "D" for as many as the position has.
        times: How often that many, side by side, for kernels that move several copies of a chain.
        is_shared: Whether all chains see the same numbers, a single row: such as a trajectory length, which chains
            that move in step had better share.
        is_indexed: Whether the step itself finds out how often it needs these numbers; it is handed a `Stream`.
    """

    kind: Literal["normal", "uniform"]
    width: int | Literal["D"]
    times: int = 1
    is_shared: bool = False
    is_indexed: bool = False

    def columns(self, dim: int) -> int:
        """Numbers per chain for a position of D = dim columns."""
        return self.times * (dim if self.width == "D" else self.width)


class Stream:
    """Noise as a function of an index, for steps that find out on the way how much of it they need.

    Args:
        draw: From an index k = 0, 1, ... to the noise of all chains, (C, width).
        index: The chains that this stream serves.
    """

    def __init__(self, draw: Callable[[int], Tensor], index: Any = slice(None)) -> None:
        self._draw, self._index = draw, index

    def at(self, k: Tensor) -> Tensor:
        """Noise number k.

        Args:
            k: A column (C, 1). Chains that still need noise are all at the same k, the largest; what the others get
                means nothing.
        """
        return self._at(int(k.max()))

    def __getitem__(self, index: Any) -> Stream:
        """The stream of some of the chains."""
        return Stream(self._at, index)

    def _at(self, k: int) -> Tensor:
        return self._draw(k)[self._index]


class NoiseSource(Protocol):
    """Fills the noise sites of one step for all chains."""

    def draw(self, sites: Mapping[str, Site], position: Tensor, step: int) -> dict[str, Any]:
        """Draw the noise of step number `step` for chains like `position` (C, D): tensors, or `Stream`s."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that later draws depend on, in plain containers; `noise_from_state` is the inverse."""
        ...


class GeneratorNoise:
    """Noise from a `torch.Generator`, which lives on the chains' device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._fits: torch.device | None = None

    def draw(self, sites: Mapping[str, Site], position: Tensor, step: int) -> dict[str, Any]:
        """See `NoiseSource`; the step number is not needed."""
        if position.device != self._fits:
            self._check_device(position)
        return {
            name: Stream(self._rows(site, position)) if site.is_indexed else self._fill(site, position)
            for name, site in sites.items()
        }

    def _check_device(self, position: Tensor) -> None:
        if self.generator.device.type != position.device.type:
            raise ParameterError(
                f"the generator must live on the chains' device, {position.device}; got "
                f"{self.generator.device}. Make it with torch.Generator({position.device.type!r})."
            )
        self._fits = position.device

    def _rows(self, site: Site, position: Tensor) -> Callable[[int], Tensor]:
        drawn: list[Tensor] = []  # sub-batches of chains ask one after the other, and must see the same numbers

        def draw(k: int) -> Tensor:
            while len(drawn) <= k:
                drawn.append(self._fill(site, position))
            return drawn[k]

        return draw

    def _fill(self, site: Site, position: Tensor) -> Tensor:
        num_chains, dim = position.shape
        num_rows, columns, device = 1 if site.is_shared else num_chains, site.columns(dim), position.device
        if site.kind == "normal":
            return torch.randn(num_rows, columns, generator=self.generator, dtype=position.dtype, device=device)
        # rand is on [0, 1), and 0 would accept any proposal.
        return 1 - torch.rand(num_rows, columns, generator=self.generator, dtype=torch.float64, device=device)

    def state_dict(self) -> dict[str, Any]:
        """See `NoiseSource`."""
        return {"kind": "generator", "state": self.generator.get_state()}


class CounterNoise:
    """Counter-based noise: Threefry-2x32 keyed by seed and site, counting chain and step.

    Splitting chains over batches or processes does not change it: give each part the number of its first
    chain. Uniforms have 32 random bits, normals come from pairs of them by Box and Muller (1958).

    Args:
        seed: 0 <= seed < 2**64.
        first_chain: Number of the first chain that this source serves.
    """

    def __init__(self, seed: int, *, first_chain: int = 0) -> None:
        if not 0 <= seed < 2**64:
            raise ParameterError(f"a seed must lie in [0, 2**64); got {seed}.")
        self.seed = seed
        self.first_chain = first_chain
        self._served: object = None
        self._ahead: dict[tuple[str, Site], _Ahead] = {}

    def draw(self, sites: Mapping[str, Site], position: Tensor, step: int) -> dict[str, Any]:
        """See `NoiseSource`."""
        num_chains, dim = position.shape
        chains = _Chains(self.first_chain, num_chains, dim, position.dtype, position.device)
        if (self.seed, chains) != self._served:
            self._served, self._ahead = (self.seed, chains), {}
        return {name: self._noise_of(name, site, chains, step) for name, site in sites.items()}

    def key(self, name: str) -> tuple[int, int]:
        """The key of a site: its name is hashed into the seed, so that adding a site changes no other's noise."""
        return self.seed & 0xFFFFFFFF, (self.seed >> 32) ^ zlib.crc32(name.encode())

    def _noise_of(self, name: str, site: Site, chains: _Chains, step: int) -> Stream | Tensor:
        check_length(site, chains.dim, step + 1)
        limit = _NUMBERS_AHEAD // (chains.num_chains * site.columns(chains.dim))
        if site.is_indexed:
            return Stream(_Ahead(partial(self._by_index, name, site, chains, step), limit).at)
        if (name, site) not in self._ahead:
            self._ahead[name, site] = _Ahead(partial(chains.fill, self.key(name), site), limit)
        return self._ahead[name, site].at(step)

    def _by_index(self, name: str, site: Site, chains: _Chains, step: int, indices: range) -> Tensor:
        """Noise of an indexed site in one step, (index, C, width): every index has a key of its own."""
        words = threefry2x32(self.key(name), (torch.tensor(step), torch.tensor(indices)))
        one, other = (word.to(chains.device).reshape(-1, 1, 1) for word in words)
        return chains.fill((one, other), site, range(1))

    def state_dict(self) -> dict[str, Any]:
        """See `NoiseSource`."""
        return {"kind": "counter", "seed": self.seed, "first_chain": self.first_chain}


class _Chains(NamedTuple):
    """The chains that counter-based noise is for."""

    first: int
    num_chains: int
    dim: int
    dtype: torch.dtype
    device: torch.device

    def fill(self, key: tuple[Word, Word], site: Site, steps: range) -> Tensor:
        """Noise of a site for some steps, (step, C, width), or for one step and some keys (key, 1, 1)."""
        columns = site.columns(self.dim)
        pairs = pairs_of_words(columns)
        first, num_rows = (0, 1) if site.is_shared else (self.first, self.num_chains)
        chain = torch.arange(first, first + num_rows, device=self.device).unsqueeze(1)
        block = torch.arange(steps.start * pairs, steps.stop * pairs, device=self.device).reshape(-1, 1, pairs)
        one, other = (_uniform(word) for word in threefry2x32(key, (chain, block)))
        if site.kind == "normal":
            radius, angle = torch.sqrt(-2 * torch.log(one)), 2 * math.pi * other
            one, other = radius * torch.cos(angle), radius * torch.sin(angle)
        words = torch.stack((one, other), dim=-1).flatten(2)[..., :columns].contiguous()
        return words.to(self.dtype) if site.kind == "normal" else words


class _Ahead:
    """Noise for one index after the other, worked out for several at once: twice as many each time.

    Args:
        fill: From a range of indices to their noise, (index, C, width).
        limit: Indices at once, at most; one is always possible.
    """

    def __init__(self, fill: Callable[[range], Tensor], limit: int) -> None:
        self._fill, self._limit = fill, limit
        self._indices = range(0)
        self._values = torch.empty(0)

    def at(self, index: int) -> Tensor:
        """Noise of an index, (C, width)."""
        if index not in self._indices:
            num = min(2 * len(self._indices), self._limit) if index == self._indices.stop else 1
            self._indices = range(index, index + max(num, 1))
            self._values = self._fill(self._indices)
        return self._values[index - self._indices.start]


def pairs_of_words(columns: int) -> int:
    """Evaluations of Threefry-2x32 for so many numbers."""
    return (columns + 1) // 2


def check_length(site: Site, dim: int, num_steps: int) -> None:
    """Raise where so many steps take more counter-based numbers than a site has."""
    columns = site.columns(dim)
    pairs = pairs_of_words(columns)
    if num_steps * pairs > 2**32:
        raise ParameterError(
            f"counter-based noise of {columns} numbers per chain lasts for {2**32 // pairs} steps; continue with "
            "another seed, noise=SEED."
        )


class ReplayNoise:
    """Given noise, one mapping per step: to run engines or kernels side by side on the same numbers."""

    def __init__(self, steps: Sequence[Mapping[str, Any]]) -> None:
        self.steps = steps

    def draw(self, sites: Mapping[str, Site], position: Tensor, step: int) -> dict[str, Any]:
        """See `NoiseSource`."""
        if step >= len(self.steps):
            raise ParameterError(f"noise for {len(self.steps)} steps was given, and step {step} asks for more.")
        return {name: self.steps[step][name] for name in sites}

    def state_dict(self) -> dict[str, Any]:
        """See `NoiseSource`; the numbers themselves are the caller's to keep."""
        return {"kind": "replay"}


def _uniform(word: Tensor) -> Tensor:
    """32-bit words to float64 uniforms in the middle of 2**32 equal cells of (0, 1)."""
    return (word.double() + 0.5) * 2.0**-32


def noise_from_state(state: dict[str, Any], device: torch.device) -> NoiseSource:
    """A source that continues where `state_dict` was taken.

    Raises:
        StateError: If the state is of no known kind, or of replayed noise, which only its owner can continue.
    """
    try:
        match state.get("kind"):
            case "generator":
                generator = torch.Generator(device)
                generator.set_state(state["state"].cpu())
                return GeneratorNoise(generator)
            case "counter":
                return CounterNoise(state["seed"], first_chain=state["first_chain"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise StateError(f"the stored noise cannot be continued ({error!r}); pass generator= or noise=.") from error
    raise StateError(f"noise of kind {state.get('kind')!r} cannot be continued by itself; pass generator= or noise=.")
