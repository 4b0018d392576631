"""Model files against the catalogue of models outside the repository, field by field."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from moesim.model import MoEModel, list_models, load_model

pytestmark = pytest.mark.shared
EVERY_MODEL = pytest.mark.parametrize("name", list_models())
RENAMED = {"glam-64b-64e": "glam_64b64e"}


@pytest.fixture
def catalogue(shared_data: Path) -> dict[str, Any]:
    """Entries of the catalogue by id."""
    return _read(shared_data / "catalog" / "models.yaml")


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return {entry["id"]: entry for entry in yaml.safe_load(path.read_text())["models"]}


def entry_of(name: str, catalogue: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = catalogue[RENAMED.get(name, name.replace("-", "_"))]
    return entry


def pairs(model: MoEModel, entry: dict[str, Any]) -> Iterator[tuple[str, object, object]]:
    """(what, catalogue's value, ours) for everything that the catalogue's entry states."""
    layers = entry["layers"]
    yield "layers", sum(layers.values()) if isinstance(layers, dict) else layers, model.num_layers
    yield "moe_layers", entry["moe_layers"]["count"], model.num_moe_layers
    ours = {
        "d_model": model.d_model,
        "n_routed_experts": model.num_experts,
        "n_shared_experts": model.num_shared_experts,
        "shared_intermediate_total": model.shared_d_ff,
        "expert_intermediate": model.expert_d_ff,
        "glu": model.gated,
        "vocab": model.vocab_size,
        "tied_embeddings": model.tied_embeddings,
        "top_k": model.top_k // model.moe.heads,
        "heads": model.moe.heads,
    }
    yield from ((key, entry[key], value) for key, value in ours.items() if key in entry)
    if entry.get("dense_intermediate") is not None and model.num_moe_layers < model.num_layers:
        yield "dense_intermediate", entry["dense_intermediate"], model.dense_d_ff
    router = entry["router"]
    yield "n_group", router.get("n_group", 1), model.num_groups
    yield "topk_group", router.get("topk_group", 1), model.moe.top_groups
    yield "router", router["type"].startswith("sigmoid"), model.moe.router.kind == "sigmoid_bias"
    yield "product keys", router["type"] == "product_key", model.moe.router.kind == "product_key"
    if "attention" in entry and model.attention is not None:
        yield from attention_pairs(model.attention.model_dump(), entry["attention"])


def attention_pairs(ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[tuple[str, object, object]]:
    # The catalogue writes gqa where all heads have their own keys too; ours says mha then.
    plain = theirs.get("kv_heads", theirs["heads"]) == theirs["heads"]
    yield "attention.type", "mha" if plain and theirs["type"] != "mla" else theirs["type"], ours["kind"]
    for key, our_key in {"sliding_window": "window"}.items():
        yield f"attention.{key}", theirs.get(key), ours.get(our_key)
    for key in ("heads", "kv_heads", "head_dim", "q_lora", "kv_lora", "qk_nope", "qk_rope", "v_dim"):
        if key in theirs:
            yield f"attention.{key}", theirs[key], ours[key]


@EVERY_MODEL
def test_dims_are_the_catalogued_ones(name: str, catalogue: dict[str, Any]) -> None:
    """Every field that the catalogue states has the same value here."""
    compared = list(pairs(load_model(name), entry_of(name, catalogue)))
    assert [] == [pair for pair in compared if pair[1] != pair[2]]
    assert len(compared) >= 12


@EVERY_MODEL
def test_published_total_and_error_are_the_catalogued_ones(name: str, catalogue: dict[str, Any]) -> None:
    """The published total is the catalogue's, and our tolerance is its stated error, to a unit of its last digit."""
    model, entry = load_model(name), entry_of(name, catalogue)
    published = model.published
    assert entry["params"]["total"] == (published.total_params if published else None)
    if published:
        stated_error = abs(entry["params_check"]["total_vs_published"] - 1.0)
        assert published.tolerance <= stated_error + 0.001 + 1e-12


@EVERY_MODEL
def test_sum_is_the_catalogued_check(name: str, catalogue: dict[str, Any]) -> None:
    """Without the routers, which the catalogue leaves out, our sum is its check to its four digits."""
    model, entry = load_model(name), entry_of(name, catalogue)
    if "params_check" not in entry:
        assert model.published is None
        return
    breakdown = model.parameter_breakdown()
    ours = model.total_params - breakdown["routers"]
    assert entry["params_check"]["total"] == pytest.approx(ours, rel=5e-4), breakdown


@EVERY_MODEL
def test_no_origin_is_stronger_than_the_catalogue(name: str, catalogue: dict[str, Any]) -> None:
    """What the catalogue calls unverified is assumed here, unless another source is named for it."""
    model, verify = load_model(name), entry_of(name, catalogue)["verify"]
    ours = {
        "*": "*", "params": "published.total_params", "d_model": "d_model", "expert_intermediate": "moe.expert_d_ff",
        "vocab": "vocab_size", "attention": "attention", "d_key": "moe.router.key_width", "layers": "layers",
    }  # fmt: skip
    unverified = [key for key, text in verify.items() if text.startswith(("unverified", "assumed")) and key in ours]
    assert [] == [key for key in unverified if model.origin_of(ours[key]).kind != "assumed"]
