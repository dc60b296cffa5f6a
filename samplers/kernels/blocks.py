"""Blocks: the parts of a structured position moved one after the other, each by a kernel of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from ..energy import Target
from ..errors import ParameterError, PositionError, UnknownNameError
from ..kernel import Info, InfoLike, Kernel, Noise, State, StateLike, with_factor, with_step_size
from ..metric import factorise
from ..noise import CounterNoise, Site
from ..position import Layout, Position
from ..step_size import step_sizes_of_parts

Key: TypeAlias = str | int
"""Names a part of a position: the key of a dict, or the index of a tuple."""


class BlocksParams(NamedTuple):
    """Parameters of Blocks.

    Attributes:
        step_size: Of each block, in the convention of its kernel: (B,), or (C, B).
        factor: L of the whole position, see `lamina.samplers.metric`. A block moves by the columns and rows of L that
            are its own. So a diagonal inverse mass is taken apart; of a dense one, a block takes the covariance of
            its coordinates given those of the parts before it in the position.
    """

    step_size: Tensor
    factor: Tensor


class _Block(NamedTuple):
    """A kernel and what it moves.

    Attributes:
        key: Of the part.
        kernel: Its kernel.
        gradient: What the kernel's states keep of a steep gradient: all of it, a clipped one, or nothing. Kernels that
            agree can take over each other's states.
    """

    key: Key
    kernel: Kernel[Any]
    gradient: tuple[float, ...]


@dataclass(frozen=True)
class Blocks(Kernel[BlocksParams]):
    """Metropolis within Gibbs: one step is a sweep over blocks, each moved by its own kernel while the rest stands.

        Blocks({"z1": MALA(step_size=0.1), "z2": HMC(step_size=0.3)})

    Parts of the position that no block names are held where they are, which samples the others given them.

    Exact if its kernels are. The sweep keeps the order of the blocks: it leaves the target invariant, as every one of
    its moves does, but it is not reversible; `reversed` is its time reversal.

    A block's kernel sees the whole target, with an inverse mass of zero outside of the block: what is infinitely
    heavy does not move. So the energy and the gradient of one block's last accepted move serve the next block, and a
    sweep costs what its moves cost. Kernels have to fit, which is tried out when the blocks are made: they decide once
    per step, remember no more than their position, and do among coordinates of no inverse mass what they do without.

    Attributes:
        kernels: By key of a dict or index of a tuple position, in the order of the sweep; kept as a tuple of pairs.
            Except for step size and mass, each keeps its own default parameters.

    Raises:
        ParameterError: If there are no blocks, or a kernel does not fit.

    Source: Tierney (1994), Annals of Statistics 22, on cycles of kernels.
    """

    kernels: Mapping[Any, Kernel[Any]] | tuple[tuple[Key, Kernel[Any]], ...]  # mappings are invariant in their keys
    _blocks: tuple[_Block, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pairs: Any = tuple(self.kernels.items()) if isinstance(self.kernels, Mapping) else self.kernels
        are_pairs = isinstance(pairs, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs)
        if not are_pairs or not pairs or len(dict(pairs)) < len(pairs):
            raise ParameterError(f"Blocks takes a kernel for each part, such as {{0: MALA()}}; got {self.kernels!r}.")
        blocks = tuple(_Block(key, kernel, _gradient_kept(key, kernel)) for key, kernel in pairs)
        object.__setattr__(self, "kernels", pairs)
        object.__setattr__(self, "_blocks", blocks)

    @property
    def sites(self) -> Mapping[str, Site]:
        """Those of all blocks; they share normal noise as wide as the position, each of them its own columns."""
        return {
            _site_name(number, name, site): site
            for number, block in enumerate(self._blocks)
            for name, site in block.kernel.sites.items()
        }

    @property
    def is_exact(self) -> bool:
        """See `Kernel.is_exact`."""
        return all(block.kernel.is_exact for block in self._blocks)

    @property
    def target_accept(self) -> tuple[float, ...] | None:  # type: ignore[override]
        """Of every block; None, and nothing is adapted, where one of them has none."""
        targets = [block.kernel.target_accept for block in self._blocks]
        return None if None in targets else tuple(targets)  # type: ignore[arg-type]

    def reversed(self) -> Blocks:
        """The same blocks in the opposite order: the time reversal of the sweep, if every kernel is reversible."""
        return Blocks(tuple((key, kernel) for key, kernel, _ in self._blocks[::-1]))

    def init_params(
        self,
        position: Position,
        *,
        step_size: float | Tensor | None = None,
        inverse_mass: Position | None = None,
    ) -> BlocksParams:
        """See `Kernel.init_params`.

        Args:
            position: See `Kernel.init_params`.
            step_size: One number for all blocks; a tensor (B,) of one for each block, or (C, B) of one for each chain
                as well. Default: the kernels' own.
            inverse_mass: See `Kernel.init_params`, and `BlocksParams.factor`.

        Raises:
            UnknownNameError: If the position has no part of a block's name.
            PositionError: If the position is a single tensor.
            ParameterError: See `Kernel.init_params`.
        """
        layout = Layout.of(position)
        for block in self._blocks:
            _columns(layout, block.key)
        factor = factorise(inverse_mass, position)
        if step_size is None:
            return BlocksParams(torch.stack([b.kernel.init_params(position).step_size for b in self._blocks]), factor)
        return BlocksParams(step_sizes_of_parts(step_size, len(self._blocks), "blocks", factor), factor)

    def init(self, target: Target, position: Tensor, params: BlocksParams) -> State:
        """See `Kernel.init`; the state is one of the last block's kernel, which is where a sweep ends."""
        state: State = self._blocks[-1].kernel.init(target, position, params)  # type: ignore[assignment]
        return state

    def step(self, target: Target, state: State, noise: Noise, params: BlocksParams) -> tuple[State, Info]:
        """See `Kernel.step`; the decisions have a column for each block."""
        moved: StateLike = state
        infos: list[InfoLike] = []
        num_inits = 0
        gradient = self._blocks[-1].gradient
        for number, (key, kernel, wanted) in enumerate(self._blocks):
            inside = _inside(target.layout, key, state.position)
            own = _own_params(kernel, number, state.position, params, inside)
            if gradient != wanted:
                moved = kernel.init(target, moved.position, own)
                num_inits += bool(wanted)
            gradient = wanted
            moved, info = kernel.step(target, moved, _own_noise(kernel, number, noise, inside), own)
            infos.append(info)
        return cast(State, moved), Info(
            accept_prob=torch.cat([info.accept_prob for info in infos], dim=1),
            is_accepted=torch.cat([info.is_accepted for info in infos], dim=1),
            is_divergent=torch.cat([info.is_divergent for info in infos], dim=1),
            energy=moved.energy,
            energy_error=torch.cat([info.energy_error for info in infos], dim=1),
            num_grad_evals=torch.stack([info.num_grad_evals for info in infos]).sum(dim=0) + num_inits,
        )


