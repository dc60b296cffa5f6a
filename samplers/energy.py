"""The energy interface, and the target that kernels see.

An energy is any callable from a position to one energy per chain, in nats: minus the log-density up to a
constant. A function, a closure or an `nn.Module` will do. With a context (one row per chain) it is called as
`energy(position, context)`. An energy that knows its gradient brings `value_and_grad` with the same arguments.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from .checks import check_positive
from .errors import EnergyError, ParameterError, PositionError
from .position import Layout, Position, check_rows, for_autograd, map_tensors, rows

_ENGINE: Any = getattr(torch.autograd.Variable, "_execution_engine", None)


class Energy(Protocol):
    """A callable `(C, *event) -> (C,)`: minus the log-density up to a constant, in nats, one value per chain."""

    def __call__(self, position: Any, /, *context: Any) -> Tensor:
        """Return one energy per chain, shape (C,)."""
        ...


@runtime_checkable
class HasValueAndGrad(Protocol):
    """An energy that computes its own gradient."""

    def value_and_grad(self, position: Any, /, *context: Any) -> tuple[Tensor, Position]:
        """Return the energies (C,) and the gradient, in the structure of the position."""
        ...


def from_log_prob(log_prob: Callable[..., Tensor]) -> Energy:
    """Adapt a log-density `(C, *event) -> (C,)` to the sign of an energy."""

    def energy(position: Any, /, *context: Any) -> Tensor:
        return -log_prob(position, *context)

    return energy


class Target:
    """Energy and gradient of all chains at once, as kernels see them: matrices in, columns out.

    Holds the context and the temperature, so that a kernel needs to know of neither: the density is
    proportional to exp(-energy / temperature).

    Args:
        energy: Per-chain energy, see the module docstring.
        layout: How positions lie in the matrix (C, D).
        num_chains: C.
        context: Structure of tensors with one row per chain, or None.
        temperature: > 0; one number, or a tensor (C,) of one per chain.

    Raises:
        ParameterError: If a temperature is not positive and finite.
        PositionError: If the context does not have one row per chain.
    """

    def __init__(
        self,
        energy: Energy,
        layout: Layout,
        num_chains: int,
        *,
        context: Any = None,
        temperature: float | Tensor = 1.0,
    ) -> None:
        if not callable(energy):
            raise EnergyError(f"an energy is a callable (C, *event) -> (C,); got {type(energy).__name__}.")
        if context is not None:
            check_rows(context, num_chains)
            context = for_autograd(context)
        self.layout = layout
        self._energy = energy
        self._own_gradient = energy.value_and_grad if isinstance(energy, HasValueAndGrad) else None
        self._context = context
        self._inverse_temperature = _inverse_temperature(temperature, num_chains)

    @classmethod
    def like(cls, other: Target) -> Self:
        """The same target, evaluated in the way of this class."""
        target = object.__new__(cls)
        target.__dict__.update(other.__dict__)
        return target

    @property
    def inverse_temperature(self) -> Tensor | float:
        """1 / T, a number or a column (C, 1)."""
        return 1.0 if self._inverse_temperature is None else self._inverse_temperature

    @property
    def context_structure(self) -> str:
        """The context with shapes and dtypes in the place of its tensors, in words."""
        context = self._context
        return repr(None if context is None else map_tensors(lambda part: (tuple(part.shape), part.dtype), context))

    def rows(self, index: slice) -> Target:
        """The same target for some of the chains: context and temperature are sliced with them."""
        part = copy.copy(self)
        part._context = None if self._context is None else rows(self._context, index)
        beta = self._inverse_temperature
        part._inverse_temperature = beta[index] if isinstance(beta, Tensor) else beta
        return part

    def replicated(self, inverse_temperatures: Tensor) -> Target:
        """The same target for K copies of every chain, side by side, each over an inverse temperature of its own.

        Args:
            inverse_temperatures: (C, K); they multiply the energy over this target's own temperature.
        """
        num_chains, num_copies = inverse_temperatures.shape
        beta, column = self._inverse_temperature, inverse_temperatures.reshape(-1, 1)
        copies = copy.copy(self)
        chain = torch.arange(num_chains, device=column.device).repeat_interleave(num_copies)
        copies._context = None if self._context is None else rows(self._context, chain)
        copies._inverse_temperature = column * (beta[chain] if isinstance(beta, Tensor) else beta or 1.0)
        return copies

    def with_rows(self, replace: Callable[[str, Tensor], Tensor]) -> Target:
        """The same target for other chains.

        Args:
            replace: From the name of a tensor with a row per chain, and that tensor, to the other chains' own.
        """
        other = copy.copy(self)
        beta = self._inverse_temperature
        names = (f"context.{i}" for i in itertools.count())
        other._context = (
            None if self._context is None else map_tensors(lambda part: replace(next(names), part), self._context)
        )
        other._inverse_temperature = replace("beta", beta) if isinstance(beta, Tensor) else beta
        return other

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energy and gradient at x.

        Args:
            x: Positions, (C, D); not modified.

        Returns:
            Energies (C, 1) in the energy's own dtype, and their gradient (C, D) in that of x; no graph.

        Raises:
            EnergyError: If the energy does not return one floating-point value per chain, or does not depend
                on the position in a way that autograd can see.
        """
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                return self(x)
        with torch.enable_grad():
            leaf = x.clone() if x.is_inference() else x.detach()
            value, grad = self._by_autograd(leaf) if self._own_gradient is None else self._by_itself(leaf)
        return self._tempered(value, grad)

    def energy(self, x: Tensor) -> Tensor:
        """Energies (C, 1) at x (C, D) without their gradient, which they need not have; else like a call."""
        with torch.no_grad():
            value = self._energy(self.layout.unravel(x), *self._arguments())
        self._check(value, x)
        value = value.detach().unsqueeze(-1)
        return value if self._inverse_temperature is None else value * self._inverse_temperature

    def _tempered(self, value: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (C,) as a column without a graph, and gradients, both over the temperature."""
        value = value.detach().unsqueeze(-1)
        if self._inverse_temperature is None:
            return value, grad
        return value * self._inverse_temperature, (grad * self._inverse_temperature).to(grad.dtype)

    def _by_autograd(self, leaf: Tensor) -> tuple[Tensor, Tensor]:
        leaf.requires_grad_(True)
        value = self._energy(self.layout.unravel(leaf), *self._arguments())
        self._check(value, leaf)
        return value, _gradient(value, leaf)

    def _by_itself(self, x: Tensor) -> tuple[Tensor, Tensor]:
        assert self._own_gradient is not None
        both = self._own_gradient(self.layout.unravel(x), *self._arguments())
        if not isinstance(both, tuple) or len(both) != 2:
            raise EnergyError(f"value_and_grad returns the energies and the gradient; got {type(both).__name__}.")
        self._check(both[0], x)
        try:
            grad = self.layout.ravel(both[1])
        except PositionError as error:
            raise EnergyError(f"value_and_grad returns a gradient in the structure of the position: {error}") from error
        if grad.shape != x.shape:
            raise EnergyError(
                f"value_and_grad returns a gradient of the position's shape, {tuple(x.shape)} as a matrix; got "
                f"{tuple(grad.shape)}."
            )
        grad = grad.detach()
        return both[0], grad if grad.dtype == x.dtype else grad.to(x.dtype)

    def _arguments(self) -> tuple[Any, ...]:
        return () if self._context is None else (self._context,)

    def _check(self, value: Tensor, x: Tensor) -> None:
        wanted = (x.shape[0],)
        if not isinstance(value, Tensor):
            raise EnergyError(f"an energy returns a tensor of shape {wanted}; got {type(value).__name__}.")
        if value.shape != wanted:
            raise EnergyError(
                f"an energy returns one value per chain, here shape {wanted}; got {tuple(value.shape)}. "
                + _shape_advice(value, wanted[0])
            )
        if not value.is_floating_point():
            raise EnergyError(f"an energy returns floating-point values; got {value.dtype}.")


def check_start(energy: Tensor, grad: Tensor) -> None:
    """Raise unless every chain starts where energy and gradient are finite.

    Args:
        energy: (C, 1).
        grad: (C, D).

    Raises:
        EnergyError: Naming the first chains for which that does not hold.
    """
    for what, values in (("energy", energy), ("gradient", grad)):
        bad = (~torch.isfinite(values)).any(dim=1).nonzero().flatten().tolist()
        if bad:
            first = values[bad[0]][~torch.isfinite(values[bad[0]])][0].item()
            raise EnergyError(
                f"every chain must start where the {what} is finite; {len(bad)} of {len(values)} do not, "
                f"first chain {bad[0]} with {first}. Start inside the support, or look for an overflow."
            )


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    if not value.requires_grad:
        raise EnergyError(
            "the energy does not depend on the position through differentiable torch operations. "
            "Do not detach it or convert it to NumPy, or give the energy a value_and_grad method."
        )
    (grad,) = _backward(value, leaf, torch.ones_like(value))
    if grad is None:
        raise EnergyError("the energy has a gradient, but none with respect to the position it was called with.")
    return grad


def _backward(value: Tensor, leaf: Tensor, ones: Tensor) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`; on the CPU by what that calls after a long look at its arguments.

    The look takes a third of the time of a small energy and its gradient, and, the first time, half a second for what
    it imports. What is called has no public name: where a version of PyTorch lacks that name, the public function
    serves.
    """
    if _ENGINE is not None and value.is_cpu and not has_torch_function((value,)):
        found: tuple[Tensor | None, ...] = _ENGINE.run_backward(
            (value,), (ones,), False, False, (leaf,), allow_unreachable=True, accumulate_grad=False
        )
        return found
    return torch.autograd.grad(value, leaf, ones, allow_unused=True)


def _shape_advice(value: Tensor, num_chains: int) -> str:
    if value.ndim == 0:
        return "Sum over the event dimensions only, e.g. .flatten(1).sum(1): a sum over chains hides each chain's own."
    if value.shape == (num_chains, 1):
        return "Drop the last axis: .squeeze(-1)."
    return "Sum over the event dimensions, e.g. .flatten(1).sum(1)."


def _inverse_temperature(temperature: float | Tensor, num_chains: int) -> Tensor | float | None:
    """1 / T as a number or a column (C, 1); None where it is 1, so that nothing is multiplied."""
    check_positive("temperature", temperature)
    if not isinstance(temperature, Tensor):
        return None if temperature == 1 else 1 / temperature
    if temperature.shape not in ((), (num_chains,)):
        raise ParameterError(
            f"temperature is one number or one per chain, shape ({num_chains},); got {tuple(temperature.shape)}."
        )
    return 1 / temperature.reshape(-1, 1).expand(num_chains, 1)
