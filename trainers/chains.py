"""Prior and posterior chains as training uses them: started, run, adapted between runs, and saved with the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lamina.models import LatentEBM, Latents
from lamina.samplers import Energy, ParameterError, Programs, Run, Tracking, run
from lamina.samplers.engines import EngineName
from lamina.samplers.kernel import with_step_size

from .config import ChainConfig, is_unadjusted


class TrainingChains:
    """Chains that are run again and again while their energy learns.

    The parameters are constant within a run; between two runs the step size follows the kernel's target
    acceptance. Positions may persist; energies and gradients never do, as weights change between runs.

    What persists of prior chains is their position in their own space: u stays standard normal while the base
    prior learns. What persists of posterior chains is z, which the data pin down. Kept in u, z would follow the
    base prior wherever it goes, and nothing would keep the base prior's scales from shrinking to nothing.

    Args:
        model: The model; it is read anew at each run.
        config: Kernel, number of steps, space and start.
        num_chains: Chains of a run.
        num_rows: Rows of the training data for posterior chains that persist, one per row; None for the prior.
        generator: Source of all their randomness.
    """

    def __init__(
        self,
        model: LatentEBM,
        config: ChainConfig,
        num_chains: int,
        generator: torch.Generator,
        *,
        num_rows: int | None = None,
    ) -> None:
        self._model, self._config, self._generator = model, config, generator
        self._num_chains = num_chains
        self._keeps_latents = num_rows is not None
        # What is learnt changes the weights in place and nothing else, so that a program serves all of training. Not on
        # CUDA, where nobody knows how fast it is.
        self._programs = Programs()
        self._engine: EngineName = "auto" if generator.device.type == "cpu" else "eager"
        self._num_kept = num_chains if num_rows is None else num_rows
        self._memory = self._new_memory()
        self.params = config.kernel.init_params(self._ancestral(1))
        target = config.kernel.target_accept
        self._tracking = None if target is None else Tracking(target_accept=target)

    def prior_start(self) -> Latents:
        """Where the next run of prior chains starts, in their space; what is random in it is drawn in each call."""
        return tuple(part.clone() for part in self._start(slice(None), None))  # a run moves what persists

    def prior(self, start: Latents | None = None) -> tuple[Latents, Run]:
        """Draw from the prior, from `prior_start`: latents z without a graph, and how the chains did."""
        start = self._start(slice(None), None) if start is None else start
        return self._run(self._model.prior.energy(self._config.space), start, slice(None), None)

    def posterior(self, x: Tensor, rows: Tensor) -> tuple[Latents, Run]:
        """Draw from the posterior of data x, which are these rows of the training data."""
        return self._run(self._model.posterior_energy(self._config.space), self._start(rows, x), rows, x)

    def start_anew(self) -> None:
        """Forget where chains of an unadjusted kernel are: on the way out of reach, they would only go on.

        An adjusted one moves no further than its energy lets it, and posterior chains are dear to find again.
        """
        if is_unadjusted(self._config.kernel):
            self._memory = self._new_memory()

    def figures(self, name: str, result: Run) -> dict[str, Tensor]:
        """What to log of a run, 0-d each, under names that begin with `name`."""
        return {
            f"{name}_accept": result.accept_prob.mean(),
            f"{name}_displacement": result.displacement.mean(),
            f"{name}_step_size": self.params.step_size.mean(),
            f"{name}_divergent": result.num_divergent.sum(),
        }

    def _run(self, energy: Energy, start: Latents, rows: slice | Tensor, x: Tensor | None) -> tuple[Latents, Run]:
        result = run(
            energy,
            self._config.kernel,
            start,
            num_steps=self._config.num_steps,
            context=x,
            params=self.params,
            generator=self._generator,
            engine=self._engine,
            programs=self._programs,
        )
        position = result.position
        assert isinstance(position, tuple)
        z = self._latents(position)
        if self._memory is not None:
            for stored, part in zip(self._memory, z if self._keeps_latents else position, strict=True):
                stored[rows] = part
        if self._tracking is not None:
            step_size = self._tracking.update(self.params.step_size, result.accept_prob)
            self.params = with_step_size(self.params, step_size)
        return z, result

    def _start(self, rows: slice | Tensor, x: Tensor | None) -> Latents:
        space = self._config.space
        num = self._num_chains if x is None else len(x)
        match self._config.start:
            case "noise":
                return self._model.prior.base.noise(num, generator=self._generator)
            case "ancestral":
                return self._ancestral(num)
            case "encoder":
                if x is None or self._model.inference is None:
                    raise ParameterError("chains start from the encoder only with data and an inference model.")
                with torch.no_grad():
                    z, _ = self._model.inference(x, generator=self._generator)
                    return self._model.prior.from_latents(z, space)
            case "persistent":
                return self._restarted(self._remembered(rows))

    @torch.no_grad()
    def _remembered(self, rows: slice | Tensor) -> Latents:
        """Where the chains of these rows were left, in their own space."""
        assert self._memory is not None
        kept = tuple(part[rows] for part in self._memory)
        return self._model.prior.from_latents(kept, self._config.space) if self._keeps_latents else kept

    @torch.no_grad()
    def _latents(self, position: Latents) -> Latents:
        return self._model.prior.to_latents(position, self._config.space)

    def _restarted(self, position: Latents) -> Latents:
        """Replace a share of the chains by ancestral draws."""
        if not self._config.restart_fraction:
            return position
        num = len(position[0])
        is_new = torch.rand(num, generator=self._generator, device=position[0].device) < self._config.restart_fraction
        return tuple(
            torch.where(is_new.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
            for new, old in zip(self._ancestral(num), position, strict=True)
        )

    def _new_memory(self) -> Latents | None:
        """Ancestral draws for all chains, if they persist."""
        if self._config.start != "persistent":
            return None
        start = self._ancestral(self._num_kept)
        return self._latents(start) if self._keeps_latents else start

    def _ancestral(self, num: int) -> Latents:
        base = self._model.prior.base
        noise = base.noise(num, generator=self._generator)
        with torch.no_grad():
            return noise if self._config.space == "u" else base.transform(noise)

    def state_dict(self) -> dict[str, Any]:
        """Positions that persist, and the step size."""
        return {
            "memory": None if self._memory is None else list(self._memory),
            "step_size": self.params.step_size,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; a step size that follows nothing is the configuration's."""
        device = self._generator.device
        memory = state["memory"]
        self._memory = None if memory is None else tuple(part.to(device, copy=True) for part in memory)
        if self._tracking is not None:
            self.params = with_step_size(self.params, state["step_size"].to(device))