def _gradient_kept(key: Key, kernel: Kernel[Any]) -> tuple[float, ...]:
    """Try a kernel out on a small Gaussian, see `_Block.gradient`.

    Raises:
        ParameterError: If the kernel does not fit into a sweep.
    """
    if not isinstance(kernel, Kernel) or isinstance(kernel, Blocks):
        raise ParameterError(f"a block is moved by a Kernel with one decision, such as MALA(); {key!r} got {kernel!r}.")
    ones = torch.ones(8, 3, dtype=torch.float64, device="cpu")
    state = _tried(kernel, ones, num_moving=3)
    if type(state) is not State:
        problem = f"keeps more than its position ({', '.join(kernel.memory(state)) or type(state).__name__})"
    elif not torch.equal(_tried(kernel, ones, num_moving=2).position[:, 2], ones[:, 2]):
        problem = "moves coordinates whose inverse mass is zero"
    elif not torch.allclose(
        _tried(kernel, torch.cat([ones[:, :2], 0 * ones[:, 2:]], dim=1), num_moving=2).position[:, :2],
        _tried(kernel, ones[:, :2], num_moving=2).position,
    ):
        problem = "counts coordinates whose inverse mass is zero"
    else:
        target = Target(_half_square, Layout.of(ones), len(ones))
        with torch.no_grad():
            steep: Tensor = kernel.init(target, 1e100 * ones, kernel.init_params(ones)).grad[0]
        return tuple(steep.tolist())
    raise ParameterError(
        f"block {key!r} cannot be moved by a {type(kernel).__name__}, which {problem}. Take a kernel that goes by its "
        "position and its inverse mass, such as MALA or HMC."
    )


