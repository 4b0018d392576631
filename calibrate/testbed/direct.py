"""direct: every (token, expert) pair is a copy of its own, sent straight to the rank of the expert, and back."""

import numpy as np
import torch

from calibrate.testbed.routes import Routing, count_pairs
from calibrate.testbed.rows import pack, row_bytes, tokens_of, values_of
from calibrate.testbed.wire import Wire, exchange

_DISPATCH, _COMBINE = 1, 2


class DirectLayer:
    """One rank's part of a direct dispatch and combine; sizes are counted when it is made."""

    def __init__(self, rank: int, routing: Routing, values: torch.Tensor, wire: Wire) -> None:
        """`values` are this rank's tokens [tokens, width]."""
        self.rank, self.values, self.wire = rank, values, wire
        copies_DD = count_pairs(routing)
        self.sent, self.received = copies_DD[rank].tolist(), copies_DD[:, rank].tolist()
        mine = routing.source_T == rank
        devices, slots = routing.devices_TK[mine], routing.slots_TK[mine]
        token_F, k_F = np.nonzero(devices >= 0)
        order = np.argsort(devices[token_F, k_F], kind="stable")
        self.token_F = torch.from_numpy(token_F[order])
        self.slot_F = torch.from_numpy(slots[token_F, k_F][order])[:, None]

    def dispatch(self) -> torch.Tensor:
        """Send this rank's copies; returns the rows it received, by source rank."""
        rows = pack(self.values[self.token_F], self.token_F, self.slot_F)
        into = torch.empty((sum(self.received), row_bytes(self.values.shape[1])), dtype=torch.uint8)
        exchange(
            self.wire, self.rank, list(torch.split(rows, self.sent)), list(torch.split(into, self.received)), _DISPATCH
        )
        return into

    def combine(self, answers: torch.Tensor) -> torch.Tensor:
        """Send the experts' rows back, in the order they came; returns the sums for this rank's tokens [tokens, width]."""
        into = torch.empty((sum(self.sent), answers.shape[1]), dtype=torch.uint8)
        exchange(
            self.wire,
            self.rank,
            list(torch.split(answers, self.received)),
            list(torch.split(into, self.sent)),
            _COMBINE,
        )
        return torch.zeros_like(self.values).index_add_(0, tokens_of(into), values_of(into))
