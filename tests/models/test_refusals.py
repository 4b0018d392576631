"""Model files that cannot be used: one sentence with the name, the value got and the next step, never a traceback."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError, UnknownName
from moesim.model import MoEModel, load_model
from moesim.provenance import data_folder
from moesim.yaml_file import parse_yaml, read_yaml, validate

TEXT = (data_folder("models") / "deepseek-v3.yaml").read_text()
DATA = read_yaml(data_folder("models") / "deepseek-v3.yaml")
NAMES = ("gpt-oss-20b", "switch-c", "peer-1m", "nemotron3-super", "longcat-flash", "ernie45-vl-28b-a3b", "jetmoe-8b")
OTHERS = [read_yaml(data_folder("models") / f"{name}.yaml") for name in NAMES]


def with_value(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A copy of `data` with the value at dotted `path` replaced or added."""
    result = copy.deepcopy(data)
    *sections, key = path.split(".")
    inner = result
    for section in sections:
        inner = inner[section]
    inner[key] = value
    return result


def refusal(data: dict[str, Any], folder: Path) -> str:
    """The message with which a file holding `data` is refused."""
    path = folder / "wrong.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message and "wrong.yaml" in message
    return message


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format_version", 2, ["format_version", "2", "1"]),
        ("format_version", None, ["format_version"]),
        ("d_modle", 7168, ["'d_modle'", "did you mean 'd_model'"]),
        ("moe.num_expert", 256, ["'num_expert'", "did you mean 'num_experts'"]),
        ("attention.kv_lor", 256, ["'kv_lor'", "did you mean 'kv_lora'"]),
        ("layers.first", 3, ["'first'", "first_dense"]),
        ("moe.top_k", 257, ["top_k=257", "num_experts=256"]),
        ("moe.top_k", 0, ["moe.top_k", "0"]),
        ("moe.top_k", 129, ["top_k=129", "top_groups=4"]),
        ("moe.num_experts", 252, ["num_groups=8", "num_experts=252"]),
        ("moe.num_experts", -256, ["moe.num_experts", "-256"]),
        ("moe.num_experts", 10**12, ["moe.num_experts", "1000000000000", "67108864"]),
        ("moe.num_experts", 256.0, ["moe.num_experts", "256.0", "integer"]),
        ("moe.num_experts", True, ["moe.num_experts", "True", "integer"]),
        ("moe.num_experts", "256", ["moe.num_experts", "'256'", "integer"]),
        ("moe.gated", 1, ["moe.gated", "1", "boolean"]),
        ("moe.heads", 3, ["heads=3", "top_k=8"]),
        ("moe.top_groups", 9, ["top_groups=9", "num_groups=8"]),
        ("moe.shared_d_ff", 0, ["shared_d_ff=0", "num_shared_experts=1"]),
        ("moe.router.kind", "product_key", ["key_width=None", "product_key"]),
        ("moe.router.kind", "sofmax", ["moe.router.kind", "'sofmax'"]),
        ("moe.router", {"kind": "sigmoid_bias", "key_width": 8}, ["key_width=8", "sigmoid_bias"]),
        ("moe", 3, ["moe", "3"]),
        ("layers.count", 0, ["layers.count", "0"]),
        ("layers.count", 10**9, ["layers.count", "1000000000", "4096"]),
        ("layers.first_dense", 61, ["first_dense=61", "count=61"]),
        ("layers.moe", [3, 61], ["first_dense", "moe"]),
        ("layers", {"count": 61, "moe": [3, 61]}, ["layer 61", "count=61"]),
        ("layers", {"count": 61, "moe": [4, 3]}, ["rising order"]),
        ("layers", {"count": 61, "moe": []}, ["layers.moe"]),
        ("layers.cross_attention", 62, ["cross_attention=62", "count=61"]),
        ("layers.cross_attention", 30, ["family decoder", "cross_attention=30"]),
        ("layers.attention", [3], ["other_attention", "layers.attention"]),
        ("layers.attention", [61], ["layer 61", "count=61"]),
        ("layers.attention_every", 4, ["other_attention", "layers.attention"]),
        ("layers", {"count": 61, "attention": [3], "attention_every": 2}, ["attention_every", "not as both"]),
        ("layers", {"count": 61, "moe": [3], "moe_alone": True, "attention": [3]}, ["moe_alone"]),
        ("layers.attention_blocks", 0, ["layers.attention_blocks", "0"]),
        ("layers.modulation", -1, ["layers.modulation", "-1"]),
        ("other_attention", {"kind": "lstm", "cells": 4}, ["other_attention", "layers.attention"]),
        ("moe.num_zero_experts", -1, ["moe.num_zero_experts", "-1"]),
        ("moe.expert_d_ff", None, ["gated", "expert_d_ff=None"]),
        (
            "moe.pools",
            [{"modality": "text", "num_experts": 64, "expert_d_ff": 2048}],
            ["64 experts", "num_experts=256"],
        ),
        ("moe.pools", [{"modality": "text", "num_experts": 256, "expert_d_ff": 64}], ["expert_d_ff=2048", "mean"]),
        (
            "moe.pools",
            [{"modality": name, "num_experts": n, "expert_d_ff": 2048} for name, n in (("text", 252), ("vision", 4))],
            ["top_k=8", "smallest pool"],
        ),
        ("moe.router", {"kind": "sigmoid_bias", "keys_per_head": True}, ["keys_per_head", "sigmoid_bias"]),
        ("attention.indexer", {"heads": 1, "dim": 1, "top_tokens": 0}, ["top_tokens", "0"]),
        (
            "attention",
            {"kind": "moa", "num_experts": 2, "top_k": 3, "kv_heads": 1, "head_dim": 1},
            ["top_k=3", "num_experts=2"],
        ),
        (
            "attention",
            {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 8, "shared_kv": True, "v_dim": 4},
            ["shared_kv", "v_dim=4"],
        ),
        ("d_model", float("nan"), ["d_model", "nan"]),
        ("d_model", float("inf"), ["d_model", "inf"]),
        ("d_model", -7168, ["d_model", "-7168"]),
        ("d_model", 10**40, ["d_model", "largest"]),
        ("dense_d_ff", None, ["3 dense layers", "dense_d_ff"]),
        ("attention.kind", "mlb", ["attention", "mlb"]),
        ("attention", {"kind": "gqa", "heads": 64, "kv_heads": 7, "head_dim": 64}, ["kv_heads=7", "heads=64"]),
        ("attention", {"kind": "mha", "heads": 64, "kv_heads": 8, "head_dim": 64}, ["mha", "kv_heads=64", "8"]),
        (
            "attention",
            {"kind": "gqa", "heads": 64, "kv_heads": 8, "head_dim": 64, "full_every": 2},
            ["full_every=2", "window"],
        ),
        ("weight_dtype", "fp9", ["'fp9'", "did you mean 'fp8'"]),
        ("weight_dtype", ["fp8"], ["weight_dtype", "expected text"]),
        ("name", "Deep Seek", ["name", "'Deep Seek'"]),
        ("family", "encoder", ["family", "'encoder'"]),
        ("published.tolerance", float("nan"), ["published.tolerance", "nan"]),
        ("published.tolerance", 0.5, ["published.tolerance", "0.5"]),
        ("published.total_params", 0, ["published.total_params", "0"]),
        ("sources", {}, ["sources"]),
        ("sources", {"d_model": {"kind": "assumed", "source": "why"}}, ["'*'"]),
        ("sources", {"*": {"kind": "guessed", "source": "why"}}, ["sources.*.kind", "'guessed'"]),
        ("sources", {"*": {"kind": "assumed", "source": ""}}, ["sources.*.source"]),
        ("sources.moe.topk", {"kind": "assumed", "source": "why"}, []),
    ],
)
def test_wrong_value_is_refused(path: str, value: object, words: list[str], tmp_path: Path) -> None:
    """A value outside its bounds, of the wrong kind or contradicting another is refused by name and value."""
    if path == "sources.moe.topk":
        data, words = {**DATA, "sources": {**DATA["sources"], "moe.topk": value}}, ["'moe.topk'", "'moe.top_k'"]
    else:
        data = with_value(DATA, path, value)
    message = refusal(data, tmp_path)
    assert [] == [word for word in words if word not in message], message


