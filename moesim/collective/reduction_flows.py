"""Reductions and sends on a cluster: how long they take alone, and as collectives for a fabric where they meet others.

On a fabric a reduction shares links with whatever else is under way by weighted max-min, and it is a transfer in flight
like a dispatch: where communication takes `sms` from compute, so does a reduction while it lasts.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, TorusLayout
from moesim.collective.link_table import LinkTable
from moesim.collective.reduction import (
    Group,
    Ints,
    Operation,
    PathsOf,
    ReductionLeg,
    ReductionTime,
    group_legs,
    leg_flows,
    side_by_side,
    time_flows,
    time_reduction,
)
from moesim.collective.schedule import Collective
from moesim.network.detours import Detours
from moesim.network.flow import Paths
from moesim.network.paths import path_policies


def reduction_time(
    cluster: Cluster,
    links: LinkTable,
    groups: Sequence[Sequence[int] | Ints],
    num_bytes: float,
    operation: Operation = "all_reduce",
    algorithm: str = "ring",
    *,
    path_policy: str | None = None,
    detours: Detours | None = None,
    fidelity: str = "bound",
    tolerance: float = 0.0,
) -> ReductionTime:
    """Seconds, and bytes by link, of one reduction that all `groups` of devices run at once, with the links to themselves.

    `num_bytes`: what each device holds before (all-reduce, reduce-scatter) or after (all-gather). `algorithm`: ring, tree
    or two_hop; on a torus a ring goes along every axis of a group that is a grid (`axis_rings`). Raises UnknownName for
    another, InputError for a device that is twice in a group.
    """
    return time_reduction(
        algorithm,
        operation,
        [Group(np.asarray(devices), num_bytes) for devices in groups],
        node_of_device=cluster.node_of_device_D,
        paths_of=device_paths(cluster, path_policy, detours),
        bandwidth=links.bandwidth,
        latency_s=links.latency_s,
        coordinate_DA=_coordinates(cluster),
        fidelity=fidelity,
        tolerance=tolerance,
    )


def reduction_collectives(
    cluster: Cluster,
    links: LinkTable,
    groups: Sequence[Group],
    operation: Operation,
    algorithm: str = "ring",
    *,
    path_policy: str | None = None,
    detours: Detours | None = None,
) -> tuple[Collective, ...]:
    """The legs of a reduction as collectives, to be run one after the other by every device of the cluster.

    A device's flows start when it arrives; it goes on when all flows of its group have ended. Devices in no group neither
    send nor wait. Flows of different groups do not wait for each other: no barrier between groups, unlike `reduction_time`.
    """
    parts = group_legs(algorithm, operation, groups, cluster.node_of_device_D, _coordinates(cluster))
    paths_of = device_paths(cluster, path_policy, detours)
    collectives = []
    for place, legs in enumerate(side_by_side(parts)):
        present = [group for group, part in zip(groups, parts, strict=True) if place < len(part)]
        flows = leg_flows(legs, paths_of, links.latency_s)
        sizes = [len(leg.source_F) for leg in legs]
        offsets, waited = _waits_for_own_group([group.devices for group in present], cluster.num_devices)
        collectives.append(
            Collective(
                flows=flows,
                starter_F=flows.source_F,
                group_F=np.repeat(np.arange(len(legs)), sizes).astype(np.int32),
                num_ranks=cluster.num_devices,
                waits_offsets=offsets,
                waits_groups=waited,
                fixed_s=0.0,
                chunk_s=0.0,
            )
        )
    return tuple(collectives)


def send_time(
    cluster: Cluster,
    links: LinkTable,
    source: Sequence[int] | Ints,
    target: Sequence[int] | Ints,
    num_bytes: float,
    *,
    path_policy: str | None = None,
    detours: Detours | None = None,
    fidelity: str = "bound",
) -> float:
    """Seconds until `num_bytes` bytes from every source have reached the target at the same place, all sent at once.

    What one stage of a pipeline hands to the next (send and receive); a device that sends to itself takes no time.
    """
    source_F, target_F = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
    if not len(source_F):
        return 0.0
    leg = ReductionLeg(source_F, target_F, np.full(len(source_F), float(num_bytes)), 1)
    flows = leg_flows([leg], device_paths(cluster, path_policy, detours), links.latency_s)
    return time_flows(flows, links.bandwidth, fidelity, 0.0)


def device_paths(cluster: Cluster, path_policy: str | None, detours: Detours | None) -> PathsOf:
    """How flows of `cluster` find their links: by the policy (None: the cluster's own), round dead links."""
    policy = path_policies.get(path_policy or cluster.default_path_policy)

    def paths_of(source_F: Ints, target_F: Ints) -> Paths:
        paths: Paths = policy(cluster, source_F, target_F)
        return paths if detours is None else detours.around(paths, source_F, target_F)

    return paths_of


def _coordinates(cluster: Cluster) -> NDArray[np.int32] | None:
    """Places of the devices on a torus of one slice; None elsewhere."""
    layout = cluster.layout
    return layout.coordinate_DA if isinstance(layout, TorusLayout) and layout.num_slices == 1 else None


def _waits_for_own_group(members: list[Ints], num_devices: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Every device waits for the groups it is in, ascending, as offsets [D + 1] and group ids."""
    device = np.concatenate(members)
    group = np.repeat(np.arange(len(members)), [len(devices) for devices in members])
    counts = np.bincount(device, minlength=num_devices)
    order = np.argsort(device, kind="stable")
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), group[order].astype(np.int32)
