"""PlacementProblem: what it refuses."""

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.planner import PlacementProblem

VALID: dict[str, object] = {"load_LE": np.ones((2, 6)), "num_devices": 4, "devices_per_node": 2, "num_slots": 8}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_slots": 5}, "slots=5 is fewer than experts=6; ask for at least 6"),
        (
            {"num_slots": 10**12},
            "slots=1000000000000 in each of 2 layers is more than 268435456 in all; ask for at most",
        ),
        ({"num_devices": 0}, r"devices=0 is outside 1\.\."),
        ({"num_devices": 10**12}, r"devices=1000000000000 is outside 1\.\."),
        ({"devices_per_node": 0}, r"devices_per_node=0 is outside"),
        ({"num_groups": 4}, "groups=4 does not divide experts=6"),
        ({"num_groups": 0}, "groups=0 does not divide"),
        ({"seed": -1}, "seed=-1 is negative"),
        ({"load_LE": np.ones(6)}, r"at least one of each; got shape \(6,\)"),
        ({"load_LE": np.ones((0, 6))}, r"got shape \(0, 6\)"),
        ({"load_LE": np.array([[1.0, np.nan]])}, r"load nan of expert 1, MoE ordinal 0"),
        ({"load_LE": np.array([[1.0, np.inf]])}, r"load inf of expert 1"),
        ({"load_LE": np.array([[-1.0, 1.0]])}, r"load -1\.0 of expert 0"),
        (
            {"load_LE": np.array([[1e300, 1.0]])},
            r"load 1e\+300 of expert 0, MoE ordinal 0, is outside 0\.\.1e\+30 tokens",
        ),
    ],
)
def test_what_is_not_a_problem_is_refused(changed: dict[str, object], message: str) -> None:
    """One sentence names the value and its bound."""
    PlacementProblem(**VALID)  # type: ignore[arg-type]  # built from a table
    with pytest.raises(InputError, match=message):
        PlacementProblem(**{**VALID, **changed})  # type: ignore[arg-type]


def test_a_partly_used_node_is_a_node() -> None:
    """Five devices of two a node are three nodes."""
    assert 3 == PlacementProblem(np.ones((1, 1)), num_devices=5, devices_per_node=2, num_slots=1).num_nodes
