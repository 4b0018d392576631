"""LayerRuns: the MoE layers of one step, each built when its first rank arrives and dropped when its last one leaves."""

from moesim.network.fabric import Fabric
from moesim.simulation.moe_layer import MoELayerRun
from moesim.simulation.observation import LayerObservation, observe
from moesim.step_work import StepWork


class LayerRuns:
    """Holds only the layers that ranks are in; what is worth keeping of the others is in `observations`, by ordinal."""

    def __init__(self, work: StepWork, fabric: Fabric) -> None:
        self.work, self.fabric = work, fabric
        self.observations: dict[int, LayerObservation] = {}
        self._running: dict[int, MoELayerRun] = {}
        self._left: dict[int, int] = {}

    def enter(self, ordinal: int) -> MoELayerRun:
        """The layer with that ordinal; built on the first call."""
        if ordinal not in self._running:
            self._running[ordinal] = MoELayerRun(self.work.layer(ordinal), ordinal, self.fabric)
            self._left[ordinal] = self.work.plan.num_devices
        return self._running[ordinal]

    def leave(self, ordinal: int) -> None:
        """A rank is through; after the last one the layer's arrays are let go."""
        self._left[ordinal] -= 1
        if self._left[ordinal] == 0:
            self.observations[ordinal] = observe(self._running.pop(ordinal), self.work.plan.builder.links.bandwidth)
