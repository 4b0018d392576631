"""The scale-up domain every shape starts from: devices of a node and their links into its switches."""

from moesim.cluster import Accelerator, Device, Link
from moesim.errors import InputError
from moesim.topology.facts import CountFact, RateFact, Section, TimeFact

# Enough for the largest machine built, small enough that building it takes seconds and not the machine's memory.
LARGEST_CLUSTER = 131_072


class ScaleUp(Section):
    """Devices per node, bytes/s of one device into and out of the node's switches, latency end to end."""

    devices: CountFact
    bandwidth: RateFact
    latency: TimeFact


def build_devices(num_nodes: int, scale_up: ScaleUp, accelerator: Accelerator) -> tuple[Device, ...]:
    """All devices, node by node; raises InputError above LARGEST_CLUSTER devices."""
    per_node = scale_up.devices.value
    if num_nodes * per_node > LARGEST_CLUSTER:
        raise InputError(
            f"nodes={num_nodes} of {per_node} devices are {num_nodes * per_node} devices; "
            f"at most {LARGEST_CLUSTER} are built, so nodes <= {LARGEST_CLUSTER // per_node}"
        )
    return tuple(
        Device(f"node{node}.dev{local}", node * per_node + local, node, local, accelerator)
        for node in range(num_nodes)
        for local in range(per_node)
    )


def scale_up_pair(device: Device, scale_up: ScaleUp) -> tuple[Link, Link]:
    """A device's link out to its node's switches and its link in; half the published end-to-end latency on each."""
    bandwidth, latency_s = scale_up.bandwidth.value, scale_up.latency.value / 2
    name = f"{device.name}.scale_up"
    return (
        Link(f"{name}.out", bandwidth, latency_s, "scale_up"),
        Link(f"{name}.in", bandwidth, latency_s, "scale_up"),
    )
