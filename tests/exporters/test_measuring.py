"""Traffic matrices, Chakra traces and ASTRA-sim networks: bytes are the simulation's, transfers are paired."""

import contextlib
import json
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import moesim
from moesim.errors import InputError
from moesim.exporters.astra import npu_of_device
from moesim.exporters.chakra_wire import COMP, RECV, SEND, ChakraNode, decode_trace, encode_trace
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_work import StepWork
from moesim.study.plan_traffic import TrafficCounter
from moesim.study.work_plan import make_work_plan
from moesim.topology import load_topology
from tests.strategies.scenario import tiny_scenario


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """(scenario as a mapping, plan) of a tiny model on two nodes."""
    scenario = tiny_scenario(tmp_path_factory.mktemp("planned"), placement={"slots": 32})
    return scenario, moesim.plan(scenario, "longest_first")


def matrix(path):
    return np.array([line.split() for line in path.read_text().splitlines()], dtype=np.int64)


@pytest.mark.parametrize("algorithm", ["per_device", "direct", "node_dedup"])
@pytest.mark.parametrize("operation", ["dispatch", "combine"])
def test_the_matrix_is_what_the_schedule_sends_rounded_up_to_16_bytes(planned, tmp_path, algorithm, operation):
    """Entry [i, j]: bytes of all flows from i to j, mean over steps; -b holds every row and column."""
    mapping, plan = planned
    scenario = make_scenario({**mapping, "dispatch": {"algorithm": algorithm}})
    out = tmp_path / "m.txt"
    made = moesim.export(plan, "nccl-alltoallv", out, scenario=scenario, options={"layer": "2", "operation": operation})
    setting = load_setting(scenario)
    work = make_work_plan(setting, plan.placements, plan.replica_policy)
    expected = np.zeros((16, 16))
    steps = list(setting.steps())
    for dealt in steps:
        flows = getattr(StepWork(plan=work, dealt=dealt).layer(1), operation).flows
        np.add.at(expected, (flows.source_F, flows.target_F), flows.bytes_F / len(steps))
    found = matrix(out)
    assert (found % 16 == 0).all() and (found >= expected - 1e-6).all() and (found < expected + 16).all()
    size = int(made.launch_flags[1].split()[2])
    assert size >= max(found.sum(axis=0).max(), found.sum(axis=1).max())
    assert 0 == size % (16 * 16)


def test_the_default_layer_is_the_fullest(planned, tmp_path):
    """The matrix without option layer is that of the layer whose fullest rank moves most."""
    mapping, plan = planned
    matrices = {}
    for name, options in (("x", {}), ("1", {"layer": "1"}), ("2", {"layer": "2"})):
        moesim.export(plan, "nccl-alltoallv", tmp_path / name, scenario=mapping, options=options)
        matrices[name] = matrix(tmp_path / name)
    counter = TrafficCounter(plan, make_scenario(mapping))
    totals = [counter.layer(o).dispatch_DD for o in (0, 1)]
    fullest = max((0, 1), key=lambda o: max(totals[o].sum(0).max(), totals[o].sum(1).max()))
    assert (matrices["x"] == matrices[str(fullest + 1)]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "0"}, "no MoE layer of the plan"),
        ({"layer": "-1"}, "not a whole number"),
        ({"operation": "both"}, "neither dispatch nor combine"),
        ({"layre": "1"}, "did you mean 'layer'"),
    ],
)
def test_bad_options_are_told_in_one_sentence(planned, tmp_path, options, words):
    """A dense layer, a negative one, another operation, a misspelt key; no file appears."""
    with pytest.raises(InputError, match=words):
        moesim.export(planned[1], "nccl-alltoallv", tmp_path / "m.txt", options=options)
    assert [] == list(tmp_path.iterdir())


def test_chakra_transfers_are_paired_and_carry_the_bytes_of_the_plan(planned, tmp_path):
    """Every send has its receive on the other NPU; sizes are the matrix; compute waits for what it needs."""
    mapping, plan = planned
    made = moesim.export(plan, "chakra", tmp_path / "moe.et", scenario=mapping)
    assert [f"moe.{npu}.et" for npu in range(16)] == [path.name for path in made.files]
    traces = [decode_trace(path.read_bytes()) for path in made.files]
    assert {"0.0.4"} == {version for version, _ in traces}
    sends, receives = Counter(), Counter()
    for npu, (_, nodes) in enumerate(traces):
        for node in nodes:
            assert all(dep < node.id for dep in node.deps)
            if node.kind in (SEND, RECV):
                ends = tuple(node.attributes[f"comm_{key}"] for key in ("src", "dst", "tag", "size"))
                assert npu == ends[node.kind == RECV]
                (sends if node.kind == SEND else receives)[ends] += 1
        names = [node.name for node in nodes if node.kind == COMP]
        assert ["attention L1", "experts L1", "attention L2", "experts L2"] == names
    assert sends == receives
    counter = TrafficCounter(plan, make_scenario(mapping))
    for tag, bytes_DD in ((0, counter.layer(0).dispatch_DD), (3, counter.layer(1).combine_DD)):
        found = np.zeros((16, 16))
        for (source, target, of, size), times in sends.items():
            found[source, target] += size * times * (of == tag)
        np.fill_diagonal(expected := np.ceil(bytes_DD), 0.0)
        assert (expected == found).all()


