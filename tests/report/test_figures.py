"""Pictures are reproducible and leave no trace in the process."""

import dataclasses
import hashlib
import subprocess
import sys
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.report.figure import svg
from moesim.report.link_grid import link_grids, link_use
from moesim.report.plots import comparison, device_load, fan_out, layers, links, memory, phases, timeline
from moesim.report.summary import summarise
from moesim.result import SimulationResult
from tests.strategies.result import make_comparison, make_result, results

SMALL: dict[str, Any] = {"nodes": 2, "local": 2, "layers": 2, "steps": 1}
DRAWINGS = {
    "device_load": lambda result: device_load.draw(result, 2.0),
    "fan_out": lambda result: fan_out.draw([("run", result)]),
    "layers": lambda result: layers.draw(result, layers.slowest_layer_s(result)),
    "links": lambda result: links.draw(result, 1.0),
    "memory": lambda result: memory.draw([("run", result.memory)]),
    "phases": lambda result: phases.draw([("run", result)]),
    "timeline": lambda result: timeline.draw(result, 0, 0, timeline.duration_s(result, 0, 0)),
    "comparison": lambda result: comparison.draw(summarise(result)),
}


@pytest.mark.parametrize("name", sorted(DRAWINGS))
@pytest.mark.parametrize("tokens", [0, 2048])
def test_a_picture_is_the_same_bytes_twice_and_leaves_the_style_alone(name: str, tokens: int) -> None:
    """Same data, same SVG; the user's matplotlib settings neither change the picture nor are changed by it."""
    result = make_result(**SMALL, tokens=tokens)
    first = svg(DRAWINGS[name](result), name, "p")
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.hashsalt": "other"}):
        before = dict(matplotlib.rcParams)
        second = svg(DRAWINGS[name](result), name, "p")
        assert before == dict(matplotlib.rcParams)
    assert hashlib.sha256(first.encode()).hexdigest() == hashlib.sha256(second.encode()).hexdigest()


def test_pyplot_is_not_loaded() -> None:
    """No picture touches pyplot's global list of figures."""
    code = "import sys, moesim.report.pictures; print('matplotlib.pyplot' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"


@given(results())
def test_every_link_is_in_one_grid_with_its_use(result: SimulationResult) -> None:
    """The grids hold each link's use exactly once, and nothing else."""
    held = np.concatenate([grid.use.ravel() for grid in link_grids(result)])
    np.testing.assert_array_equal(np.sort(link_use(result)), np.sort(held[~np.isnan(held)]))


@given(st.lists(st.text(max_size=12), min_size=1, max_size=40, unique=True))
def test_links_of_any_name_find_a_place(names: list[str]) -> None:
    """Names that do not say node and index (or say absurd numbers) still get a grid of bounded size."""
    result = _renamed([*names, "node999999999999.nic1.up", "node1.nic888888888.up"])
    held = np.concatenate([grid.use.ravel() for grid in link_grids(result)])
    assert len(names) + 2 == np.count_nonzero(~np.isnan(held))
    assert held.size <= 4 * (len(names) + 2) + 32


def test_a_rail_tree_shows_node_by_index() -> None:
    """NIC links of 3 nodes with 4 devices form a 3 x 4 grid, outgoing first; leaves form a row."""
    shapes = [(g.tier, g.direction, g.use.shape) for g in link_grids(make_result(nodes=3, local=4, layers=1, steps=1))]
    expected = [
        ("scale_up", "out", (3, 4)),
        ("scale_up", "in", (3, 4)),
        ("nic", "up", (3, 4)),
        ("nic", "down", (3, 4)),
        ("leaf", "up", (1, 4)),
        ("leaf", "down", (1, 4)),
    ]
    assert expected == shapes


def test_phases_add_up_to_the_step() -> None:
    """The stack of phases is as long as the step."""
    for run in make_comparison(**SMALL).results.values():
        assert abs(sum(phases.phase_seconds(run).values()) - run.step_time_s) < 1e-12


def test_many_ranks_are_thinned_but_the_last_one_stays() -> None:
    """Of more than 64 ranks the timeline draws at most 64, the one that ends last among them."""
    result = make_result(nodes=20, local=8, layers=1, steps=1)
    assert result.tables is not None
    spans = result.tables.spans
    chosen = timeline.layer_spans(spans, 0, 0)
    ranks = timeline.drawn_ranks(spans, chosen)
    assert 63 <= len(ranks) <= 64
    assert int(spans.rank[chosen[np.argmax(spans.end_s[chosen])]]) in ranks


def _renamed(names: list[str]) -> SimulationResult:
    """A result whose links have these names, all of one tier."""
    result = make_result(nodes=1, local=1, layers=1, steps=1)
    assert result.tables is not None
    count = len(names)
    tables = dataclasses.replace(
        result.tables,
        link_names=tuple(names),
        link_tier=("nic",) * count,
        link_bandwidth=np.ones(count),
        link_bytes=np.arange(count, dtype=float),
    )
    return result.model_copy(update={"tables": tables})
