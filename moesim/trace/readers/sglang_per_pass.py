"""Reader of SGLang's expert-distribution dumps in mode per_pass: counts of physical slots per forward pass and rank.

Slots become experts by the map in the dump; ranks are summed, as SGLang's own reader does.
Array letters: S pass, R layer row (every layer), P physical slot, E expert.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.count_table import CountTable, count_trace
from moesim.trace.layer_rule import layers_of_all_rows
from moesim.trace.rows import TraceRows
from moesim.trace.sglang_records import ANY_PT, experts_of, mode_of, read_records, slot_map
from moesim.trace.source_files import files_in, origin_of
from moesim.trace.torch_file import integers

_MOST_CELLS = 2**26  # passes x layers x experts kept apart; beyond, neighbouring passes are summed


def recognises(path: Path) -> bool:
    """Whether `path` is a torch file with `global_physical_count` but no token ids, or a folder of such."""
    return mode_of(path) == "per_pass"


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """Logical counts, one step a forward pass (several, summed, where there are very many). Raises InputError."""
    if key is not None:
        raise InputError(f"{path} has one table of counts a pass; leave out --key")
    records = list(read_records(path, "per_pass"))
    first = integers(records[0].fields.get("global_physical_count"), 2, f"{records[0].place}: global_physical_count")
    num_rows, num_slots = first.shape
    num_experts = experts_of(slot_map(records[0], num_rows, num_slots, model), model, str(path))
    numbers = sorted({record.forward_pass for record in records})
    per_step = -(-len(numbers) * num_rows * num_experts // _MOST_CELLS)
    step_of = {number: place // per_step for place, number in enumerate(numbers)}
    load_SRE = np.zeros((-(-len(numbers) // per_step), num_rows, num_experts), np.int64)
    row_R1 = np.arange(num_rows)[:, None]
    for record in records:
        load_RP = integers(record.fields.get("global_physical_count"), 2, f"{record.place}: global_physical_count")
        if load_RP.shape != first.shape:
            raise InputError(f"{record.place} has counts of shape {load_RP.shape}, others {first.shape}")
        slots_RP = slot_map(record, num_rows, num_slots, model)
        experts_of(slots_RP, model, record.place)
        if slots_RP.max() >= num_experts:
            raise InputError(f"{record.place} maps slots to {int(slots_RP.max()) + 1} experts, others to {num_experts}")
        np.add.at(load_SRE[step_of[record.forward_pass]], (row_R1, slots_RP), load_RP)
    asked = None if layers is None else tuple(layers)
    table = CountTable(
        load_SRE=load_SRE,
        layer_of_row=layers_of_all_rows(num_rows, model=model, asked=asked, source=str(path)),
        source=str(path),
        origin=origin_of(path, files_in(path, ANY_PT)),
        recorder="SGLang expert-distribution recorder, per_pass",
        notes=(f"{per_step} forward passes are summed in a step",) if per_step > 1 else (),
    )
    return count_trace(table, model)
