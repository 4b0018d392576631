"""Wire: messages between ranks over torch.distributed with gloo, receives posted before anything is sent.

An all-to-allv is made of point-to-point messages, as NCCL makes it. gloo's own all_to_all_single posts each receive after
a send to the same peer; its "ready" message then waits behind that send's data on their one connection, so that the two
directions of a pair run one after the other and the links stand partly idle (1.2 times as long and more, for large messages).
"""

import time
from typing import Protocol

import torch
import torch.distributed as dist

START_MARGIN_S = 0.02  # from the last rank's agreement to the common start


class Wire(Protocol):
    """Tagged messages to and from the other ranks; `receive` and `send` return something to wait for."""

    def receive(self, into: torch.Tensor, peer: int, tag: int) -> "Pending":
        """Post a receive into a contiguous tensor."""

    def send(self, data: torch.Tensor, peer: int, tag: int) -> "Pending":
        """Send a contiguous tensor, which must not change before the message has gone."""


class Pending(Protocol):
    """A message under way."""

    def wait(self) -> object:
        """Return when it has been sent or received."""


class GlooWire:
    """The process group of all ranks; empty messages are not sent."""

    def receive(self, into: torch.Tensor, peer: int, tag: int) -> Pending:
        """Post a receive into a contiguous tensor."""
        return dist.irecv(into, peer, tag=tag) if into.numel() else _NOTHING  # type: ignore[return-value]

    def send(self, data: torch.Tensor, peer: int, tag: int) -> Pending:
        """Send a contiguous tensor, which must not change before the message has gone."""
        return dist.isend(data, peer, tag=tag) if data.numel() else _NOTHING  # type: ignore[return-value]


class _Nothing:
    """An empty message."""

    def wait(self) -> object:
        """Return at once."""
        return None


_NOTHING = _Nothing()


def common_start() -> float:
    """Wait until an instant that all ranks agree on, and return it (s, the machine's monotonic clock)."""
    latest = torch.tensor([time.monotonic() + START_MARGIN_S], dtype=torch.float64)
    dist.all_reduce(latest, dist.ReduceOp.MAX)
    start = float(latest)
    time.sleep(max(0.0, start - time.monotonic()))
    return start


def exchange(wire: Wire, rank: int, send: list[torch.Tensor], receive: list[torch.Tensor], tag: int) -> None:
    """One all-to-allv: `send[p]` to rank p, `receive[p]` from rank p; returns when all of both are done."""
    ranks = len(send)
    others = [(rank + step) % ranks for step in range(1, ranks)]
    pending = [wire.receive(receive[peer], peer, tag) for peer in others]
    pending += [wire.send(send[peer], peer, tag) for peer in others]
    receive[rank].copy_(send[rank])
    for message in pending:
        message.wait()
