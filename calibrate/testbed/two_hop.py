"""node_dedup for real: one copy per remote node to the rank of the same local index there, which forwards in its node.

Dispatch from (node a, index i) to experts on (b, j): hop 1 (a, i) -> (b, i) for b != a, one row per token; hop 2
(b, i) -> (b, j), one row per token and rank, picked by the slots in the row's header. Tokens for the own node make hop 2
only. Combine is the way back: (b, j) -> (b, i) adds up what the experts of one token gave, one row returns to (a, i).
Tokens travel in chunks: a relay forwards a chunk while the next one is still coming.
"""

from dataclasses import dataclass

import numpy as np
import torch

from calibrate.testbed.routes import Routing, count_hops
from calibrate.testbed.rows import NO_SLOT, pack, row_bytes, slots_of, tokens_of, values_of
from calibrate.testbed.wire import Pending, Wire

_OWN, _RAIL, _FORWARD = 1_000, 2_000, 3_000  # tags, plus the chunk
_OWN_BACK, _RAIL_BACK, _FORWARD_BACK = 4_000, 5_000, 6_000


@dataclass(slots=True)
class _Relayed:
    """One chunk at its relay: the rows that came over the rail, and which of them went to each rank of the node."""

    rows: torch.Tensor
    chosen: list[torch.Tensor]


