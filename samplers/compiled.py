"""The compiled engine: `torch.compile` of a kernel's step, for energies that no program holds, and for GPUs.

All else is as in the eager engine: the loop over steps is Python's, and the noise is drawn outside and handed in.
Gradients are functorch's, which Dynamo traces as it is by default; it traces autograd's own behind a switch only.
"""

from __future__ import annotations

import types
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor

from .eager import Eager
from .energy import Energy, Target
from .errors import NotTraceableError
from .kernel import Kernel, Noise, StateLike
from .loops import recorded_by
from .noise import CounterNoise

_Step: TypeAlias = Callable[[Kernel[Any], Target, Any, Noise, Any], tuple[Any, Any]]

_steps: weakref.WeakKeyDictionary[Any, dict[str, _Step]] = weakref.WeakKeyDictionary()
"""Compiled steps by energy and kernel."""


def compiled(eager: Eager, state: StateLike) -> Eager:
    """The same run, each step as one compiled graph.

    Weights, buffers, the context, the temperature and the tensors among the parameters are inputs of the graph, which
    sees them as they are. Another dtype, or parameters of another shape, compile another graph; so do the second
    number of chains and the second value of an integer among the parameters, such as `num_leapfrog_steps`, after
    which that graph serves any other, one chain apart. An energy is known by its identity: one that is made anew for
    every run is compiled anew.

    Args:
        eager: The run by plain torch.
        state: Energies and gradients where the chains stand.

    Raises:
        NotTraceableError: If kernel or energy cannot be compiled.
    """
    kernel = eager.kernel
    if any(site.is_indexed for site in kernel.sites.values()):
        raise NotTraceableError(f"{type(kernel).__name__} finds out on the way how much noise a step needs")
    trial = CounterNoise(0).draw(kernel.sites, state.position, 0)
    with recorded_by(_FixedLoops(kernel)):
        eager.step_by(state, trial)
    engine = eager.moved_by(partial(_by_graph, _step_of(eager.energy, kernel), kernel), _GraphTarget.of)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own; those of the energy have been shown
        engine.step_by(state, trial)
    engine.reason = "compile: each step is one compiled graph"
    return engine


def _by_graph(graph: _Step, kernel: Kernel[Any], *arguments: Any) -> tuple[Any, Any]:
    try:
        return graph(kernel, *arguments)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # plain torch has run it: what fails is to compile it
        what = " ".join(str(error).split("\n")[:2]).strip()
        raise NotTraceableError(f"{type(error).__name__} from torch.compile: {what}") from error


class _FixedLoops:
    """Runs loops of a length that is known, and refuses all others: a graph cannot wait for values."""

    def __init__(self, kernel: Kernel[Any]) -> None:
        self._name = type(kernel).__name__

    def repeat(self, num: int, body: Callable[..., Any], carry: Any) -> Any:
        """See `Recorder`."""
        for _ in range(num):
            carry = body(*carry)
        return carry

    def while_any(self, body: Callable[..., Any], carry: Any) -> NoReturn:
        """See `Recorder`."""
        raise NotTraceableError(f"steps of {self._name} take as long as values say, which a graph cannot know")


class _GraphTarget(Target):
    """A target that Dynamo can trace."""

    @classmethod
    def of(cls, target: Target) -> _GraphTarget:
        """The same target; its temperature is a tensor, so that another one compiles nothing."""
        same = cls.like(target)
        if isinstance(same._inverse_temperature, float):
            same._inverse_temperature = torch.tensor(same._inverse_temperature, dtype=torch.float64)
        return same

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See `Target`."""
        if self._own_gradient is not None:
            return self._tempered(*self._by_itself(x))

        def total(x: Tensor) -> tuple[Tensor, Tensor]:
            value = self._energy(self.layout.unravel(x), *self._arguments())
            self._check(value, x)
            return value.sum(), value

        grad, (_, value) = torch.func.grad_and_value(total, has_aux=True)(x)
        return self._tempered(value, grad)


def _step_of(energy: Energy, kernel: Kernel[Any]) -> _Step:
    """The compiled step of a kernel on an energy, for as long as the energy lives."""
    try:
        known = _steps.setdefault(energy, {})
    except TypeError:  # it can be no key: compiled for this run alone
        known = {}
    name = repr(kernel)
    if name not in known:
        # Dynamo keeps its graphs with the code, and only a few of them: everybody needs a code of their own.
        known[name] = torch.compile(types.FunctionType(_step.__code__.replace(), globals()), fullgraph=True)
    return known[name]


def _step(kernel: Kernel[Any], target: Target, state: Any, noise: Noise, params: Any) -> tuple[Any, Any]:
    return kernel.step(target, state, noise, params)
