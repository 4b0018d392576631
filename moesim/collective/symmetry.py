"""Symmetry: which groups of devices are the same but for names, so that what one does stands for all of them.

Ranks of two groups correspond by position. Array letters: F flow.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from moesim.collective.schedule import CollectiveBuilder
from moesim.network.paths import split_paths


def classes(builders: Sequence[CollectiveBuilder]) -> list[int]:
    """The class of each builder's ranks, numbered by first appearance; those of one class are symmetric."""
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
    links, first, place = np.unique(paths.links, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank_of_link = np.empty(len(links), dtype=np.int64)
    rank_of_link[order] = np.arange(len(links))
    text = repr([(d.accelerator.name, d.speed, d.memory_bytes) for d in builder.devices])
    digest = hashlib.sha256(text.encode())
    for array in (
        paths.offsets,
        rank_of_link[place],
        split.flow_P,
        split.share_P,
        builder.links.bandwidth[links[order]],
        builder.links.latency_s[links[order]],
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
