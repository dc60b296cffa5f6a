"""Who is compared: Lamina in some variants, and its peers, each in an environment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LAMINA = "lamina"
EAGER = "lamina-eager"
GRADIENT = "lamina-gradient"
COMPILE = "lamina-compile"
BFLOAT16 = "lamina-bfloat16"
TWO_THREADS = "lamina-2-threads"
PRODUCTS = "products"
BY_HAND = "by-hand"
LIMITS = (PRODUCTS, BY_HAND)
JAX_PEERS = ("blackjax", "numpyro", "tfp")
TORCH_PEERS = ("torchebm", "ebmkit")
PEERS = (*JAX_PEERS, *TORCH_PEERS)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """How one contender runs.

    Attributes:
        module: Its worker, in this folder.
        peer: Whose environment it runs in; None for the Python that runs this.
        options: Of the worker.
        num_threads: CPUs that it is pinned to.
    """

    module: str
    peer: str | None = None
    options: tuple[str, ...] = ()
    num_threads: int = 1


CONTENDERS: Mapping[str, Contender] = {
    LAMINA: Contender(module="lamina_worker"),
    EAGER: Contender(module="lamina_worker", options=("--engine", "eager")),
    GRADIENT: Contender(module="lamina_worker", options=("--engine", "eager", "--gradient")),
    COMPILE: Contender(module="lamina_worker", options=("--engine", "compile")),
    BFLOAT16: Contender(module="lamina_worker", options=("--engine", "compile", "--bfloat16")),
    TWO_THREADS: Contender(module="lamina_worker", options=("--torch-threads", "2"), num_threads=2),
    **{peer: Contender(module=f"{peer}_worker", peer=peer) for peer in PEERS},
    PRODUCTS: Contender(module="products_worker"),
    BY_HAND: Contender(module="by_hand_worker"),
}
"""By name. Two are limits: `products`, which is no sampler, the one that matrix products set; `by-hand` the one that a
program for any energy has to a program for this one."""
