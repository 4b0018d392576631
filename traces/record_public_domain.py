"""Trains a small mixture-of-experts language model on public-domain text and records how it routes held-out text.

Run as `python traces/record_public_domain.py`; README.md beside it says what the committed file came from.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bigrams import empirical_entropy, smoothed_cross_entropy
from byte_pairs import BytePairs, learn_byte_pairs
from moe_language_model import LanguageModel, ModelShape
from numpy.typing import NDArray
from public_domain_text import PACKAGE_FILES, TextMissingError, read_documents, split_documents
from routing_file import FORMAT_VERSION, load_skew, routing_table, write_routing
from training import Report, Training, read, train

from moesim.trace.appearing_file import appearing_file

Tokens = NDArray[np.int64]
DEFAULT_OUT = Path(__file__).resolve().parent / "moe-64e-public-domain.parquet"
HELD_OUT_CHARACTERS = 140_000
DEFAULT_TRAINING = Training()
ORIGIN = (
    "Debian packages sword-text-web (World English Bible, public domain), r-cran-janeaustenr (the six novels of "
    "Jane Austen, who died in 1817, public domain by age) and jargon-text (the Jargon File 4.4.7, public domain)"
)


class OtherTrainingError(Exception):
    """A checkpoint comes from another training than the one asked for."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """Tokenised documents, each between two separators; the separator is the last symbol."""

    pairs: BytePairs
    train: tuple[Tokens, ...]
    held_out: tuple[Tokens, ...]

    @property
    def num_symbols(self) -> int:
        """Learnt symbols and the separator."""
        return self.pairs.num_symbols + 1

    @property
    def stream(self) -> Tokens:
        """Train documents one after another, one separator between two."""
        return np.concatenate([*(document[:-1] for document in self.train), self.train[-1][-1:]])


def tokenise(train_texts: Sequence[str], held_out_texts: Sequence[str], num_symbols: int) -> Corpus:
    """Learns the symbols on the train texts alone and encodes both."""
    pairs = learn_byte_pairs(train_texts, num_symbols - 1)

    def encode(text: str) -> Tokens:
        return np.array([pairs.num_symbols, *pairs.encode(text), pairs.num_symbols], dtype=np.int64)

    return Corpus(pairs, tuple(map(encode, train_texts)), tuple(map(encode, held_out_texts)))


def bigram_losses(corpus: Corpus) -> dict[str, float]:
    """Nats per token: a smoothed bigram counted on train, and the entropies of the text's own bigram counts."""
    train, held_out = _bigrams(corpus.train), _bigrams(corpus.held_out)
    both = np.concatenate([train, held_out])
    return {
        "bigram_smoothed": smoothed_cross_entropy(train, held_out, corpus.num_symbols),
        "bigram_empirical_all_text": empirical_entropy(both, corpus.num_symbols),
        "bigram_empirical_held_out": empirical_entropy(held_out, corpus.num_symbols),
    }


@dataclass(frozen=True, slots=True)
class Recording:
    """Routing of the held-out documents one after another, and the mean loss of their tokens in nats."""

    experts_LTK: NDArray[np.int32]
    sequence_T: NDArray[np.int32]
    loss: float


def record(model: LanguageModel, documents: Sequence[Tokens], context: int) -> Recording:
    """Reads the documents in order; a document is a sequence."""
    readings = list(read(model, documents, context))
    lengths = [len(reading.losses_T) for reading in readings]
    sequence_T = np.repeat(np.arange(len(readings), dtype=np.int32), lengths)
    losses_T = np.concatenate([reading.losses_T for reading in readings])
    experts_LTK = np.concatenate([reading.experts_LTK for reading in readings], axis=1)
    return Recording(experts_LTK, sequence_T, float(losses_T.astype(np.float64).mean()))


def trace_info(shape: ModelShape, training: Training, recording: Recording, losses: dict[str, float]) -> dict[str, Any]:
    """What every trace says about itself: the routing's shape, where it comes from, what the model reached."""
    return {
        "format_version": FORMAT_VERSION,
        "level": "token",
        "model": "moe-64e-public-domain",
        "num_experts": shape.num_experts,
        "top_k": shape.top_k,
        "layers": list(shape.moe_layers),
        "num_tokens": recording.experts_LTK.shape[1],
        "num_ranks": 1,
        "num_steps": 1,
        "has_weights": False,
        "has_sequences": True,
        "origin": ORIGIN,
        "recorder": f"traces/record_public_domain.py, torch {torch.__version__}, {torch.get_num_threads()} thread(s)",
        "seed": training.seed,
        "losses": {name: round(value, 4) for name, value in losses.items()},
    }


