"""Launch: what starting one kernel costs on top of its work, by itself and inside a recorded graph."""

from collections.abc import Iterator
from typing import Any

import torch

from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed

CALLS = 100


def unable(machine: Machine) -> str | None:
    """Runs everywhere."""
    return None


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A hundred one-element additions in a row; on a GPU also replayed from a graph. The time is of all the calls."""
    for graph in (False, True) if machine.is_gpu else (False,):
        yield "launch", {"hardware": machine.hardware, "calls": CALLS, "graph": graph}


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """One counter that every call raises by one."""
    counter = torch.zeros(1, device=machine.device)
    calls = int(params["calls"])

    def chain() -> None:
        for _ in range(calls):
            counter.add_(1.0)

    replay = chain
    if params["graph"]:
        chain()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            chain()
        replay = graph.replay

    def check() -> None:
        if float(counter[0]) % calls or float(counter[0]) <= 0:
            raise ProbeFailed(f"{calls} additions a repeat left the counter at {float(counter[0])}")

    return Operation(lambda _: replay(), check)
