"""Every exporter: named, checked, the same bytes every time, nothing written on a refusal."""

import ast
import importlib
import inspect

import pytest

import moesim
from moesim.errors import InputError
from moesim.exporters import TargetRefuses, exporter_names
from moesim.exporters.names import TARGETS
from tests.strategies.plan import plan_of
from tests.strategies.scenario import tiny_scenario

NAMES = (
    "astra-sim chakra chrome deepspeed hf-checkpoint jax kubernetes maxtext megatron nccl-alltoallv omni-infer openmpi "
    "perfetto sglang slurm tensorrt-llm torchrun torchtitan tutel vllm vllm-ascend"
)
ENDING = {"omni-infer": ".npy", "tensorrt-llm": ".yaml"}
NO_REPLICAS = ("deepspeed", "hf-checkpoint", "maxtext", "megatron", "torchtitan", "tutel", "vllm")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(scenario, plan without replicas, plan with them)."""
    scenario = tiny_scenario(tmp_path_factory.mktemp("tiny"))
    return scenario, moesim.plan(scenario, "longest_first"), moesim.plan(scenario, "longest_first", slots=32)


def out_of(folder, name):
    return folder / f"out{ENDING.get(name, '.json')}"


def test_the_exporters_are_these():
    """Adding or renaming one is a decision."""
    assert NAMES.split() == list(exporter_names())


@pytest.mark.parametrize("name", exporter_names())
def test_an_export_writes_what_it_lists_and_all_checks_hold(name, tiny, tmp_path):
    """Files exist and no others, flags and checks are there, a second export has the same bytes."""
    made = moesim.export(tiny[1], name, out_of(tmp_path, name))
    assert sorted(made.files) == sorted(tmp_path.iterdir())
    assert made.launch_flags and len(made.checks) >= 2
    assert [] == [check.name for check in made.checks if not check.ok]
    before = {path: path.read_bytes() for path in made.files}
    moesim.export(tiny[1], name, out_of(tmp_path, name))
    assert before == {path: path.read_bytes() for path in made.files}


@pytest.mark.parametrize("name", exporter_names())
def test_replicas_are_written_or_refused_and_made_to_fit(name, tiny, tmp_path):
    """A target without replicas names slots=16; --make-fit plans those, and writes that plan beside the file."""
    out = out_of(tmp_path, name)
    if name not in NO_REPLICAS:
        assert moesim.export(tiny[2], name, out).files
        return
    with pytest.raises(TargetRefuses, match="slots=16"):
        moesim.export(tiny[2], name, out)
    assert [] == list(tmp_path.iterdir())
    made = moesim.export(tiny[2], name, out, make_fit=True)
    assert moesim.load_plan(made.files[-1]) == made.plan
    assert {16} == {len(row) for row in made.plan.expert_of_slot}
    assert "planned again with slots=16" in made.notes[0]


@pytest.mark.parametrize("name", exporter_names())
def test_an_unknown_option_is_refused_before_anything_is_written(name, tiny, tmp_path):
    """A misspelt key would else be ignored without a word."""
    with pytest.raises(InputError, match="unknown option of exporter"):
        moesim.export(tiny[1], name, out_of(tmp_path, name), options={"no_such_key": "1"})
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", exporter_names())
def test_a_plan_that_knows_nothing_beside_itself_exports_or_asks_for_the_scenario(name, tmp_path):
    """No provenance, an unknown model: an InputError that names --scenario, or a file."""
    row = tuple(range(16))
    plan = plan_of((row, row), 4)
    try:
        assert moesim.export(plan, name, out_of(tmp_path, name)).files
    except InputError as error:
        assert "--scenario" in str(error)
        assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TARGETS.names())
def test_a_target_is_one_small_file_with_one_public_call(name):
    """Under 200 lines; `export(request)` is documented."""
    module = importlib.import_module(f"moesim.exporters.targets.{name}")
    source = inspect.getsource(module)
    assert len(source.splitlines()) < 200
    assert inspect.getdoc(module.export)
    assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name) and node.id == "open"]
