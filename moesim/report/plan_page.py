"""plan.html: one self-contained page (no script, no network) on what a plan does: loads, traffic, copies, gap, moves."""

from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from moesim.plan_file import Plan
from moesim.report.context import flatten
from moesim.report.figure import svg
from moesim.report.files import write_files
from moesim.report.page import render_page
from moesim.report.plan_view import PlanView
from moesim.report.plots import plan as plots
from moesim.units import format_bytes, format_time

Pictures = list[tuple[str, Figure]]


def write_plan_report(plan: Plan, view: PlanView, folder: Path) -> list[Path]:
    """Write plan.html into `folder` (created if missing); same plan and view, same bytes. Raises InputError."""
    return write_files(folder, {"plan.html": plan_page(plan, view)})


def plan_page(plan: Plan, view: PlanView) -> bytes:
    """The page."""
    sections = [
        (
            anchor,
            heading,
            reading,
            [(caption, _drawn(anchor, i, caption, figure)) for i, (caption, figure) in enumerate(pictures)],
        )
        for anchor, heading, reading, pictures in _sections(view)
    ]
    content = {
        "eyebrow": "moesim plan",
        "title": f"Plan for {plan.model} on {plan.topology}",
        "answer": _answer(plan, view),
        "remarks": list(plan.notes),
        "figures": _key_figures(plan, view),
        "sections": sections,
        "rests_on": [(key, value) for key, value in flatten(plan.provenance) if not key.startswith("scenario.")],
    }
    return render_page("plan.html", content)


def _drawn(anchor: str, place: int, caption: str, figure: Figure) -> Markup:
    return Markup(svg(figure, f"{anchor}, {caption}", f"{anchor}-{place}"))  # our own drawing


def _answer(plan: Plan, view: PlanView) -> str:
    """One sentence: what the plan gains in the MoE layers, and how far it can be from the best."""
    gain = float(view.before_s_L.sum() / view.after_s_L.sum()) if view.after_s_L.sum() > 0 else 1.0
    faster = (
        f"{gain:.2f}x as fast as"
        if gain >= 1.005
        else "no faster than"
        if gain > 0.995
        else f"{gain:.2f}x the speed of"
    )
    far = (
        "how far it is from the best is not proven"
        if plan.gap is None
        else f"no plan of these slots can be more than {plan.gap:.1%} quicker a step"
    )
    return f"{plan.strategy} makes the MoE layers {faster} {view.before}; {far}."


def _key_figures(plan: Plan, view: PlanView) -> list[tuple[str, str, str]]:
    """(label, value, remark) of the numbers a reader looks for first."""
    fullest = float((view.load_after_LD.max(axis=1) / np.maximum(view.load_after_LD.mean(axis=1), 1e-300)).mean())
    fullest_before = float(
        (view.load_before_LD.max(axis=1) / np.maximum(view.load_before_LD.mean(axis=1), 1e-300)).mean()
    )
    time_s, bound_s = plan.predicted_step_time_s, plan.lower_bound_s
    figures = [
        ("Predicted step", "-" if time_s is None else format_time(time_s), "closed form, planning window"),
        ("Lower bound", "-" if bound_s is None else format_time(bound_s), "no plan of these slots beats it"),
        ("Fullest device", f"{fullest:.2f}x", f"of the mean load; {fullest_before:.2f}x before"),
        (
            f"Between {view.between}",
            format_bytes(float(view.traffic_after_NN.sum())),
            f"a step; {format_bytes(float(view.traffic_before_NN.sum()))} before",
        ),
        ("Copies that move", f"{int(view.moved_L.sum()):,}", f"of {int(view.copies_LE.sum()):,}; {_moves(plan)}"),
    ]
    if view.binding:
        name, _, share = view.binding[0].partition(": ")
        resource, _, phase = name.partition(" (")
        figures.append(("Bound by", resource, f"{phase.rstrip(')')}, {share}" if phase else share))
    return figures


def _moves(plan: Plan) -> str:
    if not plan.moves:
        return "there is no old plan"
    return f"{format_bytes(plan.moved_bytes)} in {len(plan.moves)} rounds"


def _sections(view: PlanView) -> list[tuple[str, str, str, Pictures]]:
    """Anchor, heading, reading and pictures of every section."""
    before, binds = view.before[0].upper() + view.before[1:], "; ".join(view.binding)
    times = [("Time of each layer", plots.seconds(view))]
    if view.bound_s_L is not None:
        times.append(("Gap of each layer to what no plan beats", plots.gap(view, view.bound_s_L)))
    return [
        (
            "seconds",
            "Time and gap per layer",
            "Dispatch, experts and combine of each layer, and what no plan of these slots beats."
            + (f" What binds: {binds}." if binds else ""),
            times,
        ),
        (
            "loads",
            "Load of the devices",
            "White is the layer's mean, red above it, blue below. Both pictures share the scale.",
            [(before, plots.loads(view, view.load_before_LD)), ("This plan", plots.loads(view, view.load_after_LD))],
        ),
        (
            "traffic",
            "Traffic of a dispatch",
            f"Bytes between {view.between}, a token counted once for each it goes to. Both pictures share the scale.",
            [
                (before, plots.traffic(view, view.traffic_before_NN)),
                ("This plan", plots.traffic(view, view.traffic_after_NN)),
            ],
        ),
        (
            "copies",
            "Copies and moves",
            f"Which experts have more than one copy, and how many copies their devices did not hold before ({view.before}).",
            [("Copies of experts", plots.copies(view)), ("Copies that move", plots.moved(view))],
        ),
    ]
