"""Posing: the placement problem of a setting: loads, slots that fit the devices' memory, tokens and costs.

Array letters: L MoE ordinal, E expert, D device of the first expert-parallel group, S rank.
"""

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import TorusLayout
from moesim.errors import NoFeasiblePlan
from moesim.memory import slot_bytes, sum_of
from moesim.placement import ExpertPlacement, slots_per_device
from moesim.planner import PlacementProblem
from moesim.planner.entries import copy_entries
from moesim.planner.objective_tables import CostTables, cost_tables
from moesim.planner.problem import TokenSketch
from moesim.planner.sketch import MOST_TOKENS, make_sketch
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.step_work import StepWork, WorkPlan
from moesim.study.work_plan import make_work_plan
from moesim.units import format_bytes

MOST_CELLS = 1 << 22  # experts x devices beyond which strategies do not search expert by expert
MOST_CHANNELS = 1 << 21  # pairs of devices whose paths are tabled: some hundred megabytes


def pose(
    setting: Setting, steps: list[DealtStep], *, tokens: bool, work_limit: float = 1.0, around_faults: bool = False
) -> PlacementProblem:
    """The problem of placing every MoE layer for these steps; with `tokens` it says what a step costs, not loads alone.

    `around_faults`: devices that die get no slots (else the placement was there before they died). Raises NoFeasiblePlan
    where the devices' memory does not hold the slots.
    """
    load_LE = np.zeros((setting.model.num_moe_layers, setting.model.num_experts))
    for dealt in steps:
        for ordinal, experts_TK in enumerate(dealt.experts_LTK):
            load_LE[ordinal] += np.bincount(experts_TK[experts_TK >= 0], minlength=setting.model.num_experts)
    work = make_work_plan(setting, _baseline(setting), "nearest")
    speed_D = np.array([device.speed for device in work.builder.devices[: setting.dims.ep]])
    sketch, costs = _token_costs(setting, work, steps, work_limit) if tokens else (None, None)
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
        slots_D=_slots_that_fit(
            setting, work, steps, dead_devices(setting) if around_faults else np.zeros(setting.dims.ep, np.bool_)
        ),
        survive=setting.scenario.plan.survive,
        work_limit=work_limit,
    )


def layer_costs(setting: Setting, work: WorkPlan, steps: list[DealtStep]) -> CostTables | None:
    """Cost tables for the mean step; None where they would be too large, or the step is a training step."""
    is_torus = isinstance(setting.cluster.layout, TorusLayout)  # its paths have many links
    most = MOST_CHANNELS // 4 if is_torus else MOST_CHANNELS
    if setting.training or work.num_devices * setting.dims.ep > most:
        return None
    tokens_S = np.mean([np.bincount(step.rank_T, minlength=work.num_devices) for step in steps], axis=0)
    middle = StepWork(plan=work, dealt=steps[len(steps) // 2])
    return cost_tables(work, tokens_S, float(attention_cost(middle, setting.model.moe_layer_indices[0]).mean()))


def attention_cost(work: StepWork, index: int) -> NDArray[np.float64]:
    """Seconds of attention and router of MoE layer `index` on every rank [S]."""
    return (work.projections(index) + work.scores(index) + work.router()).time_s


def _token_costs(
    setting: Setting, work: WorkPlan, steps: list[DealtStep], work_limit: float
) -> tuple[TokenSketch | None, CostTables | None]:
    if setting.model.num_experts * setting.dims.ep > MOST_CELLS:  # placed by fan-out and load: no table of costs
        most = int(4 * MOST_TOKENS * min(max(work_limit, 1.0), 2.0))
        return make_sketch(steps, work.num_devices, group_size=setting.dims.ep, most_tokens=most), None
    costs = layer_costs(setting, work, steps)
    if costs is None:
        return None, None
    return make_sketch(steps, work.num_devices, group_size=setting.dims.ep), costs


def _baseline(setting: Setting) -> tuple[ExpertPlacement, ...]:
    """Experts in order in the slots asked: what memory and costs are asked of before anything is placed."""
    experts_P = copy_entries(setting.num_slots, setting.model.num_experts)
    placement = ExpertPlacement(experts_P.astype(np.int32), setting.model.num_experts, setting.dims.ep)
    return (placement,) * setting.model.num_moe_layers


def dead_devices(setting: Setting) -> NDArray[np.bool_]:
    """Devices of an expert-parallel group that die in the course of a step [D], in one of the groups or in several."""
    if setting.training:
        return np.zeros(setting.dims.ep, dtype=np.bool_)
    dead_D: NDArray[np.bool_] = setting.healths[-1].dead_D.reshape(-1, setting.dims.ep).sum(axis=0) > 0
    if dead_D.all():
        raise NoFeasiblePlan(
            f"every one of the ep={dead_D.size} devices that could hold an expert is dead in some group"
        )
    return dead_D


def _slots_that_fit(
    setting: Setting, work: WorkPlan, steps: list[DealtStep], dead_D: NDArray[np.bool_]
) -> NDArray[np.int64] | None:
    """Slots of each device in every layer where it is dead or the usual rule does not fit its memory; None elsewhere.

    What a device holds beside expert slots is that of the step that needs most. Slots a device has no room for go to the
    devices with fewest slots that have room.
    """
    size, layers = setting.dims.ep, setting.model.num_moe_layers
    memory_section = setting.scenario.memory
    if setting.training or memory_section.check != "refuse" or memory_section.expert_cache is not None:
        return _filled(slots_per_device(setting.num_slots, size), ~dead_D * np.int64(setting.num_slots))
    each = slot_bytes(setting.model, setting.weight_dtype) * layers
    parts = [StepWork(plan=work, dealt=step).memory_parts() for step in steps]
    others = [{name: size for name, size in part.items() if name != "expert_weights"} for part in parts]
    most = max(others, key=lambda part: sum(part.values()))
    beside = sum(most.values())
    memory = np.array([device.memory_bytes for device in work.builder.devices]).reshape(-1, size).min(axis=0)
    room_D = np.maximum((memory - beside) // each, 0).astype(np.int64)
    room_D[dead_D] = 0
    if room_D.sum() < setting.num_slots:
        without = f" and {int(dead_D.sum())} of {size} devices are dead" if dead_D.any() else ""
        raise NoFeasiblePlan(
            f"slots={setting.num_slots} a layer do not fit: memory holds {room_D.sum()} of them ({format_bytes(each)} "
            f"each over {layers} layers; a device's rest is {sum_of(most)} = {format_bytes(beside)} of "
            f"{format_bytes(memory.min())}){without}; "
            "take fewer slots, more devices or smaller types, or let it run with memory: {check: warn}"
        )
    return _filled(slots_per_device(setting.num_slots, size), room_D)


def _filled(rule_D: NDArray[np.int64], room_D: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The rule's slots as far as there is room, the others on the devices with fewest that have room; None: as the rule."""
    if (rule_D <= room_D).all():
        return None
    slots_D = np.minimum(rule_D, room_D)
    for _ in range(int(rule_D.sum() - slots_D.sum())):
        slots_D[int(np.argmin(np.where(slots_D < room_D, slots_D, np.iinfo(np.int64).max)))] += 1
    return slots_D
