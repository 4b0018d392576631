"""Faults: what breaks when, and what of the cluster is left at each time; pure, no clock.

Array letters: D device, J link. An era is a stretch of a step in which nothing changes: `healths` lists what holds in each.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout, TorusLayout, TreeLayout
from moesim.errors import InputError
from moesim.units import format_time

Kind = Literal["slow_device", "slow_link", "link_down", "device_down"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that breaks `at_s` seconds into every step (0 = from the start) and stays broken.

    `device` (an index) for the kinds of devices, `link` (a name) for those of links; `factor` = speed or bandwidth that
    is left, above 0 and at most 1, for the slow kinds. Raises InputError for anything else.
    """

    kind: Kind
    at_s: float = 0.0
    device: int | None = None
    link: str | None = None
    factor: float | None = None

    def __post_init__(self) -> None:
        wanted, other = ("device", "link") if self.kind in ("slow_device", "device_down") else ("link", "device")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise InputError(f"fault {self.kind} is about a {wanted}; give the key {wanted} and no {other}")
        if (self.factor is not None) != self.kind.startswith("slow"):
            rule = "needs factor, the part that is left" if self.kind.startswith("slow") else "takes no factor"
            raise InputError(f"fault {self.kind} {rule}")
        if self.factor is not None and not 0.0 < self.factor <= 1.0:
            raise InputError(f"fault {self.kind}: factor is {self.factor}, outside (0, 1]; it is the part that is left")
        if not 0.0 <= self.at_s < np.inf:
            raise InputError(f"fault {self.kind}: at is {self.at_s} s; it must be 0 or more and finite")

    def sentence(self, cluster: Cluster) -> str:
        """What breaks, and when, in words."""
        name = self.link if self.device is None else cluster.devices[self.device].name
        what = {
            "slow_device": f"device {self.device} ({name}) computes and copies at {self.factor} of its speed",
            "slow_link": f"link {name} has {self.factor} of its bandwidth",
            "link_down": f"link {name} is down",
            "device_down": f"device {self.device} ({name}) is down",
        }[self.kind]
        return f"fault: {what}, " + (f"from {format_time(self.at_s)} into each step" if self.at_s else "from the start")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Health:
    """What is left of a cluster from `since_s` on: factors of speed [D] and bandwidth [J], and what is dead.

    The links of a dead device are dead: nothing is relayed through it.
    """

    since_s: float
    speed_D: NDArray[np.float64]
    bandwidth_J: NDArray[np.float64]
    dead_D: NDArray[np.bool_]
    dead_J: NDArray[np.bool_]

    def same_as(self, other: "Health") -> bool:
        """Whether nothing but the time differs."""
        names = ("speed_D", "bandwidth_J", "dead_D", "dead_J")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)

    @property
    def dead_devices(self) -> tuple[int, ...]:
        """Indices of the dead devices, ascending."""
        return tuple(np.flatnonzero(self.dead_D).tolist())


def healths(cluster: Cluster, faults: Sequence[Fault]) -> tuple[Health, ...]:
    """What holds from time 0 on, then from every time at which something breaks; ascending.

    Faults of one thing add up (two factors multiply). Times at which nothing changes are left out. Raises InputError for a
    device the cluster has not and where none is left alive, UnknownName for a link it has not.
    """
    link_of = [_checked_target(cluster, fault) for fault in faults]
    found: list[Health] = []
    for since_s in sorted({0.0, *(fault.at_s for fault in faults)}):
        speed_D, bandwidth_J = np.ones(cluster.num_devices), np.ones(len(cluster.links))
        dead_D, dead_J = np.zeros(cluster.num_devices, np.bool_), np.zeros(len(cluster.links), np.bool_)
        for fault, link in zip(faults, link_of, strict=True):
            if fault.at_s > since_s:
                continue
            left = 1.0 if fault.factor is None else fault.factor
            if fault.kind == "slow_device":
                speed_D[fault.device] *= left
            elif fault.kind == "slow_link":
                bandwidth_J[link] *= left
            elif fault.kind == "link_down":
                dead_J[link] = True
            else:
                dead_D[fault.device] = True
        for device in np.flatnonzero(dead_D):
            dead_J[device_links(cluster, int(device))] = True
        health = Health(since_s=since_s, speed_D=speed_D, bandwidth_J=bandwidth_J, dead_D=dead_D, dead_J=dead_J)
        if not found or not health.same_as(found[-1]):
            found.append(health)
    if found[-1].dead_D.all():
        raise InputError(f"faults take down all {cluster.num_devices} devices; leave at least one alive")
    return tuple(found)


def weakened(cluster: Cluster, health: Health) -> Cluster:
    """The cluster with the speeds and bandwidths that are left; dead links keep theirs, as nothing crosses them."""
    if (health.speed_D == 1.0).all() and (health.bandwidth_J == 1.0).all():
        return cluster
    devices = tuple(
        dataclasses.replace(device, speed=device.speed * float(health.speed_D[device.index]))
        for device in cluster.devices
    )
    links = tuple(
        dataclasses.replace(link, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * float(factor))
        for link, factor in zip(cluster.links, health.bandwidth_J, strict=True)
    )
    return dataclasses.replace(cluster, devices=devices, links=links)


def device_links(cluster: Cluster, device: int) -> NDArray[np.int32]:
    """The links that start or end at a device, int32."""
    layout = cluster.layout
    if isinstance(layout, (TreeLayout, DragonflyLayout)):
        own = (layout.scale_up_out_D, layout.scale_up_in_D, layout.nic_out_D, layout.nic_in_D)
        links = np.array([column[device] for column in own], dtype=np.int32)
    elif isinstance(layout, TorusLayout):
        links = np.concatenate([layout.link_DP[device], layout.link_DP[layout.neighbor_DP == device]])
    else:
        assert isinstance(layout, GraphLayout)
        leaving = layout.links[layout.offsets[device] : layout.offsets[device + 1]]
        links = np.concatenate([leaving, layout.links[layout.targets == device]])
    return np.unique(links[links >= 0]).astype(np.int32)


def _checked_target(cluster: Cluster, fault: Fault) -> int:
    """The index of the fault's link (-1: it has a device); refuses what the cluster has not."""
    if fault.link is not None:
        return cluster.link_index(fault.link)
    assert fault.device is not None  # checked when the fault was made
    if not 0 <= fault.device < cluster.num_devices:
        last = cluster.num_devices - 1
        raise InputError(
            f"fault {fault.kind} is on device {fault.device}, but {cluster.name} has devices 0..{last}; "
            f"the nearest is device {min(max(fault.device, 0), last)}"
        )
    return -1
