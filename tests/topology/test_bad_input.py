"""Topology files and parameters that cannot be used: one sentence each, never another exception."""

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.cluster import Cluster
from moesim.errors import InputError
from moesim.provenance import data_folder
from moesim.topology import list_topologies, load_topology
from moesim.topology.accelerators import list_accelerators, read_accelerator

FOLDER = data_folder("topologies")
GOOD = yaml.safe_load((FOLDER / "dgx-h100-superpod.yaml").read_text())


def changed(*keys: str, value: Any) -> dict[str, Any]:
    """The good file with the item at `keys` replaced."""
    data = copy.deepcopy(GOOD)
    place = data
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return data


def load_text(folder: Path, text: str, **parameters: Any) -> Cluster:
    path = folder / "machine.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return load_topology(path, **parameters)


NIC = ("nic", "bandwidth", "value")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(*NIC, value="400 kg"), r"nic\.bandwidth\.value: cannot read '400 kg' as rate"),
        (changed(*NIC, value="3 us"), r"nic\.bandwidth\.value: cannot read '3 us' as rate"),
        (changed(*NIC, value=-5.0), r"nic\.bandwidth\.value: rate -5\.0 is outside"),
        (changed(*NIC, value=0), r"nic\.bandwidth\.value: rate 0 is outside"),
        (changed(*NIC, value="nan"), r"nic\.bandwidth\.value"),
        (changed(*NIC, value=float("inf")), r"nic\.bandwidth\.value is inf; numbers must be finite"),
        (changed(*NIC, value=1e29), r"nic\.bandwidth\.value got 1e\+29; Input should be less than"),
        (changed(*NIC, value=10**400), r"nic\.bandwidth\.value is larger than 1e\+30"),
        (changed(*NIC, value=True), r"expected a number or a text such as '400 Gbit/s', got bool"),
        (
            changed("leaf", "nodes", "value", value=0),
            r"leaf\.nodes\.value got 0; Input should be greater than or equal",
        ),
        (changed("leaf", "nodes", "value", value=2.5), r"leaf\.nodes\.value: expected a whole number, got '2\.5'"),
        (changed("leaf", "rails", "value", value=3), r"leaf\.rails=3 does not divide scale_up\.devices=8"),
        (changed("leaf", "latency", "value", value="9 us"), r"spine\.latency is smaller than leaf\.latency"),
        (changed("spine", "latency", "value", value="9 us"), r"core\.latency is smaller than spine\.latency"),
        (changed("spine", "oversubscription", "value", value=-1), r"spine\.oversubscription\.value got -1"),
        (changed("nic", "bandwith", value=1), r"unknown key in .*\(nic\): 'bandwith'; did you mean 'bandwidth'"),
        (changed("nic", "bandwidth", "sorce", value="x"), r"\(nic\.bandwidth\): 'sorce'; did you mean 'source'"),
        (changed("nic", "bandwidth", "source", value=""), r"nic\.bandwidth\.source got ''"),
        (changed("nic", "bandwidth", "kind", value="guess"), r"nic\.bandwidth\.kind got 'guess'; .*'datasheet'"),
        (changed("nic", "bandwidth", value=5e10), r"nic\.bandwidth got 5[0e]"),
        (changed("format_version", value=2), r"format_version got 2"),
        (changed("shape", value="rail_fat_trie"), r"unknown shape 'rail_fat_trie'; did you mean 'rail_fat_tree'"),
        (changed("shape", value=3), r"shape got '3'; name one of dragonfly, graph, rail_fat_tree, single_node, torus"),
        (changed("accelerator", value="h100-sxn"), r"unknown accelerator 'h100-sxn'; did you mean 'h100-sxm'"),
        (changed("accelerator", value="none.yaml"), r"none\.yaml does not exist"),
        (changed("name", value="a\nb"), r"name got"),
        ({key: value for key, value in GOOD.items() if key != "nic"}, r"the key nic is missing"),
        ({}, r"the key shape is missing; name one of"),
    ],
)
def test_bad_files_are_refused(data: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A wrong number, unit, key or name is named, with the value got and what is allowed."""
    with pytest.raises(InputError, match=message) as caught:
        load_text(tmp_path, yaml.safe_dump(data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("dgx-h100-superpod", {"nodes": 0}, r"nodes got 0; Input should be greater than or equal to 1"),
        ("dgx-h100-superpod", {"nodes": -4}, r"nodes got -4"),
        ("dgx-h100-superpod", {"nodes": 10**9}, r"nodes got 1000000000; Input should be less than or equal to 1000000"),
        ("dgx-h100-superpod", {"nodes": 20_000}, r"at most 131072 are built, so nodes <= 16384"),
        ("dgx-h100-superpod", {"nodes": 1.5}, r"nodes: expected a whole number"),
        ("dgx-h100-superpod", {"nodes": "4"}, r"nodes: expected a whole number"),
        ("dgx-h100-superpod", {"nodes": True}, r"nodes: expected a whole number"),
        ("dgx-h100-superpod", {"nodez": 4}, r"unknown key in parameters of dgx-h100-superpod: 'nodez'; .* 'nodes'"),
        ("dgx-h100-superpod", {"oversubscription": float("nan")}, r"oversubscription got nan"),
        ("dgx-h100-superpod", {"oversubscription": 0}, r"oversubscription got 0; Input should be greater than 0"),
        ("dgx-h100-superpod", {"accelerator": "h100"}, r"unknown accelerator 'h100'; did you mean 'h100-sxm'"),
        ("deepseek-h800-mpft", {"nodes": 2049}, r"joins at most 2048 nodes .*got nodes=2049"),
        ("deepseek-h800-mpft", {"core_oversubscription": 2}, r"deepseek-h800-mpft has no core tier"),
        ("dgx-h100", {"nodes": 2}, r"single node, got nodes=2"),
        ("dgx-h100", {"oversubscription": 2}, r"unknown key in parameters of dgx-h100: 'oversubscription'"),
        ("dgx-h100-superpd", {}, r"unknown topology 'dgx-h100-superpd'; did you mean 'dgx-h100-superpod'"),
        ("./nowhere.yaml", {}, r"nowhere\.yaml does not exist"),
    ],
)
def test_bad_parameters_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    """A parameter out of range, or that the shape does not know, is named with its bound."""
    with pytest.raises(InputError, match=message):
        load_topology(name, **parameters)


STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["5 kg", "1e400 GB/s", "-1 us", "GB/s", "1 GB/s/s", "(((", "0x", "9" * 60, "1 ** 9", "inf us", "5 degC"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["value", "kind", "source", "x"]), st.integers(), max_size=2),
)


def places(value: Any, keys: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Key paths of everything in a file."""
    inner = (
        [place for key, item in value.items() for place in places(item, (*keys, key))]
        if isinstance(value, dict)
        else []
    )
    return [*([keys] if keys else []), *inner]


@settings(max_examples=80)
@given(data=st.data())
def test_a_changed_value_is_used_or_refused(data: st.DataObject) -> None:
    """Any value put anywhere in any shipped file gives a cluster or one InputError."""
    name = data.draw(st.sampled_from(list_topologies()))
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    *above, last = data.draw(st.sampled_from(places(content)))
    parent = content
    for key in above:
        parent = parent[key]
    parent[last] = data.draw(STRANGE)
    with tempfile.TemporaryDirectory() as folder:
        load_or_refuse(Path(folder), yaml.safe_dump(content, allow_unicode=True))


@settings(max_examples=80)
@given(data=st.data())
def test_damaged_text_is_used_or_refused(data: st.DataObject) -> None:
    """A shipped file cut, with bytes replaced or lines repeated, gives a cluster or one InputError."""
    name = data.draw(st.sampled_from(list_topologies()))
    content = (FOLDER / f"{name}.yaml").read_bytes()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    end = min(end, start + data.draw(st.sampled_from([1, 10, 100, len(content)])))
    inserted = data.draw(
        st.one_of(st.binary(max_size=6), st.sampled_from([b"*a", b"&a ", b"!!x ", b"\n", b"{", b": "]))
    )
    with tempfile.TemporaryDirectory() as folder:
        damaged = content[:start] + inserted + content[end:]
        load_or_refuse(Path(folder), damaged.decode("utf-8", "surrogateescape"))


def load_or_refuse(folder: Path, text: str) -> None:
    try:
        cluster = load_text(folder, text, **small(text))
    except InputError as refused:
        assert "\n" not in str(refused).replace(str(folder), "")
    else:
        assert 1 <= cluster.num_nodes <= 8


def small(text: str) -> dict[str, Any]:
    """Parameters for a cluster of few nodes: one node, or two chips along each axis."""
    axes = [axis for axis in "xyz" if f"\n{axis}:" in text]
    return {"shape": "x".join("2" for _ in axes)} if axes else {"nodes": 1}


@pytest.mark.parametrize("name", list_accelerators())
def test_accelerators_refuse_unknown_dtypes(name: str, tmp_path: Path) -> None:
    """A peak for a dtype that does not exist is refused with the nearest one that does."""
    data = yaml.safe_load((FOLDER / "accelerators" / f"{name}.yaml").read_text())
    data["flops"]["bf17"] = copy.deepcopy(data["flops"]["bf16"])
    path = tmp_path / "accelerator.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match="'bf17'; did you mean 'bf16'"):
        read_accelerator(path)


def test_accelerator_beside_the_topology_file(tmp_path: Path) -> None:
    """A topology file of one's own may name an accelerator file of one's own, beside it."""
    accelerator = yaml.safe_load((FOLDER / "accelerators" / "h100-sxm.yaml").read_text())
    accelerator["memory"]["value"] = "96 GB"
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({**accelerator, "name": "own"}))
    cluster = load_text(tmp_path, yaml.safe_dump(changed("accelerator", value="own.yaml")), nodes=1)
    assert ("own", 96e9) == (cluster.devices[0].accelerator.name, cluster.devices[0].memory_bytes)
