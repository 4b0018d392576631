"""Hugging Face: a checkpoint with its experts in the plan's order, for any stack that places them in order."""

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.training import permuted


def export(request: ExportRequest) -> Export:
    """With --checkpoint IN `out` is the permuted folder or file; without it, the permutation."""
    return permuted(request, (f"expert-parallel size {request.ranks}",))
