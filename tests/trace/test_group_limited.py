"""Router group_limited: at most so many groups, distinct experts, even over all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.trace.gate import RouterLayer
from moesim.trace.routers.group_limited import build
from moesim.trace.token_batches import TokenDeal


def _route(num_tokens: int, num_experts: int, top_k: int, num_groups: int, top_groups: int, seed: int = 0):
    layer = RouterLayer(num_experts=num_experts, top_k=top_k, seed=seed)
    deal = TokenDeal(num_tokens=num_tokens, num_steps=1, num_ranks=1, sequence_tokens=512)
    return build(layer, num_groups=num_groups, top_groups=top_groups)(deal.batch(0, 0, num_tokens))


@given(
    num_groups=st.integers(1, 8),
    size=st.integers(1, 6),
    top_groups=st.integers(1, 8),
    top_k=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_experts_are_distinct_and_lie_in_few_groups(num_groups, size, top_groups, top_k, seed):
    """Every token's experts."""
    top_groups = min(top_groups, num_groups)
    top_k = min(top_k, top_groups * size)
    experts_TK = _route(20, num_groups * size, top_k, num_groups, top_groups, seed)
    assert (20, top_k) == experts_TK.shape
    for row in experts_TK.tolist():
        assert top_k == len(set(row))
        assert len({expert // size for expert in row}) <= top_groups
        assert all(0 <= expert < num_groups * size for expert in row)


def test_all_experts_are_as_likely_as_each_other():
    """256 experts in 8 groups, 4 chosen, 8 experts each: loads within 5 standard deviations of even."""
    load_E = np.bincount(_route(20_000, 256, 8, 8, 4).ravel(), minlength=256)
    assert np.abs(load_E - 625).max() < 5 * 625**0.5


@pytest.mark.parametrize(("groups", "chosen", "top_k"), [(3, 1, 1), (4, 5, 1), (4, 1, 9), (0, 0, 1)])
def test_groups_that_cannot_be_are_refused(groups, chosen, top_k):
    """Groups that do not divide 32 experts, more chosen than there are, too few experts in them."""
    with pytest.raises(InputError, match="group_limited"):
        _route(1, 32, top_k, groups, chosen)
