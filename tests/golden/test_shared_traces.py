"""Real traces of other projects, converted and replayed through the command line's functions."""

import pytest

from moesim.errors import InputError
from moesim.model import load_model
from moesim.scenario import make_scenario
from moesim.study import compare, simulate
from moesim.trace.convert import convert_trace

pytestmark = pytest.mark.shared


def scenario(model, path, **sections):
    base = {
        "format_version": 1,
        "model": model,
        "cluster": {"topology": "dgx-h100-superpod", "nodes": 4},
        "trace": {"path": str(path), "tokens_per_rank": 4, "steps": "0:2"},
        "dispatch": {"kernel": "deepep-ll", "dtype": "fp8"},
        "mode": {"kind": "decode"},
    }
    return make_scenario(base | {name: {**base.get(name, {}), **keys} for name, keys in sections.items()})


def test_gpt_oss_decode_starts_every_sequence_with_one_token(shared_data, tmp_path):
    """128 sequences run on 32 ranks; their first token is the same, so one expert of 32 gets them all: 4/32."""
    path = tmp_path / "t.parquet"
    assert (
        67_261
        == convert_trace(shared_data / "traces/gpt_oss_20b_decode.npz", path, model=load_model("gpt-oss-20b"))["tokens"]
    )
    result = simulate(scenario("gpt-oss-20b", path))
    assert 1.0 == result.steps[0].fill
    assert 4 / 32 == pytest.approx(result.layers[0].balancedness, rel=0.01)


@pytest.mark.parametrize("task", ["intent", "translation"])
def test_deepseek_prefill_gains_from_replicas_planned_on_other_steps(shared_data, tmp_path, task):
    """Planned on one step and judged on the next, three slots a device beat contiguous on both balance and time."""
    path = tmp_path / "t.parquet"
    convert_trace(shared_data / f"traces/deepseek_v2_lite_{task}.npz", path, model=load_model("deepseek-v2-lite"))
    judged = compare(
        scenario(
            "deepseek-v2-lite",
            path,
            trace={"tokens_per_rank": 96, "steps": "1:2"},
            dispatch={"kernel": "deepep-normal"},
            network={"fidelity": "bound"},
            mode={"kind": "prefill"},
        ),
        ["contiguous", "longest_first"],
        slots=96,
        plan_steps="0:1",
    )
    contiguous, planned = judged.runs
    assert planned.balancedness > contiguous.balancedness
    assert planned.speedup > 1.0


def test_counts_are_expanded_by_an_assumption_the_result_names(shared_data, tmp_path):
    """Ling-1T counts become tokens by `independent`, and the result says so."""
    path = tmp_path / "t.parquet"
    convert_trace(
        shared_data / "traces/ling_1t_counts.npz",
        path,
        model=load_model("ling-1t"),
        key="expert_dist_orz_math_5000_steps",
    )
    run = scenario("ling-1t", path, trace={"steps": "0:1"}, network={"fidelity": "bound"}, memory={"check": "warn"})
    result = simulate(run)
    assert any("independent" in sentence for sentence in result.assumptions)
    assert any("does not fit" in sentence for sentence in result.assumptions)  # 1 T weights on 32 devices of 80 GB


def test_counts_need_a_key_where_there_are_several(shared_data, tmp_path):
    """The arrays are named in the sentence."""
    with pytest.raises(InputError, match="expert_dist_random_5000_steps"):
        convert_trace(shared_data / "traces/ling_1t_counts.npz", tmp_path / "t.parquet", model=load_model("ling-1t"))
    assert [] == list(tmp_path.iterdir())


def test_a_trace_of_another_model_is_refused(shared_data, tmp_path):
    """gpt-oss routing is not Mixtral's, whatever the scenario says."""
    path = tmp_path / "t.parquet"
    convert_trace(shared_data / "traces/gpt_oss_20b_decode.npz", path, model=load_model("gpt-oss-20b"))
    with pytest.raises(InputError, match="experts 32"):
        simulate(scenario("mixtral-8x7b", path))
