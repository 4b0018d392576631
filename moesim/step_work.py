"""StepWork: what one step asks of every device and link, before anybody says when: compute costs and collectives.

The simulation runs it on a clock (SimPy), step_bound evaluates it in closed form; both see the same numbers.
Array letters: L MoE ordinal, T token, K top-k, D device, P slot.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.collective.schedule import Collective, CollectiveBuilder
from moesim.compute import Cost, DeviceRates, expert_cost, matrix_cost, score_cost
from moesim.model import MoEModel
from moesim.placement import ExpertPlacement
from moesim.routing import DealtStep
from moesim.traffic import PlacedTraffic, count_placed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWork:
    """One MoE layer of one step: costs [D] and the two collectives; `traffic_G` per expert-parallel group."""

    attention: Cost
    experts: Cost
    dispatch: Collective
    combine: Collective
    traffic_G: tuple[PlacedTraffic, ...]

    @property
    def load_D(self) -> NDArray[np.int64]:
        """(token, expert) pairs each device computes."""
        return np.concatenate([traffic.counts.load_D for traffic in self.traffic_G])

    @property
    def fanout_nodes_count(self) -> NDArray[np.int64]:
        """Tokens sent to n distinct nodes, at index n."""
        total: NDArray[np.int64] = np.sum([traffic.counts.fanout_nodes_count for traffic in self.traffic_G], axis=0)
        return total

    def mean_fanout(self) -> tuple[float, float]:
        """Mean distinct nodes and devices per token."""
        tokens = np.array([traffic.counts.num_tokens for traffic in self.traffic_G], dtype=np.float64)
        weights = tokens if tokens.sum() > 0 else np.ones(len(tokens))
        nodes = [traffic.counts.fanout_nodes for traffic in self.traffic_G]
        devices = [traffic.counts.fanout_devices for traffic in self.traffic_G]
        return float(np.average(nodes, weights=weights)), float(np.average(devices, weights=weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPlan:
    """What all steps of a run share: dims, rates, placements (one per MoE ordinal) and how collectives are built."""

    model: MoEModel
    rates: DeviceRates
    builder: CollectiveBuilder
    placements: tuple[ExpertPlacement, ...]
    replica_policy: str
    weight_dtype: str
    decode: bool
    context_length: int
    seed: int

    @property
    def num_devices(self) -> int:
        """Ranks, one per device."""
        return self.builder.cluster.num_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """One dealt step; layers are built when asked for, since the flows of all of them may not fit in memory."""

    plan: WorkPlan
    dealt: DealtStep

    @property
    def tokens_D(self) -> NDArray[np.float64]:
        """Tokens of each rank in this step."""
        return np.bincount(self.dealt.rank_T, minlength=self.plan.num_devices).astype(np.float64)

    def layer(self, ordinal: int) -> LayerWork:
        """Work of the MoE layer with that ordinal."""
        traffic_G = self._traffic(ordinal)
        counts_G = tuple(traffic.counts for traffic in traffic_G)
        index = self.plan.model.moe_layer_indices[ordinal]
        return LayerWork(
            attention=self._attention(index) + self._matrices(self.plan.model.router_params, "bf16"),
            experts=self._experts(ordinal, traffic_G),
            dispatch=self.plan.builder.build(counts_G, "dispatch"),
            combine=self.plan.builder.build(counts_G, "combine"),
            traffic_G=traffic_G,
        )

    def dense_layer(self, index: int) -> Cost:
        """Attention and MLP of the dense model layer `index`."""
        plan = self.plan
        return self._attention(index) + self._matrices(plan.model.dense_params, plan.model.dense_dtype)

    def head(self) -> Cost:
        """The output head: vocab_size x d_model."""
        model = self.plan.model
        return self._matrices((model.vocab_size or 0) * model.d_model, model.dense_dtype)

    def _attention(self, index: int) -> Cost:
        plan = self.plan
        projections = self._matrices(plan.model.attention_weight_params(index), plan.model.dense_dtype)
        scores = score_cost(self.tokens_D, self._context(), plan.rates, plan.model, index, decode=plan.decode)
        return projections + scores

    def _context(self) -> int:
        """Decode: the cached tokens. Prefill: half a rank's tokens, the mean over one causal chunk."""
        if self.plan.decode:
            return self.plan.context_length
        return int(self.tokens_D.max(initial=0.0)) // 2

    def _experts(self, ordinal: int, traffic_G: tuple[PlacedTraffic, ...]) -> Cost:
        plan = self.plan
        placement = plan.placements[ordinal]
        load_P = np.concatenate([traffic.load_P for traffic in traffic_G])
        device_P = np.concatenate(
            [placement.device_of_slot_P + g * plan.builder.group_size for g in range(len(traffic_G))]
        )
        routed = expert_cost(load_P, device_P, plan.rates, plan.model, plan.weight_dtype)
        return routed + self._matrices(plan.model.shared_params, plan.weight_dtype)

    def _matrices(self, num_params: float, dtype: str) -> Cost:
        return matrix_cost(self.tokens_D, num_params, self.plan.rates, dtype)

    def _traffic(self, ordinal: int) -> tuple[PlacedTraffic, ...]:
        plan, dealt = self.plan, self.dealt
        size = plan.builder.group_size
        experts_TK = np.ascontiguousarray(dealt.experts_LTK[ordinal])
        answers = []
        for first in range(0, plan.num_devices, size):
            if size == plan.num_devices:
                mine: slice | NDArray[np.bool_] = slice(None)
            else:
                mine = (dealt.rank_T >= first) & (dealt.rank_T < first + size)
            answers.append(
                count_placed(
                    experts_TK[mine],
                    (dealt.rank_T[mine] - first).astype(np.int32),
                    plan.placements[ordinal],
                    plan.replica_policy,
                    plan.builder.devices_per_node,
                    plan.seed + ordinal,
                    token_offset=dealt.step * len(dealt.rank_T),  # a new step draws its copies anew
                )
            )
        return tuple(answers)
