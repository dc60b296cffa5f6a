"""NumPyro's kernels on a potential, vectorised over chains as `chain_method="vectorized"` does, without adaptation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .jax_energies import make_log_density
from .jax_sampler import JaxSampler
from .problems import PROBLEMS, starts
from .protocol import MAX_TREE_DEPTH, NUM_LEAPFROG_STEPS, Case, Sampler, UnsupportedError, serve


def main(options: Sequence[str]) -> None:
    """Serve."""
    import jax
    import numpyro

    serve(make, {"jax": jax.__version__, "numpyro": numpyro.__version__})


def make(case: Case) -> Sampler:
    """See `protocol.Make`."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer import HMC, NUTS

    problem, log_density = PROBLEMS[case.problem], make_log_density(case.problem)
    fixed = {"step_size": problem.leapfrog_step, "adapt_step_size": False, "adapt_mass_matrix": False}

    def potential(x: jax.Array) -> jax.Array:
        return -log_density(x)

    if case.algorithm == "hmc":
        kernel = HMC(potential_fn=potential, num_steps=NUM_LEAPFROG_STEPS, trajectory_length=None, **fixed)
    elif case.algorithm == "nuts":
        kernel = NUTS(potential_fn=potential, max_tree_depth=MAX_TREE_DEPTH, **fixed)
    else:
        raise UnsupportedError(f"NumPyro has no {case.algorithm} that runs chains as one batch")
    x, keys = jnp.asarray(starts(case.problem, case.num_chains)), jax.random.key(0)
    if case.num_chains == 1:
        x = x[0]
    else:
        keys = jax.random.split(keys, case.num_chains)
    state = kernel.init(keys, 0, x, model_args=(), model_kwargs={})

    def one_step(key: jax.Array, state: Any) -> tuple[Any, jax.Array]:
        state = kernel.sample(state, (), {})  # the state has keys of its own
        return state, state.accept_prob

    return JaxSampler(state, one_step, lambda state: state.z.reshape(case.num_chains, -1), case.num_steps)
