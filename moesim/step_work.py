"""StepWork: what one step asks of every device and link, before anybody says when: compute costs and collectives.

The simulation runs it on a clock (SimPy), step_bound evaluates it in closed form; both see the same numbers.
Array letters: L MoE ordinal, T token, K top-k, D device, P slot.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.capacity import DROPLESS, NO_COUNTS, Capacity, CapacityCounts, CappedRouting, total_counts
from moesim.collective.schedule import Collective, CollectiveBuilder
from moesim.compute import Cost, DeviceRates, expert_cost, matrix_cost, score_cost
from moesim.expert_cache import ExpertCache
from moesim.memory import (
    activation_bytes,
    cache_bytes,
    most_copies,
    other_weight_bytes,
    slot_bytes,
    slots_of_devices,
    tightest_device,
)
from moesim.model import MoEModel, dtype_bytes
from moesim.padding import fill_buffers, send_padding
from moesim.placement import ExpertPlacement
from moesim.routing import DealtStep
from moesim.traffic import PlacedTraffic, count_placed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWork:
    """One MoE layer of one step: costs [D] and the two collectives; `traffic_G` per expert-parallel group.

    `experts` are the `routed` ones and then the `shared` one. `lost_pairs` (token, expert) pairs
    are of a token or an expert that is on dead devices only; `capacity` counts them as routed and not kept.
    """

    attention: Cost
    experts: Cost
    routed: Cost
    shared: Cost
    dispatch: Collective
    combine: Collective
    traffic_G: tuple[PlacedTraffic, ...]
    capacity: CapacityCounts = NO_COUNTS
    lost_pairs: int = 0
    dead_devices: tuple[int, ...] = ()

    @property
    def load_D(self) -> NDArray[np.int64]:
        """(token, expert) pairs each device computes, rows of padding included."""
        return np.concatenate([traffic.counts.load_D for traffic in self.traffic_G])

    @property
    def fanout_nodes_count(self) -> NDArray[np.int64]:
        """Tokens sent to n distinct nodes, at index n."""
        total: NDArray[np.int64] = np.sum([traffic.counts.fanout_nodes_count for traffic in self.traffic_G], axis=0)
        return total

    def pairs_of(self, ranks: Sequence[int]) -> int:
        """Computed (token, expert) pairs whose token or whose expert's copy is on one of `ranks`; padding is none."""
        first, pairs = 0, 0
        for traffic in self.traffic_G:
            pairs_DD = traffic.counts.per_expert_DD
            mine_D = np.isin(np.arange(first, first + len(pairs_DD)), ranks)
            pairs += int(pairs_DD[mine_D].sum() + pairs_DD[~mine_D][:, mine_D].sum())
            first += len(pairs_DD)
        return min(pairs, self.capacity.kept)

    def mean_fanout(self) -> tuple[float, float]:
        """Mean distinct nodes and devices per token."""
        tokens = np.array([traffic.counts.num_tokens for traffic in self.traffic_G], dtype=np.float64)
        weights = tokens if tokens.sum() > 0 else np.ones(len(tokens))
        nodes = [traffic.counts.fanout_nodes for traffic in self.traffic_G]
        devices = [traffic.counts.fanout_devices for traffic in self.traffic_G]
        return float(np.average(nodes, weights=weights)), float(np.average(devices, weights=weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkPlan:
    """What all steps of a run share: dims, rates, placements (one per MoE ordinal) and how collectives are built.

    `later` says what changes in the course of every step, ascending in time; dead devices are the builder's. The weights of
    attention and dense matrices are cut among `tp` devices, those of experts among `etp`.
    """

    model: MoEModel
    rates: DeviceRates
    builder: CollectiveBuilder
    placements: tuple[ExpertPlacement, ...]
    replica_policy: str
    weight_dtype: str
    decode: bool
    context_length: int
    seed: int
    capacity: Capacity = DROPLESS
    overlap: str = "none"
    communication_sms: int = 0  # taken from compute while a transfer is in flight (overlap dualpipe)
    later: tuple["Era", ...] = ()
    tp: int = 1
    etp: int = 1
    capacity_factors: tuple[float, ...] = ()  # one per layer, in place of `capacity`'s own; () = that for all
    cache: ExpertCache | None = None  # None: every device holds all its slots in its own memory

    def capacity_of(self, ordinal: int | None) -> Capacity:
        """The capacity of a MoE layer; None: that of the layer which accepts most."""
        if not self.capacity_factors or self.capacity.is_dropless:
            return self.capacity
        factor = max(self.capacity_factors) if ordinal is None else self.capacity_factors[ordinal]
        return dataclasses.replace(self.capacity, factor=factor)

    @property
    def num_devices(self) -> int:
        """Ranks, one per device."""
        return self.builder.num_ranks

    @property
    def sms_share_D(self) -> NDArray[np.float64]:
        """The fraction of each device's compute that communication in flight takes [D]; 0 where SMs are not known."""
        sms = [device.accelerator.num_sms for device in self.builder.devices]
        return np.array([self.communication_sms / count if count else 0.0 for count in sms])

    def memory_device(self) -> tuple[int, float]:
        """The device with least memory beside its expert slots, and the bytes of those slots."""
        slots_D, each = slots_of_devices(self.placements), slot_bytes(self.model, self.weight_dtype)
        memory_D = np.array([device.memory_bytes for device in self.builder.devices])
        if self.cache is not None:
            slots_D = np.minimum(slots_D, int(self.cache.cache_bytes // each))
        device = tightest_device(slots_D, each, memory_D)
        return device, float(slots_D[device % len(slots_D)] * each)


@dataclass(frozen=True, slots=True, kw_only=True)
class Era:
    """From `since_s` into the step: the plan by which layers are built, and speeds [D] beside those at its start."""

    since_s: float
    plan: WorkPlan
    speed_D: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWork:
    """One dealt step; layers are built when asked for, since the flows of all of them may not fit in memory.

    `context`: tokens each token sees before it, where that is not what the mode says.
    """

    plan: WorkPlan
    dealt: DealtStep
    context: int | None = None

    def micro_batches(self) -> tuple["StepWork", ...]:
        """What goes through the layers side by side: the step itself, or two halves of every rank's tokens.

        Prefill halves cut a rank's chunk: the second half sees the first, so that both together see what the chunk saw.
        """
        if self.plan.overlap not in ("two_batch", "dualpipe"):
            return (self,)
        rank_T = self.dealt.rank_T
        order = np.argsort(rank_T, kind="stable")
        count_D = np.bincount(rank_T, minlength=self.plan.num_devices)
        place_T = np.empty(len(rank_T), dtype=np.int64)
        place_T[order] = np.arange(len(rank_T)) - (np.cumsum(count_D) - count_D)[rank_T[order]]
        first_T = place_T < -(-count_D // 2)[rank_T]
        whole = int(count_D.max(initial=0))
        contexts = (None, None) if self.plan.decode else (whole // 4, 3 * whole // 4)
        parts = (_tokens_of(self.dealt, mine) for mine in (first_T, ~first_T))
        return tuple(
            StepWork(plan=self.plan, dealt=part, context=context) for part, context in zip(parts, contexts, strict=True)
        )

    @property
    def tokens_D(self) -> NDArray[np.float64]:
        """Tokens of each rank in this step; a dead device has none."""
        tokens_D = np.bincount(self.dealt.rank_T, minlength=self.plan.num_devices).astype(np.float64)
        tokens_D[list(self.plan.builder.dead_devices)] = 0.0
        return tokens_D

    def memory_parts(self) -> dict[str, float]:
        """Bytes by part that the plan's `memory_device` holds in this step, before anything is routed."""
        plan, tokens = self.plan, float(self.tokens_D.max(initial=0.0))
        builder, model = plan.builder, plan.model
        layer_slots = max(int(placement.slots_of_devices.max()) for placement in plan.placements)
        rows = plan.capacity_of(None).buffer_rows(int(tokens), builder.group_size, model.top_k, model.num_experts)
        copies = most_copies(builder.algorithm, tokens * builder.group_size, model.top_k, layer_slots, rows)
        if plan.capacity.policy == "pad" and rows is not None:
            copies = layer_slots * rows  # padded buffers are full, even where fewer tokens could come
        return {
            "expert_weights": plan.memory_device()[1],
            "other_weights": other_weight_bytes(model, plan.weight_dtype),
            "kv_cache": cache_bytes(model, tokens, plan.context_length, decode=plan.decode),
            "dispatch_buffers": float(copies * sum(builder.bytes_per_copy.values())),
            "activations": activation_bytes(model, tokens),
        }

    def layer(self, ordinal: int) -> LayerWork:
        """Work of the MoE layer with that ordinal."""
        traffic_G, capacity, lost_pairs = self._traffic(ordinal)
        counts_G = tuple(traffic.counts for traffic in traffic_G)
        index = self.plan.model.moe_layer_indices[ordinal]
        shared = self._matrices(self.plan.model.shared_params, self.plan.weight_dtype)
        routed = self._experts(ordinal, traffic_G)
        return LayerWork(
            attention=self._attention(index) + self.router(),
            experts=routed + shared,
            routed=routed,
            shared=shared,
            dispatch=self.plan.builder.build(counts_G, "dispatch"),
            combine=self.plan.builder.build(counts_G, "combine"),
            traffic_G=traffic_G,
            capacity=capacity,
            lost_pairs=lost_pairs,
            dead_devices=self.plan.builder.dead_devices,
        )

    def dense_layer(self, index: int) -> Cost:
        """Attention and MLP of the dense model layer `index`."""
        return self._attention(index) + self.dense_mlp()

    def head(self) -> Cost:
        """The output head: vocab_size x d_model."""
        model = self.plan.model
        return self._matrices((model.vocab_size or 0) * model.d_model, model.dense_dtype)

    def projections(self, index: int) -> Cost:
        """The attention matrices of model layer `index`."""
        return self._matrices(self.plan.model.attention_weight_params(index), self.plan.model.dense_dtype)

    def scores(self, index: int) -> Cost:
        """Scores and values of the attention of model layer `index`."""
        plan = self.plan
        return score_cost(self.tokens_D, self._context(), plan.rates, plan.model, index, decode=plan.decode)

    def router(self) -> Cost:
        """What routes one MoE layer; every device routes its own tokens."""
        return matrix_cost(self.tokens_D, self.plan.model.router_params, self.plan.rates, "bf16")

    def dense_mlp(self) -> Cost:
        """The MLP of one dense layer."""
        return self._matrices(self.plan.model.dense_params, self.plan.model.dense_dtype)

    def _attention(self, index: int) -> Cost:
        return self.projections(index) + self.scores(index)

    def _context(self) -> int:
        """Decode: the cached tokens. Prefill: half a rank's tokens, the mean over one causal chunk."""
        if self.context is not None:
            return self.context
        if self.plan.decode:
            return self.plan.context_length
        return int(self.tokens_D.max(initial=0.0)) // 2

    def _experts(self, ordinal: int, traffic_G: tuple[PlacedTraffic, ...]) -> Cost:
        plan = self.plan
        placement = plan.placements[ordinal]
        load_GP = np.stack([traffic.load_P for traffic in traffic_G])
        if (
            plan.etp > 1
        ):  # every device of an expert-tensor-parallel group computes its share of what all of them receive
            shared_GP = load_GP.reshape(-1, plan.etp, load_GP.shape[1]).sum(axis=1)
            load_GP = np.repeat(shared_GP, plan.etp, axis=0)
        load_P = load_GP.ravel()
        device_P, expert_of_slot_P = placement.device_of_slot_P, placement.expert_of_slot_P
        if len(traffic_G) > 1:
            device_P = np.concatenate([device_P + g * plan.builder.group_size for g in range(len(traffic_G))])
            expert_of_slot_P = np.tile(expert_of_slot_P, len(traffic_G))
        cost = expert_cost(
            load_P, device_P, plan.rates, _cut_experts(plan.model, plan.etp), plan.weight_dtype, expert_of_slot_P
        )
        if plan.cache is None:
            return cost
        each = plan.model.expert_params * dtype_bytes(plan.weight_dtype) / plan.etp
        fetch_s = plan.cache.fetch_s(ordinal, load_P, device_P, each, plan.num_devices)
        return cost + Cost(fetch_s, fetch_s > 0)

    def _matrices(self, num_params: float, dtype: str) -> Cost:
        """All tokens of a tensor-parallel group through this device's share of the matrices."""
        tp = self.plan.tp
        return matrix_cost(self.tokens_D * tp, num_params / tp, self.plan.rates, dtype)

    def _traffic(self, ordinal: int) -> tuple[tuple[PlacedTraffic, ...], CapacityCounts, int]:
        """What fits the experts' capacity, counted per expert-parallel group; how much did not; pairs lost by faults."""
        plan, dealt = self.plan, self.dealt
        size, dead = plan.builder.group_size, plan.builder.dead_devices
        experts_TK = np.ascontiguousarray(dealt.experts_LTK[ordinal])
        answers, counts = [], []
        orphaned = int(np.count_nonzero(experts_TK[np.isin(dealt.rank_T, dead)] >= 0)) if dead else 0
        without_copy = 0
        for first in range(0, plan.num_devices, size):
            if size == plan.num_devices and not dead:
                mine: slice | NDArray[np.bool_] = slice(None)
            else:
                mine = (dealt.rank_T >= first) & (dealt.rank_T < first + size) & ~np.isin(dealt.rank_T, dead)
            source_T = (dealt.rank_T[mine] - first).astype(np.int32)
            weights_TK = None if dealt.weights_LTK is None else dealt.weights_LTK[ordinal][mine]
            capped = plan.capacity_of(ordinal).cap(experts_TK[mine], weights_TK, source_T, size, plan.model.num_experts)
            counts.append(capped.counts)
            placement = self._alive(ordinal, first)
            without_copy += _without_copy(capped.experts_TK, placement)
            answers.append(self._placed(ordinal, capped, source_T, placement))
        total = total_counts(counts)
        total = total._replace(routed=total.routed + orphaned, kept=total.kept - without_copy)
        return tuple(answers), total, orphaned + without_copy

    def _alive(self, ordinal: int, first: int) -> ExpertPlacement:
        """The placement of the expert-parallel group that starts at device `first`, without copies on dead devices."""
        plan, placement = self.plan, self.plan.placements[ordinal]
        mine = (device - first for device in plan.builder.dead_devices)
        dead = tuple(device for device in mine if 0 <= device < plan.builder.group_size)
        return dataclasses.replace(placement, dead_devices=dead) if dead else placement

    def _placed(
        self, ordinal: int, capped: CappedRouting, source_T: NDArray[np.int32], placement: ExpertPlacement
    ) -> PlacedTraffic:
        """Kept pairs and padding of one expert-parallel group, sent to the copies the replica policy chooses."""
        plan = self.plan
        choice = (placement, plan.replica_policy, plan.builder.devices_per_node, plan.seed + ordinal)
        offset = self.dealt.step * len(self.dealt.rank_T)  # a new step draws its copies anew
        traffic = count_placed(capped.experts_TK, source_T, *choice, token_offset=offset)
        if capped.padding_UE is None:
            return traffic
        if plan.capacity.scope == "group":
            return fill_buffers(traffic, capped.padding_UE[0], placement)
        return send_padding(traffic, capped.padding_UE, *choice, token_offset=offset + len(source_T))


def _cut_experts(model: MoEModel, etp: int) -> MoEModel:
    """The model whose experts are the 1 / etp of each that one device holds."""
    if etp == 1:
        return model
    return model.model_copy(update={"moe": model.moe.model_copy(update={"expert_d_ff": model.expert_d_ff // etp})})


def _tokens_of(dealt: DealtStep, mine_T: NDArray[np.bool_]) -> DealtStep:
    """Some tokens of a step, in their order."""
    weights = None if dealt.weights_LTK is None else dealt.weights_LTK[:, mine_T]
    return dataclasses.replace(
        dealt, rank_T=dealt.rank_T[mine_T], experts_LTK=dealt.experts_LTK[:, mine_T], weights_LTK=weights
    )


def _without_copy(experts_TK: NDArray[np.int32], placement: ExpertPlacement) -> int:
    """(token, expert) pairs whose expert has no live copy."""
    if not placement.dead_devices:
        return 0
    return int(np.count_nonzero(placement.replicas_E[experts_TK[experts_TK >= 0]] == 0))