@pytest.mark.parametrize("key", [key for key in DATA if key not in ("dense_gated", "tied_embeddings", "published")])
def test_missing_key_is_named(key: str, tmp_path: Path) -> None:
    """A file without a key that has no default is refused by the key's name."""
    assert key in refusal({name: value for name, value in DATA.items() if name != key}, tmp_path)


def test_product_keys_need_a_square_number_of_experts(tmp_path: Path) -> None:
    """Two half keys address sqrt(num_experts)^2 experts."""
    data = with_value(with_value(DATA, "moe.num_experts", 264), "moe.router", {"kind": "product_key", "key_width": 64})
    assert "num_experts=264 is not a square" in refusal(data, tmp_path)


def test_unknown_name_suggests_the_nearest() -> None:
    """A misspelt model name is answered with the nearest known one."""
    with pytest.raises(UnknownName, match="unknown model 'deepseek-v3-lite'; did you mean 'deepseek-v2-lite'"):
        load_model("deepseek-v3-lite")


@pytest.mark.parametrize("text", ["", " ", "..", "*", "mixtral", "gpt-oss-20b\n", "x" * 5000])
def test_names_that_are_no_names(text: str) -> None:
    """Empty, odd and endless names are unknown names, not paths."""
    with pytest.raises(InputError):
        load_model(text)


