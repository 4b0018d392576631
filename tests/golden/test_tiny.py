"""Tiny scenarios end to end: the numbers as they came out, and how many SimPy events they took.

A change here is a change of the model or of its cost; it belongs in the commit message.
"""

import pytest

from moesim.scenario import make_scenario
from moesim.study import simulate
from tests.strategies.scenario import tiny_scenario

GOLDEN = {
    ("bound", "node_dedup"): (27.762875, 837),
    ("fluid", "node_dedup"): (27.742174, 970),
    ("bound", "direct"): (30.195796, 840),
    ("fluid", "direct"): (30.556106, 1012),
}


@pytest.mark.parametrize(("case", "expected"), GOLDEN.items(), ids=map("-".join, GOLDEN))
def test_a_tiny_step_takes_what_it_took(tmp_path, case, expected):
    """16 ranks, one dense and two MoE layers, 16 experts, two steps of 16 tokens a rank."""
    fidelity, algorithm = case
    scenario = tiny_scenario(tmp_path, network={"fidelity": fidelity}, dispatch={"algorithm": algorithm})
    result = simulate(make_scenario(scenario))
    microseconds, events = expected
    assert microseconds == pytest.approx(result.step_time_s * 1e6, rel=1e-6)
    assert events == result.events
