"""SGLang: the JSON of --init-expert-location, one row of slots per hidden layer, dense layers included."""

import json
from itertools import cycle, islice

from moesim.errors import InputError
from moesim.exporters.checks import slot_checks
from moesim.exporters.export import Check, Export, ExportRequest
from moesim.exporters.refusals import refuse_uneven

# static: a replica on the own GPU or node first; dynamic: an even choice; lp: shares from a linear program
_DISPATCH = {"nearest": "static", "even": "dynamic", "split": "lp"}
_KEY = "physical_to_logical_map"


def export(request: ExportRequest) -> Export:
    """The only key is physical_to_logical_map [L hidden layers, P]; option a2a names --moe-a2a-backend."""
    refuse_uneven(request)
    plan, model = request.plan, request.need_model()
    if request.out.suffix != ".json":
        raise InputError(
            f"SGLang takes any path without .json or .pt as JSON itself; name {request.out.name!r} with .json"
        )
    slots = len(plan.expert_of_slot[0])
    placed = dict(zip(plan.layers, plan.expert_of_slot, strict=True))
    trivial = tuple(islice(cycle(range(plan.num_experts)), slots))
    rows = [list(placed.get(layer, trivial)) for layer in range(model.num_layers)]
    content = ("{" + f'"{_KEY}": [\n' + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n").encode()
    dispatch = _DISPATCH[plan.replica_policy]
    flags = (
        f"--init-expert-location {request.out}",
        f"--ep-size {request.ranks}",
        f"--ep-num-redundant-experts {slots - plan.num_experts}",
        f"--ep-dispatch-algorithm {dispatch}",
        f"--moe-a2a-backend {request.option('a2a', 'deepep')}",
    )
    notes = ["SGLang ignores the file, silently, for model classes that have no expert-location config"]
    if dispatch == "lp":
        notes.append("SGLang's lp shares come from its own linear program, not from the plan's splits")
    return Export(
        files={request.out.name: content}, launch_flags=flags, checks=_checks(content, request), notes=tuple(notes)
    )


def _checks(content: bytes, request: ExportRequest) -> tuple[Check, ...]:
    data, plan = json.loads(content), request.plan
    rows = data[_KEY]
    return (
        Check(f"{_KEY} is the only key", list(data) == [_KEY]),
        *slot_checks(
            rows,
            experts=plan.num_experts,
            ranks=request.ranks,
            num_rows=request.need_model().num_layers,
            rows_name="hidden layer",
        ),
        Check(
            "MoE layers hold the plan's slots",
            all(rows[layer] == list(row) for layer, row in zip(plan.layers, plan.expert_of_slot, strict=True)),
        ),
    )
