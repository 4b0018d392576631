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

from moesim.cluster import Cluster
from moesim.report.figure import svg
from moesim.report.link_grid import link_grids, link_use
from moesim.report.plots import (
    capacity,
    comparison,
    device_load,
    fan_out,
    faults,
    layers,
    links,
    memory,
    phases,
    stages,
    timeline,
)
from moesim.report.plots import pipeline as pipeline_plot
from moesim.report.summary import summarise
from moesim.result import PipelineSpan, SimulationResult
from moesim.topology import load_topology
from tests.strategies.result import broken, make_comparison, make_result, pipeline_spans, results, trained

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
    "capacity": lambda result: capacity.draw(broken(result), capacity.highest_rate(broken(result))),
    "faults": lambda result: faults.draw(broken(result)),
    "pipeline": lambda result: pipeline_plot.draw(trained(result).pipeline, 1.0),
    "stages": lambda result: stages.draw(trained(result).training),
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
        assert abs(sum(run.phase_seconds().values()) - run.step_time_s) < 1e-12


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
    return _with_links([(name, "nic") for name in names])


def _with_links(links: list[tuple[str, str]]) -> SimulationResult:
    result = make_result(nodes=1, local=1, layers=1, steps=1)
    assert result.tables is not None
    count = len(links)
    tables = dataclasses.replace(
        result.tables,
        link_names=tuple(name for name, _ in links),
        link_tier=tuple(tier for _, tier in links),
        link_bandwidth=np.ones(count),
        link_bytes=np.arange(count, dtype=float),
    )
    return result.model_copy(update={"tables": tables})


def test_links_of_every_topology_have_grids_of_their_own() -> None:
    """A torus has one grid per axis and direction, a dragonfly its groups in rows; tiers stand from the devices out."""
    shapes = {"tpu-v4-pod": {"shape": "4x4x4", "slices": 2}, "generic-dragonfly": {}}
    found = {
        name: [(grid.tier, grid.direction, grid.use.shape) for grid in link_grids(_on(load_topology(name, **options)))]
        for name, options in shapes.items()
    }
    torus = [("ici", way, (4, 32)) for way in ("x+", "x-", "y+", "y-", "z+", "z-")]
    assert [*torus, ("dcn", "up", (1, 32)), ("dcn", "down", (1, 32))] == found["tpu-v4-pod"]
    outwards = [("scale_up", "out"), ("scale_up", "in"), ("nic", "up"), ("nic", "down"), ("local", ""), ("global", "")]
    assert outwards == [(tier, way) for tier, way, _ in found["generic-dragonfly"]]
    assert [(33, 56), (33, 33)] == [
        shape for tier, _, shape in found["generic-dragonfly"] if tier in ("local", "global")
    ]


def test_a_stages_row_is_as_full_as_the_stage_is_busy() -> None:
    """Painted as an image, the opacity of a row times its length is the time of its passes."""
    spans = pipeline_spans(stages=2, micro_batches=pipeline_plot.MOST_BOXES)
    end = pipeline_plot.end_s(spans)
    (image,) = pipeline_plot.draw(spans, end).axes[0].images
    opacity = np.asarray(image.get_array())[..., 3]
    busy = [sum(span.end_s - span.start_s for span in spans if span.stage == stage) for stage in (0, 1)]
    rows = opacity.mean(axis=1) * end
    assert rows == pytest.approx(np.repeat(busy, 2), rel=1e-6)


def test_a_pair_of_passes_that_overlap_shares_its_row() -> None:
    """Forward above, backward below; a pass that runs alone has the whole height."""
    pair = [PipelineSpan(0, 0, 0, kind, 0.0, 1.0) for kind in ("F", "B")]
    alone = PipelineSpan(0, 0, 1, "W", 1.0, 2.0)
    assert [(-0.42, 0.0), (0.0, 0.42), (-0.42, 0.42)] == pipeline_plot.row_parts([*pair, alone])


def test_dropped_and_lost_pairs_are_told_apart() -> None:
    """Of the pairs that nobody computes, those of dead devices are not the capacity's."""
    layer = make_result(**SMALL).layers[0].model_copy(update={"drop_rate": 0.08, "lost_rate": 0.03})
    assert {"dropped": pytest.approx(0.05), "lost": 0.03, "padding": 0.0} == capacity.rates(layer)


def _on(cluster: Cluster) -> SimulationResult:
    """A result whose links are those of `cluster`."""
    return _with_links([(link.name, link.tier) for link in cluster.links])


def test_a_dead_device_has_no_load_and_no_part_in_the_mean() -> None:
    """Its column is blank, and the mean is that of the others."""
    result = make_result(**SMALL)
    down = [{"kind": "device_down", "device": 1, "at": 0.0}, {"kind": "device_down", "device": 2, "at": 1e-3}]
    result = result.model_copy(update={"provenance": {"scenario": {"faults": down}}})
    assert result.tables is not None
    relative_LD = device_load.relative_load(result)
    assert np.isnan(relative_LD[:, 1]).all()
    others_LD = np.delete(result.tables.load_LD, 1, axis=1)
    assert others_LD / others_LD.mean(axis=1, keepdims=True) == pytest.approx(np.delete(relative_LD, 1, axis=1))
