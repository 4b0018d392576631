"""Router group_limited: at most so many groups, distinct experts, even over all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.trace.synthetic import synthetic_steps


def routed(experts, top_k, groups, chosen, *, tokens=20, seed=0):
    """One step of two layers [L, T, K]."""
    sizes = {"num_layers": 2, "num_experts": experts, "top_k": top_k, "num_ranks": 1, "tokens_per_rank": tokens}
    (step,) = synthetic_steps("group_limited", **sizes, seed=seed, num_groups=groups, top_groups=chosen)
    return step.experts_LTK


@given(
    num_groups=st.integers(1, 8),
    size=st.integers(1, 6),
    top_groups=st.integers(1, 8),
    top_k=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_experts_are_distinct_and_lie_in_few_groups(num_groups, size, top_groups, top_k, seed):
    """Every token's experts, in every layer."""
    top_groups = min(top_groups, num_groups)
    top_k = min(top_k, top_groups * size)
    experts_LTK = routed(num_groups * size, top_k, num_groups, top_groups, seed=seed)
    assert (2, 20, top_k) == experts_LTK.shape
    for row in experts_LTK.reshape(-1, top_k).tolist():
        assert top_k == len(set(row))
        assert len({expert // size for expert in row}) <= top_groups
        assert all(0 <= expert < num_groups * size for expert in row)


def test_all_experts_are_as_likely_as_each_other():
    """256 experts in 8 groups, 4 chosen, 8 experts each: loads within 5 standard deviations of even."""
    load_E = np.bincount(routed(256, 8, 8, 4, tokens=20_000)[0].ravel(), minlength=256)
    assert np.abs(load_E - 625).max() < 5 * 625**0.5


@pytest.mark.parametrize(("groups", "chosen", "top_k"), [(3, 1, 1), (4, 5, 1), (4, 1, 9)])
def test_groups_that_cannot_be_are_refused(groups, chosen, top_k):
    """Groups that do not divide 32 experts, more chosen than there are, too few experts in them."""
    with pytest.raises(InputError, match="group_limited"):
        routed(32, top_k, groups, chosen)
