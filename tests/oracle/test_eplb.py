"""EPLB against a re-derivation from its published description, in plain Python lists."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from moesim.planner.eplb import rebalance

Load = np.float32


def pack(loads: list[Load], packs: int) -> list[list[int]]:
    """Largest item first into the lightest pack that has room; one item a pack needs no sorting."""
    room = len(loads) // packs
    if room == 1:
        return [[item] for item in range(packs)]
    filled: list[list[int]] = [[] for _ in range(packs)]
    weights = [Load(0)] * packs
    for item in sorted(range(len(loads)), key=lambda item: -loads[item]):  # sorted keeps ties in order
        lightest = min((pack for pack in range(packs) if len(filled[pack]) < room), key=lambda pack: weights[pack])
        filled[lightest].append(item)
        weights[lightest] = Load(weights[lightest] + loads[item])
    return filled


def copy_hottest(loads: list[Load], slots: int) -> tuple[list[int], list[int]]:
    """Every expert once, then again and again the one whose copies carry most."""
    held, copies = list(range(len(loads))), [1] * len(loads)
    while len(held) < slots:
        shares = [Load(load / Load(count)) for load, count in zip(loads, copies, strict=True)]
        hottest = shares.index(max(shares))
        held.append(hottest)
        copies[hottest] += 1
    return held, copies


def plain_eplb(loads: list[Load], slots: int, groups: int, nodes: int, devices: int) -> list[int]:
    """Groups to nodes, copies within a node, copies to the node's devices."""
    size = len(loads) // groups
    members = [list(range(group * size, (group + 1) * size)) for group in range(groups)]
    group_loads = [Load(sum(float(loads[expert]) for expert in group)) for group in members]
    answer = []
    for packed in pack(group_loads, nodes):
        experts = [expert for group in packed for expert in members[group]]
        local = [loads[expert] for expert in experts]
        held, copies = copy_hottest(local, slots // nodes)
        shares = [Load(local[expert] / Load(copies[expert])) for expert in held]
        for device in pack(shares, devices // nodes):
            answer += [experts[held[copy]] for copy in device]
    return answer


LOADS = {
    "few ties": st.floats(0, 1e6, width=32),
    "many ties": st.integers(0, 3).map(float),
    "tokens": st.integers(0, 100_000).map(float),
}


@given(
    st.data(),
    st.sampled_from(sorted(LOADS)),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 5),
)
def test_slots_are_those_of_the_description(
    data: st.DataObject, kind: str, nodes: int, devices_per_node: int, groups_per_node: int, group_size: int
) -> None:
    """Slot for slot, ties included, for any nodes, groups and copies."""
    groups, devices = nodes * groups_per_node, nodes * devices_per_node
    experts = groups * group_size
    slots = devices * (-(-experts // devices) + data.draw(st.integers(0, 3)))
    loads = np.array(data.draw(st.lists(LOADS[kind], min_size=experts, max_size=experts)), dtype=np.float32)
    expected = plain_eplb(list(loads), slots, groups, nodes, devices)
    assert expected == rebalance(loads, slots, groups, nodes, devices).tolist()