def _tried(kernel: Kernel[Any], x: Tensor, *, num_moving: int) -> StateLike:
    """Where one step goes from x; of three coordinates or two, the first `num_moving` may move."""
    target = Target(_half_square, Layout.of(x), len(x))
    inside = (torch.arange(x.shape[1], device=x.device) < num_moving).to(x.dtype)
    params = with_factor(kernel.init_params(x), inside)
    noise = CounterNoise(0).draw(kernel.sites, x[:, :num_moving], 0)
    for name, site in kernel.sites.items():
        if site.width == "D":  # the others get none of their own: two coordinates see the same noise with and without
            copies = noise[name].unflatten(1, (site.times, num_moving))
            filling = 0.0 if site.kind == "normal" else 0.5
            noise[name] = nn.functional.pad(copies, (0, x.shape[1] - num_moving), value=filling).flatten(1)
    with torch.no_grad():
        return kernel.step(target, kernel.init(target, x, params), noise, params)[0]


def _half_square(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1)


def _columns(layout: Layout, key: Key) -> slice:
    """The columns of a part."""
    if layout.keys == ():
        raise PositionError(
            "blocks are parts of a tuple or dict; the position is a single tensor. Take it apart first."
        )
    known: Sequence[Key] = range(len(layout.events)) if layout.keys is None else layout.keys
    if key not in known:
        raise UnknownNameError("part of the position", key, map(str, known))  # type: ignore[arg-type]
    part = known.index(key)
    first = sum(layout.sizes[:part])
    return slice(first, first + layout.sizes[part])


def _inside(layout: Layout, key: Key, like: Tensor) -> Tensor:
    """One in the columns of a part and zero elsewhere, (D,)."""
    columns = _columns(layout, key)
    column = torch.arange(layout.dim, device=like.device)
    inside: Tensor = (column >= columns.start) & (column < columns.stop)
    return inside.to(like.dtype)


def _own_params(kernel: Kernel[Any], number: int, x: Tensor, params: BlocksParams, inside: Tensor) -> Any:
    """The parameters with which a block's kernel moves its own columns."""
    steps, factor = params.step_size, params.factor
    is_dense = factor.ndim >= 2 and factor.shape[-2] > 1
    own = with_step_size(kernel.init_params(x), steps[number] if steps.ndim == 1 else steps[:, number : number + 1])
    return with_factor(own, inside.unsqueeze(1) * factor * inside if is_dense else factor * inside)


def _own_noise(kernel: Kernel[Any], number: int, noise: Noise, inside: Tensor) -> dict[str, Any]:
    """The noise of a block's kernel; what would push other columns is zero, so that they add to no sum of squares."""
    own = {name: noise[_site_name(number, name, site)] for name, site in kernel.sites.items()}
    shared = {
        name: own[name] * inside.repeat(site.times) for name, site in kernel.sites.items() if _is_shared_out(site)
    }
    return own | shared


def _site_name(number: int, name: str, site: Site) -> str:
    """What a site of a block's kernel is called among those of all blocks."""
    return "-".join(map(str, (name, *site))) if _is_shared_out(site) else f"{number}-{name}"


def _is_shared_out(site: Site) -> bool:
    """Whether each block takes its own columns of one site that all have in common."""
    return site.kind == "normal" and site.width == "D" and not site.is_indexed
