"""LayerRuns: the MoE layers of one step, each built when its first rank arrives and dropped when its last one leaves."""

import dataclasses
from collections.abc import Sequence

from moesim.network.fabric import Fabric
from moesim.simulation.moe_layer import MoELayerRun
from moesim.simulation.observation import LayerObservation, observe
from moesim.step_work import StepWork, WorkPlan


class LayerRuns:
    """Holds only the layers that ranks are in; what is worth keeping of the others is in `observations`, by ordinal."""

    def __init__(self, work: StepWork, fabric: Fabric) -> None:
        self.work, self.fabric = work, fabric
        self.observations: dict[int, LayerObservation] = {}
        self._running: dict[int, MoELayerRun] = {}
        self._inside: dict[int, dict[int, None]] = {}  # ranks that have not left, in order

    def enter(self, ordinal: int) -> MoELayerRun:
        """The layer with that ordinal; built on the first call."""
        if ordinal not in self._running:
            beside = self.work.plan.overlap == "shared_expert"
            self._running[ordinal] = MoELayerRun(self.work.layer(ordinal), ordinal, self.fabric, shared_beside=beside)
            self._inside[ordinal] = dict.fromkeys(range(self.work.plan.num_devices))
            for rank in self.work.plan.builder.dead_devices:
                self._running[ordinal].abandon(rank)
                del self._inside[ordinal][rank]
        return self._running[ordinal]

    def begin_era(self, plan: WorkPlan, dying: Sequence[int]) -> None:
        """Build layers by `plan` from now on; dying ranks leave those they are in, which keep their work otherwise."""
        self.work = dataclasses.replace(self.work, plan=plan)
        for ordinal in list(self._running):
            layer = self._running[ordinal]
            for rank in dying:
                layer.abandon(rank)
            for rank in [rank for rank in dying if rank in self._inside[ordinal]]:
                layer.lose(rank)
                self.leave(ordinal, rank)

    def leave(self, ordinal: int, rank: int) -> None:
        """A rank is through; after the last one the layer's arrays are let go."""
        del self._inside[ordinal][rank]
        if not self._inside[ordinal]:
            self.observations[ordinal] = observe(self._running.pop(ordinal), self.work.plan.builder.links.bandwidth)
