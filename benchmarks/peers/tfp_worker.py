"""TensorFlow Probability on JAX, whose kernels take all chains as one batch."""

from __future__ import annotations

from collections.abc import Sequence

from .jax_energies import make_log_density
from .jax_sampler import JaxSampler
from .problems import PROBLEMS, observations, starts
from .protocol import MAX_TREE_DEPTH, NUM_LEAPFROG_STEPS, Case, Sampler, UnsupportedError, serve


def main(options: Sequence[str]) -> None:
    """Serve."""
    import jax
    import tensorflow_probability.substrates.jax as tfp

    serve(make, {"jax": jax.__version__, "tfp": tfp.__version__})


def make(case: Case) -> Sampler:
    """See `protocol.Make`."""
    import jax
    import jax.numpy as jnp
    import tensorflow_probability.substrates.jax as tfp

    problem, log_density = PROBLEMS[case.problem], make_log_density(case.problem)
    if case.problem == "decoder":
        posterior, data = log_density, jnp.asarray(observations(case.num_chains))

        def log_density(z: jax.Array) -> jax.Array:
            return posterior(z, data)

    h, tau = jnp.float32(problem.leapfrog_step), jnp.float32(problem.langevin(case.algorithm))
    mcmc = tfp.mcmc
    made = {
        "hmc": lambda: mcmc.HamiltonianMonteCarlo(log_density, step_size=h, num_leapfrog_steps=NUM_LEAPFROG_STEPS),
        "mala": lambda: mcmc.MetropolisAdjustedLangevinAlgorithm(log_density, step_size=2 * tau),
        "ula": lambda: mcmc.UncalibratedLangevin(log_density, step_size=2 * tau, compute_acceptance=False),
        "nuts": lambda: mcmc.NoUTurnSampler(log_density, step_size=h, max_tree_depth=MAX_TREE_DEPTH),
    }
    if case.algorithm not in made:
        raise UnsupportedError(f"TFP has no {case.algorithm}")
    kernel = made[case.algorithm]()
    x = jnp.asarray(starts(case.problem, case.num_chains))

    def one_step(key: jax.Array, state: tuple[jax.Array, object]) -> tuple[tuple[jax.Array, object], object]:
        x, results = kernel.one_step(*state, seed=key)
        accept = 0.0 if case.algorithm == "ula" else jnp.exp(jnp.minimum(results.log_accept_ratio, 0))
        return (x, results), accept

    return JaxSampler((x, kernel.bootstrap_results(x)), one_step, lambda state: state[0], case.num_steps)
