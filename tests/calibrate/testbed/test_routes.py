import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from calibrate.testbed.routes import Routing, count_hops, count_pairs
from moesim.traffic import TrafficCounts, count_traffic

from .routings import routings


def _counted_by_moesim(routing: Routing) -> TrafficCounts:
    return count_traffic(
        routing.slots_TK.astype(np.int32),
        routing.source_T.astype(np.int32),
        routing.device_of_slot_P.astype(np.int32),
        routing.num_ranks,
        routing.ranks_per_node,
    )


@given(routings())
def test_direct_messages_are_moesims_copies_per_expert(routing: Routing) -> None:
    """The sizes of direct messages are moesim's copies per (token, expert)."""
    assert _counted_by_moesim(routing).per_expert_DD.tolist() == count_pairs(routing).tolist()


@given(routings(), st.integers(1, 7))
def test_hops_of_all_chunks_are_moesims_copies_per_node_and_device(routing: Routing, chunk_tokens: int) -> None:
    """Summed over chunks, hop 1 carries moesim's copies per node and hop 2 its copies per device, own ones included."""
    to_nodes_CDN, to_ranks_CDD = count_hops(routing, chunk_tokens)
    counts = _counted_by_moesim(routing)
    assert counts.per_node_DN.tolist() == to_nodes_CDN.sum(axis=0).tolist()
    assert counts.per_device_DD.tolist() == to_ranks_CDD.sum(axis=0).tolist()


@given(routings(), st.integers(1, 7))
def test_a_chunk_holds_so_many_tokens_of_each_source_and_no_more(routing: Routing, chunk_tokens: int) -> None:
    """No chunk has more copies from a rank to a rank than it has tokens of that rank."""
    _, to_ranks_CDD = count_hops(routing, chunk_tokens)
    assert to_ranks_CDD.max(initial=0) <= chunk_tokens
