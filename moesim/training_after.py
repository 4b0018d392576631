"""What a pipeline stage does once its last gradients are there: reduce them over its copies, then update its weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster
from moesim.collective.link_table import LinkTable
from moesim.collective.reduction import Ints, Operation
from moesim.collective.reduction_flows import reduction_time
from moesim.model import dtype_bytes
from moesim.network.detours import Detours
from moesim.parallelism import ParallelDims
from moesim.training_memory import HeldWeights, OptimizerTypes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reductions:
    """How gradients and weights travel between copies: the network, the algorithm (ring, tree, two_hop), the ZeRO stage.

    `expert_dtype` and `dense_dtype` are the types in which weights are gathered; gradients have the optimizer's type.
    """

    cluster: Cluster
    links: LinkTable
    path_policy: str
    detours: Detours | None
    algorithm: str
    zero: int
    optimizer: OptimizerTypes
    expert_dtype: str
    dense_dtype: str
    fidelity: str
    tolerance: float

    def gradient_s(self, held: HeldWeights, dense: Sequence[Ints], experts: Sequence[Ints]) -> float:
        """Seconds to reduce the gradients of a stage, dense weights then experts, and to gather updated weights.

        ZeRO 0: all-reduce. 1 and 2: reduce-scatter, and all-gather of the weights. 3: reduce-scatter.
        """
        each = self.optimizer.gradient_bytes
        first: Operation = "all_reduce" if self.zero == 0 else "reduce_scatter"
        total_s = self._time(first, dense, (held.dense + held.shared) * each)
        total_s += self._time(first, experts, held.experts * each)
        return total_s + (self.gather_s(held, dense, experts) if self.zero in (1, 2) else 0.0)

    def gather_s(self, held: HeldWeights, dense: Sequence[Ints], experts: Sequence[Ints]) -> float:
        """Seconds to all-gather weights that are cut over their copies, dense ones then experts."""
        others = held.dense * dtype_bytes(self.dense_dtype) + held.shared * dtype_bytes(self.expert_dtype)
        gathered_s = self._time("all_gather", dense, others)
        return gathered_s + self._time("all_gather", experts, held.experts * dtype_bytes(self.expert_dtype))

    def _time(self, operation: Operation, groups: Sequence[Ints], num_bytes: float) -> float:
        if num_bytes == 0.0 or not len(groups) or len(groups[0]) < 2:
            return 0.0
        return reduction_time(
            self.cluster,
            self.links,
            groups,
            num_bytes,
            operation,
            self.algorithm,
            path_policy=self.path_policy,
            detours=self.detours,
            fidelity=self.fidelity,
            tolerance=self.tolerance,
        ).time_s


def copies_of_stage(dims: ParallelDims, stage: int, partner: int) -> tuple[list[Ints], list[Ints]]:
    """Groups of devices with the same dense weights and with the same experts; a partner stage holds the same ones."""
    stages = [stage] if partner == stage else [stage, partner]
    dense = [np.concatenate(groups) for groups in zip(*(dims.data_groups(s) for s in stages), strict=True)]
    experts = [np.concatenate(groups) for groups in zip(*(dims.expert_data_groups(s) for s in stages), strict=True)]
    return dense, experts


def optimizer_s(
    held: HeldWeights,
    dims: ParallelDims,
    copies: int,
    reductions: Reductions,
    memory_bytes_per_s: NDArray[np.float64],
) -> float:
    """Seconds of the update on the slowest device: each weight's gradient is read, its state read and written, it written.

    From ZeRO 1 on a device updates its share of the weights only.
    """
    optimizer, cut = reductions.optimizer, reductions.zero >= 1
    moved = optimizer.gradient_bytes + 2.0 * optimizer.state_bytes
    expert_bytes = held.experts / (copies * dims.edp if cut else 1) * (moved + dtype_bytes(reductions.expert_dtype))
    dense = (held.dense + held.shared) / (copies * dims.dp if cut else 1)
    return float((expert_bytes + dense * (moved + dtype_bytes(reductions.dense_dtype))) / memory_bytes_per_s.min())


def held_by_stage(parts: Sequence[HeldWeights], parts_of_stage: Sequence[Sequence[int]]) -> list[HeldWeights]:
    """Weights of a device of each stage: those of its parts together."""
    total = []
    for mine in parts_of_stage:
        held = HeldWeights(experts=0.0, shared=0.0, dense=0.0)
        for part in mine:
            held = held + parts[part]
        total.append(held)
    return total
