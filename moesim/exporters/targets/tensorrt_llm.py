"""TensorRT-LLM: the MoE load balancer YAML by model layer index, and the extra LLM options that name it."""

import yaml

from moesim.exporters.checks import slot_checks
from moesim.exporters.export import Check, Export, ExportRequest
from moesim.exporters.refusals import refuse_uneven

_WIDE = 1 << 30  # rows of slots stay on one line


def export(request: ExportRequest) -> Export:
    """Options: mtp_layers=N more layers behind the model's, placed as its last; max_num_tokens=N of the launch."""
    refuse_uneven(request)
    plan = request.plan
    table = dict(zip(plan.layers, map(list, plan.expert_of_slot), strict=True))
    extra = request.number("mtp_layers", 0)
    behind = request.need_model().num_layers if extra else 0
    table |= {behind + index: list(plan.expert_of_slot[-1]) for index in range(extra)}
    slots = len(plan.expert_of_slot[0])
    balancer = {"num_slots": slots, "initial_global_assignments": table, "layer_updates_per_iter": 0}
    content = _yaml(balancer)
    options = {
        "enable_attention_dp": True,
        "moe_config": {
            "backend": "WIDEEP",
            "max_num_tokens": request.number("max_num_tokens", 4096, least=1),
            "load_balancer": str(request.out),
        },
    }
    name = request.beside(".llm_options.yaml")
    flags = (
        f"--extra_llm_api_options {request.out.with_name(name)}",
        f"--ep_size {request.ranks}",
        f"--tp_size {request.ranks}",
    )
    notes = () if extra else ("layers of multi-token prediction must be listed too: option mtp_layers=N adds them",)
    return Export(
        files={request.out.name: content, name: _yaml(options)},
        launch_flags=flags,
        checks=_checks(content, request, extra, behind),
        notes=notes,
    )


def _yaml(data: dict[str, object]) -> bytes:
    return yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=_WIDE).encode()


def _checks(content: bytes, request: ExportRequest, extra: int, behind: int) -> tuple[Check, ...]:
    data, plan = yaml.safe_load(content), request.plan
    table = data["initial_global_assignments"]
    layers = [*plan.layers, *range(behind, behind + extra)]
    return (
        *slot_checks(
            list(table.values()),
            experts=plan.num_experts,
            ranks=request.ranks,
            num_rows=len(layers),
            rows_name="MoE layer",
        ),
        Check("layers are exactly the model's MoE layer indices (and MTP)", list(table) == layers),
        Check("every row has num_slots slots", all(len(row) == data["num_slots"] for row in table.values())),
        Check(
            "only keys the strict loader knows",
            set(data) <= {"num_slots", "initial_global_assignments", "layer_updates_per_iter"},
        ),
    )
