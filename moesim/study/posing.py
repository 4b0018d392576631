"""Posing: the placement problem of a setting: loads, slots that fit the devices' memory, tokens and costs.

Array letters: L MoE ordinal, E expert, D device of the first expert-parallel group, S rank.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.errors import NoFeasiblePlan
from moesim.memory import slot_bytes
from moesim.placement import ExpertPlacement, slots_per_device
from moesim.planner import PlacementProblem
from moesim.planner.entries import copy_entries
from moesim.planner.objective_tables import CostTables, cost_tables
from moesim.planner.problem import TokenSketch
from moesim.planner.sketch import make_sketch
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.step_work import StepWork, WorkPlan
from moesim.study.work_plan import make_work_plan
from moesim.units import format_bytes

MOST_CHANNELS = 1 << 21  # pairs of devices whose paths are tabled: some hundred megabytes


def pose(setting: Setting, steps: list[DealtStep], *, tokens: bool, work_limit: float = 1.0) -> PlacementProblem:
    """The problem of placing every MoE layer for these steps; with `tokens` it says what a step costs, not loads alone.

    Raises NoFeasiblePlan where the devices' memory does not hold the slots.
    """
    load_LE = np.zeros((setting.model.num_moe_layers, setting.model.num_experts))
    for dealt in steps:
        for ordinal, experts_TK in enumerate(dealt.experts_LTK):
            load_LE[ordinal] += np.bincount(experts_TK[experts_TK >= 0], minlength=setting.model.num_experts)
    work = make_work_plan(setting, _baseline(setting), "nearest")
    speed_D = np.array([device.speed for device in work.builder.devices[: setting.dims.ep]])
    sketch, costs = _token_costs(setting, work, steps) if tokens else (None, None)
    return PlacementProblem(
        load_LE=load_LE,
        num_devices=setting.dims.ep,
        devices_per_node=min(max(setting.cluster.devices_per_node // setting.dims.etp, 1), setting.dims.ep),
        num_slots=setting.num_slots,
        num_groups=setting.scenario.placement.groups or setting.model.num_groups,
        seed=setting.scenario.seed,
        sketch=sketch,
        costs=costs,
        speed_D=None if (speed_D == speed_D[0]).all() else speed_D / speed_D.max(),
        slots_D=_slots_that_fit(setting, work, steps),
        survive=setting.scenario.plan.survive,
        work_limit=work_limit,
    )


def layer_costs(setting: Setting, work: WorkPlan, steps: list[DealtStep]) -> CostTables | None:
    """Cost tables for the mean step; None where they would be too large, or the step is a training step."""
    if setting.training or work.num_devices * setting.dims.ep > MOST_CHANNELS:
        return None
    tokens_S = np.mean([np.bincount(step.rank_T, minlength=work.num_devices) for step in steps], axis=0)
    middle = StepWork(plan=work, dealt=steps[len(steps) // 2])
    return cost_tables(work, tokens_S, float(attention_cost(middle, setting.model.moe_layer_indices[0]).mean()))


def attention_cost(work: StepWork, index: int) -> NDArray[np.float64]:
    """Seconds of attention and router of MoE layer `index` on every rank [S]."""
    return (work.projections(index) + work.scores(index) + work.router()).time_s


def _token_costs(
    setting: Setting, work: WorkPlan, steps: list[DealtStep]
) -> tuple[TokenSketch | None, CostTables | None]:
    costs = layer_costs(setting, work, steps)
    if costs is None:
        return None, None
    return make_sketch(steps, work.num_devices, group_size=setting.dims.ep), costs


def _baseline(setting: Setting) -> tuple[ExpertPlacement, ...]:
    """Experts in order in the slots asked: what memory and costs are asked of before anything is placed."""
    experts_P = copy_entries(setting.num_slots, setting.model.num_experts)
    placement = ExpertPlacement(experts_P.astype(np.int32), setting.model.num_experts, setting.dims.ep)
    return (placement,) * setting.model.num_moe_layers


def _slots_that_fit(setting: Setting, work: WorkPlan, steps: list[DealtStep]) -> NDArray[np.int64] | None:
    """Slots of each device in every layer where the usual rule does not fit its memory; None where it does.

    What a device holds beside expert slots is that of the step that needs most. Slots a device has no room for go to the
    devices with fewest slots that have room.
    """
    if setting.training or setting.scenario.memory.check != "refuse":
        return None
    size, layers = setting.dims.ep, setting.model.num_moe_layers
    each = slot_bytes(setting.model, setting.weight_dtype) * layers
    parts = [StepWork(plan=work, dealt=step).memory_parts() for step in steps]
    beside = max(sum(part.values()) - part["expert_weights"] for part in parts)
    memory = np.array([device.memory_bytes for device in work.builder.devices]).reshape(-1, size).min(axis=0)
    room_D = np.maximum((memory - beside) // each, 0).astype(np.int64)
    slots_D: NDArray[np.int64] = slots_per_device(setting.num_slots, size)
    if (slots_D <= room_D).all():
        return None
    if room_D.sum() < setting.num_slots:
        raise NoFeasiblePlan(
            f"memory holds {room_D.sum()} of slots={setting.num_slots} a layer ({format_bytes(each)} each over {layers} "
            f"layers, {format_bytes(beside)} a device are taken by the rest); take fewer slots, more devices or smaller types"
        )
    slots_D = np.minimum(slots_D, room_D)
    for _ in range(setting.num_slots - int(slots_D.sum())):
        slots_D[int(np.argmin(np.where(slots_D < room_D, slots_D, np.iinfo(np.int64).max)))] += 1
    return slots_D
