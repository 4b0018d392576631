"""Files that look like traces but hold no routing: what each one is, and what to ask for instead."""

import re
import struct
from pathlib import Path

from moesim.errors import InputError
from moesim.trace.source_files import files_in, head_of

_ASK_ROUTED = "record with --enable-return-routed-experts"
_TO_CALIBRATE = "`moesim calibrate import` reads it"
_TO_TOPOLOGY = "`moesim topology import` reads it"
_KNOWN = tuple(
    (re.compile(mark, re.MULTILINE), f"is {what}")
    for mark, what in (
        (
            rb"EPLB step:.*balancedness=",
            f"a vLLM log: its EPLB lines have the mean and most tokens of a rank but no expert's; {_ASK_ROUTED}",
        ),
        (
            rb'"traceEvents"|"deviceProperties"',
            f"a profiler timeline; it has times but no routing: {_TO_CALIBRATE}",
        ),
        (
            rb'^.{8}\{.*"\d+_\d+":\{"dtype":"I64"|"num_experts_per_token"',
            "one file of a TensorRT-LLM expert statistic; give the folder with meta_info.json and rank<r>.safetensors",
        ),
        (
            rb'"physical_to_logical_map"|"initial_expert_map"|initial_global_assignments:',
            "a placement of experts; which experts tokens chose is not in it, so give the recording it was made of",
        ),
        (
            rb'^\{\s*"logical_count"',
            "an input of SGLang's --init-expert-location; give the .pt dump of its recorder that it was made of",
        ),
        (
            rb"^# (nccl-tests|rccl-tests|Collective test)|^#\s+nThread|^\[(config|tuning|layout|rank \d+)\] |"
            rb'"nccl_version"|"busBw"|"busbw"|busbw,',
            f"a measurement of communication; it has times but no routing: {_TO_CALIBRATE}",
        ),
        (
            rb"^<system\s|^<topology\s|^(SwitchName|BlockName)\s*=|^npus_count\s*:|^- topology\s*:|^vendid=|\)==>|^\s+GPU0\s",
            f"a topology; it has no routing: {_TO_TOPOLOGY}",
        ),
    )
)


def refuse_known(path: Path) -> None:
    """Raise InputError where `path`, or a folder's first file, is known and has no routing; return for anything else."""
    if path.is_dir():
        files = files_in(path, re.compile(r"[^.].*"))
        if not files:
            return
        path = files[0]
    head = head_of(path)
    if _is_old_imatrix(head):
        raise InputError(
            f"{path} is an imatrix in the old .dat format, which has no per-expert counts; "
            f"make a GGUF one: llama-imatrix --output-format gguf"
        )
    for mark, what in _KNOWN:
        if mark.search(head):
            raise InputError(f"{path} {what}")


def _is_old_imatrix(head: bytes) -> bool:
    """Whether the head is int32 entries, then entries of int32 name length, name, int32 calls, int32 values."""
    if len(head) < 20:
        return False
    num_entries, length = struct.unpack_from("<ii", head)
    if not (0 < num_entries < 2**20 and 0 < length < 512 and len(head) >= 16 + length):
        return False
    name = head[8 : 8 + length]
    return name.endswith(b".weight") and all(32 < byte < 127 for byte in name)
