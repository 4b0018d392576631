"""Transfers: measured collectives rebuilt with moesim's own clusters and collectives, and their time under a profile.

Traffic is what the measured program sends: equal blocks for a plain all-to-all; for dispatch and combine, top-k experts
drawn uniformly, limited to the best node groups where the program does that. From 512 tokens a rank on, copies are the
mean over devices of the same kind (chance evens out); below, they are drawn, since the fullest device then binds.
Array letters: T token, K top-k, D device, N node.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.measurement import Measurement
from moesim.calibration import CalibrationProfile, KernelProfile, LinkProfile, Operation
from moesim.cluster import Cluster
from moesim.collective.link_table import build_link_table
from moesim.collective.schedule import CollectiveBuilder
from moesim.errors import InputError
from moesim.network.bound import bound_completion
from moesim.network.flow import Flows
from moesim.topology import load_topology
from moesim.traffic import TrafficCounts, copy_bytes, count_traffic

# Which of the catalogued machines stands for an accelerator's measurements: nodes, NICs and links as published there.
MACHINES = {
    "a100-80-sxm": ("dgx-a100-superpod", "a100-80-sxm"),
    "a100-40-sxm": ("dgx-a100-superpod", "a100-40-sxm"),
    "h100-sxm": ("dgx-h100-superpod", "h100-sxm"),
    "h200-sxm": ("dgx-h100-superpod", "h200-sxm"),
    "h800-sxm": ("deepseek-h800-mpft", "h800-sxm"),
    "b200-sxm": ("dgx-b200-superpod", "b200-sxm"),
    "gb200-nvl72": ("gb200-nvl72-superpod", "gb200-nvl72"),
    "mi300x": ("amd-mi300x-rail", "mi300x"),
    "mi355x": ("amd-mi355x-rail", "mi355x"),
}
# Algorithm of each library: what its messages are.
ALGORITHMS = {
    "deepep-normal": "node_dedup",
    "hybrid-ep": "node_dedup",
    "deepep-ll": "direct",
    "pplx": "direct",
    "uccl": "node_dedup",
    "mori": "node_dedup",
    "trtllm-two-sided": "per_device",
    "trtllm-one-sided": "per_device",
    "nccl": "direct",
    "rccl": "direct",
    "gloo": "direct",
}
# Their test deals tokens round (ai-dynamo/aiconfigurator, collector/network/slurm/collect_trtllm_alltoall.py).
_DEALT = ("trtllm-two-sided", "trtllm-one-sided")
_COMBINE_IN_BF16 = ("trtllm-two-sided", "trtllm-one-sided")  # their tables name the type of the dispatch; times agree
_EVEN_FROM_TOKENS = 512
_MOST_DRAWN = 32_768  # tokens of all ranks drawn for one setup
_PURE_RDMA = "initial low-latency"  # DeepEP's table of February 2025 uses no NVLink inside a node
_EXPERTS_PER_RANK = 32  # where a table does not say: distinct devices of a token hardly depend on it
_SEED = 0
_UNIT = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What decides the copies of a collective, without the bytes of one copy."""

    hardware: str
    algorithm: str
    ranks: int
    nodes: int
    tokens: int = 0  # of each rank; 0: a plain all-to-all of equal blocks
    top_k: int = 1
    experts: int = 1
    node_groups: int = 0  # node groups a token may go to; 0: any
    dealt: bool = False  # token i of every rank goes to the i-th group of top_k ranks, not to drawn experts

    @property
    def ranks_per_node(self) -> int:
        """Ranks that share a scale-up domain."""
        return -(-self.ranks // self.nodes)


def setup_of(measurement: Measurement) -> Setup:
    """The setup behind a dispatch, combine or all_to_all; raises InputError naming what is missing or unknown."""
    params = measurement.params
    hardware, library = str(params.get("hardware")), str(params.get("library"))
    if hardware not in MACHINES:
        raise InputError(f"no machine of the catalogue stands for hardware {hardware!r}")
    if library not in ALGORITHMS:
        raise InputError(f"library {library!r} has no known all-to-all algorithm")
    ranks = _count(params, "ranks")
    cluster = machine(hardware, 1)
    if _PURE_RDMA in str(params.get("release", "")):
        params = {**params, "nodes": ranks}  # every copy leaves by the NIC, as if each rank had a node of its own
    nodes = -(-ranks // cluster.devices_per_node) if cluster.devices_per_node > 8 else _count(params, "nodes")
    if ranks % nodes or ranks // nodes > cluster.devices_per_node:
        raise InputError(f"{ranks} ranks on {nodes} nodes do not fit {cluster.name} evenly")
    if measurement.operation == "all_to_all":
        return Setup(hardware=hardware, algorithm="direct", ranks=ranks, nodes=nodes)
    algorithm = ALGORITHMS[library]
    groups = (
        _count(params, "topk_groups")
        if "topk_groups" in params
        else (min(nodes, 4) if library == "deepep-normal" else 0)
    )
    return Setup(
        hardware=hardware,
        algorithm="direct" if "ll" in str(params.get("release", "")).lower().split() else algorithm,
        ranks=ranks,
        nodes=nodes,
        tokens=_count(params, "tokens_per_rank"),
        top_k=_count(params, "top_k"),
        experts=_count(params, "experts") if params.get("experts") is not None else _EXPERTS_PER_RANK * ranks,
        node_groups=groups if nodes > 1 and groups < nodes else 0,
        dealt=library in _DEALT,
    )


def bytes_of_copy(measurement: Measurement) -> float:
    """Bytes of one copy on the wire: a block of an all-to-all, or a token's row with its scales and header."""
    params = measurement.params
    if measurement.operation == "all_to_all":
        return _count(params, "bytes_per_rank") / _count(params, "ranks")
    returns_bf16 = measurement.operation == "combine" and params.get("library") in _COMBINE_IN_BF16
    return float(copy_bytes(_count(params, "hidden"), "bf16" if returns_bf16 else str(params["dtype"])))


def measured_s(measurement: Measurement) -> float:
    """The published time, with the time of `notify` where it was published apart."""
    return measurement.time_s + float(measurement.params.get("notify_s", 0.0))


def _count(params: Any, name: str) -> int:
    value = params.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} is {value!r}, not a positive whole number")
    return value


@functools.lru_cache(maxsize=64)
def machine(hardware: str, nodes: int) -> Cluster:
    """The machine that stands for an accelerator, with that many nodes."""
    topology, accelerator = MACHINES[hardware]
    return load_topology(topology, accelerator=accelerator, nodes=nodes)


def builder(setup: Setup, kernel: KernelProfile, links: LinkProfile, sms: int | None, copy: float) -> CollectiveBuilder:
    """A builder for that setup under a kernel's profile."""
    cluster = machine(setup.hardware, setup.nodes)
    per_node, width = setup.ranks_per_node, cluster.devices_per_node
    return CollectiveBuilder(
        cluster=cluster,
        links=build_link_table(cluster, links, kernel, sms),
        kernel=kernel,
        algorithm=setup.algorithm,
        path_policy=cluster.default_path_policy,
        group_size=setup.ranks,
        bytes_per_copy={"dispatch": copy, "combine": copy},  # type: ignore[dict-item]  # a unit copy is scaled later
        device_of_rank=np.array([n * width + i for n in range(setup.nodes) for i in range(per_node)], dtype=np.int64),
        stride=width // per_node,
    )


def predict(profile: CalibrationProfile, library: str, measurement: Measurement) -> float:
    """Seconds of a measured dispatch, combine or all-to-all under kernel `library` of a profile."""
    setup, kernel = setup_of(measurement), profile.kernel(library)
    operation: Operation = "combine" if measurement.operation == "combine" else "dispatch"
    sms = measurement.params.get("sms")
    with_engine = _has_engine(kernel, operation, setup) and (sms or kernel.sms) is not None
    flows = scaled(unit_flows(setup, operation, with_engine), bytes_of_copy(measurement))
    built = builder(setup, kernel, profile.links, sms, _UNIT) if with_engine else _builder_of(profile, library, setup)
    kernel_s = built.kernel_s(flows, operation, copy_bytes=bytes_of_copy(measurement), experts=setup.experts)
    return bound_completion(flows, built.links.bandwidth) + kernel_s


_BUILDERS: dict[tuple[int, str, Setup], tuple[CalibrationProfile, CollectiveBuilder]] = {}


def _builder_of(profile: CalibrationProfile, library: str, setup: Setup) -> CollectiveBuilder:
    bare = dataclasses.replace(setup, tokens=0, top_k=1, experts=1)
    key = (id(profile), library, bare)
    if key not in _BUILDERS:
        _BUILDERS[key] = (profile, builder(bare, profile.kernel(library), profile.links, None, _UNIT))
    return _BUILDERS[key][1]


def _has_engine(kernel: KernelProfile, operation: Operation, setup: Setup) -> bool:
    costs = kernel.operation(operation)
    single = machine(setup.hardware, setup.nodes).num_nodes == 1
    return (costs.sm_rate_in_node if single else costs.sm_rate_across_nodes) is not None


def scaled(flows: Flows, copy: float) -> Flows:
    """The same flows with copies of that many bytes."""
    return dataclasses.replace(flows, bytes_F=flows.bytes_F * copy)


@functools.lru_cache(maxsize=4096)
def unit_flows(setup: Setup, operation: Operation, with_engine: bool) -> Flows:
    """Flows of that setup with copies of one byte, along copy engines too if asked."""
    kernel, links = _unit_profile(setup.algorithm, with_engine)
    built = builder(setup, kernel, links, 1 if with_engine else None, _UNIT)
    return built.build((counts_of(setup),), operation).flows


@functools.lru_cache(maxsize=64)
def _unit_profile(algorithm: str, with_engine: bool) -> tuple[KernelProfile, LinkProfile]:
    figure = {"value": 1.0, "kind": "assumed", "source": "unit of a fit"}
    fixed = {"against": "ranks", "at": [1], "value": [0.0], "kind": "assumed", "source": "unit of a fit"}
    engine = {"sm_rate_in_node": figure, "sm_rate_across_nodes": figure} if with_engine else {}
    kernel = KernelProfile.model_validate(
        {
            "algorithm": algorithm,
            "chunk_tokens": {**figure, "value": 0.0},
            "dispatch": {"fixed_s": fixed, **engine},
            "combine": {"fixed_s": fixed, **engine},
        }
    )
    return kernel, LinkProfile.model_validate({"nic": figure, "scale_up": figure})


@functools.lru_cache(maxsize=4096)
def counts_of(setup: Setup) -> TrafficCounts:
    """Copies of one dispatch of that setup."""
    D, per_node = setup.ranks, setup.ranks_per_node
    if setup.tokens == 0:
        one = np.ones((D, D), dtype=np.int64)
        return _whole_counts(one, one, np.ones((D, setup.nodes), dtype=np.int64))
    drawn = min(setup.tokens, _EVEN_FROM_TOKENS, max(_MOST_DRAWN // D, 1))
    part = dataclasses.replace(setup, tokens=drawn)
    experts_TK = _deal(part) if setup.dealt else _draw(part)
    source_T = np.repeat(np.arange(D, dtype=np.int32), drawn)
    owner_E = (np.arange(setup.experts) * D // setup.experts).astype(np.int32)
    counts = count_traffic(experts_TK, source_T, owner_E, D, per_node)
    if setup.tokens == drawn and drawn < _EVEN_FROM_TOKENS:
        return counts
    scale = setup.tokens / drawn
    return _whole_counts(
        _even(counts.per_expert_DD, per_node, scale),
        _even(counts.per_device_DD, per_node, scale),
        _even_nodes(counts.per_node_DN, per_node, scale),
    )


def _whole_counts(
    per_expert_DD: NDArray[np.int64], per_device_DD: NDArray[np.int64], per_node_DN: NDArray[np.int64]
) -> TrafficCounts:
    return TrafficCounts(
        per_expert_DD=per_expert_DD,
        per_device_DD=per_device_DD,
        per_node_DN=per_node_DN,
        load_D=per_expert_DD.sum(axis=0),
        tokens_D=per_expert_DD.sum(axis=1),
        fanout_nodes_count=np.zeros(per_node_DN.shape[1] + 1, dtype=np.int64),
        fanout_devices=0.0,
        fanout_nodes=0.0,
    )


def _even(copies_DD: NDArray[np.int64], per_node: int, scale: float) -> NDArray[np.int64]:
    """Every pair of one kind (own device, own node, another node) gets their mean, times `scale`."""
    device = np.arange(len(copies_DD))
    kind_DD = np.where(device[:, None] // per_node == device // per_node, 1, 2)
    kind_DD[device, device] = 0
    total = np.bincount(kind_DD.ravel(), weights=copies_DD.ravel(), minlength=3)
    pairs = np.maximum(np.bincount(kind_DD.ravel(), minlength=3), 1)
    even: NDArray[np.int64] = np.rint(scale * (total / pairs)[kind_DD]).astype(np.int64)
    return even


def _even_nodes(copies_DN: NDArray[np.int64], per_node: int, scale: float) -> NDArray[np.int64]:
    own_DN = np.arange(copies_DN.shape[0])[:, None] // per_node == np.arange(copies_DN.shape[1])
    means = [copies_DN[kind].mean() if kind.any() else 0.0 for kind in (own_DN, ~own_DN)]
    even: NDArray[np.int64] = np.rint(scale * np.where(own_DN, means[0], means[1])).astype(np.int64)
    return even


def _draw(setup: Setup) -> NDArray[np.int32]:
    """Top-k of uniform scores; with node groups, among the experts of the nodes whose best expert scores highest."""
    random = np.random.default_rng(_SEED)
    score_TE = random.random((setup.ranks * setup.tokens, setup.experts), dtype=np.float32)
    if setup.node_groups:
        group_TN = score_TE.reshape(len(score_TE), setup.nodes, -1).max(axis=2)
        best_TN = np.argsort(-group_TN, axis=1)[:, : setup.node_groups]
        open_TN = np.zeros(group_TN.shape, dtype=bool)
        np.put_along_axis(open_TN, best_TN, True, axis=1)
        score_TE = np.where(np.repeat(open_TN, setup.experts // setup.nodes, axis=1), score_TE, -1.0)
    return np.argpartition(-score_TE, setup.top_k - 1, axis=1)[:, : setup.top_k].astype(np.int32)


def _deal(setup: Setup) -> NDArray[np.int32]:
    """Token i of every rank takes one expert of each rank of the i-th group of top_k ranks, or of the ranks in turn."""
    token_T1, choice_1K = np.arange(setup.tokens)[:, None], np.arange(setup.top_k)[None, :]
    groups, per_rank = max(setup.ranks // setup.top_k, 1), max(setup.experts // setup.ranks, 1)
    rank_TK = (token_T1 % groups * setup.top_k + choice_1K) % setup.ranks
    offset_TK = (token_T1 // groups + choice_1K // setup.ranks) % per_rank
    return np.tile(rank_TK * per_rank + offset_TK, (setup.ranks, 1)).astype(np.int32)
