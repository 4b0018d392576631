import dataclasses

import numpy as np
import pytest

from calibrate.measurement import Measurement
from calibrate.testbed import probes
from calibrate.testbed.cases import ALGORITHMS, LayerShape
from calibrate.testbed.fit import fit_profile
from calibrate.testbed.routes import Routing, count_pairs
from calibrate.testbed.session import Session
from calibrate.testbed.wiring import Wiring
from moesim.network.simulate import simulate_flows
from moesim.traffic import copy_bytes

WIRING = Wiring()
SHAPE = LayerShape()
NIC, SCALE_UP, FIXED_S = 0.9, 0.8, 0.004
LAUNCH_S, FLOPS_PER_S = 0.002, 2e10


class _KnownCluster(Session):
    """Answers as a cluster whose links reach known fractions of their rates would."""

    def exchange_s(self, bytes_DD: np.ndarray, repeats: int, *, library: bool = False) -> np.ndarray:
        return np.full(repeats, _flow_time(bytes_DD) + FIXED_S)

    def experts_s(self, load_DS: np.ndarray, width: int, hidden: int, repeats: int) -> np.ndarray:
        times_D = LAUNCH_S + load_DS.sum(axis=1) * 6.0 * width * hidden / FLOPS_PER_S
        return np.tile(times_D, (repeats, 1))

    def layer(self, routing: Routing, expert_of_slot_P: object, header: object) -> list[dict[str, object]]:
        time_s = _flow_time(count_pairs(routing) * copy_bytes(SHAPE.width, "fp32")) + FIXED_S
        return [{"end_s": [[time_s, 0.1, time_s]]}]


def _flow_time(bytes_DD: np.ndarray) -> float:
    """Max-min completion by hand: links are out and in of every rank, then up and down of every node."""
    ranks, per_node = WIRING.ranks, WIRING.ranks_per_node
    rates = [WIRING.rank_bytes_per_s * SCALE_UP] * 2 * ranks + [WIRING.uplink_bytes_per_s * NIC] * 2 * WIRING.nodes
    pairs = np.argwhere(bytes_DD * (1 - np.eye(ranks, dtype=int)) > 0)
    paths = []
    for source, target in pairs.tolist():
        nodes = source // per_node, target // per_node
        between = [] if nodes[0] == nodes[1] else [2 * ranks + nodes[0], 2 * ranks + WIRING.nodes + nodes[1]]
        paths.append([source, *between, ranks + target])
    offsets = np.cumsum([0] + [len(path) for path in paths])
    senders = np.bincount(pairs[:, 0], minlength=ranks)
    return simulate_flows(
        rates, offsets, np.concatenate(paths), bytes_DD[tuple(pairs.T)], weight=1.0 / senders[pairs[:, 0]]
    ).completion_s


@pytest.fixture(scope="module")
def measurements() -> list[Measurement]:
    return [
        row
        for row in probes.probe(_KnownCluster(WIRING), SHAPE, 1, lambda _sentence: None)
        if row.params.get("algorithm", "direct") == "direct"
    ]


def _both(rows: list[Measurement]) -> list[Measurement]:
    """The direct rows again as the other algorithm's, whose times nobody checks."""
    others = [
        dataclasses.replace(row, params={**row.params, "algorithm": "node_dedup"}, id="")
        for row in rows
        if "algorithm" in row.params
    ]
    return rows + others


def test_the_fit_finds_the_fractions_and_costs_it_was_given(measurements: list[Measurement]) -> None:
    """From exact times of a known cluster: link fractions within 1 %, fixed cost and expert rate within 5 %."""
    profile = fit_profile(_both(measurements), WIRING, SHAPE)
    assert profile.links.nic.value == pytest.approx(NIC, rel=0.01)
    assert profile.links.scale_up.value == pytest.approx(SCALE_UP, rel=0.01)
    direct = profile.kernel("gloo-direct")
    assert direct.dispatch.fixed_s.value[0] == pytest.approx(FIXED_S, rel=0.05)
    assert direct.combine.fixed_s.value[0] == pytest.approx(FIXED_S, rel=0.05)
    assert profile.compute.launch_s.value == pytest.approx(LAUNCH_S, rel=0.05)
    assert profile.compute.flops_fraction.value * 1e11 == pytest.approx(FLOPS_PER_S, rel=0.05)


def test_a_missing_probe_is_named(measurements: list[Measurement]) -> None:
    """Without expert times there is no profile, and the sentence says what is missing."""
    with pytest.raises(ValueError, match="expert_mlp"):
        fit_profile([row for row in measurements if row.operation != "expert_mlp"], WIRING, SHAPE)


def test_probes_cover_both_algorithms_and_every_operation(measurements: list[Measurement]) -> None:
    """Every operation that the fit needs is probed, and no two probes have the same id."""
    everything = probes.probe(_KnownCluster(WIRING), SHAPE, 1, lambda _sentence: None)
    assert len(everything) == len({row.id for row in everything})
    assert set(ALGORITHMS) == {row.params["algorithm"] for row in everything if "algorithm" in row.params}
    assert {"all_to_all", "point_to_point", "expert_mlp", "dispatch", "combine"} == {r.operation for r in everything}
