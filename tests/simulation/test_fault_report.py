"""What a result says of a run in which devices died."""

import numpy as np
import pytest

from moesim.scenario import make_scenario
from moesim.study import simulate
from tests.strategies.scenario import tiny_scenario


@pytest.fixture(scope="module")
def dead_device(tmp_path_factory):
    """A step with device 5 down from the start."""
    folder = tmp_path_factory.mktemp("dead")
    data = {**tiny_scenario(folder), "faults": [{"kind": "device_down", "device": 5}]}
    return simulate(make_scenario(data))


def test_a_dead_device_is_no_imbalance(dead_device):
    """Balancedness is the mean over the maximum of the devices that are alive."""
    live_LD = np.delete(dead_device.tables.load_LD, 5, axis=1)
    expected = live_LD.mean(axis=1) / live_LD.max(axis=1)
    assert expected.mean() == pytest.approx(dead_device.balancedness, abs=0.02)
    assert (live_LD.sum(axis=1) / 16 / live_LD.max(axis=1)).mean() < dead_device.balancedness


def test_without_a_capacity_everything_missing_is_lost(dead_device):
    """Dropless: what nobody computes was lost to the dead device, in every layer and over all."""
    assert 0.0 < dead_device.lost_rate == pytest.approx(dead_device.drop_rate)
    for layer in dead_device.layers:
        assert layer.lost_rate == pytest.approx(layer.drop_rate)


def test_the_phases_without_faults_add_up_to_that_step(dead_device):
    """What the comparison draws is the whole step that ran beside it."""
    faults = dead_device.faults
    assert faults.step_time_without_s == pytest.approx(sum(faults.phases_without_s.values()))
