"""Files that look like traces but hold no routing: what each one is, and what to ask for instead."""

import struct
from pathlib import Path

from moesim.errors import InputError
from moesim.trace.source_files import head_of

_EPLB_LINE = b"EPLB step:"
_CHROME = (b'"traceEvents"', b'"deviceProperties"')


def refuse_known(path: Path) -> None:
    """Raise InputError where `path` is a known file without expert counts; return for anything else."""
    head = head_of(path)
    if _is_old_imatrix(head):
        raise InputError(
            f"{path} is an imatrix in the old .dat format, which has no per-expert counts; "
            f"make a GGUF one: llama-imatrix --output-format gguf"
        )
    if _EPLB_LINE in head and b"balancedness=" in head:
        raise InputError(
            f"{path} is a vLLM log: its EPLB lines have the mean and most tokens of a rank but no expert's; "
            f"record with --enable-return-routed-experts"
        )
    if any(mark in head for mark in _CHROME):
        raise InputError(
            f"{path} is a profiler timeline; it has times but no routing: `moesim calibrate import` reads it"
        )


def _is_old_imatrix(head: bytes) -> bool:
    """Whether the head is int32 entries, then entries of int32 name length, name, int32 calls, int32 values."""
    if len(head) < 20:
        return False
    num_entries, length = struct.unpack_from("<ii", head)
    if not (0 < num_entries < 2**20 and 0 < length < 512 and len(head) >= 16 + length):
        return False
    name = head[8 : 8 + length]
    return name.endswith(b".weight") and all(32 < byte < 127 for byte in name)