@pytest.mark.parametrize("text", ["missing.yaml", "a/b", "/", "/dev/null", "a\0.yaml", "x" * 5000 + ".yaml", "."])
def test_paths_that_lead_nowhere(text: str) -> None:
    """A path to no file, a folder, a device, or no path at all is refused."""
    with pytest.raises(InputError):
        load_model(text)


def test_a_path_needs_no_drawer(tmp_path: Path) -> None:
    """A model file anywhere loads by its path, as text or Path, and equals the one in the drawer."""
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    assert load_model("deepseek-v3") == load_model(path) == load_model(str(path))


def read(text: str) -> None:
    """Read `text` as a model file: it is refused, or a valid model whose counts can be taken."""
    try:
        model = validate(MoEModel, parse_yaml(text, "mutated.yaml"), "mutated.yaml")
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000
        return
    assert model.total_params > 0
    assert model == MoEModel.model_validate(model.model_dump(mode="json"))


@given(st.integers(0, len(TEXT)), st.integers(0, 40), st.text(max_size=12))
def test_mutated_text(start: int, length: int, inserted: str) -> None:
    """A file with any stretch replaced by any text is refused or is a valid model."""
    read(TEXT[:start] + inserted + TEXT[start + length :])


@given(st.integers(0, len(TEXT) - 1))
def test_truncated_text(end: int) -> None:
    """A file cut anywhere is refused or is a valid model."""
    read(TEXT[:end])


HOSTILE = [
    0,
    -1,
    1,
    2**31,
    2**63,
    10**19,
    0.5,
    float("nan"),
    float("inf"),
    True,
    None,
    "",
    "a",
    "1e9",
    [],
    [0],
    {},
    {"a": 1},
]


@given(st.sampled_from([DATA, *OTHERS]), st.data())
def test_mutated_values(original: dict[str, Any], data: st.DataObject) -> None:
    """A file with up to three values replaced, removed or added, at any depth, is refused or is a valid model."""
    mutated = copy.deepcopy(original)
    for _ in range(data.draw(st.integers(1, 3))):
        section = mutated
        while True:
            key = data.draw(st.sampled_from([*section, "new"]))
            if not isinstance(section.get(key), dict) or not section[key] or data.draw(st.booleans()):
                break
            section = section[key]
        if data.draw(st.booleans()) or key not in section:
            section[key] = data.draw(st.sampled_from(HOSTILE) | st.integers(-(10**6), 10**6))
        else:
            del section[key]
    read(yaml.safe_dump(mutated))
