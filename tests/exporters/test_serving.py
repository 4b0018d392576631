"""Files for serving engines read back, by mini-readers written to their formats, as the plan they were made from."""

import io
import json

import numpy as np
import pytest
import yaml
from hypothesis import given, settings

from moesim.exporters import TargetRefuses
from moesim.model import MoEModel
from moesim.trace.readers.vllm_ascend_map import read_expert_map
from moesim.yaml_file import parse_yaml
from tests.strategies.plan import exported, plan_of, plans
from tests.strategies.scenario import TINY_MODEL

MODEL = MoEModel.model_validate(parse_yaml(TINY_MODEL, "tiny"))


def flags_of(export):
    """Launch flags that are `--name value`."""
    return dict(flag.split(" ", 1) for flag in export.launch_flags if flag.startswith("--") and " " in flag)


def ranks_hold(row, ranks):
    """Sorted experts of every rank."""
    each = len(row) // ranks
    return [sorted(row[rank * each : (rank + 1) * each]) for rank in range(ranks)]


@settings(max_examples=30)
@given(plan=plans())
def test_sglang_has_one_key_and_a_row_for_every_hidden_layer(plan):
    """Rows of MoE layers are the plan's slots, dense rows i mod E; R and G of the flags agree with the width."""
    export = exported(plan, "sglang", "x.json", MODEL)
    data = json.loads(export.files["x.json"])
    assert ["physical_to_logical_map"] == list(data)
    rows, flags = data["physical_to_logical_map"], flags_of(export)
    assert MODEL.num_layers == len(rows)
    assert [list(row) for row in plan.expert_of_slot] == [rows[layer] for layer in plan.layers]
    assert [slot % 16 for slot in range(len(rows[0]))] == rows[0]
    assert len(rows[0]) == 16 + int(flags["--ep-num-redundant-experts"])
    assert 0 == len(rows[0]) % int(flags["--ep-size"])
    assert {"nearest": "static", "even": "dynamic"}[plan.replica_policy] == flags["--ep-dispatch-algorithm"]


@settings(max_examples=30)
@given(plan=plans())
def test_vllm_ascend_reads_back(plan, tmp_path_factory):
    """Our reader of its maps finds the plan's experts on every device of every MoE ordinal."""
    path = tmp_path_factory.mktemp("ascend") / "map.json"
    path.write_bytes(exported(plan, "vllm-ascend", str(path)).files["map.json"])
    found = read_expert_map(path)
    assert [ranks_hold(row, plan.num_devices) for row in plan.expert_of_slot] == [
        [sorted(experts) for experts in layer] for layer in found
    ]


@settings(max_examples=30)
@given(plan=plans())
def test_omni_infer_reads_back(plan):
    """Pattern [rank, MoE ordinal, expert] int32; the YAML's bounds hold for it."""
    export = exported(plan, "omni-infer", "p.npy")
    pattern = np.load(io.BytesIO(export.files["p.npy"]), allow_pickle=False)
    config = yaml.safe_load(export.files["p.yaml"])
    assert (np.int32, (plan.num_devices, config["max_moe_layer_num"], 16)) == (pattern.dtype, pattern.shape)
    for ordinal, row in enumerate(plan.expert_of_slot):
        assert ranks_hold(row, plan.num_devices) == [np.flatnonzero(held).tolist() for held in pattern[:, ordinal]]
    assert pattern.sum(axis=0).max() == config["max_redundant_per_expert"]
    assert "p.npy" == config["pattern_path"]


@settings(max_examples=30)
@given(plan=plans(distinct=False))
def test_tensorrt_llm_reads_back(plan):
    """Layers are model layer indices, slots in order; the options name the balancer's file."""
    export = exported(plan, "tensorrt-llm", "b.yaml", MODEL, mtp_layers="1")
    data = yaml.safe_load(export.files["b.yaml"])
    table = data["initial_global_assignments"]
    assert [*plan.layers, MODEL.num_layers] == list(table)
    assert [list(row) for row in plan.expert_of_slot] == [table[layer] for layer in plan.layers]
    assert table[MODEL.num_layers] == table[plan.layers[-1]]
    assert (len(plan.expert_of_slot[0]), 0) == (data["num_slots"], data["layer_updates_per_iter"])
    options = yaml.safe_load(export.files["b.llm_options.yaml"])
    assert "b.yaml" == options["moe_config"]["load_balancer"]


