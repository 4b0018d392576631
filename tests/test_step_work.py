"""StepWork: what a step asks of devices."""

import pytest

from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_work import StepWork
from moesim.study.placing import placed


def test_experts_cost_what_the_pool_of_their_slot_does() -> None:
    """ERNIE 4.5 VL in order on 8 devices: 4 hold text experts (1536 wide), 4 vision ones (512 wide); reads decide.

    Each of two groups of 4 ranks has its own copy of the experts.
    """
    setting = load_setting(
        make_scenario(
            {
                "format_version": 1,
                "model": "ernie45-vl-28b-a3b",
                "cluster": {"topology": "dgx-h100-superpod", "nodes": 2},
                "parallel": {"ep": 8},
                "trace": {"router": "uniform", "tokens_per_rank": 64, "steps": "0:1"},
                "mode": {"kind": "decode", "cuda_graph": True},
            }
        )
    )
    work = StepWork(plan=placed(setting, None)[1], dealt=next(iter(setting.steps())))
    time_GD = work.layer(0).routed.time_s.reshape(2, 8)
    assert [[1536 / 512] * 4] * 2 == pytest.approx(time_GD[:, :4] / time_GD[:, 4:], rel=0.05)
