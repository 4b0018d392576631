"""TrainingWork: what one part of a model asks of the devices of a pipeline stage, forward and backward.

A pass is a list of things every rank does in turn: compute for so long, or take part in a transfer. The backward pass
sends the gradients of the experts' outputs as the dispatch sent tokens, and those of their inputs as the combine did.
Array letters: D rank (device) of a stage of one pipeline.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from moesim.attention import LatentAttention
from moesim.collective.schedule import Collective
from moesim.compute import Cost, matrix_cost
from moesim.model import MoEModel
from moesim.step_work import LayerWork, StepWork

PassKind = Literal["forward", "backward", "backward_input", "backward_weight"]
# FLOP of an attention's backward pass over its forward one: five products instead of two, since the scores are made
# again from queries and keys (FlashAttention, arXiv 2205.14135, algorithm 4).
SCORES_BACKWARD = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class PassStep:
    """One thing every rank does: `cost` to compute, or `collective` to take part in, with `beside` computed meanwhile.

    `layer` is the MoE ordinal, -1 outside MoE layers. The phases dispatch and combine are those of the forward pass
    and, in the backward pass, their gradients.
    """

    phase: str
    layer: int
    cost: Cost | None = None
    collective: Collective | None = None
    beside: Cost | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCost:
    """A block of matrices: its forward pass, the gradients of its input and of its weights, and what is made again."""

    forward: Cost
    inputs: Cost
    weights: Cost
    again: Cost

    def __add__(self, other: "BlockCost") -> "BlockCost":
        """One after the other."""
        return BlockCost(
            forward=self.forward + other.forward,
            inputs=self.inputs + other.inputs,
            weights=self.weights + other.weights,
            again=self.again + other.again,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRules:
    """What every part of a training step shares: recomputation, gradient type, and times that are equal on all ranks.

    `tensor_s` is one all-gather or reduce-scatter of a micro-batch's activations in a tensor-parallel group, `spread_s`
    (fixed, per byte) that of a group's expert inputs or outputs in an expert-tensor-parallel group; `gather_s[part]` the
    gather of a part's weights before each pass (ZeRO 3), seconds.
    """

    recompute: Literal["none", "selective", "full"]
    gradient_bytes: float
    shared_beside: bool
    tensor_s: float
    spread_s: tuple[float, float]
    gather_s: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLayer:
    """One model layer: attention (with router), then its MLP or its experts; `work` is None for a dense layer."""

    ordinal: int
    attention: BlockCost
    mlp: BlockCost
    shared: BlockCost | None
    work: LayerWork | None


class PartWork:
    """One part (a run of layers) under one micro-batch's routing: built once, then asked for its passes."""

    def __init__(self, work: StepWork, layers: range, part: int, rules: TrainingRules, *, last: bool) -> None:
        """`layers` are model layer indices; the `last` part has the output head."""
        self.work, self.rules, self.part = work, rules, part
        self.layers = [self._layer(index) for index in layers]
        self.head = (
            self._block(work.head(), (work.plan.model.vocab_size or 0) * work.plan.model.d_model) if last else None
        )

    def steps(self, kind: PassKind) -> list[PassStep]:
        """What every rank does in this pass, in order."""
        gather_s = self.rules.gather_s[self.part]
        first = [PassStep(phase="other", layer=-1, cost=self._same(gather_s))] if gather_s else []
        if kind == "forward":
            return (
                first
                + [step for layer in self.layers for step in self._through(layer, "forward")]
                + self._head("forward")
            )
        if kind == "backward_weight":
            return self._head(kind) + [step for layer in self.layers[::-1] for step in self._weights(layer)]
        backward = [step for layer in self.layers[::-1] for step in self._backward(layer, kind)]
        return first + self._head(kind) + backward

    def _layer(self, index: int) -> TrainingLayer:
        work, plan = self.work, self.work.plan
        model = plan.model
        attention = self._attention(index)
        if index not in model.moe_layer_indices:
            mlp = self._tensor(self._block(work.dense_mlp(), model.dense_params))
            return TrainingLayer(ordinal=-1, attention=attention, mlp=mlp, shared=None, work=None)
        ordinal = model.moe_layer_indices.index(index)
        layer = work.layer(ordinal)
        slots = np.tile(plan.placements[ordinal].slots_of_devices, len(layer.traffic_G))
        held = slots * model.expert_params / plan.etp
        shared = self._block(layer.shared, model.shared_params) if model.shared_params else None
        return TrainingLayer(
            ordinal=ordinal,
            attention=attention + self._block(work.router(), model.router_params, cut=1),
            mlp=self._spread(self._block(layer.routed, held, cut=1), layer),
            shared=None if shared is None else self._tensor(shared),
            work=layer,
        )

    def _attention(self, index: int) -> BlockCost:
        """Projections, scores, and the two collectives of a tensor-parallel group."""
        work, model = self.work, self.work.plan.model
        scores = work.scores(index)
        full = self.rules.recompute == "full"
        projections = self._block(work.projections(index), model.attention_weight_params(index))
        if self.rules.recompute == "selective":
            tp = work.plan.tp
            light = matrix_cost(
                work.tokens_D * tp, _remade_params(model, index) / tp, work.plan.rates, model.dense_dtype
            )
            projections = BlockCost(
                forward=projections.forward, inputs=projections.inputs, weights=projections.weights, again=light
            )
        none = self._same(0.0)
        mixing = BlockCost(
            forward=scores,
            inputs=Cost(scores.time_s * SCORES_BACKWARD, scores.memory_bound),
            weights=none,
            again=scores if full else none,
        )
        return self._tensor(projections + mixing)

    def _tensor(self, block: BlockCost) -> BlockCost:
        """The block with what its tensor-parallel group gathers before it and scatters after it, both ways."""
        if not self.rules.tensor_s:
            return block
        return self._around(block, self._same(2.0 * self.rules.tensor_s))

    def _spread(self, block: BlockCost, layer: LayerWork) -> BlockCost:
        """The experts with what their tensor-parallel group gathers before them and scatters after them, both ways."""
        etp, builder = self.work.plan.etp, self.work.plan.builder
        if etp == 1:
            return block
        load_G = layer.load_D.reshape(-1, etp, builder.group_size).sum(axis=1)  # pairs of a whole group of etp devices
        pairs_D = np.repeat(load_G, etp, axis=0).ravel()
        fixed_s, per_byte_s = self.rules.spread_s
        seconds = 2.0 * fixed_s + per_byte_s * pairs_D * float(sum(builder.bytes_per_copy.values()))
        return self._around(block, Cost(seconds, np.zeros(len(seconds), dtype=np.bool_)))

    def _around(self, block: BlockCost, around: Cost) -> BlockCost:
        """The block with the same communication round its forward pass and round the gradients of its input."""
        again = around if self.rules.recompute == "full" else self._same(0.0)
        return block + BlockCost(forward=around, inputs=around, weights=self._same(0.0), again=again)

    def _block(self, forward: Cost, params: "float | np.ndarray", *, cut: int | None = None) -> BlockCost:
        """A block whose gradients cost one forward pass each; that of the weights adds to a gradient kept in memory.

        `cut`: over how many devices the weights lie, by default the tensor-parallel group.
        """
        plan = self.work.plan
        held = params / (plan.tp if cut is None else cut)
        accumulate_s = 2.0 * self.rules.gradient_bytes * held / plan.rates.memory_bytes_per_s
        accumulate_s = np.where(forward.time_s > 0.0, accumulate_s, 0.0)
        memory_bound = forward.memory_bound | (accumulate_s > forward.time_s)
        weights = Cost(np.maximum(forward.time_s, accumulate_s), memory_bound)
        again = forward if self.rules.recompute == "full" else self._same(0.0)
        return BlockCost(forward=forward, inputs=forward, weights=weights, again=again)

    def _same(self, seconds: float) -> Cost:
        """The same time on every rank."""
        count = self.work.plan.num_devices
        return Cost(np.full(count, seconds), np.zeros(count, dtype=np.bool_))

    def _through(self, layer: TrainingLayer, which: Literal["forward", "again"]) -> list[PassStep]:
        """Attention, dispatch, experts, combine: the first time, or made again."""
        attention, mlp = getattr(layer.attention, which), getattr(layer.mlp, which)
        if layer.work is None:
            return [PassStep(phase="dense", layer=-1, cost=attention + mlp)]
        shared: Cost | None = None if layer.shared is None else getattr(layer.shared, which)
        beside = shared if self.rules.shared_beside else None
        after = mlp if beside is not None or shared is None else mlp + shared
        return [
            PassStep(phase="attention", layer=layer.ordinal, cost=attention),
            PassStep(phase="dispatch", layer=layer.ordinal, collective=layer.work.dispatch, beside=beside),
            PassStep(phase="experts", layer=layer.ordinal, cost=after),
            PassStep(phase="combine", layer=layer.ordinal, collective=layer.work.combine),
        ]

    def _backward(self, layer: TrainingLayer, kind: PassKind) -> list[PassStep]:
        """Gradients go back through combine, experts, dispatch and attention; with full recomputation after a forward."""
        both = kind == "backward"
        again = self._through(layer, "again") if self.rules.recompute == "full" else []

        def back(block: BlockCost) -> Cost:
            made = block.inputs + block.weights if both else block.inputs
            return made + block.again if self.rules.recompute == "selective" else made

        if layer.work is None:
            return [*again, PassStep(phase="dense", layer=-1, cost=back(layer.mlp) + back(layer.attention))]
        shared = None if layer.shared is None else back(layer.shared)
        beside = shared if self.rules.shared_beside else None
        experts = back(layer.mlp) if beside is not None or shared is None else back(layer.mlp) + shared
        return [
            *again,
            PassStep(phase="combine", layer=layer.ordinal, collective=layer.work.dispatch, beside=beside),
            PassStep(phase="experts", layer=layer.ordinal, cost=experts),
            PassStep(phase="dispatch", layer=layer.ordinal, collective=layer.work.combine),
            PassStep(phase="attention", layer=layer.ordinal, cost=back(layer.attention)),
        ]

    def _weights(self, layer: TrainingLayer) -> list[PassStep]:
        """Gradients of the weights that were put off: compute only."""
        if layer.work is None:
            return [PassStep(phase="dense", layer=-1, cost=layer.mlp.weights + layer.attention.weights)]
        experts = layer.mlp.weights if layer.shared is None else layer.mlp.weights + layer.shared.weights
        return [
            PassStep(phase="experts", layer=layer.ordinal, cost=experts),
            PassStep(phase="attention", layer=layer.ordinal, cost=layer.attention.weights),
        ]

    def _head(self, kind: PassKind) -> list[PassStep]:
        """The output head, which is never made again."""
        if self.head is None:
            return []
        cost = {
            "forward": self.head.forward,
            "backward": self.head.inputs + self.head.weights,
            "backward_input": self.head.inputs,
            "backward_weight": self.head.weights,
        }[kind]
        return [PassStep(phase="other", layer=-1, cost=cost)]


def _remade_params(model: MoEModel, index: int) -> float:
    """Weights that selective recomputation passes again: the matrices that make a latent attention's heads.

    Everything else it makes again is of one pass over memory at most, and left out.
    """
    mixer = model.mixer(index)
    if not isinstance(mixer, LatentAttention):
        return 0.0
    queries = mixer.q_lora * (mixer.qk_nope + mixer.qk_rope)
    return float(
        model.attention_blocks(index) * mixer.heads * (queries + mixer.kv_lora * (mixer.qk_nope + mixer.v_dim))
    )