class TwoHopLayer:
    """One rank's part of dispatch and combine in two hops: as source, as relay, and as a holder of experts."""

    def __init__(self, rank: int, routing: Routing, values: torch.Tensor, wire: Wire, chunk_tokens: int) -> None:
        """`values` are this rank's tokens [tokens, width]; a chunk is so many tokens of each source."""
        self.rank, self.values, self.wire = rank, values, wire
        self.width, per_node = row_bytes(values.shape[1]), routing.ranks_per_node
        self.node, self.index = divmod(rank, per_node)
        self.peers = list(range(self.node * per_node, (self.node + 1) * per_node))  # of the node, own rank included
        self.rails = [node * per_node + self.index for node in range(routing.num_nodes)]  # by node, own rank included
        self.to_nodes_CDN, self.to_ranks_CDD = count_hops(routing, chunk_tokens)
        self.num_chunks, self.chunk_tokens = len(self.to_ranks_CDD), chunk_tokens
        self.device_of_slot = torch.full((NO_SLOT + 1,), -1, dtype=torch.int64)
        self.device_of_slot[: len(routing.device_of_slot_P)] = torch.from_numpy(routing.device_of_slot_P)
        self.slots_TK = torch.from_numpy(routing.slots_TK[routing.source_T == rank])
        self.relayed: list[_Relayed] = []
        self.own_chosen: list[torch.Tensor] = []

    def dispatch(self) -> torch.Tensor:
        """Send, relay and receive; returns the rows for this rank's experts."""
        self.relayed = []
        into, segments = self._segments()
        rail = [self._rail_buffers(chunk) for chunk in range(self.num_chunks)]
        waits = self._post(segments, _OWN, _FORWARD)
        rail_waits = [
            [self.wire.receive(buffer, self.rails[node], _RAIL + chunk) for node, buffer in buffers.items()]
            for chunk, buffers in enumerate(rail)
        ]
        kept = self._send_own(segments)
        for chunk, buffers in enumerate(rail):
            for wait in rail_waits[chunk]:
                wait.wait()
            rows = torch.cat([torch.empty((0, self.width), dtype=torch.uint8), *buffers.values()])
            kept += self._forward(chunk, rows, segments)
        for wait in [*waits, *(message for message, _ in kept)]:
            wait.wait()
        return into

    def combine(self, answers: torch.Tensor) -> torch.Tensor:
        """Send the experts' rows back through the relays; returns the sums for this rank's tokens [tokens, width]."""
        sizes = [self._segment_rows(chunk, peer) for chunk in self._kinds() for peer in self.peers]
        keys = [(chunk, peer) for chunk in self._kinds() for peer in self.peers]
        mine = dict(zip(keys, torch.split(answers, sizes), strict=True))
        own, back, waits = self._back_buffers()
        relay_waits, relay_rows = self._relay_buffers()
        kept = [
            self.wire.send(part, peer, _OWN_BACK if chunk < 0 else _FORWARD_BACK + chunk)
            for (chunk, peer), part in mine.items()
            if peer != self.rank
        ]
        for chunk, relayed in enumerate(self.relayed):
            for wait in relay_waits[chunk]:
                wait.wait()
            relay_rows[chunk][self.index] = mine[chunk, self.rank]
            kept += self._send_sums(chunk, relayed, relay_rows[chunk])
        for wait in [*waits, *kept]:
            wait.wait()
        total = torch.zeros_like(self.values)
        for rows in [*own, mine[-1, self.rank], *back]:
            total.index_add_(0, tokens_of(rows), values_of(rows))
        return total

    def _kinds(self) -> range:
        """-1 for the tokens of the own node, then the chunks that are forwarded."""
        return range(-1, self.num_chunks)

    def _segment_rows(self, chunk: int, peer: int) -> int:
        """Rows that come from `peer` of this node: its own (chunk -1), or what it forwards of a chunk."""
        if chunk < 0:
            return int(self.to_ranks_CDD[:, peer, self.rank].sum())
        relayed = [rail for rail in self._rails_of(peer) if rail != peer]
        return int(self.to_ranks_CDD[chunk, relayed, self.rank].sum())

    def _rails_of(self, peer: int) -> list[int]:
        return [rail - self.index + peer % len(self.peers) for rail in self.rails]

    def _segments(self) -> tuple[torch.Tensor, dict[tuple[int, int], torch.Tensor]]:
        keys = [(chunk, peer) for chunk in self._kinds() for peer in self.peers]
        sizes = [self._segment_rows(*key) for key in keys]
        into = torch.empty((sum(sizes), self.width), dtype=torch.uint8)
        return into, dict(zip(keys, torch.split(into, sizes), strict=True))

    def _post(self, segments: dict[tuple[int, int], torch.Tensor], own: int, forward: int) -> list[Pending]:
        return [
            self.wire.receive(buffer, peer, own if chunk < 0 else forward + chunk)
            for (chunk, peer), buffer in segments.items()
            if peer != self.rank
        ]

    def _rail_buffers(self, chunk: int) -> dict[int, torch.Tensor]:
        """Buffers for what comes over the rail in one chunk, by sending node."""
        sizes = {node: int(self.to_nodes_CDN[chunk, rail, self.node]) for node, rail in enumerate(self.rails)}
        return {node: self._rows(size) for node, size in sizes.items() if node != self.node}

    def _rows(self, count: int) -> torch.Tensor:
        return torch.empty((count, self.width), dtype=torch.uint8)

    def _send_own(self, segments: dict[tuple[int, int], torch.Tensor]) -> list[tuple[Pending, torch.Tensor]]:
        """Hop 1 of all chunks, and hop 2 of the tokens for the own node; messages with the rows they must keep alive."""
        rows = pack(self.values, torch.arange(len(self.values)), self.slots_TK)
        device_TS = self.device_of_slot[slots_of(rows).long()]
        sent: list[tuple[Pending, torch.Tensor]] = []
        chunk_of = np.arange(len(rows)) // self.chunk_tokens
        node_TS = torch.where(device_TS < 0, -1, device_TS // len(self.peers))
        for chunk in range(self.num_chunks):
            first, last = np.searchsorted(chunk_of, [chunk, chunk + 1]).tolist()
            for step in range(1, len(self.rails)):
                node = (self.node + step) % len(self.rails)
                reached = (node_TS[first:last] == node).any(dim=1).nonzero()[:, 0]
                part = rows[first:last][reached]
                sent.append((self.wire.send(part, self.rails[node], _RAIL + chunk), part))
        self.own_chosen = [(device_TS == peer).any(dim=1).nonzero()[:, 0] for peer in self.peers]
        return sent + self._to_peers(rows, self.own_chosen, -1, _OWN, segments)

    def _to_peers(
        self,
        rows: torch.Tensor,
        chosen: list[torch.Tensor],
        chunk: int,
        tag: int,
        segments: dict[tuple[int, int], torch.Tensor],
    ) -> list[tuple[Pending, torch.Tensor]]:
        """Hop 2: to every rank of the node the rows chosen for it; the own rank's are copied."""
        sent = []
        for step in range(len(self.peers)):
            place = (self.index + step) % len(self.peers)
            part = rows[chosen[place]]
            if step == 0:
                segments[chunk, self.rank].copy_(part)
            else:
                sent.append((self.wire.send(part, self.peers[place], tag), part))
        return sent

    def _forward(
        self, chunk: int, rows: torch.Tensor, segments: dict[tuple[int, int], torch.Tensor]
    ) -> list[tuple[Pending, torch.Tensor]]:
        device_TS = self.device_of_slot[slots_of(rows).long()]
        chosen = [(device_TS == peer).any(dim=1).nonzero()[:, 0] for peer in self.peers]
        self.relayed.append(_Relayed(rows, chosen))
        return self._to_peers(rows, chosen, chunk, _FORWARD + chunk, segments)

    def _back_buffers(self) -> tuple[list[torch.Tensor], list[torch.Tensor], list[Pending]]:
        """Post what comes back to this rank as source: from its node, and one row per token from every other node."""
        own, back, waits = [], [], []
        for place, peer in enumerate(self.peers):
            if peer != self.rank:
                own.append(self._rows(len(self.own_chosen[place])))
                waits.append(self.wire.receive(own[-1], peer, _OWN_BACK))
        for chunk in range(self.num_chunks):
            for node, rail in enumerate(self.rails):
                if node != self.node:
                    back.append(self._rows(int(self.to_nodes_CDN[chunk, self.rank, node])))
                    waits.append(self.wire.receive(back[-1], rail, _RAIL_BACK + chunk))
        return own, back, waits

    def _relay_buffers(self) -> tuple[list[list[Pending]], list[list[torch.Tensor]]]:
        """Post what comes back to this rank as relay, by chunk and rank of the node."""
        buffers = [[self._rows(len(chosen)) for chosen in relayed.chosen] for relayed in self.relayed]
        waits = [
            [
                self.wire.receive(buffer, peer, _FORWARD_BACK + chunk)
                for peer, buffer in zip(self.peers, parts, strict=True)
                if peer != self.rank
            ]
            for chunk, parts in enumerate(buffers)
        ]
        return waits, buffers

    def _send_sums(self, chunk: int, relayed: _Relayed, parts: list[torch.Tensor]) -> list[Pending]:
        """Add up what the ranks of the node gave for each row of the chunk, and send it back over the rail."""
        sums = relayed.rows.clone()
        total = torch.zeros_like(values_of(sums))
        for chosen, part in zip(relayed.chosen, parts, strict=True):
            total.index_add_(0, chosen, values_of(part))
        values_of(sums).copy_(total)
        nodes = [node for node in range(len(self.rails)) if node != self.node]
        sizes = [int(self.to_nodes_CDN[chunk, self.rails[node], self.node]) for node in nodes]
        self._kept_sums = sums  # alive until combine has waited for these messages: the views hold it too
        return [
            self.wire.send(part, self.rails[node], _RAIL_BACK + chunk)
            for node, part in zip(nodes, torch.split(sums, sizes), strict=True)
        ]
