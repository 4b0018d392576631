"""Exporters: a plan as the file its launcher reads, the flags that must agree, and checks stricter than the loader's.

One file per launcher in `targets/`: `export(request) -> Export`, pure: bytes out, nothing written. `expert_permutation`
is for stacks that have no placement map and need their checkpoint permuted.
"""

from moesim.exporters.expert_order import expert_permutation
from moesim.exporters.export import Check, Export, ExportRequest, TargetRefuses, export_plan
from moesim.exporters.names import exporter_names

__all__ = ["Check", "Export", "ExportRequest", "TargetRefuses", "expert_permutation", "export_plan", "exporter_names"]
