"""Workloads from synthetic routers: parameters reach them, zero experts cost nothing and are sent nowhere."""

from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.model import load_model
from moesim.scenario import make_scenario
from moesim.trace.synthetic import make_router
from moesim.workload import open_workload


def test_zero_experts_take_their_share_of_the_choices() -> None:
    """LongCat routes over 512 experts and 256 zero experts: about a third of its 12 choices is -1, at the rows' ends."""
    model = load_model("longcat-flash")
    scenario = make_scenario(
        {
            "format_version": 1,
            "model": model.name,
            "cluster": {"topology": "dgx-h100-superpod", "nodes": 1},
            "trace": {"router": "uniform", "tokens_per_rank": 32, "steps": "0:1"},
        }
    )
    workload = open_workload(scenario, model, 8)
    (step,) = workload.steps((0, 1))
    sent_LTK = step.experts_LTK >= 0
    assert model.num_experts > step.experts_LTK.max()
    assert 512 / 768 - 0.02 < sent_LTK.mean() < 512 / 768 + 0.02
    assert not (np.diff(sent_LTK.astype(np.int8), axis=-1) > 0).any()
    assert any("256 zero experts" in sentence for sentence in workload.assumptions)


def _scenario(model: str, **trace: Any) -> Any:
    section = {"tokens_per_rank": 16, "steps": "0:2", **trace}
    cluster = {"topology": "dgx-h100-superpod", "nodes": 1}
    return make_scenario({"format_version": 1, "model": model, "cluster": cluster, "trace": section})


@pytest.mark.parametrize(
    ("name", "trace"),
    [
        ("mixtral-8x7b", {"router": "zero_experts", "real": 1.5, "zero": 3}),
        ("mixtral-8x7b", {"router": "gshard_top2", "capacity_factor": 1.5, "structure": 0.8}),
        ("deepseek-v2-lite", {"router": "softmax_topk", "dynamics": "collapse:rate=0.1", "parameters": {"topics": 8}}),
        ("deepseek-v2-lite", {"router": "group_limited_sigmoid_bias", "updates": 1, "top_groups": 2}),
    ],
)
def test_a_scenario_gives_a_router_its_parameters(name: str, trace: dict[str, Any]) -> None:
    """Keys beside the section's own are the router's; every one of them is told in the result and changes the routing."""
    model = load_model(name)
    workload = open_workload(_scenario(name, **trace), model, 2)
    (step,) = workload.steps((1, 2))
    assert (model.num_moe_layers, 32, model.top_k) == step.experts_LTK.shape
    own = {key: value for key, value in trace.items() if key not in ("router", "parameters")} | trace.get(
        "parameters", {}
    )
    assert all(any(f"{key}={value}" in note for note in workload.assumptions) for key, value in own.items())
    (plain,) = open_workload(_scenario(name, router=trace["router"]), model, 2).steps((1, 2))
    assert plain.experts_LTK.tolist() != step.experts_LTK.tolist()


def test_a_million_experts_have_their_heads() -> None:
    """PEER: 8 heads of 16 experts, as its file says; a row holds at most 128."""
    workload = open_workload(_scenario("peer-1m", router="product_key"), load_model("peer-1m"), 2)
    (step,) = workload.steps((0, 1))
    assert (1, 32, 128) == step.experts_LTK.shape
    assert "heads=8" in workload.assumptions[0]


def test_a_router_is_made_when_the_first_step_is_asked_for_and_only_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows, planned on and judged, share it: making one for a million experts takes a while."""
    made: list[str] = []
    monkeypatch.setattr(
        "moesim.workload.make_router", lambda name, **sizes: made.append(name) or make_router(name, **sizes)
    )
    workload = open_workload(_scenario("mixtral-8x7b", router="zipf"), load_model("mixtral-8x7b"), 2)
    assert [] == made
    assert [0, 0, 1] == [step.step for window in ((0, 1), (0, 2)) for step in workload.steps(window)]
    assert ["zipf"] == made


@pytest.mark.parametrize(
    ("trace", "sentence"),
    [
        ({"router": "softmax_topk", "structur": 0.5}, "unknown key in trace 'structur'; did you mean 'structure'"),
        ({"router": "softmax_topk", "token_per_rank": 4}, "did you mean 'tokens_per_rank'"),
        ({"router": "softmax_top", "structure": 0.5}, "unknown router 'softmax_top'"),
        ({"path": "x.parquet", "structure": 0.5}, "structure"),
    ],
)
def test_keys_that_no_one_reads_are_refused(trace: dict[str, Any], sentence: str) -> None:
    """With the nearest name of the section or the router."""
    with pytest.raises(InputError, match=sentence):
        _scenario("mixtral-8x7b", **trace)
