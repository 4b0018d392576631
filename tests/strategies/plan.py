"""Hypothesis strategies for plans, small, with replicas or without; and what an exporter is asked."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from moesim.exporters import Export, ExportRequest, export_plan
from moesim.plan_file import Plan

TINY_LAYERS = (1, 2)  # of the model in tests/strategies/scenario.py: 16 experts, dense layer 0


@st.composite
def plans(draw: st.DrawFn, *, replicas: bool = True, distinct: bool = True) -> Plan:
    """Even plans of the tiny model: 16 experts on 1 to 16 ranks; `distinct`: no expert twice on a rank."""
    ranks = draw(st.sampled_from([1, 2, 4, 8, 16]))
    extra = draw(st.integers(0, 3)) * ranks if replicas else 0
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = tuple(_row(rng, ranks, 16 + min(extra, 16 * ranks - 16), distinct) for _ in TINY_LAYERS)
    return plan_of(rows, ranks, draw(st.sampled_from(["nearest", "even"])))


def _row(rng: np.random.Generator, ranks: int, slots: int, distinct: bool) -> tuple[int, ...]:
    """Every expert dealt in a random order, then extra copies on ranks that lack them."""
    each = slots // ranks
    held = [list(part) for part in rng.permutation(16).reshape(ranks, -1).tolist()]
    for part in held:
        others = [e for e in rng.permutation(16).tolist() if not distinct or e not in part]
        part += others[: each - len(part)]
    return tuple(expert for part in held for expert in part)


def plan_of(rows: tuple[tuple[int, ...], ...], ranks: int, policy: str = "nearest", **more: object) -> Plan:
    """A plan of the tiny model by hand; without provenance, so that nothing beside it is known."""
    fields = {
        "model": "tiny",
        "topology": "nowhere",
        "strategy": "by_hand",
        "replica_policy": policy,
        "layers": TINY_LAYERS,
    }
    return Plan(**{**fields, "num_experts": 16, "num_devices": ranks, "expert_of_slot": rows, **more})


def exported(plan: Plan, target: str, out: str, model: object = None, **options: str) -> Export:
    """The export of a plan, nothing written."""
    return export_plan(ExportRequest(plan=plan, target=target, out=Path(out), model=model, options=options))
