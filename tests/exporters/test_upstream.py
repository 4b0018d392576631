"""Loaders of other projects, where installed, read our files.

`pip install --no-deps sglang HolisticTraceAnalysis` and `pip install pandas plotly psutil` are enough.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

import moesim
from tests.checkpoint.test_permute import read
from tests.exporters.test_checkpoints import plan_with_groups, tiny_folder
from tests.exporters.test_serving import MODEL
from tests.strategies.plan import exported, plans
from tests.strategies.scenario import tiny_scenario

pytestmark = pytest.mark.upstream


@pytest.fixture
def sglang_loader(monkeypatch):
    """SGLang's expert_location module with its runtime stubbed, and the namespace its settings are read from."""
    try:
        found = importlib.util.find_spec("sglang")
    except (ImportError, ValueError):
        found = None
    path = None if found is None else Path(next(iter(found.submodule_search_locations))) / "srt/eplb/expert_location.py"
    if path is None or not path.is_file():
        pytest.skip("sglang is not installed")
    pytest.importorskip("torch")
    moe = types.SimpleNamespace(ep_join_mode="none", moe_a2a_backend="deepep")
    parallel = types.SimpleNamespace(elastic_ep_initial_size=None, nnodes=1)
    shape = types.SimpleNamespace(num_layers=MODEL.num_layers, num_logical_experts=16, num_groups=None)
    architecture = types.SimpleNamespace(get_model_config_for_expert_location=lambda config: shape)
    stubs = {
        "sglang": types.ModuleType("sglang"),
        "sglang.srt": types.ModuleType("sglang.srt"),
        "sglang.srt.runtime_context": types.SimpleNamespace(
            get_device=lambda: types.SimpleNamespace(device="cpu"),
            get_exec=lambda: types.SimpleNamespace(moe=moe),
            get_parallel=lambda: parallel,
            get_resources=lambda: None,
        ),
        "sglang.srt.model_loader": types.SimpleNamespace(get_model_architecture=lambda config: (architecture, None)),
        "sglang.srt.elastic_ep": types.ModuleType("sglang.srt.elastic_ep"),
        "sglang.srt.elastic_ep.elastic_ep": types.SimpleNamespace(elastic_expanded_world_enabled=lambda: False),
    }
    for name, stub in stubs.items():
        monkeypatch.setitem(sys.modules, name, stub)
    spec = importlib.util.spec_from_file_location("upstream_expert_location", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "upstream_expert_location", module)
    spec.loader.exec_module(module)
    return module, moe, parallel


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans())
def test_sglang_loads_the_plan_on_every_rank(sglang_loader, tmp_path, plan):
    """Its map is the plan's slots; under static dispatch every rank finds a slot of every expert, in every layer."""
    module, moe, parallel = sglang_loader
    out = tmp_path / "location.json"
    export = exported(plan, "sglang", str(out), MODEL)
    out.write_bytes(export.files[out.name])
    flags = dict(flag.split(" ", 1) for flag in export.launch_flags)
    moe.init_expert_location = flags["--init-expert-location"]
    moe.ep_num_redundant_experts = int(flags["--ep-num-redundant-experts"])
    moe.ep_dispatch_algorithm = flags["--ep-dispatch-algorithm"]
    parallel.ep_size = int(flags["--ep-size"])
    for rank in range(plan.num_devices):
        loaded = module.compute_initial_expert_location_metadata(types.SimpleNamespace(hf_config=None), rank)
        slots = loaded.physical_to_logical_map.tolist()
        assert [list(row) for row in plan.expert_of_slot] == [slots[layer] for layer in plan.layers]
        if moe.ep_dispatch_algorithm == "static":
            chosen = loaded.logical_to_rank_dispatch_physical_map.tolist()
            assert all(
                row[slot] == expert for row, of in zip(slots, chosen, strict=True) for expert, slot in enumerate(of)
            )
    assert json.loads(out.read_text())["physical_to_logical_map"] == slots


def test_hta_reads_a_trace_of_every_rank_and_tells_communication_from_computation(tmp_path):
    """TraceAnalysis finds 16 ranks; its times of the two kinds are those of the simulated spans, to its microseconds."""
    analysis = pytest.importorskip("hta.trace_analysis")
    scenario = tiny_scenario(tmp_path)
    made = moesim.export(moesim.plan(scenario, "contiguous"), "chrome", tmp_path / "hta" / "t.json", scenario=scenario)
    traces = analysis.TraceAnalysis(trace_dir=str(tmp_path / "hta"))
    assert list(range(16)) == sorted(traces.t.traces) and 16 == len(made.files)
    kinds, _ = traces.get_gpu_kernel_breakdown(visualize=False)
    sums = dict(zip(kinds["kernel_type"], kinds["sum"], strict=True))
    slices = [e for path in made.files for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    for kind, ours in (("COMMUNICATION", True), ("COMPUTATION", False)):
        own = [event["dur"] for event in slices if event["name"].startswith("nccl") == ours]
        assert abs(sums[kind] - sum(own)) <= 2 * len(own)  # it rounds begins up and ends down


def test_safetensors_reads_the_exported_checkpoint(tmp_path):
    """The reference library opens the permuted file; tensors are those our own reader finds."""
    safetensors = pytest.importorskip("safetensors.numpy")
    plan, source = plan_with_groups(1), tiny_folder(tmp_path / "old")
    moesim.export(plan, "hf-checkpoint", tmp_path / "new", checkpoint=source)
    theirs = safetensors.load_file(tmp_path / "new" / "model.safetensors")
    ours = read(tmp_path / "new" / "model.safetensors")
    assert sorted(ours) == sorted(theirs)
    assert all((ours[name] == theirs[name]).all() for name in ours)
