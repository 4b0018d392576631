"""LinkTable: the links flows run over: the cluster's, at the rates the profile reaches, and each device's copy engine.

A copy engine is modelled as private links of `sms` x rate per SM: one for what a device sends and one for what it
receives, its own copies included. Dispatch and combine have engines of their own because their rates differ.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moesim.calibration import KernelProfile, LinkProfile, Operation
from moesim.cluster import TIERS, Cluster

OPERATIONS: tuple[Operation, ...] = ("dispatch", "combine")
COPY_ENGINE = "copy_engine"
# Whose fraction of the nominal rate a tier's links reach: a torus's links are the chips' own fabric, all others carry
# the NICs' packets with the NICs' headers.
REACHED_AS: Mapping[str, Literal["scale_up", "nic"]] = MappingProxyType(
    {tier: "scale_up" if tier in ("scale_up", "ici") else "nic" for tier in TIERS}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTable:
    """Bandwidth (bytes/s), latency (s), name and tier of every link; `engine_out_D[operation]` is a first link id.

    `engine_out` and `engine_in` map an operation to the link id of device 0's engine (device d's is d further on), or
    to None when the kernel's profile has no engine rate.
    """

    bandwidth: NDArray[np.float64]
    latency_s: NDArray[np.float64]
    names: tuple[str, ...]
    tiers: tuple[str, ...]
    engine_out: dict[str, int | None]
    engine_in: dict[str, int | None]


def build_link_table(cluster: Cluster, links: LinkProfile, kernel: KernelProfile, sms: int | None) -> LinkTable:
    """The table for one cluster and kernel; `sms` overrides the kernel's number of SMs."""
    fraction = {
        "scale_up": (kernel.scale_up or links.scale_up).value,
        "nic": (kernel.nic or links.nic).value,
    }
    bandwidth = [link.bandwidth_bytes_per_s * fraction[REACHED_AS[link.tier]] for link in cluster.links]
    names = [link.name for link in cluster.links]
    tiers: list[str] = [link.tier for link in cluster.links]
    engine_out: dict[str, int | None] = {}
    engine_in: dict[str, int | None] = {}
    for operation in OPERATIONS:
        rate = _engine_rate(cluster, kernel, operation, sms)
        for side, engine in (("out", engine_out), ("in", engine_in)):
            engine[operation] = len(names) if rate is not None else None
            if rate is not None:
                bandwidth += [rate * device.speed for device in cluster.devices]
                names += [f"{device.name}.{operation}_copy.{side}" for device in cluster.devices]
                tiers += [COPY_ENGINE] * cluster.num_devices
    latency = np.zeros(len(names))
    latency[: len(cluster.links)] = cluster.link_latency_s
    return LinkTable(
        bandwidth=np.array(bandwidth),
        latency_s=latency,
        names=tuple(names),
        tiers=tuple(tiers),
        engine_out=engine_out,
        engine_in=engine_in,
    )


def _engine_rate(cluster: Cluster, kernel: KernelProfile, operation: Operation, sms: int | None) -> float | None:
    profile = kernel.operation(operation)
    rate = profile.sm_rate_in_node if cluster.num_nodes == 1 else profile.sm_rate_across_nodes
    count = sms if sms is not None else kernel.sms
    return None if rate is None or count is None else rate.value * count
