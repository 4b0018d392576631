"""CostTables: what a copy of a token, a weight read and a row of arithmetic cost, as arrays for the planner's kernels.

Array letters: S rank (of all expert-parallel groups), D device of a group, N node of a group, C channel, R resource, X
(channel, resource) pair, E expert, O operation (0 dispatch, 1 combine).

A *channel* is a pair of devices between which copies of one kind travel; a *resource* is a link (or copy engine) under
one operation. Both are taken from the collectives that the simulator builds, so that the planner's bytes are its bytes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.calibration import Operation
from moesim.collective.kernel_cost import CallSize, added_s, busiest, depends_on_size, slowdown
from moesim.collective.leg import Leg
from moesim.collective.schedule import CollectiveBuilder
from moesim.compute import arithmetic_type, expert_activation_bytes
from moesim.model import dtype_bytes
from moesim.network.bound import bound_completion
from moesim.planner.expert_curve import CurveTables, curve_tables
from moesim.step_work import WorkPlan
from moesim.traffic import TrafficCounts, count_traffic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
OVERLAPS = ("none", "shared_expert", "two_batch", "dualpipe")
_OPERATIONS: tuple[Operation, ...] = ("dispatch", "combine")
_DEDUP = ("node_dedup", "per_device")  # a token goes to a device once; else once for each of its experts there


class CostTables(NamedTuple):
    """Costs of one MoE layer, the same for all layers. Seconds, bytes, tokens; shapes by the letters of the module.

    A copy from rank s to device d of its group travels on channel `channel_SD[s, d]`; with `node_copies` the first copy
    of a token to another node n travels on `channel_SN[s, n]` beside it (-1: the own node). A copy on channel c is
    `share_X` of a copy on each of `resource_X[offsets_C1[c]:offsets_C1[c + 1]]`, which takes `seconds_R` a copy.
    """

    group_size: int
    devices_per_node: int
    channel_SD: NDArray[np.int32]
    channel_SN: NDArray[np.int32]
    node_copies: bool
    distinct: bool
    source_C: Ints  # rank that a dispatched copy on the channel leaves
    target_C: Ints
    offsets_C1: Ints
    resource_X: NDArray[np.int32]
    share_X: Floats
    seconds_R: Floats
    latency_R: Floats  # the smallest of the flows that can use the resource
    op_R: NDArray[np.int64]
    link_R: NDArray[np.int64]  # the link of the builder's table
    floor_O: Floats  # the largest latency of any flow: no collective with a copy on the wire is quicker
    extra_O: Floats  # fixed costs, messages and chunk
    least_O: Floats  # what the operation takes at least, whatever it carries
    constant_O: Floats  # of a collective that does not depend on the placement (all_gather)
    # Routed experts: the roofline of the profile's curve where it has one (what `curve` corrects), else of the datasheet.
    byte_s_S: Floats  # seconds a byte of weights, 1 / HBM rate
    flop_s_S: Floats  # seconds a weight and row: 2 FLOP
    moved_s_S: Floats  # seconds a byte of activations
    weight_bytes_E: Floats
    params_E: Floats
    activation_bytes_E: Floats
    tile: int
    launch_s: float
    curve: CurveTables
    shared_params: float
    shared_bytes: float
    shared_byte_s_S: Floats  # as `byte_s_S` and `flop_s_S`, of the shared expert
    shared_flop_s_S: Floats
    shared_launch_s: float
    attention_s: float  # mean over ranks of a layer's attention and router: what two halves can hide beside experts
    overlap: int
    slowed: float  # of compute that is left beside communication

    @property
    def num_ranks(self) -> int:
        """Ranks of all groups, S."""
        return int(self.channel_SD.shape[0])


def cost_tables(work: WorkPlan, tokens_S: Floats, attention_s: float = 0.0) -> CostTables:
    """The tables of a run without its placements; `tokens_S`: mean tokens of each rank in a step.

    `attention_s`: a layer's attention and router, which halves of a batch can hide communication behind.
    """
    builder, model = work.builder, work.model
    legs, channel_SD, channel_SN = _channels(builder)
    network = _network(builder, legs)
    extra_O, least_O, constant_O, slower_O = _fixed(builder, legs, tokens_S, model.top_k)
    network["seconds_R"] = network["seconds_R"] * slower_O[network["op_R"]]
    params_E = np.full(model.num_experts, float(model.expert_params))
    d_ff_E = np.full(model.num_experts, float(model.expert_d_ff))
    if model.moe.pools:
        counts, widths = zip(*model.expert_widths(), strict=True)
        ratio_E = np.repeat(np.array(widths, dtype=np.float64), counts) / model.expert_d_ff
        params_E, d_ff_E = params_E * ratio_E, d_ff_E * ratio_E
    bytes_per_weight = dtype_bytes(work.weight_dtype)
    return CostTables(
        group_size=builder.group_size,
        devices_per_node=builder.devices_per_node,
        channel_SD=channel_SD,
        channel_SN=channel_SN,
        node_copies=builder.algorithm == "node_dedup",
        distinct=builder.algorithm in _DEDUP,
        source_C=np.concatenate([np.zeros(0, dtype=np.int64), *(leg.source_F for leg in legs)]),
        target_C=np.concatenate([np.zeros(0, dtype=np.int64), *(leg.target_F for leg in legs)]),
        **network,
        extra_O=extra_O,
        least_O=least_O,
        constant_O=constant_O,
        **_routed(work),
        weight_bytes_E=params_E * bytes_per_weight,
        params_E=params_E,
        activation_bytes_E=expert_activation_bytes(model.payload_width, d_ff_E),
        curve=curve_tables(work.rates.experts.get(work.weight_dtype), model, d_ff_E, work.rates.speed_D),
        shared_params=float(model.shared_params),
        shared_bytes=float(model.shared_params * bytes_per_weight),
        shared_byte_s_S=1.0 / work.rates.memory_bytes_per_s,
        shared_flop_s_S=2.0 / work.rates.flops(work.weight_dtype),
        shared_launch_s=work.rates.launch_s,
        attention_s=attention_s,
        overlap=OVERLAPS.index(work.overlap),
        slowed=1.0 - float(work.sms_share_D.mean()),
    )


def _routed(work: WorkPlan) -> dict[str, Any]:
    """The tables' rates, tile and launch of routed experts (moesim.compute.expert_cost, fitted_expert_cost)."""
    rates, curve = work.rates, work.rates.experts.get(work.weight_dtype)
    if curve is None:
        return {
            "byte_s_S": 1.0 / rates.memory_bytes_per_s,
            "flop_s_S": 2.0 / rates.flops(work.weight_dtype),
            "moved_s_S": 1.0 / rates.permute_bytes_per_s,
            "tile": rates.tile_tokens,
            "launch_s": rates.launch_s,
        }
    memory_S = rates.peak_memory_bytes_per_s * rates.speed_D
    flops_S = rates.peak_flops_per_s[arithmetic_type(work.weight_dtype)] * rates.speed_D
    return {
        "byte_s_S": 1.0 / (curve.memory_fraction * memory_S),
        "flop_s_S": 2.0 / (curve.flops_fraction * flops_S),
        "moved_s_S": curve.activation_factor / memory_S,
        "tile": curve.tile_tokens,
        "launch_s": curve.launch_s,
    }


