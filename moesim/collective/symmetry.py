"""Symmetry: which groups of devices are the same but for names, so that what one does stands for all of them.

Ranks of two groups correspond by position. Array letters: F flow.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.collective.schedule import CollectiveBuilder
from moesim.network.paths import split_paths


def classes(builders: Sequence[CollectiveBuilder]) -> list[int]:
    """The class of each builder's ranks, numbered by first appearance; those of one class are symmetric."""
    if len(builders) == 1:
        return [0]
    known: dict[bytes, int] = {}
    return [known.setdefault(_signature(builder), len(known)) for builder in builders]


def _signature(builder: CollectiveBuilder) -> bytes:
    """What decides the times of a group: its devices, and the paths between all pairs of an expert-parallel group.

    Links enter by the order in which paths meet them, with their rates and latencies: two groups whose paths differ in
    which flows share a link have different signatures.
    """
    ranks = np.arange(builder.num_ranks)
    device_of_rank = ranks if builder.device_of_rank is None else builder.device_of_rank
    group = ranks.reshape(-1, builder.group_size)
    source_F = device_of_rank[np.repeat(group, builder.group_size, axis=1).ravel()]
    target_F = device_of_rank[np.tile(group, builder.group_size).ravel()]
    split = split_paths(builder.path_policy, builder.cluster, source_F, target_F)
    paths = split.paths
    if builder.detours is not None:
        paths = builder.detours.around(paths, source_F[split.flow_P], target_F[split.flow_P])
    met = _in_order_of_appearance(paths.links)
    rank_of_link = np.empty(int(paths.links.max(initial=-1)) + 1, dtype=np.int64)
    rank_of_link[met] = np.arange(len(met))
    text = repr([(d.accelerator.name, d.speed, d.memory_bytes) for d in builder.devices])
    digest = hashlib.sha256(text.encode())
    for array in (
        paths.offsets,
        rank_of_link[paths.links],
        split.flow_P,
        split.share_P,
        builder.links.bandwidth[met],
        builder.links.latency_s[met],
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _in_order_of_appearance(numbers: NDArray[np.int32]) -> NDArray[np.int64]:
    """The distinct numbers, whichever comes first in front; without sorting them all, for there are few."""
    first = np.full(int(numbers.max(initial=-1)) + 1, numbers.size)
    first[numbers[::-1]] = np.arange(numbers.size)[::-1]  # of equal ones the last assignment stays
    seen = np.flatnonzero(first < numbers.size)
    return seen[np.argsort(first[seen])]