def test_experts_wait_for_every_receive_of_their_dispatch(planned, tmp_path):
    """Data dependencies of `experts L1` are its attention and all receives with tag 0."""
    made = moesim.export(planned[1], "chakra", tmp_path / "moe", options={"layers": "0:1"})
    _, nodes = decode_trace(made.files[5].read_bytes())
    experts = next(node for node in nodes if node.name == "experts L1")
    arrived = {node.id for node in nodes if node.kind == RECV and node.attributes.get("comm_tag", 0) == 0}
    attention = next(node.id for node in nodes if node.name == "attention L1")
    assert {attention, *arrived} == set(experts.deps)
    assert not [node for node in nodes if node.name.endswith("L2")]


numbers = st.integers(0, 2**31 - 1)


@settings(max_examples=30)
@given(
    st.lists(
        st.builds(
            ChakraNode,
            id=st.integers(1, 2**40),
            name=st.text(max_size=8),
            kind=st.sampled_from([COMP, SEND, RECV]),
            deps=st.lists(st.integers(0, 2**40), max_size=4).map(tuple),
            duration_us=numbers,
            attributes=st.fixed_dictionaries({"comm_size": st.integers(0, 2**62), "comm_tag": numbers}),
        ),
        max_size=4,
    )
)
def test_a_trace_decodes_to_what_was_encoded(nodes):
    """Encode, decode: the same nodes; cut anywhere: the nodes before the cut, or an InputError."""
    content = encode_trace(nodes)
    _, found = decode_trace(content)
    assert nodes == [_without_cpu_flag(node) for node in found]
    for cut in range(1, len(content), 7):
        with contextlib.suppress(InputError):
            kept = decode_trace(content[:cut])[1]
            assert nodes[: len(kept)] == [_without_cpu_flag(node) for node in kept]


def _without_cpu_flag(node):
    attributes = {name: value for name, value in node.attributes.items() if name != "is_cpu_op"}
    return ChakraNode(
        id=node.id, name=node.name, kind=node.kind, deps=node.deps, duration_us=node.duration_us, attributes=attributes
    )


def network(tmp_path, plan, scenario):
    made = moesim.export(plan, "astra-sim", tmp_path / "network.yml", scenario=scenario)
    return made, yaml.safe_load((tmp_path / "network.yml").read_text())


def test_a_superpod_is_two_switches_for_astra_sim(planned, tmp_path):
    """Eight devices at NVLink's rate inside, two nodes at the NIC's rate outside; ns and GB/s."""
    made, data = network(tmp_path, planned[1], planned[0])
    assert ["topology", "npus_count", "bandwidth", "latency"] == list(data)
    assert (["Switch", "Switch"], [8, 2]) == (data["topology"], data["npus_count"])
    links = {link.name: link for link in load_topology("dgx-h100-superpod", nodes=2).links}
    inside, outside = links["node0.dev0.scale_up.out"], links["node0.nic0.up"]
    assert [inside.bandwidth_bytes_per_s / 1e9, outside.bandwidth_bytes_per_s / 1e9] == data["bandwidth"]
    assert inside.latency_s * 1e9 == pytest.approx(data["latency"][0], rel=1e-3)
    assert 1 == len(made.files)


def test_groups_of_a_smaller_ep_are_named_from_one(planned, tmp_path):
    """ep=8 on 16 devices: groups 1 and 2, since 0 means all ranks."""
    scenario = {**planned[0], "parallel": {"ep": 8}}
    made, _ = network(tmp_path, moesim.plan(scenario, "contiguous"), scenario)
    assert {"1": list(range(8)), "2": list(range(8, 16))} == json.loads(made.files[1].read_text())


def test_npus_of_a_torus_count_the_first_axis_fastest():
    """Device numbers go host by host; ASTRA-sim's go x, y, z."""
    cluster = load_topology("tpu-v4-pod", shape="4x4x4")
    npu_D = npu_of_device(cluster)
    assert list(range(64)) == sorted(npu_D.tolist())
    for device, (x, y, z) in enumerate(cluster.layout.coordinate_DA.tolist()):
        assert x + 4 * y + 16 * z == npu_D[device]
