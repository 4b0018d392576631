"""Viewing: what a plan changes, worked out on the steps it was made for, for its page.

Array letters: L MoE ordinal, E expert, D device, N node.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement
from moesim.plan_file import Plan
from moesim.planner.bounds import ReceiveBounds
from moesim.report.plan_view import PlanView
from moesim.routing import DealtStep
from moesim.scenario import Scenario, parse_window
from moesim.setting import Setting, load_setting
from moesim.step_bound import collective_time
from moesim.step_work import LayerWork, StepWork, WorkPlan
from moesim.study.binding import binding_resources
from moesim.study.bounding import layer_bounds
from moesim.study.placing import Window, check_plan
from moesim.study.posing import layer_costs, pose
from moesim.study.work_plan import make_work_plan

MOST_STEPS = 4  # evenly spaced: a picture needs no more
Floats = NDArray[np.float64]


def view_plan(
    scenario: Scenario, plan: Plan, *, old: Plan | None = None, plan_steps: Window | str | None = None
) -> PlanView:
    """The plan against the old one, or against experts in order in the same slots, on steps of the planning window."""
    slots = len(plan.expert_of_slot[0])
    changes = {"strategy": "contiguous", "slots": slots, "extra_slots_per_device": None, "plan": None}
    setting = load_setting(scenario.changed(placement=changes))
    check_plan(plan, setting)
    steps = list(setting.steps(None if plan_steps is None else parse_window(plan_steps)))
    steps = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(len(steps), MOST_STEPS)).astype(int))]
    before = _in_order(plan) if old is None else old.placements
    policy_before = "nearest" if old is None else old.replica_policy
    works = [
        make_work_plan(setting, placements, policy)
        for placements, policy in ((before, policy_before), (plan.placements, plan.replica_policy))
    ]
    (load_before, traffic_before, before_s), (load_after, traffic_after, after_s) = (
        _measured(work, steps) for work in works
    )
    bounds, binding = _bounds_and_binding(setting, works[1], plan, steps)
    bound_s_L = None if bounds is None else np.array([b.dispatch_s + b.experts_s + b.combine_s for b in bounds])
    per_node = works[1].builder.devices_per_node
    return PlanView(
        layers=plan.layers,
        node_of_device_D=np.arange(load_after.shape[1]) // per_node,
        before="experts in order" if old is None else "the old plan",
        between="nodes" if load_after.shape[1] > per_node else "devices",
        load_before_LD=load_before,
        load_after_LD=load_after,
        traffic_before_NN=traffic_before,
        traffic_after_NN=traffic_after,
        copies_LE=np.array([placement.replicas_E for placement in plan.placements], dtype=np.int64),
        before_s_L=before_s,
        after_s_L=after_s,
        bound_s_L=bound_s_L,
        moved_L=np.array([_moved(*pair) for pair in zip(before, plan.placements, strict=True)], dtype=np.int64),
        binding=binding,
    )


def _in_order(plan: Plan) -> tuple[ExpertPlacement, ...]:
    """Expert p mod E in slot p of the plan's slots, every layer."""
    first = plan.placements[0]
    experts_P = np.arange(first.num_slots) % plan.num_experts
    slots = ExpertPlacement(experts_P.astype(np.int32), plan.num_experts, plan.num_devices, slots_D=first.slots_D)
    return (slots,) * len(plan.layers)


def _measured(work: WorkPlan, steps: Sequence[DealtStep]) -> tuple[Floats, Floats, Floats]:
    """Loads [L, D], traffic [N, N] and seconds [L] of the layers, mean over steps (traffic: summed over layers)."""
    layers = range(work.model.num_moe_layers)
    per_step = [[StepWork(plan=work, dealt=step).layer(layer) for layer in layers] for step in steps]
    loads = np.mean([[layer.load_D for layer in row] for row in per_step], axis=0)
    traffic = np.sum([[_traffic(work, layer) for layer in row] for row in per_step], axis=(0, 1)) / len(steps)
    seconds = np.mean([[_seconds(work, layer) for layer in row] for row in per_step], axis=0)
    return loads, traffic, seconds


def _seconds(work: WorkPlan, layer: LayerWork) -> float:
    links = work.builder.links
    network_s = collective_time(layer.dispatch, links) + collective_time(layer.combine, links)
    return network_s + float(layer.experts.time_s.max())


def _traffic(work: WorkPlan, layer: LayerWork) -> Floats:
    """Bytes of a dispatch between nodes (devices where there is one node): each token once to each it needs."""
    per_node, total = work.builder.devices_per_node, work.num_devices
    nodes = -(-total // per_node)
    size = nodes if nodes > 1 else total
    traffic_NN, first = np.zeros((size, size)), 0
    for traffic in layer.traffic_G:
        counts = traffic.counts
        here_DX = counts.per_node_DN if nodes > 1 else counts.per_device_DD
        devices, targets = here_DX.shape
        step = per_node if nodes > 1 else 1
        row = (first + np.arange(devices)) // step
        column = first // step + np.arange(targets)
        np.add.at(traffic_NN, (row[:, None], column[None, :]), here_DX)
        first += devices
    np.fill_diagonal(traffic_NN, 0.0)
    return traffic_NN * work.builder.bytes_per_copy["dispatch"]


def _bounds_and_binding(
    setting: Setting, work: WorkPlan, plan: Plan, steps: list[DealtStep]
) -> tuple[list[ReceiveBounds] | None, tuple[str, ...]]:
    """What no plan beats, layer by layer, and what binds this one; nothing for training steps and very large clusters."""
    costs = layer_costs(setting, work, steps)
    if costs is None or not work.capacity.is_dropless:
        return None, ()
    problem = pose(setting, steps, tokens=True)
    binding = binding_resources(problem, plan.placements, plan.replica_policy, work.builder.links)
    return layer_bounds(problem, costs, steps), binding


def _moved(before: ExpertPlacement, after: ExpertPlacement) -> int:
    """Copies after that their device did not hold before."""
    held = [np.zeros((p.num_experts, p.num_devices), dtype=np.bool_) for p in (before, after)]
    for holds_ED, placement in zip(held, (before, after), strict=True):
        holds_ED[placement.expert_of_slot_P, placement.device_of_slot_P] = True
    return int((held[1] & ~held[0]).sum())
