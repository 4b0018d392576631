"""Studies: what a run under a scenario takes for granted."""

from pathlib import Path

import pytest

from moesim.scenario import make_scenario
from moesim.study import simulate
from tests.strategies.scenario import tiny_scenario


@pytest.mark.parametrize(("policy", "told"), [("dropless", True), ("drop_by_position", False)])
def test_a_capacity_factor_that_drops_nothing_is_told(policy: str, told: bool, tmp_path: Path) -> None:
    """A factor without a policy that drops has no effect, and the result says so instead of passing over it."""
    capacity = {"policy": policy, "factor": 1.25}
    scenario = make_scenario(tiny_scenario(tmp_path, capacity=capacity, network={"fidelity": "bound"}))
    sentences = simulate(scenario).assumptions
    assert told == ("capacity.factor 1.25 is not used: policy dropless accepts every token" in sentences)
