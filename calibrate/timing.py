"""Timing one operation: warm-up, repeats that all ranks agree on, device events on GPUs, the slowest rank counts."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from calibrate.machine import Machine

FEWEST, MOST = 7, 200


class ProbeFailed(Exception):
    """An operation ran but its output is wrong; the time would be worthless."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Something to time: `run(i)` does it on buffer set i, `check()` raises ProbeFailed when the outputs are wrong."""

    run: Callable[[int], None]
    check: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Times:
    """Median seconds, 10th and 90th percentile, and of how many repeats."""

    median_s: float
    p10_s: float
    p90_s: float
    repeats: int


def time_operation(machine: Machine, operation: Operation, budget_s: float) -> Times:
    """Time `operation` for about `budget_s` seconds, at least 7 and at most 200 repeats after 3 of warm-up.

    A repeat's time is the largest over all ranks: a collective is over when its last rank is.
    """
    warm_up = _repeat(machine, operation, 3)
    longest = float(machine.largest(np.array([warm_up.min()]))[0])
    repeats = int(np.clip(budget_s / max(longest, 1e-9), FEWEST, MOST))
    times = machine.largest(_repeat(machine, operation, repeats))
    low, middle, high = np.quantile(times, (0.1, 0.5, 0.9))
    return Times(float(middle), float(low), float(high), repeats)


def wrong(operation: Operation) -> str:
    """What is wrong with the outputs of an operation that was timed; empty when they are right."""
    try:
        operation.check()
    except ProbeFailed as failure:
        return str(failure)
    return ""


def _repeat(machine: Machine, operation: Operation, repeats: int) -> np.ndarray:
    return _events(machine, operation, repeats) if machine.is_gpu else _clock(machine, operation, repeats)


def _events(machine: Machine, operation: Operation, repeats: int) -> np.ndarray:
    """Device time of each repeat, back to back: the queue stays full, so the host's launch cost is hidden."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    machine.synchronize()
    machine.barrier()
    marks[0].record()
    for i in range(repeats):
        operation.run(i)
        marks[i + 1].record()
    machine.synchronize()
    return np.array([first.elapsed_time(second) * 1e-3 for first, second in itertools.pairwise(marks)])


def _clock(machine: Machine, operation: Operation, repeats: int) -> np.ndarray:
    """Host time of each repeat, all ranks starting together."""
    times = np.empty(repeats)
    for i in range(repeats):
        machine.barrier()
        start = time.perf_counter()
        operation.run(i)
        times[i] = time.perf_counter() - start
    return times


def buffer_sets(machine: Machine, bytes_of_set: int, room: float = 0.4) -> int:
    """How many buffer sets to rotate so that together they exceed twice the cache, within `room` of the free memory."""
    wanted = -(-2 * machine.cache_bytes // max(bytes_of_set, 1)) + 1
    return int(max(1, min(wanted, 64, room * machine.free_bytes() // max(bytes_of_set, 1))))