def run(shape: ModelShape, training: Training, root: Path, out: Path, checkpoint: Path | None, say: Report) -> None:
    """Text to trace file; a `checkpoint` that exists replaces the training, one that does not is written."""
    train_documents, held_out_documents = split_documents(read_documents(root), HELD_OUT_CHARACTERS, training.seed)
    held_out_texts = [document.text for document in held_out_documents]
    corpus = tokenise([document.text for document in train_documents], held_out_texts, shape.num_symbols)
    num_held_out = sum(len(document) - 1 for document in corpus.held_out)
    say(
        f"{len(corpus.train)} documents, {len(corpus.stream) - 1} tokens to train on; "
        f"{len(corpus.held_out)} documents, {num_held_out} tokens held out"
    )
    losses = bigram_losses(corpus)
    _say_losses(losses, say)
    model, losses["train"] = _model(shape, training, corpus, checkpoint, say)
    recording = record(model, corpus.held_out, shape.context)
    losses["held_out"] = recording.loss
    num_bytes = sum(len(text.encode()) for text in held_out_texts)
    bits_per_byte = recording.loss * num_held_out / num_bytes / float(np.log(2))
    _say_losses({"train": losses["train"], "held_out": losses["held_out"]}, say)
    say(f"held_out: {bits_per_byte:.3f} bits per byte")
    losses["held_out_bits_per_byte"] = bits_per_byte
    losses["bigram_smoothed_bits_per_byte"] = losses["bigram_smoothed"] / recording.loss * bits_per_byte
    info = trace_info(shape, training, recording, losses)
    skew = [round(layer, 3) for layer in load_skew(recording.experts_LTK, shape.num_experts)]
    more = {
        "shape": shape.as_dict(),
        "train_tokens": len(corpus.stream) - 1,
        "training_tokens": training.steps * training.windows_per_step * shape.context,
        "load_max_over_mean": skew,
        "sequences": [f"{document.package}: {document.name}" for document in held_out_documents],
    }
    write_routing(out, routing_table(recording.experts_LTK, recording.sequence_T, shape.moe_layers), info, more)
    say(f"{out.name}: {out.stat().st_size} bytes, max/mean load per layer {skew}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="trace file to write")
    parser.add_argument("--root", type=Path, default=Path("/"), help=f"folder {', '.join(PACKAGE_FILES)} live under")
    parser.add_argument("--checkpoint", type=Path, help="model to read where it exists, else to write after training")
    parser.add_argument(
        "--seed", type=int, default=DEFAULT_TRAINING.seed, help="seed of split, initial weights and batches"
    )
    parser.add_argument("--steps", type=int, default=DEFAULT_TRAINING.steps, help="training steps")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; the file depends on their number")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    training = replace(DEFAULT_TRAINING, steps=options.steps, seed=options.seed)

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        run(ModelShape(), training, options.root, options.out, options.checkpoint, say)
    except (TextMissingError, OtherTrainingError) as refusal:
        print(refusal, file=sys.stderr)
        return 2
    return 0


def _model(
    shape: ModelShape, training: Training, corpus: Corpus, checkpoint: Path | None, say: Report
) -> tuple[LanguageModel, float]:
    """The model and its train loss, read from `checkpoint` where that exists, else trained (and written there)."""
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        # Another seed splits the text elsewhere: "held-out" documents would be ones the model was trained on.
        if state["training"] != asdict(training):
            raise OtherTrainingError(
                f"{checkpoint} was trained with {state['training']}, not {asdict(training)}: give the options it had"
            )
        model = LanguageModel(shape)
        model.load_state_dict(state["model"])
        return model, float(state["train_loss"])
    model, loss = train(shape, corpus.stream, training, say)
    if checkpoint is not None:
        with appearing_file(checkpoint) as file:
            torch.save({"model": model.state_dict(), "train_loss": loss, "training": asdict(training)}, file)
    return model, loss


def _bigrams(documents: Sequence[Tokens]) -> Tokens:
    return np.concatenate([np.stack([document[:-1], document[1:]], axis=1) for document in documents])


def _say_losses(losses: dict[str, float], say: Report) -> None:
    for name, nats in losses.items():
        say(f"{name}: {nats:.4f} nats per token")


if __name__ == "__main__":
    sys.exit(main())
