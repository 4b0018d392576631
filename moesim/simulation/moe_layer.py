"""MoELayerRun: one MoE layer of one step while ranks pass through it; built when the first rank comes, then forgotten."""

from moesim.collective.schedule import Collective
from moesim.network.fabric import Fabric
from moesim.network.transfer import Transfer
from moesim.simulation.device import Process, SimulatedDevice
from moesim.step_work import LayerWork


class MoELayerRun:
    """The layer's costs and its two transfers on the fabric; every rank runs `pass_through` once."""

    def __init__(self, work: LayerWork, ordinal: int, fabric: Fabric) -> None:
        self.work, self.ordinal = work, ordinal
        self.dispatch: Transfer = _open(fabric, work.dispatch)
        self.combine: Transfer = _open(fabric, work.combine)

    def pass_through(self, device: SimulatedDevice) -> Process:
        """Attention and router, dispatch, experts, combine; a rank waits for its own receives only, never for a barrier."""
        rank, layer = device.rank, self.ordinal
        yield from device.compute("attention", layer, float(self.work.attention.time_s[rank]))
        yield from device.communicate("dispatch", layer, self.dispatch.arrive(rank))
        yield from device.compute("experts", layer, float(self.work.experts.time_s[rank]))
        yield from device.communicate("combine", layer, self.combine.arrive(rank))


def _open(fabric: Fabric, collective: Collective) -> Transfer:
    return fabric.open(
        collective.flows,
        collective.starter_F,
        collective.group_F,
        collective.num_ranks,
        collective.waits_offsets,
        collective.waits_groups,
        extra_s=collective.extra_s,
    )
