"""The program that trains the small model and records its routing, in a tiny configuration."""

import gzip
import math
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import record_public_domain as program  # noqa: E402
import routing_file  # noqa: E402
from bigrams import empirical_entropy, smoothed_cross_entropy  # noqa: E402
from byte_pairs import BytePairs, learn_byte_pairs  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from moe_language_model import LanguageModel, MixtureOfExperts, ModelShape  # noqa: E402
from public_domain_text import Document, TextMissingError, read_documents, split_documents, tidy  # noqa: E402
from training import Training, train  # noqa: E402

from moesim.trace import load_trace  # noqa: E402

TINY = ModelShape(
    num_symbols=280,
    context=16,
    num_layers=3,
    d_model=16,
    num_heads=2,
    num_experts=8,
    top_k=3,
    expert_d_ff=8,
    shared_d_ff=8,
    dense_d_ff=16,
)
BRIEF = Training(steps=12, windows_per_step=4, warm_up_steps=2, peak_rate=1e-2)


def _texts(count: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    words = ["the router", "sends", "every token", "to", "a few experts", "and", "the links", "carry", "them;"]
    return [" ".join(generator.choice(words) for _ in range(generator.randint(5, 30))) for _ in range(count)]


@pytest.fixture(scope="module")
def corpus() -> "program.Corpus":
    return program.tokenise(_texts(12, 0), _texts(4, 1), TINY.num_symbols)


@pytest.fixture(scope="module")
def trained(corpus: "program.Corpus") -> tuple[LanguageModel, list[str]]:
    torch.set_num_threads(1)
    said: list[str] = []
    model, _ = train(TINY, corpus.stream, BRIEF, said.append)
    return model, said


def test_training_lowers_the_loss(corpus: "program.Corpus", trained: tuple[LanguageModel, list[str]]) -> None:
    """A dozen steps bring the held-out loss below that of the untrained model, which is about ln(symbols)."""
    torch.manual_seed(BRIEF.seed)
    before = program.record(LanguageModel(TINY), corpus.held_out, TINY.context).loss
    after = program.record(trained[0], corpus.held_out, TINY.context).loss
    assert abs(before - math.log(TINY.num_symbols)) < 0.5
    assert after < before - 0.5
    assert trained[1][-1].startswith(f"step {BRIEF.steps}: loss ")


def test_training_repeats(corpus: "program.Corpus", trained: tuple[LanguageModel, list[str]]) -> None:
    """The same seed and thread count give the same parameters, bit for bit."""
    again, _ = train(TINY, corpus.stream, BRIEF, lambda _: None)
    for expected, actual in zip(trained[0].parameters(), again.parameters(), strict=True):
        assert torch.equal(expected, actual)


def test_recorded_rows_obey_the_format(
    corpus: "program.Corpus", trained: tuple[LanguageModel, list[str]], tmp_path: Path
) -> None:
    """moesim reads what the program writes: K distinct experts a row, sorted, one sequence per document."""
    recording = program.record(trained[0], corpus.held_out, TINY.context)
    table = routing_file.routing_table(recording.experts_LTK, recording.sequence_T, TINY.moe_layers)
    paths = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
    for path in paths:
        routing_file.write_routing(path, table, program.trace_info(TINY, BRIEF, recording, {"held_out": 1.0}), {})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    info = load_trace(paths[0]).info
    num_tokens = sum(len(document) - 1 for document in corpus.held_out)
    assert (num_tokens, 8, 3, (1, 2)) == (info.num_tokens, info.num_experts, info.top_k, info.layers)
    assert table.column("layer").to_pylist() == [1] * num_tokens + [2] * num_tokens
    assert table.column("token").to_pylist() == 2 * list(range(num_tokens))
    lengths = np.bincount(recording.sequence_T).tolist()
    assert [len(document) - 1 for document in corpus.held_out] == lengths
    ordered = np.sort(recording.experts_LTK, axis=-1)
    assert (np.diff(ordered, axis=-1) > 0).all()
    assert ordered.min() >= 0
    assert ordered.max() < 8


def test_a_file_cut_short_in_writing_leaves_the_one_that_was_there(
    corpus: "program.Corpus",
    trained: tuple[LanguageModel, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Half a file never stands under the name asked for, nor under another."""
    recording = program.record(trained[0], corpus.held_out, TINY.context)
    table = routing_file.routing_table(recording.experts_LTK, recording.sequence_T, TINY.moe_layers)
    path, info = tmp_path / "one.parquet", program.trace_info(TINY, BRIEF, recording, {"held_out": 1.0})
    path.write_bytes(b"old")

    def write_half(_: object, target: Any, **options: object) -> None:
        target.write(b"half")
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(routing_file.pq, "write_table", write_half)
    with pytest.raises(OSError, match="no space left"):
        routing_file.write_routing(path, table, info, {})
    assert [b"old"] == [file.read_bytes() for file in tmp_path.iterdir()]


def test_a_window_does_not_see_padding_or_other_documents(
    corpus: "program.Corpus", trained: tuple[LanguageModel, list[str]]
) -> None:
    """A document's routing is the same whatever is recorded with it."""
    alone = program.record(trained[0], corpus.held_out[1:2], TINY.context).experts_LTK
    together = program.record(trained[0], corpus.held_out, TINY.context)
    assert np.array_equal(alone, together.experts_LTK[:, together.sequence_T == 1])


def test_experts_in_slices_compute_what_every_expert_alone_would() -> None:
    """The sorted, sliced expert computation equals the sum over experts of weight times the expert's MLP."""
    torch.manual_seed(3)
    layer = MixtureOfExperts(TINY).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x_TD = torch.randn(20, TINY.d_model, dtype=torch.float64)
    out, routing = layer(x_TD)
    expected = layer.shared(x_TD)
    for expert in range(TINY.num_experts):
        gate, up = (x_TD @ layer.gate_up[expert]).chunk(2, dim=-1)
        weight_T = (routing.weights_TK * (routing.experts_TK == expert)).sum(dim=1, keepdim=True)
        expected = expected + weight_T * ((torch.nn.functional.silu(gate) * up) @ layer.down[expert])
    torch.testing.assert_close(out, expected)
    assert (routing.weights_TK.diff(dim=1) <= 0).all()
    torch.testing.assert_close(routing.weights_TK.sum(dim=1), torch.ones(20, dtype=torch.float64))


@settings(max_examples=30)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.text(max_size=40))
def test_byte_pairs_round_trip(texts: list[str], other: str) -> None:
    """Any text, seen or not, decodes to itself; learning ignores the order of the texts."""
    pairs = learn_byte_pairs(texts, 270)
    assert other == pairs.decode(pairs.encode(other))
    assert pairs == learn_byte_pairs(texts[::-1], 270)


def test_byte_pairs_join_the_most_frequent_pair_first() -> None:
    """In 'abab ab' the pair (a, b) is joined first; a word is never joined with its neighbour's letters."""
    pairs = learn_byte_pairs(["abab ab"], 258)
    assert BytePairs(((97, 98), (32, 256))) == pairs
    assert [256, 256, 257] == pairs.encode("abab ab")


def test_bigram_entropies_of_a_known_text() -> None:
    """After 0 come 1 and 2 equally often, after 1 and 2 always 0: ln(2) for one pair of two."""
    pairs = np.array([[0, 1], [1, 0], [0, 2], [2, 0]] * 50, dtype=np.int64)
    assert empirical_entropy(pairs, 3) == pytest.approx(math.log(2) / 2)
    assert empirical_entropy(pairs, 3) < smoothed_cross_entropy(pairs, pairs, 3) < math.log(2) / 2 + 0.1


def test_smoothed_bigram_is_a_distribution() -> None:
    """Over all next tokens the smoothed probabilities after any token, seen or not, sum to 1."""
    train_pairs = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(np.int64)
    train_pairs = train_pairs[train_pairs[:, 0] != 5]
    for previous in range(6):
        losses = [smoothed_cross_entropy(train_pairs, np.array([[previous, n]], dtype=np.int64), 6) for n in range(6)]
        assert sum(math.exp(-loss) for loss in losses) == pytest.approx(1.0)


def test_split_keeps_every_document_once() -> None:
    """Train and held-out are disjoint, make up all documents, and every package gives its share."""
    documents = [Document(f"package{i % 3}", str(i), "x" * (100 + i)) for i in range(90)]
    train_documents, held_out = split_documents(documents, 500, seed=4)
    assert sorted(map(repr, documents)) == sorted(map(repr, train_documents + held_out))
    for package in range(3):
        size = sum(len(document.text) for document in held_out if document.package == f"package{package}")
        assert 500 <= size < 700
    assert (train_documents, held_out) == split_documents(documents, 500, seed=4)


def test_tidy_joins_lines_and_keeps_paragraphs() -> None:
    """Lines of a paragraph become one, paragraphs stay, curly quotes become plain."""
    assert 'He said "no".\nThen' == tidy("He said\n   \u201cno\u201d. \n \n\n Then\n")


def test_missing_text_names_the_package(tmp_path: Path) -> None:
    """Without the texts the program says in one sentence which package to install, and exits with 2."""
    with pytest.raises(TextMissingError, match=r"apt-get install sword-text-web"):
        read_documents(tmp_path)
    command = [sys.executable, program.__file__, "--root", str(tmp_path), "--out", str(tmp_path / "x.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "x.parquet").exists()


def test_checkpoint_of_another_training_is_refused(corpus: "program.Corpus", tmp_path: Path) -> None:
    """A checkpoint gives back the model it was written with, but not for another seed, whose split differs."""
    path = tmp_path / "model.pt"
    written, loss = program._model(TINY, BRIEF, corpus, path, lambda _: None)
    read, loss_read = program._model(TINY, BRIEF, corpus, path, lambda _: None)
    assert loss == loss_read
    assert all(torch.equal(a, b) for a, b in zip(written.parameters(), read.parameters(), strict=True))
    with pytest.raises(program.OtherTrainingError, match="'seed': 1"):
        program._model(TINY, replace(BRIEF, seed=2), corpus, path, lambda _: None)


def test_dictionary_entries_are_documents(tmp_path: Path) -> None:
    """Every `:headword:` of the glossary starts a document; what stands before and after is left out."""
    from public_domain_text import _dictionary

    path = tmp_path / "jargon.txt.gz"
    text = (
        "Preface\n\nGlossary\n\n   list\n\n   :foo: n.\n\n   Meaning.\n\n   :bar: v.\n\n   To: do.\n\nAppendix A. More"
    )
    path.write_bytes(gzip.compress(text.encode()))
    assert [("foo", "foo: n.\n\n   Meaning.\n\n"), ("bar", "bar: v.\n\n   To: do.\n")] == list(_dictionary(path))
