"""The page of a plan: what it says of a view made by hand, and what a view says of a plan."""

import numpy as np
import pytest

from moesim.report.plan_page import plan_page
from moesim.scenario import make_scenario
from moesim.study import plan as plan_experts
from moesim.study.viewing import view_plan
from tests.strategies.scenario import tiny_scenario


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A plan of `balanced` on the tiny scenario, and its view."""
    scenario = make_scenario(tiny_scenario(tmp_path_factory.mktemp("page"), placement={"slots": 32}))
    plan = plan_experts(scenario, "balanced")
    return plan, view_plan(scenario, plan)


def test_loads_and_traffic_are_those_of_the_steps(planned):
    """Both plans compute every token's experts; node traffic has an empty diagonal; copies sum to slots."""
    _, view = planned
    np.testing.assert_allclose(view.load_before_LD.sum(axis=1), view.load_after_LD.sum(axis=1))
    assert np.full(2, 16 * 16 * 2).tolist() == view.load_after_LD.sum(axis=1).tolist()
    assert (0.0, 0.0) == (float(np.trace(view.traffic_after_NN)), float(np.trace(view.traffic_before_NN)))
    assert [32, 32] == view.copies_LE.sum(axis=1).tolist()
    assert (view.after_s_L > 0).all()
    assert view.bound_s_L is not None
    assert (view.bound_s_L <= view.after_s_L * (1 + 1e-9)).all()


def test_the_page_shows_every_part_escapes_notes_and_repeats(planned):
    """Time, gap, loads, traffic, copies and moves have a picture each; a note with markup is text; same bytes again."""
    plan, view = planned
    hostile = plan.model_copy(update={"notes": ("<script>alert(1)</script>",)})
    page = plan_page(hostile, view)
    text = page.decode()
    for heading in ("Time of each layer", "Gap of each layer", "Load of the devices", "Traffic of a dispatch"):
        assert heading in text
    assert 8 == text.count("<svg")
    assert "<script" not in text
    assert "alert(1)" in text
    assert page == plan_page(hostile, view)
