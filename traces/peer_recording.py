"""Routing of held-out documents through a PEER layer: read with the model, merged over heads, written as a trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from key_structure import add_scores, usage
from numpy.typing import NDArray
from peer_language_model import PeerLanguageModel, PeerShape
from peer_training import read
from record_public_domain import ORIGIN
from routing_file import FORMAT_VERSION, routing_table, write_routing
from training import Training

from moesim.trace.heads import merge_heads
from moesim.trace.store import open_trace, read_rows

NAME = "peer-262k-public-domain"


@dataclass(frozen=True, slots=True)
class Recording:
    """Routing of the first held-out documents, and what the model made of all of them.

    experts_TK has a token's distinct experts in ascending order, -1 at the end; sequence_T numbers the documents. Loss in
    nats per token; `used` the share of experts that got any token, `unevenness` as in `usage`, both over all documents.
    """

    experts_TK: NDArray[np.int32]
    sequence_T: NDArray[np.int32]
    loss: float
    used: float
    unevenness: float


def record(
    model: PeerLanguageModel, documents: Sequence[NDArray[np.int64]], shape: PeerShape, tokens: int
) -> Recording:
    """Reads the documents in order, a document a sequence; keeps the routing of the first ones, `tokens` at most."""
    losses, kept, score_E = [], [], np.zeros(shape.num_experts)
    lengths: list[int] = []
    full = False
    for reading in read(model, documents, shape.context):
        losses.append(reading.losses_T)
        add_scores(score_E, [reading.experts_TK], [reading.weights_TK])
        full = full or sum(lengths) + len(reading.losses_T) > tokens
        if not full:
            kept.append(in_order(merge_heads(reading.experts_TK, None)[0]))
            lengths.append(len(reading.losses_T))
    used, unevenness = usage(score_E)
    sequence_T = np.repeat(np.arange(len(kept), dtype=np.int32), lengths)
    loss = float(np.concatenate(losses).astype(np.float64).mean())
    return Recording(np.concatenate(kept), sequence_T, loss, used, unevenness)


def in_order(experts_TK: NDArray[np.int32]) -> NDArray[np.int32]:
    """Rows in ascending order with -1 still at the end: which head chose what is not kept, and the file is smaller."""
    last = np.iinfo(np.int32).max
    sorted_TK = np.sort(np.where(experts_TK < 0, last, experts_TK), axis=1)
    return np.where(sorted_TK == last, np.int32(-1), sorted_TK).astype(np.int32)


def trace_info(shape: PeerShape, training: Training, recording: Recording, losses: dict[str, float]) -> dict[str, Any]:
    """What every trace says about itself: the routing's shape, where it comes from, what the models reached."""
    return {
        "format_version": FORMAT_VERSION,
        "level": "token",
        "model": NAME,
        "num_experts": shape.num_experts,
        "top_k": shape.top_k,
        "layers": [shape.peer_layer],
        "num_tokens": len(recording.experts_TK),
        "num_ranks": 1,
        "num_steps": 1,
        "has_weights": False,
        "has_sequences": True,
        "origin": ORIGIN,
        "recorder": f"traces/record_peer.py, torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
        "seed": training.seed,
        "losses": {name: round(value, 4) for name, value in losses.items()},
    }


def write(out: Path, recording: Recording, info: dict[str, Any], more: dict[str, Any]) -> None:
    """Writes the trace, and reads it back through moesim, which checks every row."""
    layers = tuple(info["layers"])
    write_routing(out, routing_table(recording.experts_TK[np.newaxis], recording.sequence_T, layers), info, more)
    assert sum(len(rows) for _, rows in read_rows(open_trace(out))) == info["num_tokens"]
