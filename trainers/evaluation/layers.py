"""Draws of latents given data, and of some layers given the others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from lamina.models import GaussianHierarchy, JointEBMPrior, LatentEBM, Latents, Space
from lamina.samplers import Energy, Kernel, ParameterError, Params, run, sample

from ..config import ChainConfig, TrainConfig
from ..sampling import draw_posterior

_WARMUP = 100
"""Steps in which chains find their step size."""


def joint_log_density(model: LatentEBM, x: Tensor, z: Latents) -> Tensor:
    """log p(x|z) + log p_{beta>0}(z) + sum_i f_i(z_i), (C,): log p(x, z) but for log Z."""
    return model.likelihood.log_prob(x, z) - model.prior.energy_z(z)


def has_inference(model: LatentEBM, config: TrainConfig) -> bool:
    """Whether the model has an inference model that its scheme has trained."""
    return config.trains_inference and model.inference is not None


def posterior_draws(model: LatentEBM, config: TrainConfig, x: Tensor, generator: torch.Generator) -> Latents:
    """One draw of z for each image: by chains where training learnt from chains, else by the inference model."""
    if config.scheme == "joint-mle" or model.inference is None:
        return draw_posterior(model, config.posterior, x, num_steps=config.sample_steps, generator=generator)
    with torch.no_grad():
        z: Latents = model.inference(x, generator=generator)[0]
    return z


@torch.no_grad()
def redrawn_from_base(
    base: GaussianHierarchy, z: Latents, free: Collection[int], *, generator: torch.Generator
) -> Latents:
    """Draw layers anew from the base prior, each given those above it; the others stay as they are.

    Args:
        base: The base prior.
        z: (C, *event_i) per layer.
        free: Which layers, by index: 0 is z_1.
        generator: Source of randomness, on the device of z.
    """
    for layer in sorted(free, reverse=True):
        u = base.inverse(z)
        noise = torch.randn(u[layer].shape, generator=generator, dtype=u[layer].dtype, device=u[layer].device)
        z = with_layer(z, layer, base.transform(with_layer(u, layer, noise))[layer])
    return z


def with_layer(z: Latents, layer: int, part: Tensor) -> Latents:
    """Latents with one layer replaced."""
    return (*z[:layer], part, *z[layer + 1 :])


@dataclass(frozen=True)
class LayerSampler:
    """Draws some layers of the EBM prior given the others, by chains that hold the others where they are.

    Chains start from the base prior, each layer given those above. Where all layers held lie above the free ones, they
    run in u: holding u_{>k} is holding z_{>k}, and the base conditional is a standard normal. Else they run in z.

    Attributes:
        prior: The joint EBM prior.
        kernel: What moves the free layers, all at once.
        free: Which layers are drawn, by index in ascending order: 0 is z_1.
        num_steps: Of the chains.
        params: Of the kernel, see `fitted`; None takes its own.
    """

    prior: JointEBMPrior
    kernel: Kernel[Any]
    free: tuple[int, ...]
    num_steps: int
    params: Params | None = None

    def __post_init__(self) -> None:
        depth = self.prior.base.depth
        if not self.free or sorted(set(self.free)) != list(self.free) or not set(self.free) <= set(range(depth)):
            raise ParameterError(f"free layers are ascending numbers from 0, z_1, to {depth - 1}; got {self.free}.")

    @property
    def space(self) -> Space:
        """u where all layers held lie above the free ones, else z."""
        return "u" if self.free == tuple(range(len(self.free))) else "z"

    def fitted(self, z: Latents, *, generator: torch.Generator) -> Self:
        """The same with a step size that fits these latents; use it for whatever is to be compared."""
        free, held = self._start(z, generator)
        params = fitted_params(self._energy, self.kernel, free, held or None, generator=generator)
        return replace(self, params=params)

    def draw(self, z: Latents, *, generator: torch.Generator) -> Latents:
        """Latents (C, *event_i) per layer with the free layers drawn anew."""
        free, held = self._start(z, generator)
        moved = run(
            self._energy,
            self.kernel,
            free,
            num_steps=self.num_steps,
            context=held or None,
            params=self.params,
            generator=generator,
        ).position
        assert isinstance(moved, tuple)
        with torch.no_grad():
            drawn = self.prior.to_latents(self._joined(moved, held), self.space)
        return tuple(drawn[layer] if layer in self.free else part for layer, part in enumerate(z))

    @torch.no_grad()
    def _start(self, z: Latents, generator: torch.Generator) -> tuple[Latents, Latents]:
        """Positions of the free layers, and of the others."""
        start = redrawn_from_base(self.prior.base, z, self.free, generator=generator)
        position = self.prior.from_latents(start, self.space)
        held = tuple(part for layer, part in enumerate(position) if layer not in self.free)
        return tuple(position[layer] for layer in self.free), held

    def _energy(self, free: Latents, held: Latents = ()) -> Tensor:
        return self.prior.energy(self.space)(self._joined(free, held))

    def _joined(self, free: Latents, held: Latents) -> Latents:
        moving, standing = iter(free), iter(held)
        return tuple(next(moving if layer in self.free else standing) for layer in range(self.prior.base.depth))


@dataclass(frozen=True)
class PosteriorSampler:
    """Posterior chains from given latents, with one step size for whatever is to be compared.

    Attributes:
        model: The model.
        chains: Kernel and space.
        num_steps: Of the chains.
        params: Of the kernel, see `fitted`; None takes its own.
    """

    model: LatentEBM
    chains: ChainConfig
    num_steps: int
    params: Params | None = None

    def fitted(self, z: Latents, x: Tensor, *, generator: torch.Generator) -> Self:
        """The same with a step size that fits these images, from these latents."""
        start, energy = self._start(z), self.model.posterior_energy(self.chains.space)
        return replace(self, params=fitted_params(energy, self.chains.kernel, start, x, generator=generator))

    def draw(self, z: Latents, x: Tensor, *, generator: torch.Generator) -> Latents:
        """Where chains from z end, given images x (C, *image)."""
        moved = run(
            self.model.posterior_energy(self.chains.space),
            self.chains.kernel,
            self._start(z),
            num_steps=self.num_steps,
            context=x,
            params=self.params,
            generator=generator,
        ).position
        assert isinstance(moved, tuple)
        with torch.no_grad():
            return self.model.prior.to_latents(moved, self.chains.space)

    @torch.no_grad()
    def _start(self, z: Latents) -> Latents:
        return self.model.prior.from_latents(z, self.chains.space)


def fitted_params(
    energy: Energy, kernel: Kernel[Any], start: Latents, context: Any, *, generator: torch.Generator
) -> Params:
    """A kernel's parameters after its own warm-up on these chains; of a kernel without a target, its own."""
    if kernel.target_accept is None:
        params: Params = kernel.init_params(start)
        return params
    result = sample(
        energy,
        kernel,
        start,
        num_samples=1,
        num_warmup=_WARMUP,
        context=context,
        generator=generator,
        show_progress=False,
    )
    fitted: Params = result.chains.params
    return fitted
