"""ParallelDims: products hold, refusals show the arithmetic."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.parallelism import ParallelDims, deal_layers


@given(ep=st.integers(1, 64), edp=st.integers(1, 16), tp=st.integers(1, 8))
def test_both_products_are_the_world(ep, edp, tp):
    """dp x tp x pp = edp x ep x etp x pp = world, whatever is left out."""
    world = ep * edp
    assume(world % tp == 0)
    dims = ParallelDims.for_world(world, ep=ep, tp=tp)
    assert world == dims.dp * dims.tp * dims.pp == dims.edp * dims.ep * dims.etp * dims.pp


def test_ep_left_out_takes_the_whole_world():
    """One expert-parallel group is the default."""
    dims = ParallelDims.for_world(32)
    assert (32, 32, 1) == (dims.ep, dims.dp, dims.edp)


def test_an_ep_that_does_not_divide_is_refused_with_the_divisors():
    """The message shows the product, the world and what would divide it."""
    with pytest.raises(InputError, match=r"ep=12 x etp=1 x pp=1 = 12 does not divide world_size=64; divisors: 1, 2, 4"):
        ParallelDims.for_world(64, ep=12)


def test_degrees_that_miss_the_world_are_refused_with_their_product():
    """dp x tp x pp is shown beside the world size."""
    with pytest.raises(InputError, match=r"dp=3 x tp=2 x pp=1 = 6 is not world_size=8"):
        ParallelDims.for_world(8, dp=3, tp=2)


@pytest.mark.parametrize("name", ["ep", "dp", "tp", "pp", "etp"])
def test_degrees_below_one_are_refused(name):
    """Zero and negative degrees never reach a division."""
    for value in (0, -4):
        with pytest.raises(InputError):
            ParallelDims.for_world(8, **{name: value})


def test_a_degree_left_out_is_not_blamed() -> None:
    """Where ep is left out, the refusal shows the product of what was given."""
    with pytest.raises(InputError, match=r"^etp=1 x pp=5 = 5 does not divide world_size=16; divisors: 1, 2, 4, 8, 16$"):
        ParallelDims.for_world(16, pp=5)


def test_more_pipeline_parts_than_layers_are_refused() -> None:
    """Four parts of three layers are refused by number, without a product of zero."""
    with pytest.raises(InputError, match=r"4 pipeline parts .* are more than the 3 layers"):
        deal_layers(3, 4)