def _channels(builder: CollectiveBuilder) -> tuple[list[Leg], NDArray[np.int32], NDArray[np.int32]]:
    """The legs of dispatch with one copy on each channel, in the order of channels; the channels' numbers.

    direct, per_device:  channel s D + d            s -> d of its group
    node_dedup:          channel (s' R + i)         (b, i) -> s' = (b, j), the in-node leg of all sources of index i
                         channel S R + s N + n      s = (a, i) -> (n, i), the rail leg
    """
    size, per_node = builder.group_size, builder.devices_per_node
    ranks, num_nodes = builder.num_ranks, -(-size // per_node)
    first_S = np.arange(ranks) // size * size
    target_SD = first_S[:, None] + np.arange(size)
    none_SN = np.full((ranks, num_nodes), -1, dtype=np.int32)
    if builder.algorithm == "all_gather":
        return [], np.full((ranks, size), -1, dtype=np.int32), none_SN
    if builder.algorithm != "node_dedup":
        source_SD = np.repeat(np.arange(ranks), size).reshape(ranks, size)
        leg = _unit_leg(builder, source_SD.ravel(), target_SD.ravel(), engine=True)
        return [leg], np.arange(ranks * size, dtype=np.int32).reshape(ranks, size), none_SN
    index_S = np.arange(ranks) % size % per_node
    channel_SD = target_SD * per_node + index_S[:, None]
    target_F, index_F = np.divmod(np.arange(ranks * per_node), per_node)
    within_F = target_F % size
    in_node = _unit_leg(builder, target_F - within_F % per_node + index_F, target_F, engine=True)
    node_S = np.arange(ranks) % size // per_node
    far_SN = np.arange(num_nodes)[None, :] != node_S[:, None]
    source_F, node_F = np.nonzero(far_SN)
    rail = _unit_leg(builder, source_F, first_S[source_F] + node_F * per_node + index_S[source_F], engine=False)
    channel_SN = none_SN.copy()
    channel_SN[far_SN] = ranks * per_node + np.arange(source_F.size)
    return [in_node, rail], channel_SD.astype(np.int32), channel_SN


def _unit_leg(builder: CollectiveBuilder, source_F: Ints, target_F: Ints, *, engine: bool) -> Leg:
    """One copy on each flow; the ends of a dead device are those of its stand-in."""
    if builder.dead_devices:
        size = builder.group_size
        stand_in_S = np.concatenate(
            [first + builder.stand_ins_of(first) for first in range(0, builder.num_ranks, size)]
        )
        source_F, target_F = stand_in_S[source_F], stand_in_S[target_F]
    return Leg(source_F=source_F, target_F=target_F, copies_F=np.ones(source_F.size, dtype=np.int64), engine=engine)


def _network(builder: CollectiveBuilder, legs: list[Leg]) -> dict[str, Any]:
    """The tables' fields from `offsets_C1` to `floor_O`: which resources a copy on each channel uses."""
    num_channels = sum(leg.source_F.size for leg in legs)
    channel, resource, share, seconds, latency, op, link, floor = [], [], [], [], [], [], [], []
    first = 0
    for number, operation in enumerate(_OPERATIONS):
        if not legs:
            floor.append(0.0)
            continue
        back = operation == "combine"
        flows, _ = builder.flows([leg.reversed() if back else leg for leg in legs], operation)
        copies_F = flows.bytes_F / builder.bytes_per_copy[operation]
        # A flow spread over several paths is several flows, in place, with shares that add up to 1.
        channel_F = (np.cumsum(copies_F) - 0.5 * copies_F).astype(np.int64)
        hops_F = np.diff(flows.paths.offsets)
        links, place_X = np.unique(flows.paths.links, return_inverse=True)
        smallest = np.full(links.size, np.inf)
        np.minimum.at(smallest, place_X, np.repeat(flows.latency_F, hops_F))
        channel.append(np.repeat(channel_F, hops_F))
        resource.append(first + place_X)
        share.append(np.repeat(copies_F, hops_F))
        seconds.append(builder.bytes_per_copy[operation] / builder.links.bandwidth[links])
        latency.append(smallest)
        op.append(np.full(links.size, number, dtype=np.int64))
        link.append(links.astype(np.int64))
        floor.append(float(flows.latency_F.max(initial=0.0)))
        first += links.size
    return _compressed(num_channels, channel, resource, share) | {
        "seconds_R": np.concatenate([np.zeros(0), *seconds]),
        "latency_R": np.concatenate([np.zeros(0), *latency]),
        "op_R": np.concatenate([np.zeros(0, dtype=np.int64), *op]),
        "link_R": np.concatenate([np.zeros(0, dtype=np.int64), *link]),
        "floor_O": np.array(floor),
    }


def _compressed(num_channels: int, channel: list[Ints], resource: list[Ints], share: list[Floats]) -> dict[str, Any]:
    """(channel, resource, share) rows by channel; a resource that several paths of a channel use is there once."""
    if not channel:
        return {
            "offsets_C1": np.zeros(num_channels + 1, dtype=np.int64),
            "resource_X": np.zeros(0, dtype=np.int32),
            "share_X": np.zeros(0),
        }
    channel_X, resource_X, share_X = np.concatenate(channel), np.concatenate(resource), np.concatenate(share)
    width = int(resource_X.max(initial=0)) + 1
    keys, place_X = np.unique(channel_X * width + resource_X, return_inverse=True)
    return {
        "offsets_C1": np.searchsorted(keys // width, np.arange(num_channels + 1)).astype(np.int64),
        "resource_X": (keys % width).astype(np.int32),
        "share_X": np.bincount(place_X, weights=share_X, minlength=keys.size),
    }


def _fixed(
    builder: CollectiveBuilder, legs: list[Leg], tokens_S: Floats, top_k: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Per operation: seconds on top of the flows; the least it takes; flows of no placement; 1 / share of the wire rate.

    Messages are those of a rank that talks to all it can; the share of the wire rate is read where every token of an even
    load goes to its own device: both are nearly the same under every placement.
    """
    size = builder.group_size
    empty_G = tuple(_no_experts(tokens_S[first : first + size], builder) for first in range(0, tokens_S.size, size))
    extra, least, constant, slower = [], [], [], []
    for operation in _OPERATIONS:
        collective = builder.build(empty_G, operation)
        least.append(collective.extra_s)
        constant.append(bound_completion(collective.flows, builder.links.bandwidth))
        profile = builder.kernel.operation(operation)
        extra_s, factor = builder.fixed_s(operation) + collective.chunk_s, 1.0
        if not legs:
            extra_s = collective.extra_s
        elif depends_on_size(profile):
            messages, _ = busiest(builder.flows(legs, operation)[0])
            copy_bytes = builder.bytes_per_copy[operation]
            rank_bytes = max(float(tokens_S.mean()) * min(top_k, messages) * copy_bytes, 1.0)
            call = CallSize(messages, rank_bytes, copy_bytes, builder.experts, size)
            extra_s, factor = extra_s + added_s(profile, call), slowdown(profile, call)
        extra.append(extra_s)
        slower.append(factor)
    return np.array(extra), np.array(least), np.array(constant), np.array(slower)


def _no_experts(tokens_D: Floats, builder: CollectiveBuilder) -> TrafficCounts:
    """So many tokens on each device, none of which goes to an expert."""
    source_T = np.repeat(np.arange(tokens_D.size, dtype=np.int32), np.rint(tokens_D).astype(np.int64))
    experts_TK = np.full((source_T.size, 1), -1, dtype=np.int32)
    nowhere_E = np.zeros(1, dtype=np.int32)
    return count_traffic(experts_TK, source_T, nowhere_E, tokens_D.size, builder.devices_per_node)
