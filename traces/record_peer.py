"""Trains a small language model with a PEER layer on public-domain text and records how it routes held-out text.

Run as `python traces/record_peer.py`; README.md beside it says what the committed file came from.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from key_structure import add_scores, key_structure, usage
from numpy.typing import NDArray
from peer_language_model import PeerLanguageModel, PeerShape, count_parameters
from peer_training import Report, Trained, read, train
from public_domain_text import PACKAGE_FILES, TextMissingError, read_documents, split_documents
from record_public_domain import HELD_OUT_CHARACTERS, ORIGIN, OtherTrainingError, bigram_losses, tokenise
from routing_file import FORMAT_VERSION, routing_table, write_routing
from training import Training

from moesim.trace.heads import merge_heads
from moesim.trace.store import open_trace, read_rows

NAME = "peer-262k-public-domain"
DEFAULT_OUT = Path(__file__).resolve().parent / f"{NAME}.parquet"
DEFAULT_TRAINING = Training(steps=600, windows_per_step=16)
DEFAULT_TOKENS = 40_000


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
    losses, kept, lengths, score_E = [], [], [], np.zeros(shape.num_experts)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run is asked for: where the text lies, where the file and the models go, how many tokens it may hold."""

    root: Path
    out: Path
    checkpoints: Path | None
    tokens: int
    device: str


def run(shape: PeerShape, training: Training, request: Request, say: Report) -> None:
    """Text to trace file; a model found in the folder `checkpoints` is not trained again, one that is not is put there."""
    train_documents, held_out = split_documents(read_documents(request.root), HELD_OUT_CHARACTERS, training.seed)
    held_out_texts = [document.text for document in held_out]
    corpus = tokenise([document.text for document in train_documents], held_out_texts, shape.num_symbols)
    losses = bigram_losses(corpus)
    weights, twin_weights = count_parameters(shape)
    say(f"{weights} weights, dense twin {twin_weights}; {shape.peer_multiply_adds} multiply-adds in the PEER layer")
    peer = trained_model(shape, training, corpus.stream, request, say, with_experts=True)
    recording = record(peer.model, corpus.held_out, shape, request.tokens)
    say(f"held out: {recording.loss:.4f} nats, {recording.used:.3f} of experts, unevenness {recording.unevenness:.3f}")
    twin = trained_model(shape, training, corpus.stream, request, say, with_experts=False)
    twin_losses = [reading.losses_T for reading in read(twin.model, corpus.held_out, shape.context)]
    losses |= {"train": peer.loss, "held_out": recording.loss, "twin_train": twin.loss}
    losses["twin_held_out"] = float(np.concatenate(twin_losses).astype(np.float64).mean())
    num_bytes = sum(len(text.encode()) for text in held_out_texts)
    tokens_per_bit = sum(len(document) - 1 for document in corpus.held_out) / num_bytes / float(np.log(2))
    losses["held_out_bits_per_byte"] = recording.loss * tokens_per_bit
    losses["twin_held_out_bits_per_byte"] = losses["twin_held_out"] * tokens_per_bit
    for name, value in losses.items():
        say(f"{name}: {value:.4f}")
    structure = key_structure(recording.experts_TK, recording.sequence_T, shape.num_keys)
    more = {
        "shape": shape.as_dict(),
        "weights": weights,
        "twin_weights": twin_weights,
        "training_tokens": training.steps * training.windows_per_step * shape.context,
        "experts_used": round(recording.used, 4),
        "unevenness": round(recording.unevenness, 4),
        "key_structure": structure,
        "sequences": [f"{document.package}: {document.name}" for document in held_out[: recording.sequence_T[-1] + 1]],
    }
    write(request.out, recording, trace_info(shape, training, recording, losses), more)
    say(f"{request.out.name}: {request.out.stat().st_size} bytes, {len(recording.experts_TK)} tokens, {structure}")


def write(out: Path, recording: Recording, info: dict[str, Any], more: dict[str, Any]) -> None:
    """Writes the trace, and reads it back through moesim, which checks every row."""
    layers = tuple(info["layers"])
    write_routing(out, routing_table(recording.experts_TK[np.newaxis], recording.sequence_T, layers), info, more)
    assert sum(len(rows) for _, rows in read_rows(open_trace(out))) == info["num_tokens"]


def trained_model(
    shape: PeerShape,
    training: Training,
    stream: NDArray[np.int64],
    request: Request,
    say: Report,
    *,
    with_experts: bool,
) -> Trained:
    """The model, or its dense twin, from `request.checkpoints` where it is there, else trained (and put there)."""
    if request.checkpoints is None:
        return train(shape, stream, training, say, with_experts=with_experts, device=request.device)
    path = request.checkpoints / ("peer.pt" if with_experts else "twin.pt")
    asked = {"training": asdict(training), "shape": asdict(shape)}
    if not path.exists():
        trained = train(shape, stream, training, say, with_experts=with_experts, device=request.device)
        state = {"model": trained.model.state_dict(), "loss": trained.loss, "seconds": trained.processor_seconds}
        request.checkpoints.mkdir(parents=True, exist_ok=True)
        torch.save(state | asked, path)
        return trained
    state = torch.load(path, weights_only=True, map_location=request.device)
    # Another seed splits the text elsewhere: "held-out" documents would be ones the model was trained on.
    if {name: state[name] for name in asked} != asked:
        raise OtherTrainingError(
            f"{path} was trained with {state['training']} and {state['shape']}, not {asked}: give the options it had"
        )
    model = PeerLanguageModel(shape, with_experts=with_experts).to(request.device)
    model.load_state_dict(state["model"])
    return Trained(model.eval(), float(state["loss"]), float(state["seconds"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="trace file to write")
    parser.add_argument("--root", type=Path, default=Path("/"), help=f"folder {', '.join(PACKAGE_FILES)} live under")
    parser.add_argument("--checkpoints", type=Path, help="folder of the two models: read where there, else written")
    parser.add_argument("--seed", type=int, default=DEFAULT_TRAINING.seed, help="seed of split, weights and batches")
    parser.add_argument("--steps", type=int, default=DEFAULT_TRAINING.steps, help="training steps of either model")
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="most tokens of the trace")
    parser.add_argument("--keys", type=int, default=PeerShape().num_keys, help="half-keys; experts are their square")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; 1,048,576 experts are --keys 1024 --device cuda")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; the file depends on their number")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
    training = replace(DEFAULT_TRAINING, steps=options.steps, seed=options.seed)
    request = Request(
        root=options.root,
        out=options.out,
        checkpoints=options.checkpoints,
        tokens=options.tokens,
        device=options.device,
    )

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        run(PeerShape(num_keys=options.keys), training, request, say)
    except (TextMissingError, OtherTrainingError) as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
