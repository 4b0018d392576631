"""Files of exporters through readers of the same formats: moesim's own, and protobuf's."""

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.exporters.chakra_wire import COMP, RECV, SEND, ChakraNode, encode_trace
from moesim.exporters.expert_order import permutation_file, read_permutation
from moesim.exporters.export import ExportRequest
from moesim.topology.readers.astra_network import read as read_network
from tests.exporters.test_ranks import ranks, site
from tests.strategies.plan import TINY_LAYERS, exported, plans
from tests.trace.readers.recordings import converted


@settings(max_examples=5)
@given(plan=plans(), seed=st.integers(0, 2**32))
def test_omni_infer_dumps_under_the_exported_pattern_are_read_as_the_experts_load(plan, seed, tmp_path_factory):
    """Counts of local slots, dumped in the order that omni-infer gives slots, come back as sums over an expert's copies."""
    folder = tmp_path_factory.mktemp("omni")
    (folder / "pattern.npy").write_bytes(exported(plan, "omni-infer", "p.npy").files["p.npy"])
    random, expected = np.random.default_rng(seed), np.zeros((2, 16), np.int64)
    for rank in range(plan.num_devices):
        lines = []
        for ordinal, row in enumerate(plan.expert_of_slot):
            each = len(row) // plan.num_devices
            held = sorted(row[rank * each : (rank + 1) * each])
            counts = random.integers(0, 100, each)
            expected[ordinal, held] += counts
            lines.append("\t".join(map(str, counts.tolist())) + "\n")
        (folder / f"activation_counts_recordstep_0_rank_{rank}.txt").write_text("".join(lines))
    _, load_SLE = converted(folder, None, format="omni_infer_activation", layers=list(TINY_LAYERS))
    np.testing.assert_array_equal(expected, load_SLE[0])


@pytest.mark.parametrize("nodes", [1, 2, 5])
def test_a_superpod_comes_back_from_its_network(nodes, tmp_path):
    """Devices, nodes, rates and latencies of ASTRA-sim's two switches are the cluster's."""
    where = site(nodes=nodes, ep=8)
    (tmp_path / "network.yml").write_bytes(ranks("astra-sim", "network.yml", where).files["network.yml"])
    said = {key: fact.value for key, fact in read_network(tmp_path / "network.yml").facts.items()}
    cluster, layout = where.cluster, where.cluster.layout
    assert (8, nodes) == (said["scale_up.devices"], said.get("nodes", 1))
    assert cluster.link_bandwidth[layout.scale_up_out_D[0]] == pytest.approx(said["scale_up.bandwidth"])
    if nodes > 1:
        assert cluster.link_bandwidth[layout.nic_out_D[0]] == pytest.approx(said["nic.bandwidth"])


@pytest.mark.parametrize("shape", ["4x4x4", "4x4x8"])
def test_a_torus_comes_back_from_its_network(shape, tmp_path):
    """Rings of its axes."""
    where = site("tpu-v4-pod", shape=shape, ep=16)
    (tmp_path / "network.yml").write_bytes(ranks("astra-sim", "network.yml", where).files["network.yml"])
    claims = read_network(tmp_path / "network.yml")
    assert claims.is_torus
    lengths = [claims.facts[f"{axis}.chips"].value for axis in "xyz"]
    assert shape == "x".join(map(str, lengths))
    rate = where.cluster.link_bandwidth[where.cluster.layout.link_DP[0, 0]]
    assert rate == pytest.approx(claims.facts["x.bandwidth"].value)


@settings(max_examples=20)
@given(plan=plans(replicas=False), ending=st.sampled_from(["json", "npz"]))
def test_a_permutation_and_its_inverse_cancel(plan, ending, tmp_path_factory):
    """Routing recorded on a permuted model becomes the old model's by p[id], as the page on formats says."""
    out = tmp_path_factory.getbasetemp() / f"p.{ending}"
    content, _ = permutation_file(ExportRequest(plan=plan, target="megatron", out=out))
    order, _ = read_permutation(content)
    for row in order:
        old_ids = np.arange(16)
        assert (row[np.argsort(row)[old_ids]] == old_ids).all()


def chakra_messages():
    """Node and GlobalMetadata as protobuf classes, with the fields that traces of ours have (chakra's et_def.proto)."""
    file = descriptor_pb2.FileDescriptorProto(name="et.proto", package="et", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    fields = {
        "Attr": [
            ("name", 1, "STRING"), ("int32_val", 7, "INT32"), ("int64_val", 9, "INT64"), ("uint64_val", 13, "UINT64"),
            ("bool_val", 27, "BOOL"),
        ],
        "Metadata": [("version", 1, "STRING")],
        "Node": [
            ("id", 1, "UINT64"), ("name", 2, "STRING"), ("type", 3, "INT32"), ("data_deps", 5, "UINT64*"),
            ("duration_micros", 7, "UINT64"), ("attr", 10, "MESSAGE*"),
        ],
    }  # fmt: skip
    for message, members in fields.items():
        part = file.message_type.add(name=message)
        for name, number, kind in members:
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            field = part.field.add(
                name=name, number=number, label=label, type=getattr(kinds, f"TYPE_{kind.rstrip('*')}")
            )
            if name == "attr":
                field.type_name = ".et.Attr"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"et.{name}")) for name in ("Metadata", "Node")
    )


def split(content):
    """Messages behind their lengths."""
    place = 0
    while place < len(content):
        length = shift = 0
        while True:
            byte = content[place]
            length |= (byte & 0x7F) << shift
            place, shift = place + 1, shift + 7
            if byte < 0x80:
                break
        yield content[place : place + length]
        place += length


def test_protobuf_reads_chakra_traces_with_the_types_the_feeder_asks_for():
    """Ids, dependencies and attributes of computation, send and receive; each value in the field of its type."""
    ends = {"comm_src": 3, "comm_dst": 200, "comm_tag": 5, "comm_size": 2**40}
    nodes = [
        ChakraNode(id=1, name="experts L3", kind=COMP, duration_us=17, attributes={"num_ops": 2**50, "tensor_size": 9}),
        ChakraNode(id=300, name="dispatch", kind=SEND, deps=(1,), attributes=ends),
        ChakraNode(id=301, name="dispatch", kind=RECV, deps=(1, 300), attributes=ends),
    ]
    metadata, node = chakra_messages()
    head, *bodies = split(encode_trace(nodes))
    assert "0.0.4" == metadata.FromString(head).version
    types = {"num_ops": "int64_val", "tensor_size": "uint64_val", "comm_size": "int64_val", "is_cpu_op": "bool_val"}
    for ours, body in zip(nodes, bodies, strict=True):
        theirs = node.FromString(body)
        assert (ours.id, ours.name, ours.kind) == (theirs.id, theirs.name, theirs.type)
        assert (ours.deps, ours.duration_us) == (tuple(theirs.data_deps), theirs.duration_micros)
        values = {attr.name: getattr(attr, types.get(attr.name, "int32_val")) for attr in theirs.attr}
        assert {**ours.attributes, "is_cpu_op": False} == values
