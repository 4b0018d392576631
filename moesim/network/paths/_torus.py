"""Minimal ways through a grid of chips, as vectors of steps along its axes, and the links they cross.

Array letters: F flow, A axis, V minimal way (vector) of some flow, W one way in one order of axes, P port, C class of
chips apart.
A vector says how many links a way takes along each axis, negative in the - direction. On a plain grid it is the shorter
way round each axis, and two are as short where the chips are half a ring apart. On a twisted grid all vectors that lead
to the same chip are compared, once for each class of pairs that are equally far apart.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from moesim.cluster import Index, TorusLayout
from moesim.network.flow import Paths

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ways:
    """All minimal vectors [V, A] of some flows, and the flow of each, in the order of flows."""

    flow_V: Ints
    vector_VA: Ints


def minimal_ways(layout: TorusLayout, source_F: Ints, target_F: Ints) -> Ways:
    """Every minimal vector of every flow; the zero vector for a chip to itself and between slices."""
    apart_FA = _apart(layout, source_F, target_F)
    if layout.twist_AA.any():
        table = _twisted_table(layout.lengths, layout.twist_AA.tobytes())
        class_F = _class(layout, apart_FA)
        count_F = np.diff(table.offsets)[class_F]
        flow_V = np.repeat(np.arange(len(source_F)), count_F)
        place_V = np.arange(len(flow_V)) - np.repeat(np.cumsum(count_F) - count_F, count_F)
        return Ways(flow_V, table.vectors[table.offsets[class_F[flow_V]] + place_V])
    shorter_FA, tied_FA = _shorter(layout, apart_FA)
    flows, vectors = [], []
    for turned in itertools.product((False, True), repeat=len(layout.lengths)):
        flow_V = np.flatnonzero((tied_FA | ~np.array(turned)).all(axis=1))
        flows.append(flow_V)
        vectors.append(np.where(turned, -1, 1) * shorter_FA[flow_V])
    flow_V = np.concatenate(flows)
    order = np.argsort(flow_V, kind="stable")
    return Ways(flow_V[order], np.concatenate(vectors)[order])


def one_way(layout: TorusLayout, source_F: Ints, target_F: Ints, hash_F: NDArray[np.uint64]) -> Ints:
    """One minimal vector of each flow [F, A]; where several are as short, the hash picks one on a twisted grid.

    On a plain grid halfway round goes up or down by the parity of the source's place on the axis and of both places on
    the others: every link of an axis of 4i chips, and of any even axis beside another even one, then carries the same
    share of an all-to-all.
    """
    apart_FA = _apart(layout, source_F, target_F)
    if layout.twist_AA.any():
        table = _twisted_table(layout.lengths, layout.twist_AA.tobytes())
        class_F = _class(layout, apart_FA)
        count_F = np.diff(table.offsets)[class_F].astype(np.uint64)
        return table.vectors[table.offsets[class_F] + (hash_F % count_F).astype(np.int64)]
    shorter_FA, tied_FA = _shorter(layout, apart_FA)
    from_FA, to_FA = layout.coordinate_DA[source_F], layout.coordinate_DA[target_F]
    places_F = from_FA.sum(axis=1) + to_FA.sum(axis=1)
    odd_FA = (places_F[:, None] - to_FA) % 2 == 1
    return np.where(tied_FA & odd_FA, -shorter_FA, shorter_FA)


def walk(layout: TorusLayout, source_W: Ints, target_W: Ints, vector_WA: Ints, order_WA: Ints) -> Paths:
    """The links of each way: all steps along the first axis of its order, then along the next; between slices the
    node's link up into the network that joins them and the other node's link down.
    """
    apart_W = layout.slice_of_device_D[source_W] != layout.slice_of_device_D[target_W]
    hops_W = np.where(apart_W, 2, np.abs(vector_WA).sum(axis=1))
    offsets = np.zeros(len(source_W) + 1, dtype=np.int64)
    np.cumsum(hops_W, out=offsets[1:])
    links = np.empty(int(offsets[-1]), dtype=np.int32)
    ahead_W = np.flatnonzero(~apart_W)
    _walk(layout.link_DP, layout.neighbor_DP, source_W, vector_WA, order_WA, ahead_W, offsets, links)
    if apart_W.any():
        per_node = len(layout.slice_of_device_D) // len(layout.dcn_up_N)
        links[offsets[:-1][apart_W]] = layout.dcn_up_N[source_W[apart_W] // per_node]
        links[offsets[:-1][apart_W] + 1] = layout.dcn_down_N[target_W[apart_W] // per_node]
    return Paths(offsets, links)


@njit(cache=True, parallel=True)
def _walk(  # type: ignore[no-untyped-def]  # one compiled signature
    link_DP, neighbor_DP, source_W, vector_WA, order_WA, ahead_W, offsets, links
):
    for place in prange(len(ahead_W)):
        way = ahead_W[place]
        chip, at = source_W[way], offsets[way]
        for turn in range(vector_WA.shape[1]):
            axis = order_WA[way, turn]
            steps = vector_WA[way, axis]
            port = 2 * axis if steps > 0 else 2 * axis + 1
            for _ in range(abs(steps)):
                links[at] = link_DP[chip, port]
                chip = neighbor_DP[chip, port]
                at += 1


def _apart(layout: TorusLayout, source_F: Ints, target_F: Ints) -> Ints:
    """Difference of the coordinates, 0 between slices."""
    same_F = layout.slice_of_device_D[source_F] == layout.slice_of_device_D[target_F]
    apart_FA = layout.coordinate_DA[target_F].astype(np.int64) - layout.coordinate_DA[source_F]
    return np.asarray(apart_FA * same_F[:, None], dtype=np.int64)


def _shorter(layout: TorusLayout, apart_FA: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """The shorter way along each axis of a plain grid, and where the other way round is as short (then it is +)."""
    lengths = np.array(layout.lengths)
    up_FA = apart_FA % lengths
    round_FA = np.where(2 * up_FA > lengths, up_FA - lengths, up_FA)
    wraps = np.array(layout.wraps)
    return np.where(wraps, round_FA, apart_FA), wraps & (2 * up_FA == lengths)


def _class(layout: TorusLayout, apart_FA: Ints) -> Ints:
    """The chip, by its flat coordinates, that is as far from chip 0 as the target from the source."""
    lengths, reduced_FA = np.array(layout.lengths), apart_FA.copy()
    for axis in np.flatnonzero(layout.twist_AA.any(axis=1)):
        rounds_F = reduced_FA[:, axis] // lengths[axis]
        reduced_FA[:, axis] -= rounds_F * lengths[axis]
        reduced_FA += rounds_F[:, None] * layout.twist_AA[axis]
    place_F: Ints = np.asarray(np.ravel_multi_index(tuple((reduced_FA % lengths).T), layout.lengths), dtype=np.int64)
    return place_F


@dataclass(frozen=True, slots=True)
class _Table:
    """The minimal vectors of class c: vectors[offsets[c]:offsets[c + 1]]."""

    offsets: Ints
    vectors: Ints


@functools.lru_cache(maxsize=8)
def _twisted_table(lengths: tuple[int, ...], twist: bytes) -> _Table:
    """Compare every number of rounds of the twisted axes that a shortest way can take, and both ways round the others.

    No way need be longer than one that stays inside its rounds of the twisted axes and takes the shorter way on the
    others; that limits the rounds.
    """
    num_axes = len(lengths)
    twist_AA: Index = np.frombuffer(twist, dtype=np.int32).reshape(num_axes, num_axes)
    twisted: list[bool] = [bool(row.any()) for row in twist_AA]
    longest = sum(length - 1 if turns else length // 2 for length, turns in zip(lengths, twisted, strict=True))
    choices = [
        range(-(longest // length) - 1, longest // length + 2) if turns else range(2)
        for length, turns in zip(lengths, twisted, strict=True)
    ]
    apart_CA = np.indices(lengths, dtype=np.int32).reshape(num_axes, -1).T
    found = np.stack(
        [_after(apart_CA, np.array(choice), twisted, lengths, twist_AA) for choice in itertools.product(*choices)]
    )
    hops = np.abs(found).sum(axis=2)
    class_V, choice_V = np.nonzero((hops == hops.min(axis=0)).T)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(class_V, minlength=len(apart_CA)))])
    return _Table(offsets.astype(np.int64), found[choice_V, class_V].astype(np.int64))


def _after(
    apart_CA: Index, choice: Ints, twisted: list[bool], lengths: tuple[int, ...], twist_AA: Index
) -> NDArray[np.int32]:
    """The vector of each class that goes so many rounds of the twisted axes, and up (0) or down (1) the others."""
    rounds = np.where(twisted, choice, 0)
    vector_CA = apart_CA + rounds * np.array(lengths) - rounds @ twist_AA
    plain_CA = vector_CA % np.array(lengths) - choice * np.array(lengths)
    after_CA: NDArray[np.int32] = np.where(twisted, vector_CA, plain_CA).astype(np.int32)
    return after_CA


def all_orders(vector_VA: Ints) -> tuple[Ints, Ints, Ints]:
    """Every different way to order the axes of each vector: the vector [W] and order [W, A] of each, in the order of
    vectors, and how many orders each vector has [V].
    """
    num_axes = vector_VA.shape[1]
    vectors, orders = [], []
    for order in itertools.permutations(range(num_axes)):
        steps_VA = vector_VA[:, order] != 0
        idle_last_V = (steps_VA[:, :-1] | ~steps_VA[:, 1:]).all(axis=1)
        rising = np.array(order[:-1]) < np.array(order[1:])
        idle_rising_V = (steps_VA[:, :-1] | rising).all(axis=1)
        vector = np.flatnonzero(idle_last_V & idle_rising_V)
        vectors.append(vector)
        orders.append(np.broadcast_to(np.array(order), (len(vector), num_axes)))
    way_W = np.concatenate(vectors)
    sorted_W = np.argsort(way_W, kind="stable")
    orders_V = np.bincount(way_W, minlength=len(vector_VA))
    return way_W[sorted_W], np.concatenate(orders)[sorted_W], orders_V
