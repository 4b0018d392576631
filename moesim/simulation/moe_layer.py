"""MoELayerRun: one MoE layer of one step while ranks pass through it; built when the first rank comes, then forgotten."""

from moesim.capacity import CapacityCounts
from moesim.collective.schedule import Collective
from moesim.network.fabric import Fabric
from moesim.network.transfer import Transfer
from moesim.simulation.device import Process, SimulatedDevice
from moesim.step_work import LayerWork


class MoELayerRun:
    """The layer's costs and its two transfers on the fabric; every rank runs `pass_through` once."""

    def __init__(self, work: LayerWork, ordinal: int, fabric: Fabric, *, shared_beside: bool = False) -> None:
        """With `shared_beside` the shared expert runs while the dispatch is in flight, else after the routed ones."""
        self.work, self.ordinal, self.shared_beside = work, ordinal, shared_beside
        self.lost_pairs = work.lost_pairs
        self._lost_ranks: list[int] = []
        self.dispatch: Transfer = open_transfer(fabric, work.dispatch)
        self.combine: Transfer = open_transfer(fabric, work.combine)

    def pass_through(self, device: SimulatedDevice) -> Process:
        """Attention and router, dispatch, experts, combine; a rank waits for its own receives only, never for a barrier."""
        rank, layer = device.rank, self.ordinal
        yield from device.compute("attention", layer, float(self.work.attention.time_s[rank]))
        after, beside = self.work.experts, None
        if self.shared_beside:
            after, beside = self.work.routed, device.compute("experts", layer, float(self.work.shared.time_s[rank]))
        yield from device.communicate("dispatch", layer, self.dispatch.arrive(rank), beside)
        yield from device.compute("experts", layer, float(after.time_s[rank]))
        yield from device.communicate("combine", layer, self.combine.arrive(rank))

    def abandon(self, rank: int) -> None:
        """Let a dead rank's flows, which carry nothing, start where they have not, so that nobody waits for them."""
        for transfer in (self.dispatch, self.combine):
            if not transfer.waits.arrived_P[rank]:
                transfer.arrive(rank)

    def lose(self, rank: int) -> None:
        """Count as lost what a rank that dies inside the layer has of it: pairs of its tokens, and pairs of its experts."""
        self._lost_ranks.append(rank)
        self.lost_pairs = self.work.lost_pairs + self.work.pairs_of(self._lost_ranks)

    @property
    def capacity(self) -> CapacityCounts:
        """The layer's counts, lost pairs not kept."""
        counts = self.work.capacity
        return counts._replace(kept=counts.kept - (self.lost_pairs - self.work.lost_pairs))


def open_transfer(fabric: Fabric, collective: Collective) -> Transfer:
    """The collective on the fabric, ready for its ranks to arrive."""
    return fabric.open(
        collective.flows,
        collective.starter_F,
        collective.group_F,
        collective.num_ranks,
        collective.waits_offsets,
        collective.waits_groups,
        extra_s=collective.extra_s,
    )
