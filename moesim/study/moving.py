"""Moving: what it costs to bring weights from the devices of an old plan to those of a new one.

Array letters: L MoE ordinal.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.collective.leg import Leg
from moesim.memory import slot_bytes
from moesim.network.bound import bound_completion, link_busy_s
from moesim.network.flow import Flows
from moesim.placement import ExpertPlacement
from moesim.plan_file import MoveRound
from moesim.planner import PlacementProblem
from moesim.planner.moves import Move, move_rounds
from moesim.planner.search_state import copies_of
from moesim.setting import Setting
from moesim.step_work import WorkPlan

Rounds = tuple[MoveRound, ...]


def rounds_between(
    setting: Setting, old: Sequence[ExpertPlacement], new: Sequence[ExpertPlacement], problem: PlacementProblem
) -> Rounds:
    """The move rounds of every layer that changes, one layer after the other; devices without slots (dead) send nothing."""
    rounds = []
    for index, before, after in zip(setting.model.moe_layer_indices, old, new, strict=True):
        held_ED = copies_of(before) & (problem.slots_of_devices > 0)
        for moves in move_rounds(held_ED, copies_of(after), problem.devices_per_node):
            rounds.append(MoveRound(layer=index, moves=moves))
    return tuple(rounds)


def copy_bytes_of(setting: Setting) -> float:
    """Bytes of one expert's weights in one layer."""
    return slot_bytes(setting.model, setting.weight_dtype)


def moved_bytes(setting: Setting, rounds: Rounds) -> float:
    """Bytes that travel (or are loaded) in each expert-parallel group."""
    return copy_bytes_of(setting) * sum(len(one.moves) for one in rounds)


def move_seconds(setting: Setting, work: WorkPlan, rounds: Rounds) -> float:
    """Seconds of all rounds on otherwise idle links, one round after the other: bytes / bandwidth of the busiest link."""
    return sum(_round_s(setting, work, one.moves) for one in rounds)


def copy_price_s(setting: Setting, work: WorkPlan, problem: PlacementProblem) -> float:
    """Seconds a copy takes of a full round: every device with slots sends one to the next node (or the next device)."""
    devices = np.flatnonzero(problem.slots_of_devices > 0)
    if devices.size == 1:
        return 0.0
    per_node = work.builder.devices_per_node
    receivers = np.roll(devices, -(per_node if devices.size > per_node else 1))
    moves = tuple((0, int(device), int(receiver)) for device, receiver in zip(devices, receivers, strict=True))
    return _round_s(setting, work, moves) / devices.size


def moves_busy_s(setting: Setting, work: WorkPlan, rounds: Rounds) -> NDArray[np.float64]:
    """Seconds each link needs for all rounds, float64 [links]."""
    links = work.builder.links
    busy = np.zeros(len(links.bandwidth))
    for one in rounds:
        flows = _flows(setting, work, one.moves)
        if flows is not None:
            busy += link_busy_s(flows.paths, flows.bytes_F, links.bandwidth)
    return busy


def _round_s(setting: Setting, work: WorkPlan, moves: Sequence[Move]) -> float:
    flows = _flows(setting, work, moves)
    return 0.0 if flows is None else bound_completion(flows, work.builder.links.bandwidth)


def _flows(setting: Setting, work: WorkPlan, moves: Sequence[Move]) -> Flows | None:
    """The flows of one round, every expert-parallel group moving at once; None where nothing travels."""
    builder = work.builder
    between = np.array([(sender, receiver) for _, sender, receiver in moves if sender != receiver], dtype=np.int64)
    if not between.size:
        return None
    first = np.repeat(np.arange(0, builder.num_ranks, builder.group_size), len(between))
    pairs = np.tile(between, (builder.num_ranks // builder.group_size, 1)) + first[:, None]
    leg = Leg(source_F=pairs[:, 0], target_F=pairs[:, 1], copies_F=np.ones(len(pairs), dtype=np.int64), engine=False)
    flows, _ = builder.flows([leg], "dispatch")
    scale = copy_bytes_of(setting) / builder.bytes_per_copy["dispatch"]
    return dataclasses.replace(flows, bytes_F=flows.bytes_F * scale)
