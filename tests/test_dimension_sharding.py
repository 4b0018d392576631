"""Slices of every expert priced against whole experts."""

import pytest

from moesim.placement import ExpertPlacement
from moesim.planner.entries import copy_entries
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_work import StepWork
from moesim.study.dimension_sharding import sharding_notes, sharding_prices, slice_times
from moesim.study.work_plan import make_work_plan

SCENARIO = {
    "format_version": 1,
    "model": "peer-262k-public-domain",
    "cluster": {"topology": "dgx-h100-superpod", "nodes": 2},
    "trace": {"router": "product_key", "tokens_per_rank": 4, "steps": "0:1", "seed": 0},
    "network": {"fidelity": "bound"},
    "mode": {"kind": "prefill"},
}


def priced(scenario):
    setting = load_setting(make_scenario(scenario))
    model = setting.model
    experts_P = copy_entries(model.num_experts, model.num_experts)
    placements = (ExpertPlacement(experts_P, model.num_experts, setting.dims.ep),) * model.num_moe_layers
    return setting, make_work_plan(setting, placements, "nearest"), list(setting.steps())


def test_slices_cost_their_bytes_over_the_links_of_a_device() -> None:
    """Ids and gates (6 bytes a pair) come over eight 50 GB/s NICs of a node; twice the tokens, twice the exchange."""
    setting, work, steps = priced(SCENARIO)
    times = slice_times(setting, work, StepWork(plan=work, dealt=steps[0]))
    pairs = int((steps[0].experts_LTK >= 0).sum())
    far_s, near_s = pairs * 6.0 * 0.5 / 8 / 50e9, pairs * 6.0 * 7 / 8 / 450e9
    assert max(far_s, near_s) == pytest.approx(times.gather_s)
    assert min(times) > 0
    more = priced({**SCENARIO, "trace": {**SCENARIO["trace"], "tokens_per_rank": 8}})
    twice = slice_times(more[0], more[1], StepWork(plan=more[1], dealt=more[2][0]))
    assert 2 * times.exchange_s == pytest.approx(twice.exchange_s)


def test_the_note_names_the_quicker_way_and_only_for_product_keys() -> None:
    """The sentence follows the prices; a softmax router has none."""
    setting, work, steps = priced(SCENARIO)
    prices = sharding_prices(setting, work, steps)
    better = "whole experts" if prices.whole_s <= prices.slices.total_s else "slices"
    (note,) = sharding_notes(setting, work, steps)
    assert note.endswith(f"{better} are quicker")
    assert () == sharding_notes(
        *priced({**SCENARIO, "model": "olmoe-1b-7b", "trace": {**SCENARIO["trace"], "router": "uniform"}})
    )