@settings(max_examples=30)
@given(plan=plans(distinct=False))
def test_the_map_of_the_vllm_proposal_reads_back(plan):
    """A list of P experts per MoE ordinal; the flags carry the redundant experts."""
    export = exported(plan, "vllm", "m.json", map_file="true")
    assert [list(row) for row in plan.expert_of_slot] == json.loads(export.files["m.json"])
    config = json.loads(flags_of(export)["--eplb-config"].strip("'"))
    assert len(plan.expert_of_slot[0]) - 16 == config["num_redundant_experts"]


@settings(max_examples=30)
@given(plan=plans(replicas=False))
def test_a_plan_without_replicas_is_a_permutation_for_stock_vllm(plan):
    """new position s holds old expert permutation[s], so that rank r holds what the plan gives it."""
    data = json.loads(exported(plan, "vllm", "m.json", MODEL).files["m.json"])
    assert [list(row) for row in plan.expert_of_slot] == data["permutation"]


IDENTITY = tuple(range(16))
UNEVEN = (*IDENTITY, 0, 1)


@pytest.mark.parametrize(
    ("target", "out", "rows", "slots"),
    [
        ("vllm", "x.json", (UNEVEN, UNEVEN), 16),
        ("sglang", "x.json", (UNEVEN, UNEVEN), 16),
        ("tensorrt-llm", "x.yaml", ((*UNEVEN, 2), (*UNEVEN, 2)), 20),
        ("omni-infer", "x.npy", (UNEVEN, IDENTITY), 16),
        ("vllm-ascend", "x.json", ((*IDENTITY, 0, 4, 8, 12), (*IDENTITY, 15, 15, 15, 15)), 16),
        ("omni-infer", "x.npy", ((*IDENTITY[:4], 0, *IDENTITY[4:], 0, 1, 2),) * 2, 16),
    ],
)
def test_what_a_target_cannot_express_is_refused_with_the_nearest_plan(target, out, rows, slots):
    """Replicas for stock vLLM, uneven slots, an expert twice on a rank: one sentence with the slots that would do."""
    with pytest.raises(TargetRefuses) as refused:
        exported(plan_of(rows, 4), target, out, MODEL)
    assert slots == refused.value.slots
    assert f"slots={slots}" in str(refused.value) and "\n" not in str(refused.value)
    assert 2 == refused.value.exit_status


def test_an_expert_twice_on_a_rank_is_reported_where_it_is_legal():
    """SGLang accepts it; the check says no, and the file is there."""
    row = (*IDENTITY[:4], 0, *IDENTITY[4:8], 1, *IDENTITY[8:12], 2, *IDENTITY[12:], 3)
    export = exported(plan_of((row, row), 4), "sglang", "x.json", MODEL)
    assert ["no expert twice on one rank"] == [check.name for check in export.checks if not check.ok]


@pytest.mark.parametrize(("target", "out"), [("sglang", "x.pt"), ("vllm-ascend", "x.txt"), ("omni-infer", "x.npz")])
def test_a_name_the_loader_would_take_for_something_else_is_refused(target, out):
    """SGLang parses any other path as JSON itself; vllm-ascend and omni-infer read one ending only."""
    from moesim.errors import InputError

    with pytest.raises(InputError, match=out):
        exported(plan_of((IDENTITY, IDENTITY), 4), target, out, MODEL)


@pytest.mark.parametrize(("text", "is_map"), [("initial_expert_map_path: str | None = None", True), ("", False)])
def test_the_installed_vllm_is_read_for_the_field_and_not_imported(text, is_map, tmp_path, monkeypatch):
    """Its EPLB config has the field: the map is written, replicas and all; else the permutation. Importing it would fail."""
    (tmp_path / "vllm" / "config").mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "vllm" / "config" / "parallel.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    export = exported(plan_of((IDENTITY, IDENTITY), 4), "vllm", "m.json", MODEL)
    assert is_map == isinstance(json.loads(export.files["m.json"]), list)
    assert is_map == ("--enable-eplb" in export.launch_flags)
