"""Every file of models/: it loads, says where its numbers come from, and adds up to the published total."""

import re
from pathlib import Path

import pytest

from moesim.model import MoEModel, list_models, load_model
from moesim.provenance import data_folder
from moesim.yaml_file import parse_yaml, validate

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "adding" / "a-model.md"

FIXED_NAMES = [
    *("deepseek-v2", "deepseek-v2-lite", "deepseek-v3", "glam-64b-64e", "gpt-oss-120b", "gpt-oss-20b", "kimi-k2"),
    *("gshard-2048e-36l", "ling-1t", "mixtral-8x22b", "mixtral-8x7b", "olmoe-1b-7b", "peer-1m", "qwen3-235b-a22b"),
    *("qwen3-30b-a3b", "switch-c"),
]
# No total was found at the makers'.
UNPUBLISHED = [
    *("deepseek-v4-pro", "dit-moe-b-2-8e2a", "dit-moe-s-2-8e2a", "dit-moe-xl-2-8e2a", "gemma4-26b-a4b", "kimi-k3"),
    *("minimax-m3", "peer-1m", "qwen35-122b-a10b", "qwen35-397b-a17b", "shazeer2017-mt-multilingual"),
    *("shazeer2017-mt2048", "step37-flash", "vmoe-b-16", "vmoe-b-32", "vmoe-l-16", "vmoe-l-32", "vmoe-s-32"),
]
EVERY_MODEL = pytest.mark.parametrize("name", list_models())


def test_names_that_scenarios_rely_on_are_listed() -> None:
    """The names that users write in scenarios exist."""
    assert [] == [name for name in FIXED_NAMES if name not in list_models()]


@EVERY_MODEL
def test_name_is_file_name(name: str) -> None:
    """A model is called what its file is called."""
    assert name == load_model(name).name


@EVERY_MODEL
def test_total_is_the_published_one(name: str) -> None:
    """The parameters recomputed from the dims are the published total within the stated error."""
    model = load_model(name)
    if model.published is None:
        assert name in UNPUBLISHED, f"{name} has no published total"
        return
    counted = model.total_params - (model.embedding_params if model.published.without_embeddings else 0)
    error = abs(counted / model.published.total_params - 1.0)
    assert error <= model.published.tolerance, (
        f"{name}: {counted:,} against {model.published.total_params:,.0f} published, "
        f"{error:.4f} > {model.published.tolerance}: {model.parameter_breakdown()}"
    )


@EVERY_MODEL
def test_every_number_has_source_and_kind(name: str) -> None:
    """Each number of a model file has an origin of its own, of its section or of '*'; an assumption says why.

    What shapes the traffic was read or follows from what was read, but for the V-MoE family (32 experts by the paper).
    """
    model = load_model(name)
    facts = model.facts()
    assert {"d_model", "layers.count", "moe.num_experts", "moe.top_k", "weight_dtype"} <= set(facts)
    assert ("moe.expert_d_ff" in facts) == (model.expert_d_ff > 0)
    assert [] == [path for path, fact in facts.items() if len(fact.source) < 8]
    assumed = [path for path in ("moe.num_experts", "moe.top_k") if facts[path].kind == "assumed"]
    assert [] == assumed or name.startswith("vmoe-")


@EVERY_MODEL
def test_a_file_says_first_what_it_is(name: str) -> None:
    """The file begins with a comment that names the model's year."""
    first = (data_folder("models") / f"{name}.yaml").read_text().split("format_version")[0]
    assert first.startswith("# ") and re.search(r"\b20(1[7-9]|2\d)\b", first)
    assert max(map(len, (data_folder("models") / f"{name}.yaml").read_text().splitlines())) <= 120


@EVERY_MODEL
def test_sources_name_only_what_the_file_holds(name: str) -> None:
    """No line of `sources` is about a number that the file does not give."""
    model = load_model(name)
    held = [*model.facts(), *(path.split(".")[0] for path in model.facts()), "*", "tied_embeddings", "moe.router"]
    held += ["moe.gated", "dense_gated"]
    assert [] == [path for path in model.sources if path not in held]


@pytest.mark.parametrize(("name", "gigabytes"), [("gpt-oss-20b", 14.0), ("gpt-oss-120b", 63.0)])
def test_checkpoint_size(name: str, gigabytes: float) -> None:
    """MXFP4 experts beside bfloat16 attention give the published checkpoint sizes within 4 %.

    14 and 63 GB: vLLM blog on gpt-oss, 2025.
    """
    assert gigabytes == pytest.approx(load_model(name).weight_bytes() / 1e9, rel=0.04)


def test_the_guide_shows_a_valid_file() -> None:
    """The example of docs/adding/a-model.md is a model file whose total is as published."""
    text = GUIDE.read_text().split("```yaml\n")[1].split("```")[0]
    model = validate(MoEModel, parse_yaml(text, "guide"), "guide")
    assert model.published is not None
    assert model.published.total_params == pytest.approx(model.total_params, rel=model.published.tolerance)
