"""Trains a small language model with a PEER layer on public-domain text and records how it routes held-out text.

Run as `python traces/record_peer.py`; README.md beside it says what the committed file came from.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from key_structure import key_structure
from peer_checkpoints import trained_model
from peer_language_model import PeerShape, count_parameters
from peer_recording import NAME, record, trace_info, write
from peer_training import Report, read
from public_domain_text import PACKAGE_FILES, TextMissingError, read_documents, split_documents
from record_public_domain import HELD_OUT_CHARACTERS, OtherTrainingError, bigram_losses, tokenise
from training import Training

DEFAULT_OUT = Path(__file__).resolve().parent / f"{NAME}.parquet"
DEFAULT_TRAINING = Training(steps=1000, warm_up_steps=40)
DEFAULT_TOKENS = 49_000  # in 4 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run is asked for: where the text lies, where the file and the models go, how many tokens it may hold.

    `twin_steps` are the dense twin's training steps (None: as many as the model with experts has).
    """

    root: Path
    out: Path
    checkpoints: Path | None
    tokens: int
    device: str
    twin_steps: int | None = None


def run(shape: PeerShape, training: Training, request: Request, say: Report) -> None:
    """Text to trace file; a model found in the folder `checkpoints` is not trained again, one that is not is put there."""
    train_documents, held_out = split_documents(read_documents(request.root), HELD_OUT_CHARACTERS, training.seed)
    held_out_texts = [document.text for document in held_out]
    corpus = tokenise([document.text for document in train_documents], held_out_texts, shape.num_symbols)
    losses = bigram_losses(corpus)
    weights, twin_weights = count_parameters(shape)
    say(f"{weights} weights, dense twin {twin_weights}; {shape.peer_multiply_adds} multiply-adds in the PEER layer")
    kept: dict[str, Any] = {"checkpoints": request.checkpoints, "device": request.device}
    peer = trained_model(shape, training, corpus.stream, say, with_experts=True, **kept)
    recording = record(peer.model, corpus.held_out, shape, request.tokens)
    say(f"held out: {recording.loss:.4f} nats, {recording.used:.3f} of experts, unevenness {recording.unevenness:.3f}")
    twin_training = replace(training, steps=request.twin_steps or training.steps)
    twin = trained_model(shape, twin_training, corpus.stream, say, with_experts=False, **kept)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="trace file to write")
    parser.add_argument("--root", type=Path, default=Path("/"), help=f"folder {', '.join(PACKAGE_FILES)} live under")
    parser.add_argument("--checkpoints", type=Path, help="folder of the two models: read where there, else written")
    parser.add_argument("--seed", type=int, default=DEFAULT_TRAINING.seed, help="seed of split, weights and batches")
    parser.add_argument("--steps", type=int, default=DEFAULT_TRAINING.steps, help="training steps of either model")
    parser.add_argument("--twin-steps", type=int, help="training steps of the dense twin, where not --steps")
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
        twin_steps=options.twin_steps,
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
