"""Not a sampler: the matrix products of a Langevin step and nothing else, by the library that PyTorch calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from .problems import Layers, decoder, mlp, starts
from .protocol import Case, Sampler, UnsupportedError, serve


def main(options: Sequence[str]) -> None:
    """Serve."""
    torch.set_num_threads(1)
    serve(make, {"torch": torch.__version__})


def make(case: Case) -> Sampler:
    """See `protocol.Make`."""
    layers = {"mlp": mlp, "decoder": decoder}
    if case.algorithm != "ula" or case.problem not in layers:
        raise UnsupportedError("the limit is of networks alone")
    return _Products(layers[case.problem](), case)


class _Products:
    """See `protocol.Sampler`; the chains stay where they are."""

    def __init__(self, layers: Layers, case: Case) -> None:
        self.num_steps, self.engine = case.num_looped_steps, "matrix products alone"
        self._x = torch.from_numpy(starts(case.problem, case.num_chains))
        self._pairs = []
        for weight in map(torch.from_numpy, layers.weights):
            left, right = (torch.randn(case.num_chains, width) for width in weight.shape)
            transposed = weight.T.contiguous()
            self._pairs.append((left, weight, right, transposed, torch.empty_like(right), torch.empty_like(left)))

    def run(self) -> float | None:
        """Forward and backward through all layers."""
        for _ in range(self.num_steps):
            for left, weight, right, transposed, forward, backward in self._pairs:
                torch.mm(left, weight, out=forward)
                torch.mm(right, transposed, out=backward)
        return None

    def position(self) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        return np.asarray(self._x.numpy())

    def draws(self, num_draws: int) -> NDArray[np.float32]:
        """See `protocol.Sampler`."""
        raise UnsupportedError("it draws nothing")
