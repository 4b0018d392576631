"""`moesim trace generate` as a user meets it."""

import pytest

from tests.cli.test_commands import answer, moesim

ASKED = ("trace", "generate", "--tokens", "300", "--seed", "3")


def test_a_generated_trace_is_announced_and_can_be_inspected(tmp_path):
    """out, rows, tokens; heads x top-k ids a token; parameters by option and by --set reach the router."""
    out = tmp_path / "x.parquet"
    more = (
        "--router",
        "product_key",
        "--experts",
        "64",
        "--heads",
        "2",
        "--topk",
        "3",
        "--layers",
        "2",
        "--steps",
        "3",
    )
    found = answer(*ASKED, *more, "--structure", "0.7", "--set", "topics=5", "--out", out)
    assert {"out": str(out), "rows": 600, "tokens": 300} == found
    facts = answer("trace", "inspect", out)
    assert (6, 64, 3, 2) == (facts["top_k"], facts["experts"], facts["steps"], facts["layers"])
    assert "heads=2, structure=0.7, topics=5" in facts["origin"]
    assert len(facts["collapse"]) == 2


def test_a_model_gives_the_sizes(tmp_path):
    """Its layers, experts and top-k, and its name in the file."""
    found = answer(*ASKED, "--router", "softmax_topk", "--model", "gpt-oss-20b", "--out", tmp_path / "x.parquet")
    assert 24 * 300 == found["rows"]
    facts = answer("trace", "inspect", tmp_path / "x.parquet")
    assert ("gpt-oss-20b", 32, 4) == (facts["model"], facts["experts"], facts["top_k"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--router", "softmax_topk"), "give --experts and --topk, or --model"),
        (("--router", "softmx_topk", "--experts", "8", "--topk", "2"), "did you mean 'softmax_topk'"),
        (("--router", "zipf", "--experts", "8", "--topk", "2", "--set", "exponent"), "is not NAME=VALUE"),
        (("--router", "zipf", "--experts", "8", "--topk", "2", "--set", "exponent=nan"), "exponent must be 0..20"),
        (("--router", "softmax_topk", "--model", "gpt-oss-20b", "--layers", "99"), "layers=99 must be 1..24"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, arguments, words):
    """Exit status 2, no traceback, no file."""
    done = moesim(*ASKED, *arguments, "--out", tmp_path / "x.parquet")
    assert 2 == done.returncode
    assert words in done.stderr and "Traceback" not in done.stderr
    assert [] == list(tmp_path.iterdir())
