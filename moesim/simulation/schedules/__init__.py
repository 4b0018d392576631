"""Pipeline schedules, one file each: the order in which every stage runs forward and backward passes.

A module here defines `order(stages, micro_batches, chunks) -> Order`; `chunks` = parts per stage, read by interleaved only.
"""

from moesim.errors import unknown_name
from moesim.registry import Registry
from moesim.simulation.passes import Order

_SCHEDULES = Registry("moesim.simulation.schedules", kind="train.schedule", attribute="order")
_NAME_OF = {"one_f_one_b": "1f1b"}  # no module name starts with a digit


def schedule_order(name: str, *, stages: int, micro_batches: int, chunks: int = 1) -> Order:
    """The order of schedule `name` (1f1b, gpipe, interleaved, zero_bubble, dualpipe); InputError where it cannot be."""
    file_of = {_NAME_OF.get(part, part): part for part in _SCHEDULES.names()}
    if name not in file_of:
        raise unknown_name("train.schedule", name, file_of)
    made: Order = _SCHEDULES.get(file_of[name])(stages, micro_batches, chunks)
    return made


def num_parts(name: str, *, stages: int, chunks: int) -> int:
    """Into how many parts the schedule cuts the model."""
    return stages * chunks if name == "interleaved" else stages
