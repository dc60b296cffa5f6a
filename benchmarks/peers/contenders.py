"""Who is compared: Lamina in some variants, and its peers, each in an environment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LAMINA = "lamina"
EAGER = "lamina-eager"
GRADIENT = "lamina-gradient"
TWO_THREADS = "lamina-2-threads"
PRODUCTS = "products"
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
    TWO_THREADS: Contender(module="lamina_worker", options=("--torch-threads", "2"), num_threads=2),
    **{peer: Contender(module=f"{peer}_worker", peer=peer) for peer in PEERS},
    PRODUCTS: Contender(module="products_worker"),
}
"""By name. `products` is no sampler: it is the limit that matrix products set."""
