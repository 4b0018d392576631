"""The program of one rank: joins the process group, then runs job after job. Arguments: folder, number of ranks, rank."""

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from calibrate.testbed.direct import DirectLayer
from calibrate.testbed.experts import Experts
from calibrate.testbed.jobs import STOP, read_job, write_answer
from calibrate.testbed.routes import Routing
from calibrate.testbed.rows import pack
from calibrate.testbed.two_hop import TwoHopLayer
from calibrate.testbed.wire import GlooWire, common_start, exchange
from calibrate.testbed.wiring import INTERFACE

Job = tuple[dict[str, Any], dict[str, Any]]
_PROBE_TAG = 9
_NICER = -15


def main(folder: Path, ranks: int, rank: int) -> None:
    """Run jobs until one says stop."""
    sys.stdin.readline()  # the network is there
    torch.set_num_threads(1)  # the ranks share a machine
    with contextlib.suppress(OSError):
        os.nice(_NICER)  # they wait for the network most of the time; other programs must not make them wait longer
    os.environ["GLOO_SOCKET_IFNAME"] = INTERFACE
    store = dist.FileStore(str(folder / "store"), ranks)  # type: ignore[attr-defined]  # there, but not in __all__
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    number = 0
    while True:
        header, arrays = read_job(folder, number)
        if header["kind"] == STOP:
            break
        write_answer(folder, number, rank, _KINDS[header["kind"]](header, arrays, rank))
        number += 1
    dist.destroy_process_group()


def run_exchange(header: dict[str, Any], arrays: dict[str, Any], rank: int) -> dict[str, Any]:
    """An all-to-allv of bytes_DD; `library`: by gloo's own all_to_all_single instead."""
    bytes_DD = arrays["bytes_DD"]
    sent, received = bytes_DD[rank].tolist(), bytes_DD[:, rank].tolist()
    data = torch.full((sum(sent),), rank, dtype=torch.uint8)
    into = torch.empty(sum(received), dtype=torch.uint8)
    ends = []
    for _ in range(header["repeats"]):
        into.fill_(255)
        start = common_start()
        if header.get("library"):
            dist.all_to_all_single(into, data, received, sent)
        else:
            exchange(GlooWire(), rank, list(torch.split(data, sent)), list(torch.split(into, received)), _PROBE_TAG)
        ends.append(time.monotonic() - start)
    expected = torch.repeat_interleave(torch.arange(len(received), dtype=torch.uint8), torch.tensor(received))
    return {"end_s": ends, "right": bool(torch.equal(into, expected))}


def run_experts(header: dict[str, Any], arrays: dict[str, Any], rank: int) -> dict[str, Any]:
    """Every rank's experts at once, each slot with its number of tokens; no network."""
    load = arrays["load_DS"][rank].tolist()
    experts = Experts(dict(enumerate(range(len(load)))), header["width"], header["hidden"])
    slots = torch.repeat_interleave(torch.arange(len(load)), torch.tensor(load))[:, None]
    values = torch.randn((len(slots), header["width"]), generator=torch.Generator().manual_seed(rank))
    rows, ends = pack(values, torch.arange(len(slots)), slots), []
    for _ in range(header["repeats"]):
        start = common_start()
        experts.apply(rows, 1)
        ends.append(time.monotonic() - start)
    return {"end_s": ends}


def run_layer(header: dict[str, Any], arrays: dict[str, Any], rank: int) -> dict[str, Any]:
    """The whole layer: dispatch, experts, combine; `apart`: every phase from a common start of its own.

    Answers the ends of the phases by repeat, the (token, expert) pairs computed here, and the output if asked for.
    """
    routing = Routing(
        arrays["source_T"], arrays["slots_TK"], arrays["device_of_slot_P"], dist.get_world_size(), header["per_node"]
    )
    width, top_k = header["width"], routing.slots_TK.shape[1]
    values = torch.randn(
        (int((routing.source_T == rank).sum()), width), generator=torch.Generator().manual_seed(1000 + rank)
    )
    mine = np.flatnonzero(routing.device_of_slot_P == rank).tolist()
    experts = Experts({slot: int(arrays["expert_of_slot_P"][slot]) for slot in mine}, width, header["hidden"])
    layer: DirectLayer | TwoHopLayer = DirectLayer(rank, routing, values, GlooWire())
    if header["algorithm"] == "node_dedup":
        layer = TwoHopLayer(rank, routing, values, GlooWire(), header["chunk_tokens"])
    ends: list[list[float]] = []
    apart = header.get("apart", False)
    for _ in range(header["repeats"]):
        start = common_start()
        rows = layer.dispatch()
        dispatched = time.monotonic() - start
        start = common_start() if apart else start
        answers = experts.apply(rows, top_k)
        computed = time.monotonic() - start
        start = common_start() if apart else start
        output = layer.combine(answers)
        ends.append([dispatched, computed, time.monotonic() - start])
    answer = {"end_s": ends, "pairs": experts.pairs(rows)}
    return {**answer, "output": output.tolist()} if header.get("output") else answer


_KINDS = {"exchange": run_exchange, "experts": run_experts, "layer": run_layer}

if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
