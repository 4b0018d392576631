"""Rewriting: other paths and bytes for flows of a transfer that has begun.

Array letters: F flow.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from moesim.network.flow import Flows, Paths
from moesim.network.maxmin import check_simple
from moesim.network.running import Running
from moesim.network.transfer import Transfer


def rewrite_transfer(transfer: Transfer, new: Flows, take_F: NDArray[np.bool_]) -> None:
    """Give the flows `take_F` of the transfer the path, bytes and latency they have in `new`; the others keep theirs."""
    old = transfer.flows
    if new is old:
        return
    check_simple(new.paths)
    transfer.flows = dataclasses.replace(
        old,
        bytes_F=np.where(take_F, new.bytes_F, old.bytes_F),
        paths=choose_paths(old.paths, new.paths, take_F),
        latency_F=np.where(take_F, new.latency_F, old.latency_F),
    )
    transfer.waits = transfer.waits._replace(latency_F=transfer.flows.latency_F)


def choose_paths(old: Paths, new: Paths, take_F: NDArray[np.bool_]) -> Paths:
    """The paths in `new` of the flows `take_F`, those in `old` of the others."""
    starts = np.where(take_F, new.offsets[:-1] + len(old.links), old.offsets[:-1])
    hops = np.where(take_F, np.diff(new.offsets), np.diff(old.offsets))
    offsets = np.concatenate([[0], np.cumsum(hops)])
    places = np.repeat(starts - offsets[:-1], hops) + np.arange(offsets[-1])
    return Paths(offsets, np.concatenate([old.links, new.links])[places])


def with_paths(run: Running, parts: list[Paths], size_F: NDArray[np.float64], finish_F: NDArray[np.float64]) -> Running:
    """The run with these paths (of its transfers, in order), bytes and ends; good only for building it anew from it."""
    flow = run.flow.copy()
    flow["size"][:-1], flow["finish"][:-1] = size_F, finish_F
    hops = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.offsets) for part in parts)])
    flow["hops"] = np.cumsum(hops)
    links = np.concatenate([np.zeros(0, np.int32), *(part.links for part in parts)])
    hop = np.zeros(len(links), run.hop.dtype)
    hop["link"] = links
    return run._replace(flow=flow, hop=hop)
