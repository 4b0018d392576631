"""Near plan: a strategy's placements moved towards those of an old plan, within a budget of bytes."""

import dataclasses
from collections.abc import Sequence

from moesim.placement import ExpertPlacement
from moesim.planner import PlacementAnswer, PlacementProblem
from moesim.planner.migration import migrate
from moesim.setting import Setting
from moesim.study.moving import Rounds, copy_bytes_of, copy_price_s, move_seconds, moved_bytes, rounds_between
from moesim.study.work_plan import make_work_plan
from moesim.units import format_bytes, format_time, parse_quantity


def parse_budget(budget: str | float | None) -> float | None:
    """Bytes of a move budget such as 20GiB; None: no limit. Raises InputError for anything else."""
    return None if budget is None else parse_quantity(budget, "bytes")


def moved_towards(
    setting: Setting,
    problem: PlacementProblem,
    old: Sequence[ExpertPlacement],
    answer: PlacementAnswer,
    policy: str,
    budget_bytes: float | None,
) -> tuple[PlacementAnswer, Rounds]:
    """The answer near the old placements, and its move rounds.

    A budget of nothing gives the old placements. Else a copy travels where it saves more of a step than its share of a
    move round / `plan.payback_steps`.
    """
    each = copy_bytes_of(setting)
    if budget_bytes is not None and budget_bytes < each:
        note = f"a move budget of {format_bytes(budget_bytes)} is below one expert's {format_bytes(each)}: the old plan"
        if any((one.slots_of_devices > problem.slots_of_devices).any() for one in old):
            note += ", with copies that dead devices or too little memory cannot hold"
        return dataclasses.replace(answer, placements=tuple(old), notes=(*answer.notes, note), proven=False), ()
    work = make_work_plan(setting, tuple(old), policy)
    price_s = copy_price_s(setting, work, problem) / setting.scenario.plan.payback_steps
    most = None if budget_bytes is None else int(budget_bytes // each)
    placements = migrate(problem, old, answer.placements, policy, most, price_s)
    rounds = rounds_between(setting, old, placements, problem)
    count = sum(len(one.moves) for one in rounds)
    words = (
        f"{count} copies ({format_bytes(moved_bytes(setting, rounds))} in each group) move in {len(rounds)} rounds, "
        f"{format_time(move_seconds(setting, work, rounds))} on otherwise idle links"
    )
    if most is not None and count > most:
        words += "; more than the budget, since old copies no longer fit"
    return dataclasses.replace(answer, placements=placements, notes=(*answer.notes, words), proven=False), rounds
