"""A part of tests/differential/differential.py, which runs 500 models: optimized plans give the unoptimized plan's logits."""

import sys

import pytest

import llmir

sys.path.insert(0, str(llmir.REPOSITORY / "tests" / "differential"))
import differential  # noqa: E402 (found through the line above)

QUICK = range(1, 7)
SLOW = range(7, 31)


@pytest.mark.parametrize("seed", [*QUICK, *(pytest.param(seed, marks=pytest.mark.slow) for seed in SLOW)])
def test_optimized_plans_give_the_unoptimized_logits(seed):
    assert not differential.run_seed(seed)["failures"]


def test_a_difference_is_noticed():
    """The comparison itself: a bit more is a failure where bits count, a bound more where they don't."""
    import numpy as np

    expected = [np.ones((2, 3), np.float32)]
    near = [np.nextafter(expected[0], np.float32(2))]
    exact = differential.Variant("v", [])
    bounded = differential.Variant("v", [], bitwise=False)
    assert not differential.compare(exact, 1e-5, expected, expected)
    assert "not bit for bit" in differential.compare(exact, 1e-5, near, expected)
    assert not differential.compare(bounded, 1e-5, near, expected)
    assert "bound" in differential.compare(bounded, 1e-5, [1.001 * e for e in expected], expected)
    assert "no numbers" in differential.compare(bounded, 1e-5, [np.nan * e for e in expected], expected)
