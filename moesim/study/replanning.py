"""Re-planning along a trace: every so many steps a plan near the one in use, its moves charged to the steps that follow.

Weights that move are traffic beside the steps until the next plan. Where they yield to the step's own, a step takes as long
as before unless a link is busy longer: T = max(step, max over links of the seconds its own bytes and its part of the moves
take). Where nothing overlaps, all rounds' seconds on idle links are added, spread over the steps; that is what break-even is
reckoned with. What moves is what pays within the scenario's `plan.payback_steps`: steps of a trace stand for more of their
kind; where a plan truly lasts `every` steps, say so there.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.network.bound import link_busy_s
from moesim.plan_file import Plan, Replan
from moesim.routing import DealtStep
from moesim.setting import Setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork, WorkPlan
from moesim.study.cases import Case
from moesim.study.moving import move_seconds, moves_busy_s
from moesim.study.work_plan import make_work_plan
from moesim.units import format_time

PlanStretch = Callable[[Case, Plan | None], Plan]


def replanned_every(cases: Sequence[Case], every: int, plan_stretch: PlanStretch) -> Plan:
    """The last plan made, with what each one brought under `replans`.

    The cases are run one after the other. The first `every` steps are planned on; the plan for a later stretch is made on
    the stretch before it, from the plan in use. Raises InputError where there is no second stretch.
    """
    if every < 1:
        raise InputError(f"every={every} is not a number of steps; give 1 or more")
    stretches = [
        dataclasses.replace(case, steps=case.steps[first : first + every])
        for case in cases
        for first in range(0, len(case.steps), every)
    ]
    if len(stretches) < 2:
        raise InputError(
            f"every={every} leaves nothing to re-plan for: the window has {len(cases[0].steps)} steps; give fewer, or more "
            "steps"
        )
    first = current = plan_stretch(stretches[0], None)
    rows = []
    for seen, ahead in itertools.pairwise(stretches):
        if seen is not stretches[0]:
            current = plan_stretch(seen, current)
        moves = current.moves if current is not first else ()
        kept, work = _work(ahead.setting, first), _work(ahead.setting, current)
        move_s = move_seconds(ahead.setting, work, moves)
        row = _row(ahead.steps, _mean_s(kept, ahead.steps), _mean_s(work, ahead.steps), current.moved_bytes, move_s)
        named = {
            "trace": ahead.name if len(cases) > 1 else "",
            "moved_bytes": row.moved_bytes if moves else 0.0,
            "beside_s": _beside_s(work, ahead.steps, moves_busy_s(ahead.setting, work, moves) / len(ahead.steps)),
        }
        rows.append(row.model_copy(update=named))
    return current.model_copy(update={"replans": tuple(rows), "notes": (*current.notes, _words(rows, every))})


def _row(steps: Sequence[DealtStep], kept_s: float, replanned_s: float, moved_bytes: float, move_s: float) -> Replan:
    gain = kept_s - replanned_s
    return Replan(
        first=steps[0].step,
        stop=steps[-1].step + 1,
        kept_s=kept_s,
        replanned_s=replanned_s,
        step_s=replanned_s + move_s / len(steps),
        moved_bytes=moved_bytes,
        move_s=move_s,
        break_even_steps=move_s / gain if gain > 0.0 else None,
    )


def _beside_s(work: WorkPlan, steps: Sequence[DealtStep], moves_busy_s: NDArray[np.float64]) -> float:
    """A step while moves need so many seconds of each link in it [links], mean over steps."""
    bandwidth = work.builder.links.bandwidth
    seconds = []
    for step in steps:
        one = StepWork(plan=work, dealt=step)
        busy = moves_busy_s.copy()
        for ordinal in range(work.model.num_moe_layers):
            layer = one.layer(ordinal)
            for flows in (layer.dispatch.flows, layer.combine.flows):
                busy += link_busy_s(flows.paths, flows.bytes_F, bandwidth)
        seconds.append(max(step_phases(one).step_s, float(busy.max(initial=0.0))))
    return float(np.mean(seconds))


def _words(rows: Sequence[Replan], every: int) -> str:
    steps = np.array([row.stop - row.first for row in rows], dtype=np.float64)
    kept_s = float(np.average([row.kept_s for row in rows], weights=steps))
    step_s = float(np.average([row.step_s for row in rows], weights=steps))
    gained = [row.break_even_steps for row in rows if row.break_even_steps is not None and row.move_s > 0.0]
    even = f"; a move pays back after {np.median(gained):.0f} steps (median)" if gained else ""
    beside_s = float(np.average([row.beside_s or row.step_s for row in rows], weights=steps))
    return (
        f"re-planned every {every} steps, a step takes {format_time(beside_s)} with moves beside it, {format_time(step_s)} "
        "where nothing overlaps, "
        f"{format_time(kept_s)} under the first plan kept ({kept_s / step_s - 1.0:+.1%}){even}"
    )


def _work(setting: Setting, plan: Plan) -> WorkPlan:
    return make_work_plan(setting, plan.placements, setting.scenario.dispatch.replica or plan.replica_policy)


def _mean_s(work: WorkPlan, steps: Sequence[DealtStep]) -> float:
    return float(np.mean([step_phases(StepWork(plan=work, dealt=step)).step_s for step in steps]))
