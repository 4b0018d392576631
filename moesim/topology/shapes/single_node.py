"""Shape single_node: one scale-up domain without a network around it.

Every device has one link out to the node's switches and one link in; the switches themselves never limit.
"""

from typing import Literal

import numpy as np

from moesim.cluster import Accelerator, Cluster, TreeLayout
from moesim.errors import InputError
from moesim.topology.facts import Count, Section
from moesim.topology.header import NodesHeader
from moesim.topology.scale_up import ScaleUp, build_devices, scale_up_pair


class Spec(NodesHeader):
    """A topology file of this shape."""

    shape: Literal["single_node"]
    scale_up: ScaleUp


class Parameters(Section):
    """What may be asked for beside the file: only that there is one node."""

    nodes: Count | None = None


def build(spec: Spec, parameters: Parameters, accelerator: Accelerator, sources: tuple[str, ...]) -> Cluster:
    """The node as a cluster; raises InputError when more than one node is asked for."""
    nodes = parameters.nodes or spec.nodes.value
    if nodes != 1:
        raise InputError(f"{spec.name} is a single node, got nodes={nodes}; use a topology with a network for more")
    devices = build_devices(1, spec.scale_up, accelerator)
    links = tuple(link for device in devices for link in scale_up_pair(device, spec.scale_up))
    index_D = np.arange(len(devices), dtype=np.int32)
    zero_D, none_D = np.zeros_like(index_D), np.full_like(index_D, -1)
    no_links = np.zeros(0, dtype=np.int32)
    layout = TreeLayout(
        node_of_device_D=zero_D,
        local_index_D=index_D,
        rail_of_device_D=index_D,
        leaf_of_device_D=none_D,
        scale_up_out_D=2 * index_D,
        scale_up_in_D=2 * index_D + 1,
        nic_out_D=none_D,
        nic_in_D=none_D,
        unit_of_leaf=no_links,
        group_of_leaf=no_links,
        leaf_up=no_links,
        leaf_down=no_links,
        pod_of_group=no_links,
        group_up=no_links,
        group_down=no_links,
        leaf_cables=no_links,
        group_cables=no_links,
    )
    return Cluster(name=spec.name, devices=devices, links=links, layout=layout, sources=sources)
