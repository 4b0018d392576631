"""Reader of SGLang's expert-distribution dumps in mode stat or stat_approx: logical counts of all ranks together.

The recorder's ring may be rotated and holds unused steps, so steps have no order here: their sum is one step.
Array letters: S step of the ring, R layer row (every layer), E expert.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moesim.errors import InputError
from moesim.routing import RoutedModel
from moesim.trace.count_table import CountTable, count_trace
from moesim.trace.layer_rule import layers_of_all_rows
from moesim.trace.rows import TraceRows
from moesim.trace.sglang_records import ANY_PT, load_dump, mode_of
from moesim.trace.source_files import files_in, origin_of
from moesim.trace.torch_file import integers


def recognises(path: Path) -> bool:
    """Whether `path` is a torch file whose pickle speaks of `logical_count`, or a folder of such."""
    return mode_of(path) == "stat"


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The sum of the recorded steps as one step; several files of a folder are summed too. Raises InputError."""
    if key is not None:
        raise InputError(f"{path} has one table of counts; leave out --key")
    files = files_in(path, ANY_PT)
    tables = []
    for file in files:
        load_SRE = integers(load_dump(file, "stat")["logical_count"], 3, f"{file}: logical_count")
        tables.append((load_SRE.sum(axis=0, dtype=np.int64), int(load_SRE.any(axis=(1, 2)).sum())))
    if len({load_RE.shape for load_RE, _ in tables}) > 1:
        raise InputError(f"{path} has dumps of different shapes; convert those of one model")
    load_RE = np.sum([load_RE for load_RE, _ in tables], axis=0)
    asked = None if layers is None else tuple(layers)
    table = CountTable(
        load_SRE=load_RE[None],
        layer_of_row=layers_of_all_rows(len(load_RE), model=model, asked=asked, source=str(path)),
        source=str(path),
        origin=origin_of(path, files),
        recorder="SGLang expert-distribution recorder, stat",
        notes=(f"the sum of {sum(used for _, used in tables)} recorded steps, whose order is not known",),
    )
    return count_trace(table, model)
