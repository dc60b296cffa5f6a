"""The guards of conftest.py, run on small test files of their own: each must object, and to the culprit only."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CLEAN_TESTS = """
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

def test_one_thread():
    assert torch.get_num_threads() == 1

def test_own_generators():
    torch.randn(3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.random.default_rng(0).normal()

def test_fork():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.nn.Linear(2, 2)

@settings(max_examples=5, database=None)
@given(st.integers())
def test_hypothesis_may_reseed(value):
    np.random.normal()
"""


@pytest.fixture
def guarded(pytester: pytest.Pytester) -> pytest.Pytester:
    """A scratch test folder under the conftest.py beside this file."""
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text(encoding="utf-8"))
    return pytester


def test_guard_lets_clean_tests_pass(guarded: pytest.Pytester) -> None:
    guarded.makepyfile(CLEAN_TESTS)
    guarded.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("culprit", "advice"),
    [
        ("torch.randn(1)", "*pass generator=*"),
        ("torch.manual_seed(torch.initial_seed() + 1)", "*pass generator=*"),
        ("torch.nn.Linear(2, 2)", "*torch.random.fork_rng*"),
        ("np.random.normal()", "*np.random.default_rng(seed)*"),
        ("torch.set_default_dtype(torch.float64)", "*became torch.float64: pass dtype=*"),
    ],
)
def test_guard_fails_the_culprit_and_restores(guarded: pytest.Pytester, culprit: str, advice: str) -> None:
    guarded.makepyfile(
        f"import numpy as np\nimport torch\ndef test_culprit():\n    {culprit}\ndef test_next_one():\n    pass\n"
    )
    result = guarded.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_culprit*", advice])
