"""Explaining a plan: what is replicated and why, what a step consists of, what more would buy, whether it is worth it.

Array letters: E expert, P slot, L MoE ordinal.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from moesim.errors import Declined, MoesimError
from moesim.placement import ExpertPlacement
from moesim.plan_file import Plan
from moesim.planner import PlacementProblem
from moesim.routing import DealtStep
from moesim.step_bound import PhaseTimes, balanced_phases, step_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.study.cases import Case
from moesim.study.placing import place_experts, policy_of
from moesim.study.work_plan import make_work_plan
from moesim.units import format_time

WORTH_IT = 0.03  # gains below this are within what profiles and drift leave uncertain
EPLB = ("eplb_global", "eplb_hierarchical")
_STEPS = 4  # of a case, that are looked at
_SHOWN = 8  # replicated experts of a layer that are listed
_NAMED = 3  # of all layers that are named in words


def explanation(
    cases: Sequence[Case], problem: PlacementProblem, work: WorkPlan, current: Plan | None, more_slots: Plan | str
) -> dict[str, Any]:
    """The explanation as plain data, sentences under `words`; seconds are means over a few steps of the cases.

    `current` is the plan in use, where there is one; `more_slots` the plan with one slot more on every device, or why
    there is none.
    """
    mean = _mean_phases(work, cases)
    plan_s = mean["step_s"]
    terms = {key: value for key, value in mean.items() if key != "step_s"}
    worth = _worth(cases, problem, work, current, plan_s)
    replicas = [
        _replicas(problem, index, layer, placement)
        for layer, (index, placement) in enumerate(zip(work.model.moe_layer_indices, work.placements, strict=True))
    ]
    slot = _one_more(more_slots, cases, plan_s)
    words = [
        _term_words(terms, plan_s),
        _replica_words(replicas),
        _slot_words(slot, problem.num_devices, problem.num_slots),
        worth["words"],
    ]
    return {
        "step_time_s": plan_s,
        "terms": terms,
        "replicated": replicas,
        "one_more_slot": slot,
        "worth": {key: value for key, value in worth.items() if key != "words"},
        "words": words,
    }


def _some(case: Case) -> list[DealtStep]:
    places = np.unique(np.linspace(0, len(case.steps) - 1, min(len(case.steps), _STEPS)).round().astype(int))
    return [case.steps[place] for place in places]


def _mean_phases(work: WorkPlan, cases: Sequence[Case], *, balanced: bool = False) -> dict[str, float]:
    """Seconds of the step and of its terms; what kernels cost on top of bytes and rows is taken out as `fixed_s`."""
    phases: list[PhaseTimes] = []
    fixed, weights = [], []
    for case in cases:
        steps = _some(case)
        for step in steps:
            one = StepWork(plan=work, dealt=step)
            phases.append((balanced_phases if balanced else step_phases)(one))
            layers = [one.layer(ordinal) for ordinal in range(work.model.num_moe_layers)]
            fixed.append(
                [sum(layer.dispatch.extra_s for layer in layers), sum(layer.combine.extra_s for layer in layers)]
            )
            weights.append(case.weight / len(steps))
    fixed_2 = np.average(np.array(fixed), axis=0, weights=weights)
    rows = {
        name: float(np.average([getattr(one, name) for one in phases], weights=weights))
        for name in ("step_s", "attention_s", "dispatch_s", "experts_s", "combine_s", "other_s", "hidden_s")
    }
    rows["dispatch_s"] -= float(fixed_2[0])
    rows["combine_s"] -= float(fixed_2[1])
    return {**rows, "fixed_s": float(fixed_2.sum())}


def _worth(
    cases: Sequence[Case], problem: PlacementProblem, work: WorkPlan, current: Plan | None, plan_s: float
) -> dict[str, Any]:
    """The plan against what is there without it, EPLB or the current plan, and against perfect balance."""
    setting = cases[0].setting
    eplb_s = None
    for name in EPLB:
        try:
            answer = place_experts(setting, name, problem)
        except Declined:
            continue
        other = make_work_plan(setting, answer.placements, policy_of(setting, name))
        seconds = _mean_phases(dataclasses.replace(other, capacity_factors=work.capacity_factors), cases)["step_s"]
        eplb_s = seconds if eplb_s is None else min(eplb_s, seconds)
    current_s = None
    if current is not None:
        policy = setting.scenario.dispatch.replica or current.replica_policy
        current_s = _mean_phases(make_work_plan(setting, current.placements, policy), cases)["step_s"]
    perfect_s = _mean_phases(work, cases, balanced=True)["step_s"]
    reference_s, name = (current_s, "the plan in use") if current_s is not None else (eplb_s, "EPLB")
    gain = None if reference_s is None else reference_s / plan_s - 1.0
    return {
        "eplb_s": eplb_s,
        "current_s": current_s,
        "perfect_balance_s": perfect_s,
        "gain": gain,
        "headroom": None if reference_s is None else reference_s / perfect_s - 1.0,
        "worth_it": None if gain is None else gain >= WORTH_IT,
        "words": _worth_words(name, reference_s, plan_s, perfect_s),
    }


def _worth_words(name: str, reference_s: float | None, plan_s: float, perfect_s: float) -> str:
    if reference_s is None:
        return f"EPLB has no plan for these slots to compare with; perfect balance would take {format_time(perfect_s)}"
    gain, most = reference_s / plan_s - 1.0, reference_s / perfect_s - 1.0
    verdict = "worth it" if gain >= WORTH_IT else f"not worth it (below {WORTH_IT:.0%})"
    return (
        f"re-planning is {verdict}: {name} takes {format_time(reference_s)}, this plan {format_time(plan_s)} ({gain:+.1%}), "
        f"perfect balance of this plan's bytes {format_time(perfect_s)} ({most:+.1%})"
    )


def _replicas(problem: PlacementProblem, index: int, layer: int, placement: ExpertPlacement) -> dict[str, Any]:
    """The replicated experts of a layer, most loaded first, each with its share of the load and why it has copies."""
    load_E, copies_E = problem.load_LE[layer], placement.replicas_E
    total = max(float(load_E.sum()), 1e-30)
    replicated = np.flatnonzero(copies_E > 1)
    rows, counts = [], dict[str, int]()
    for expert in replicated[np.argsort(-load_E[replicated], kind="stable")].tolist():
        why = _why(problem, load_E, int(copies_E[expert]), expert, placement)
        counts[why] = counts.get(why, 0) + 1
        row = {
            "expert": expert,
            "copies": int(copies_E[expert]),
            "load_share": float(load_E[expert]) / total,
            "why": why,
        }
        rows.append(row)
    return {"layer": index, "replicated": int(replicated.size), "why": counts, "experts": rows[:_SHOWN]}


def _why(problem: PlacementProblem, load_E: np.ndarray, copies: int, expert: int, placement: ExpertPlacement) -> str:
    """device: alone it would load a device above the mean; slot: above the mean of a slot; near; survive; spare."""
    live = max(int((problem.slots_of_devices > 0).sum()), 1)
    if load_E[expert] > load_E.sum() / live:
        return "more load than a device's mean"
    if problem.survive and copies <= problem.survive + 1:
        return "survives a failure"
    if load_E[expert] > load_E.sum() / problem.num_slots:
        return "more load than a slot's mean"
    devices = placement.device_of_slot_P[placement.slots_of_expert(expert)]
    nodes = np.unique(problem.node_of_devices[devices]).size
    return "copies on several nodes save trips" if nodes > 1 else "a slot was left"


def _one_more(more_slots: Plan | str, cases: Sequence[Case], plan_s: float) -> dict[str, Any]:
    if isinstance(more_slots, str):
        return {"step_time_s": None, "gain": None, "why_not": more_slots}
    work = make_work_plan(cases[0].setting, more_slots.placements, more_slots.replica_policy)
    work = dataclasses.replace(work, capacity_factors=more_slots.capacity_factors)
    seconds = _mean_phases(work, cases)["step_s"]
    return {"step_time_s": seconds, "gain": plan_s / seconds - 1.0, "why_not": None}


def _term_words(terms: dict[str, float], plan_s: float) -> str:
    named = {"attention": "attention_s", "experts": "experts_s", "dispatch bytes": "dispatch_s", "combine bytes": "combine_s",
             "fixed costs of communication": "fixed_s", "dense layers and head": "other_s"}  # fmt: skip
    parts = sorted(((terms[key], name) for name, key in named.items() if terms[key] > 0.0), reverse=True)
    listed = ", ".join(f"{name} {format_time(seconds)} ({seconds / plan_s:.0%})" for seconds, name in parts)
    hidden = f"; {format_time(terms['hidden_s'])} of it is hidden" if terms["hidden_s"] > 0.0 else ""
    return f"a step takes {format_time(plan_s)}: {listed}{hidden}"


def _replica_words(replicas: Sequence[dict[str, Any]]) -> str:
    totals = dict[str, int]()
    for row in replicas:
        for why, count in row["why"].items():
            totals[why] = totals.get(why, 0) + count
    if not totals:
        return "no expert has a second copy"
    listed = ", ".join(
        f"{why} ({count})" for why, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    )
    rows = [(row["layer"], one) for row in replicas for one in row["experts"]]
    most = sorted(rows, key=lambda row: (-row[1]["copies"], -row[1]["load_share"], row[0], row[1]["expert"]))[:_NAMED]
    named = ", ".join(
        f"expert {one['expert']} of layer {layer} ({one['copies']} for {one['load_share']:.1%} of its layer's load)"
        for layer, one in most
    )
    return f"{sum(totals.values())} experts of {len(replicas)} layers have several copies, because: {listed}; most has {named}"


def _slot_words(slot: dict[str, Any], devices: int, slots: int) -> str:
    if slot["why_not"] is not None:
        return f"one more slot per device ({slots + devices} a layer) cannot be had: {slot['why_not']}"
    return (
        f"one more slot per device ({slots + devices} a layer) would take a step to {format_time(slot['step_time_s'])} "
        f"({slot['gain']:+.1%})"
    )


def reason_of(error: MoesimError) -> str:
    """The first clause of an error, for use inside a sentence."""
    return str(error).split(";")[0]
