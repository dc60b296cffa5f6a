"""What every test runs under: one thread, and global state that it leaves as it found it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from lamina.samplers.engines import DEFAULT_VARIABLE


@pytest.fixture(autouse=True, scope="session")
def _one_thread_for_all() -> Iterator[None]:
    """Small tensors run faster on one thread, and bits then do not depend on how many cores a machine has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _eager_unless_asked() -> Iterator[None]:
    """What leaves the engine open is not about engines, and is fastest where nothing has to be compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DEFAULT_VARIABLE, "eager")
        yield


@pytest.fixture(autouse=True)
def _global_state_is_left_alone() -> Iterator[None]:
    """Fail a test that moves a global generator or the default dtype, and put them back for the next one.

    Hypothesis reseeds numpy's generator for each example and restores it afterwards, so that its tests pass.
    """
    torch_state, numpy_state, dtype = torch.get_rng_state(), _numpy_state(), torch.get_default_dtype()
    yield
    changed = []
    if not torch.equal(torch.get_rng_state(), torch_state):
        torch.set_rng_state(torch_state)
        changed.append(
            "torch's global generator moved: pass generator=torch.Generator().manual_seed(...), and build modules, "
            "which draw their first weights from it, inside torch.random.fork_rng(devices=[])"
        )
    if _numpy_state() != numpy_state:
        np.random.set_state(pickle.loads(numpy_state))
        changed.append("numpy's global generator moved: draw from np.random.default_rng(seed)")
    if torch.get_default_dtype() != dtype:
        found = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        changed.append(f"the default dtype became {found}: pass dtype= to what makes a tensor")
    if changed:
        pytest.fail("\n".join(changed), pytrace=False)


def _numpy_state() -> bytes:
    """The state of numpy's global generator, in a form that compares in one step."""
    return pickle.dumps(np.random.get_state())
