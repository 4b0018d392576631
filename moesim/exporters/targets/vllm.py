"""vLLM: an expert permutation for its checkpoint and the flags; an initial map only where the version can read one."""

import importlib.util
import json
from pathlib import Path

from moesim.exporters.checks import slot_checks
from moesim.exporters.expert_order import permutation_file
from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.refusals import refuse_own_slots, refuse_replicas, refuse_uneven
from moesim.exporters.training import permuted_files

_FIELD = "initial_expert_map_path"  # proposed in vLLM pull request 49572; vLLM 0.33.0 has no such key
_NEVER = (1 << 31) - 1  # steps between rearrangements


def export(request: ExportRequest) -> Export:
    """Option map_file=true writes the map for builds with that field, even where none is installed here."""
    if request.switch("map_file") or _installed_reads_a_map():
        return _map_file(request)
    refuse_replicas(
        request,
        "loads experts in their order, one slot each (its EPLB places replicas at run time; option map_file=true is for "
        "builds with pull request 49572)",
    )
    refuse_own_slots(request)
    content, checks = permutation_file(request)
    flags = (
        "--enable-expert-parallel",
        "--expert-placement-strategy linear",
        f"--data-parallel-size {request.ranks}",
        "--tensor-parallel-size 1",
    )
    files, remark = permuted_files(request, content)
    notes = ("vLLM has no initial placement: it places a checkpoint's experts in their order", remark)
    return Export(files=files, launch_flags=flags, checks=checks, notes=notes)


def _map_file(request: ExportRequest) -> Export:
    """A JSON list with a list of P experts for every MoE ordinal."""
    refuse_uneven(request)
    plan = request.plan
    content = ("[" + ",\n ".join(json.dumps(row) for row in plan.expert_of_slot) + "]\n").encode()
    config = {
        "num_redundant_experts": len(plan.expert_of_slot[0]) - plan.num_experts,
        _FIELD: str(request.out),
        "step_interval": _NEVER,
    }
    flags = (
        "--enable-expert-parallel",
        "--enable-eplb",
        f"--eplb-config '{json.dumps(config)}'",
        f"--data-parallel-size {request.ranks}",
        "--tensor-parallel-size 1",
    )
    checks = slot_checks(
        json.loads(content),
        experts=plan.num_experts,
        ranks=request.ranks,
        num_rows=len(plan.layers),
        rows_name="MoE ordinal",
    )
    notes = (f"eplb_config.{_FIELD} is in no released vLLM that was read (0.33.0); others refuse the key",)
    return Export(files={request.out.name: content}, launch_flags=flags, checks=checks, notes=notes)


def _installed_reads_a_map() -> bool:
    """Whether the installed vLLM, read and not imported, has the field in its EPLB config."""
    try:
        found = importlib.util.find_spec("vllm")
    except (ImportError, ValueError):
        return False
    if found is None or found.origin is None:
        return False
    config = Path(found.origin).parent / "config" / "parallel.py"
    try:
        return _FIELD in config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
