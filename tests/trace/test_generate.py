"""Generated trace files: what is asked for is in them, whatever the batch; what cannot be is refused before writing."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.model import list_models, load_model
from moesim.routing import MOST_EXPERTS
from moesim.trace import generate as module
from moesim.trace.generate import TraceShape, generate_trace, shape_of
from moesim.trace.inspect import inspect_trace
from moesim.trace.store import open_trace, read_rows

SHAPE = TraceShape(num_experts=64, top_k=4, layers=(1, 5), heads=2)
ASKED: dict[str, Any] = {"router": "product_key", "shape": SHAPE, "num_tokens": 1000, "num_ranks": 3, "num_steps": 4}


def _columns(path: Path) -> dict[str, Any]:
    rows = [rows for _, rows in read_rows(open_trace(path))]
    names = ("step_W", "layer_W", "rank_W", "token_W", "experts_WK", "sequence_W")
    return {name: np.concatenate([getattr(part, name) for part in rows]).tolist() for name in names}


def test_a_generated_trace_is_a_trace(tmp_path: Path) -> None:
    """Every token once at every layer, on all ranks and steps; the header tells router, parameters and seed."""
    out = tmp_path / "x.parquet"
    answer = generate_trace(out, **ASKED, seed=5, parameters={"structure": 0.7})
    assert {"out": str(out), "rows": 2000, "tokens": 1000} == answer
    facts = inspect_trace(out)
    expected = {"layers": 2, "layer_indices": [1, 5], "experts": 64, "top_k": 8, "tokens": 1000, "ranks": 3, "steps": 4}
    assert expected == {key: facts[key] for key in expected}
    assert facts["origin"] == "synthetic router product_key, seed 5, heads=2, structure=0.7"
    assert [] == facts["notes"]
    assert facts["adjacent_overlap"][0] > 2 * facts["adjacent_overlap_independent"][0]
    assert ["x.parquet"] == [file.name for file in tmp_path.iterdir()]


def test_blocks_and_repetition_do_not_change_the_file(tmp_path: Path) -> None:
    """Blocks of 7 tokens give the rows that one block gives; the same request gives the same bytes."""
    for name, block in (("a", 7), ("b", 65_536), ("c", 65_536)):
        generate_trace(tmp_path / name, **ASKED, seed=5, block_tokens=block)
    assert _columns(tmp_path / "a") == _columns(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_small_steps_do_not_make_small_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are gathered before they are written."""
    generate_trace(tmp_path / "a", **ASKED)
    whole = _columns(tmp_path / "a")
    monkeypatch.setattr(module, "_LEAST_ROWS", 300)
    generate_trace(tmp_path / "b", **ASKED)
    assert whole == _columns(tmp_path / "b")


def test_the_shape_of_a_model() -> None:
    """Layers, experts, heads from its file; other numbers make it another model."""
    shape = shape_of(load_model("peer-1m"))
    assert (1_048_576, 16, 8, (0,), "peer-1m") == (
        shape.num_experts,
        shape.top_k,
        shape.heads,
        shape.layers,
        shape.model,
    )
    shape = shape_of(load_model("deepseek-v2-lite"), num_experts=32, num_layers=3)
    assert (32, 6, (1, 2, 3), None) == (shape.num_experts, shape.top_k, shape.layers, shape.model)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_tokens": 0}, "tokens must be >= 1, got 0"),
        ({"num_tokens": 11}, "tokens=11 are fewer than ranks x steps = 3 x 4"),
        ({"num_tokens": 10**15}, "may take .* but .* free"),
        ({"num_tokens": 10**18}, "a trace of this size cannot be"),
        (
            {"shape": TraceShape(num_experts=64, top_k=16, heads=8)},
            "heads x top_k = 8 x 16 = 128 is more than experts=64",
        ),
        ({"shape": TraceShape(num_experts=60, top_k=4)}, "num_experts=60 is not a product"),
        ({"shape": TraceShape(num_experts=0, top_k=4)}, "experts must be >= 1, got 0"),
        ({"shape": shape_of(None, num_experts=64, top_k=4, heads=0)}, "heads must be >= 1, got 0"),
        ({"shape": shape_of(load_model("peer-1m"), top_k=0)}, "top_k must be >= 1, got 0"),
        ({"parameters": {"structure": 1.01}}, "structure must be 0..1, got 1.01"),
        ({"parameters": {"structure": float("nan")}}, "structure must be 0..1, got nan"),
        ({"router": "softmax_topk"}, "unknown parameter of router softmax_topk 'heads'"),
        ({"repeat_tokens": True, "num_tokens": 1001}, "steps=4 must divide tokens=1001"),
        ({"seed": -1}, "seed must be >= 0"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    """In one sentence, before a file is made."""
    with pytest.raises(InputError, match=sentence):
        generate_trace(tmp_path / "x.parquet", **(ASKED | change))
    assert [] == list(tmp_path.iterdir())


def test_a_full_disk_is_found_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The uncompressed size is held against what is free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 10**5, 10**5))
    with pytest.raises(InputError, match=r"may take 0\.000108 GB, but .* has 0\.0001 GB free"):
        generate_trace(tmp_path / "x.parquet", **ASKED)
    with pytest.raises(InputError, match="there is no folder"):
        generate_trace(tmp_path / "none" / "x.parquet", **ASKED)


def test_a_generation_that_fails_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name asked for appears only when the last row is written; what stood under it stays until then."""
    out, joined = tmp_path / "x.parquet", module._joined

    def dies(blocks: Any) -> Any:
        assert b"before" == out.read_bytes()
        raise KeyboardInterrupt

    out.write_bytes(b"before")
    monkeypatch.setattr(module, "_joined", dies)
    with pytest.raises(KeyboardInterrupt):
        generate_trace(out, **ASKED)
    assert [out] == list(tmp_path.iterdir())
    monkeypatch.setattr(module, "_joined", joined)
    generate_trace(out, **ASKED)
    assert 1000 == open_trace(out).info.num_tokens
    assert [out] == list(tmp_path.iterdir())


def test_a_trace_holds_the_experts_of_every_model() -> None:
    """Up to the 67,108,864 values of the largest."""
    assert 2**26 == max(load_model(name).num_experts for name in list_models()) <= MOST_EXPERTS
