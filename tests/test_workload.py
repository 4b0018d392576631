"""Workloads from synthetic routers: zero experts cost nothing and are sent nowhere."""

import numpy as np

from moesim.model import load_model
from moesim.scenario import make_scenario
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
