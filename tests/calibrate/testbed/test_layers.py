"""The real layer without a network: ranks are threads, messages go through queues."""

import queue
import threading
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch

from calibrate.testbed.direct import DirectLayer
from calibrate.testbed.experts import Experts
from calibrate.testbed.routes import Routing
from calibrate.testbed.rows import NO_SLOT, pack, row_bytes, slots_of, tokens_of, values_of
from calibrate.testbed.two_hop import TwoHopLayer

from .routings import routing_of

WIDTH, HIDDEN = 8, 4
Layer = DirectLayer | TwoHopLayer


class _Queues:
    """All messages of a run, by sender, receiver and tag."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int, int], queue.Queue[torch.Tensor]] = defaultdict(queue.Queue)
        self.bytes_between: dict[tuple[int, int], int] = defaultdict(int)
        self.lock = threading.Lock()


class _Sent:
    def wait(self) -> None:
        return None


class _Expected:
    def __init__(self, source: "queue.Queue[torch.Tensor]", into: torch.Tensor) -> None:
        self.source, self.into = source, into

    def wait(self) -> None:
        self.into.copy_(self.source.get(timeout=20))


class _ThreadWire:
    """A wire of one rank over queues."""

    def __init__(self, queues: _Queues, rank: int) -> None:
        self.queues, self.rank = queues, rank

    def receive(self, into: torch.Tensor, peer: int, tag: int) -> _Expected | _Sent:
        if not into.numel():
            return _Sent()
        with self.queues.lock:
            return _Expected(self.queues.of[peer, self.rank, tag], into)

    def send(self, data: torch.Tensor, peer: int, tag: int) -> _Sent:
        if data.numel():
            with self.queues.lock:
                self.queues.of[self.rank, peer, tag].put(data.clone())
                self.queues.bytes_between[self.rank, peer] += data.numel()
        return _Sent()


def _tokens(routing: Routing, rank: int) -> torch.Tensor:
    count = int((routing.source_T == rank).sum())
    return torch.randn((count, WIDTH), generator=torch.Generator().manual_seed(rank))


def _run(
    routing: Routing, make: Callable[[int, torch.Tensor, _ThreadWire], Layer]
) -> tuple[list[torch.Tensor], list[torch.Tensor], _Queues]:
    """Received rows and outputs of every rank, and the messages."""
    queues = _Queues()
    received: list[torch.Tensor] = [torch.empty(0)] * routing.num_ranks
    outputs: list[torch.Tensor] = [torch.empty(0)] * routing.num_ranks

    def rank_main(rank: int) -> None:
        layer = make(rank, _tokens(routing, rank), _ThreadWire(queues, rank))
        slots = np.flatnonzero(routing.device_of_slot_P == rank).tolist()
        received[rank] = layer.dispatch()
        outputs[rank] = layer.combine(
            Experts({s: s for s in slots}, WIDTH, HIDDEN).apply(received[rank], routing.slots_TK.shape[1])
        )

    threads = [threading.Thread(target=rank_main, args=(rank,), daemon=True) for rank in range(routing.num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return received, outputs, queues


def _by_hand(routing: Routing) -> list[torch.Tensor]:
    """The layer without any ranks: every expert on every token of its own."""
    top_k = routing.slots_TK.shape[1]
    experts = Experts({s: s for s in range(len(routing.device_of_slot_P))}, WIDTH, HIDDEN)
    outputs = []
    for rank in range(routing.num_ranks):
        values = _tokens(routing, rank)
        slots = torch.from_numpy(routing.slots_TK[routing.source_T == rank])
        outputs.append(values_of(experts.apply(pack(values, torch.arange(len(values)), slots), top_k)))
    return outputs


ROUTINGS = [
    routing_of([5, 0, 7, 3], per_node=2, slots=9, top_k=3, seed=1),
    routing_of([4, 4, 4, 4, 4, 4], per_node=2, slots=12, top_k=4, seed=2),
    routing_of([6, 2, 1, 8], per_node=4, slots=8, top_k=2, seed=3),
    routing_of([3, 9], per_node=1, slots=5, top_k=5, seed=4),
]


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_both_algorithms_give_what_the_experts_give_without_ranks(routing: Routing, chunk_tokens: int) -> None:
    """Direct and two-hop outputs equal the sum over each token's experts, up to the order of additions."""
    direct = _run(routing, lambda *ends: DirectLayer(ends[0], routing, *ends[1:]))[1]
    two_hop = _run(routing, lambda *ends: TwoHopLayer(ends[0], routing, *ends[1:], chunk_tokens))[1]
    for expected, one, other in zip(_by_hand(routing), direct, two_hop, strict=True):
        assert torch.allclose(expected, one, atol=1e-5)
        assert torch.allclose(expected, other, atol=1e-5)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_every_token_reaches_each_device_of_its_experts_once(routing: Routing) -> None:
    """By two hops a rank receives one row per token with an expert there, naming each of the token's slots there once."""
    received, _, _ = _run(routing, lambda *ends: TwoHopLayer(ends[0], routing, *ends[1:], 2))
    for rank, rows in enumerate(received):
        here_TK = routing.devices_TK == rank
        assert int(here_TK.any(axis=1).sum()) == len(rows)
        slots = slots_of(rows).numpy()
        mine = np.isin(slots, np.flatnonzero(routing.device_of_slot_P == rank))
        assert sorted(routing.slots_TK[here_TK].tolist()) == sorted(slots[mine].tolist())


@pytest.mark.parametrize("routing", ROUTINGS)
def test_between_nodes_a_token_crosses_once_per_remote_node_and_only_on_its_rail(routing: Routing) -> None:
    """Bytes from rank to rank across nodes are one row per token and remote node, out and back; other rails carry none."""
    _, _, queues = _run(routing, lambda *ends: TwoHopLayer(ends[0], routing, *ends[1:], 2))
    nodes_TK = np.where(routing.devices_TK >= 0, routing.devices_TK // routing.ranks_per_node, -1)

    def tokens_to_node(rank: int, node: int) -> int:
        return int((nodes_TK[routing.source_T == rank] == node).any(axis=1).sum())

    for source in range(routing.num_ranks):
        for target in range(routing.num_ranks):
            ends = source // routing.ranks_per_node, target // routing.ranks_per_node
            if ends[0] != ends[1]:
                rail = source % routing.ranks_per_node == target % routing.ranks_per_node
                copies = tokens_to_node(source, ends[1]) + tokens_to_node(target, ends[0]) if rail else 0
                assert copies * row_bytes(WIDTH) == queues.bytes_between[source, target]


def test_a_row_keeps_its_token_slots_and_values() -> None:
    """What is packed can be read back; absent experts have no slot."""
    values = torch.arange(6.0).reshape(2, 3)
    rows = pack(values, torch.tensor([7, 70_000]), torch.tensor([[3, -1], [254, 0]]))
    assert [7, 70_000] == tokens_of(rows).tolist()
    assert [[3, NO_SLOT], [254, 0]] == slots_of(rows)[:, :2].tolist()
    assert values.tolist() == values_of(rows).tolist()
    assert (2, row_bytes(3)) == tuple(rows.shape)
