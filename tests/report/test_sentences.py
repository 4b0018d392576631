"""Sentences beside the answer."""

import dataclasses

import pytest

from moesim.report.sentences import remarks
from moesim.result import ComparedRun, Headroom
from tests.strategies.result import make_comparison

COMPARISON = make_comparison(nodes=2, local=2, layers=1, steps=1)


@pytest.mark.parametrize(
    ("oracle_s", "sentence"),
    [
        (None, None),
        (0.0098, "Headroom over eplb_global is 12.2%, of which topology gets 10.0%."),
        (0.0108, "Headroom over eplb_global is 10.0%, of which topology gets 10.0%."),
    ],
)
def test_headroom_over_eplb_is_told_where_the_oracle_is_known(oracle_s, sentence):
    """Its better mode / the oracle, or the best run where that is quicker."""
    runs = [ComparedRun(strategy="topology", step_time_s=0.01), ComparedRun(strategy="eplb_global", step_time_s=0.011)]
    told = remarks(dataclasses.replace(COMPARISON, headroom=Headroom(oracle_s=oracle_s)), runs, None)
    assert [sentence] * (sentence is not None) == [one for one in told if one.startswith("Headroom")]


def test_below_three_percent_planning_is_not_worth_it():
    """The sentence says so, with the number."""
    runs = [ComparedRun(strategy="topology", step_time_s=0.01), ComparedRun(strategy="eplb_global", step_time_s=0.0102)]
    told = remarks(dataclasses.replace(COMPARISON, headroom=Headroom(oracle_s=0.01)), runs, None)
    assert "Headroom over eplb_global is 2.0%: not worth it (below 3%)." in told
