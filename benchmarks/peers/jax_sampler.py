"""What the samplers of JAX have in common: a scan over steps, compiled once, from where the chains stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class JaxSampler:
    """See `protocol.Sampler`.

    The scan carries the state and the sum of acceptance, so that no library is spared what the others compute.

    Args:
        state: Of all chains, a structure of arrays.
        step: Maps a key and a state to the next state and the acceptance of each chain, or 0.0 where there is none.
        position: Reads (C, D) from a state.
        num_steps: Of a call.
    """

    def __init__(
        self,
        state: Any,
        step: Callable[[Any, Any], tuple[Any, Any]],
        position: Callable[[Any], Any],
        num_steps: int,
    ) -> None:
        import jax
        import jax.numpy as jnp

        self.num_steps, self.engine = num_steps, "compiled scan"
        self._state, self._step, self._position = state, step, position
        self._key = jax.random.key(5)

        def run(state: Any, key: Any) -> Any:
            def one(carry: Any, key: Any) -> Any:
                state, accept = step(key, carry[0])
                return (state, carry[1] + jnp.mean(accept)), None

            return jax.lax.scan(one, (state, jnp.zeros(())), jax.random.split(key, num_steps))[0]

        self._run = jax.jit(run)

    def run(self) -> float | None:
        """See `protocol.Sampler`."""
        import jax

        self._key, key = jax.random.split(self._key)
        self._state, accept = jax.block_until_ready(self._run(self._state, key))
        return float(accept) / self.num_steps

    def position(self) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        return np.asarray(self._position(self._state))

    def draws(self, num_draws: int) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        import jax

        def run(state: Any, key: Any) -> Any:
            def one(state: Any, key: Any) -> Any:
                state, _ = self._step(key, state)
                return state, self._position(state)

            return jax.lax.scan(one, state, jax.random.split(key, num_draws))[1]

        return np.asarray(jax.jit(run)(self._state, self._key))
