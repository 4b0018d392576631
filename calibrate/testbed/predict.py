"""Predict: one layer's time on the emulated cluster by moesim's simulator: its collectives, its fluid fabric, its clock.

Only the layer itself is run: no attention, no router. Array letters: D rank, N node, P slot.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from calibrate.testbed.cases import LayerShape
from calibrate.testbed.topology import emulated
from calibrate.testbed.wiring import Wiring
from moesim.calibration import CalibrationProfile
from moesim.collective.link_table import OPERATIONS, build_link_table
from moesim.collective.schedule import Collective, CollectiveBuilder
from moesim.compute import DeviceRates, expert_cost
from moesim.model import MoEModel
from moesim.network.fabric import FluidFabric
from moesim.simulation.device import Process, SimulatedDevice
from moesim.simulation.moe_layer import open_transfer
from moesim.simulation.recorder import Recorder
from moesim.traffic import PlacedTraffic, copy_bytes

KERNEL_OF = {"direct": "gloo-direct", "node_dedup": "gloo-two-hop"}
WEIGHTS = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseEnds:
    """When the last rank has dispatched, computed and combined, seconds from the common start."""

    dispatch_s: float
    experts_s: float
    combine_s: float

    @property
    def layer_s(self) -> float:
        """The layer's time."""
        return self.combine_s


def with_own_sends(collective: Collective) -> Collective:
    """The collective whose ranks go on when their own sends have ended too, as a call that returns both ways done.

    moesim's ranks wait for receives only. The difference shows beside a hot rank: whoever still sends to it has not come
    to its experts, and takes no bandwidth for its combine yet.
    """
    flows = collective.flows
    index_F = np.arange(flows.num_flows)
    groups = []
    for rank in range(collective.num_ranks):
        waited = collective.waits_groups[collective.waits_offsets[rank] : collective.waits_offsets[rank + 1]]
        awaited_F = np.isin(collective.group_F, waited) | (flows.source_F == rank)
        groups.append(index_F[awaited_F])
    offsets = np.cumsum([0] + [len(group) for group in groups])
    return dataclasses.replace(
        collective,
        group_F=index_F.astype(np.int32),
        waits_offsets=offsets.astype(np.int64),
        waits_groups=np.concatenate(groups).astype(np.int32),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictor:
    """moesim set up for one wiring, layer shape, routing size and profile."""

    wiring: Wiring
    shape: LayerShape
    profile: CalibrationProfile
    experts: int
    top_k: int

    def predict(
        self, traffic: PlacedTraffic, algorithm: str, device_of_slot_P: NDArray[np.int32], *, in_turn: bool = False
    ) -> PhaseEnds:
        """One layer whose ranks start together; a rank goes on when its own messages, both ways, are through.

        `in_turn`: nobody goes on to the next phase before all have ended the last one, so that each collective has the
        links to itself.
        """
        builder = self.builder(algorithm)
        experts_D = self.experts_s(traffic.load_P, device_of_slot_P)
        env = simpy.Environment()
        fabric = FluidFabric(env, builder.links.bandwidth)
        dispatch, combine = (
            open_transfer(fabric, with_own_sends(builder.build((traffic.counts,), operation)))
            for operation in OPERATIONS
        )
        ends = np.zeros((3, self.wiring.ranks))
        recorder = Recorder(0, 0.0)
        over = [env.event() for _ in range(2)]

        def pause(phase: int) -> Process:
            """Wait for the last rank to end `phase`, where phases run in turn."""
            if in_turn:
                if np.count_nonzero(ends[phase]) == self.wiring.ranks:
                    over[phase].succeed()
                yield over[phase]

        def layer(rank: int) -> Process:
            """One rank from the common start to its combined tokens."""
            device = SimulatedDevice(env, rank, recorder)
            yield from device.communicate("dispatch", 0, dispatch.arrive(rank))
            ends[0, rank] = env.now
            yield from pause(0)
            yield from device.compute("experts", 0, float(experts_D[rank]))
            ends[1, rank] = env.now
            yield from pause(1)
            yield from device.communicate("combine", 0, combine.arrive(rank))
            ends[2, rank] = env.now

        for rank in range(self.wiring.ranks):
            env.process(layer(rank))
        env.run()
        dispatch_s, experts_s, combine_s = ends.max(axis=1).tolist()
        return PhaseEnds(dispatch_s=dispatch_s, experts_s=experts_s, combine_s=combine_s)

    def builder(self, algorithm: str) -> CollectiveBuilder:
        """How moesim turns counted copies into flows on the emulated links."""
        cluster, kernel = emulated(self.wiring), self.profile.kernel(KERNEL_OF[algorithm])
        row = copy_bytes(self.shape.width, WEIGHTS)
        return CollectiveBuilder(
            cluster=cluster,
            links=build_link_table(cluster, self.profile.links, kernel, None),
            kernel=kernel,
            algorithm=algorithm,
            path_policy=cluster.default_path_policy,
            group_size=self.wiring.ranks,
            bytes_per_copy={"dispatch": row, "combine": row},
        )

    def experts_s(self, load_P: NDArray[np.int64], device_of_slot_P: NDArray[np.int32]) -> NDArray[np.float64]:
        """Seconds of each rank's experts [D]."""
        rates = DeviceRates.of(emulated(self.wiring).devices, self.profile.compute)
        return expert_cost(load_P, device_of_slot_P, rates, self.model(), WEIGHTS).time_s

    def model(self) -> MoEModel:
        """The layer as a model of one layer without attention."""
        moe = {
            "num_experts": self.experts,
            "top_k": self.top_k,
            "expert_d_ff": self.shape.hidden,
            "gated": True,
            "router": {"kind": "softmax_top_k"},
        }
        return MoEModel.model_validate(
            {
                "format_version": 1,
                "name": "emulated-layer",
                "family": "decoder",
                "layers": {"count": 1},
                "d_model": self.shape.width,
                "attention": None,
                "moe": moe,
                "vocab_size": None,
                "weight_dtype": WEIGHTS,
                "dense_dtype": WEIGHTS,
                "sources": {"*": {"kind": "assumed", "source": "the layer that the emulated cluster runs"}},
            }
        )
