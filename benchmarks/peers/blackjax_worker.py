"""BlackJAX as its documentation advises for many chains: a scan of vmapped steps, with a key for each chain."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .jax_energies import make_log_density
from .jax_sampler import JaxSampler
from .problems import PROBLEMS, observations, starts
from .protocol import MAX_TREE_DEPTH, NUM_LEAPFROG_STEPS, PERSISTENCE, Case, Sampler, UnsupportedError, serve


def main(options: Sequence[str]) -> None:
    """Serve."""
    import blackjax
    import jax

    serve(make, {"jax": jax.__version__, "blackjax": blackjax.__version__})


def make(case: Case) -> Sampler:
    """See `protocol.Make`."""
    return _langevin(case) if case.algorithm == "ula" else _metropolis(case)


def _metropolis(case: Case) -> Sampler:
    import blackjax
    import jax
    import jax.numpy as jnp

    problem, log_density = PROBLEMS[case.problem], make_log_density(case.problem)
    h, tau, ones = problem.leapfrog_step, problem.langevin(case.algorithm), jnp.ones(problem.dim)
    renewal = 1 - PERSISTENCE**2
    made = {
        "hmc": lambda: blackjax.hmc(log_density, h, ones, NUM_LEAPFROG_STEPS),
        "mala": lambda: blackjax.mala(log_density, tau),
        "barker": lambda: blackjax.barker_proposal(log_density, math.sqrt(2 * tau)),
        "ghmc": lambda: blackjax.ghmc(log_density, h, ones, renewal, renewal / 2),
        "nuts": lambda: blackjax.nuts(log_density, h, ones, max_num_doublings=MAX_TREE_DEPTH),
    }
    if case.algorithm not in made:
        raise UnsupportedError(f"BlackJAX has no {case.algorithm}")
    kernel = made[case.algorithm]()
    x = jnp.asarray(starts(case.problem, case.num_chains))
    keys = jax.random.split(jax.random.key(0), case.num_chains)
    state = jax.vmap(kernel.init)(x, keys) if case.algorithm == "ghmc" else jax.vmap(kernel.init)(x)
    step = jax.vmap(kernel.step)

    def one_step(key: jax.Array, state: object) -> tuple[object, jax.Array]:
        state, info = step(jax.random.split(key, case.num_chains), state)
        return state, info.acceptance_rate

    return JaxSampler(state, one_step, lambda state: state.position, case.num_steps)


def _langevin(case: Case) -> Sampler:
    """ULA, which BlackJAX calls SGLD; the observation of each chain goes in as its minibatch."""
    import blackjax
    import jax
    import jax.numpy as jnp

    log_density = make_log_density(case.problem)
    is_posterior = case.problem == "decoder"
    gradient = jax.grad(log_density) if is_posterior else jax.grad(lambda x, _: log_density(x))
    kernel = blackjax.sgld(gradient)
    tau = PROBLEMS[case.problem].langevin(case.algorithm)
    data = jnp.asarray(observations(case.num_chains)) if is_posterior else None
    step = jax.vmap(lambda key, x, y: kernel.step(key, x, y, tau), in_axes=(0, 0, 0 if is_posterior else None))

    def one_step(key: jax.Array, x: jax.Array) -> tuple[jax.Array, float]:
        return step(jax.random.split(key, case.num_chains), x, data), 0.0

    return JaxSampler(jnp.asarray(starts(case.problem, case.num_chains)), one_step, lambda x: x, case.num_steps)
