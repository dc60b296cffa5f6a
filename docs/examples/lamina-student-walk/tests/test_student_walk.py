"""All that a kernel needs for tests: Lamina's battery, and what is particular to it."""

from __future__ import annotations

import pytest
import torch
from lamina_student_walk import StudentWalk

from lamina.samplers import ParameterError, kernel_name, make_kernel, run
from lamina.samplers.testing import check_kernel, ks_one_sample


def test_battery() -> None:
    """Invariance, caches, independent chains, NaN and infinity, resuming: everything that Lamina's own kernels keep."""
    check_kernel(StudentWalk(), num_chains=10_000, max_shift=0.1).assert_passed()


def test_found_by_name() -> None:
    """The entry point works both ways."""
    kernel = make_kernel("student-walk", step_size=0.5, degrees=3)
    assert kernel == StudentWalk(step_size=0.5, degrees=3)
    assert kernel_name(kernel) == "student-walk"


def test_moves_are_cauchy_at_one_degree() -> None:
    """Where the energy is flat every move is taken; 0.03 is exceeded with probability 2 exp(-2 n 0.03^2) < 1e-15."""
    start = torch.zeros(20_000, 1, dtype=torch.float64)
    end = run(lambda x: 0 * x.sum(1), StudentWalk(step_size=2.0, degrees=1), start, num_steps=1, noise=0).position
    assert isinstance(end, torch.Tensor)
    assert ks_one_sample(end[:, 0], lambda x: 0.5 + torch.atan(x / 2.0) / torch.pi) < 0.03


def test_no_degrees_are_refused() -> None:
    """Choices that mean nothing raise an error of Lamina's."""
    with pytest.raises(ParameterError, match="degrees must be an integer of at least 1"):
        StudentWalk(degrees=0)
