"""The adaptation protocol: init, update on what a step told, final.

Adaptations stand apart from kernels: they read `Info` and return new parameters. They are frozen dataclasses of
choices; all that changes while they learn is in a state that `update` returns anew. They compose: `Windows` learns a
mass around any adaptation of step sizes, `ChEES` a trajectory length around dual averaging.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from ..kernel import InfoLike, Kernel, StateLike


class Adaptation(ABC):
    """Changes a kernel's parameters during warm-up. `warm_up` drives it and freezes the result."""

    @abstractmethod
    def init(self, kernel: Kernel[Any], params: Any, state: StateLike, num_steps: int) -> Any:
        """Start from the parameters of chains in this state.

        Args:
            kernel: Whose parameters are adapted.
            params: They as they stand.
            state: Where the chains stand.
            num_steps: How often `update` will be called.

        Returns:
            What the adaptation has learnt, for `update`.

        Raises:
            ParameterError: If kernel or chains are of no use to this adaptation.
        """

    @abstractmethod
    def update(
        self, adapted: Any, kernel: Kernel[Any], params: Any, state: StateLike, info: InfoLike
    ) -> tuple[Any, Any]:
        """Learn from one step.

        Args:
            adapted: What was learnt so far.
            kernel: The kernel.
            params: What the step was taken with.
            state: Where it led.
            info: What it told.

        Returns:
            What is known now, and the parameters for the next step.
        """

    @abstractmethod
    def final(self, adapted: Any, kernel: Kernel[Any], params: Any) -> Any:
        """The parameters to freeze, such as averages of the iterates."""

    def aim(self, kernel: Kernel[Any]) -> float | tuple[float, ...] | None:
        """The acceptance aimed for; None where there is nothing to aim at."""
        return kernel.target_accept

    def acceptance(self, accept_prob: Tensor) -> Tensor:
        """What of the acceptance (C, B) of a step is held against the aim, (B,): its mean over chains."""
        return accept_prob.mean(dim=0)

    def notes(self, adapted: Any) -> tuple[str, ...]:
        """What was learnt, in words, for people who read the warm-up's report."""
        return ()
