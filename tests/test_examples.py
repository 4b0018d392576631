"""Every example loads as it stands, and a small version of it runs."""

from pathlib import Path

import pytest

from moesim.scenario import load_scenario, make_scenario
from moesim.setting import load_setting
from moesim.study import simulate

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.yaml"))
# What makes each of them small: fewer devices and tokens, one step.
SMALL = {
    "deepseek_v3_tpu_v4": {"cluster": {"shape": "4x4x4"}, "parallel": {"ep": 64}},
    "deepseek_v3_training_2048_h800": {
        "cluster": {"nodes": 4},
        "parallel": {"pp": 4, "ep": 8},
        "train": {"micro_batches": 8, "stage_layers": [16, 15, 15, 15]},
    },
    "gshard_1024_tpu_v3": {"cluster": {"shape": "4x4"}, "parallel": {"ep": 16}},
    "nvl72": {},
    "peer_recorded": {"cluster": {"nodes": 2}, "parallel": {"ep": 16}},
    "peer_tpu_v4": {"cluster": {"shape": "4x4x4"}, "parallel": {"ep": 64}, "placement": {"strategy": "key_grid"}},
    "switch_c_tpu_v4": {"cluster": {"shape": "4x4x4"}, "parallel": {"ep": 64}},
}


def test_every_example_has_a_small_version() -> None:
    """A new example says here what makes it small."""
    assert sorted(SMALL) == [path.stem for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_loads(path: Path) -> None:
    """Its names exist, its parallel degrees fit its cluster."""
    scenario = load_scenario(path)
    setting = load_setting(scenario)
    assert setting.cluster.num_devices == setting.dims.world


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_small_version_runs(path: Path) -> None:
    """Few devices, few tokens, one step, closed-form links: it takes some time and names what limits it."""
    data = load_scenario(path).record()
    tiny = {
        "trace": {"tokens_per_rank": 16, "steps": "0:1"},
        "network": {"fidelity": "bound"},
        "memory": {"check": "warn"},
    }
    for section, keys in [*tiny.items(), *SMALL[path.stem].items()]:
        data[section] = {**data.get(section, {}), **keys}
    if "train" in SMALL[path.stem]:
        data["train"]["sequence_length"] = 16
    result = simulate(make_scenario(data, folder=path.parent))
    assert result.step_time_s > 0
    assert 0 < result.bottleneck.share <= 1
    assert len(result.layers) == load_setting(load_scenario(path)).model.num_moe_layers
