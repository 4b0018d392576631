"""ParallelDims: how many ranks each kind of parallelism takes, checked against the world size, and which devices they are.

Devices are numbered with the tensor-parallel rank innermost, the data-parallel (and expert-parallel) rank next, and the
pipeline stage outermost.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError

Ints = NDArray[np.int64]


def divisors(number: int, *, most: int = 12) -> str:
    """The divisors of `number` as a list for messages, cut after `most`.

    >>> divisors(64)
    '1, 2, 4, 8, 16, 32, 64'
    """
    found = [d for d in range(1, number + 1) if number % d == 0] if number <= 1 << 20 else [1]
    return ", ".join(map(str, found[:most])) + (", ..." if len(found) > most else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelDims:
    """Sizes of the process groups.

    Attention side: dp * tp * pp = world. Expert side: edp * ep * etp * pp = world, where edp counts the copies of the
    whole set of experts (expert data parallelism). Ranks of one expert-parallel group are consecutive devices, those of an
    expert-tensor-parallel group inside it too.
    """

    world: int
    ep: int
    dp: int
    tp: int = 1
    pp: int = 1
    etp: int = 1

    def __post_init__(self) -> None:
        for name in ("world", "ep", "dp", "tp", "pp", "etp"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"parallel.{name}={value} must be at least 1")
        expert_side = self.ep * self.etp * self.pp
        if self.world % expert_side:
            raise InputError(
                f"ep={self.ep} x etp={self.etp} x pp={self.pp} = {expert_side} does not divide world_size={self.world}; "
                f"divisors: {divisors(self.world)}"
            )
        if self.dp * self.tp * self.pp != self.world:
            raise InputError(
                f"dp={self.dp} x tp={self.tp} x pp={self.pp} = {self.dp * self.tp * self.pp} is not "
                f"world_size={self.world}; leave dp out to take what is left"
            )

    @property
    def edp(self) -> int:
        """Expert data parallelism: how many groups hold all the experts."""
        return self.world // (self.ep * self.etp * self.pp)

    @classmethod
    def for_world(
        cls, world: int, *, ep: int | None = None, dp: int | None = None, tp: int = 1, pp: int = 1, etp: int = 1
    ) -> "ParallelDims":
        """Dims for `world` ranks; an ep or dp left out takes what the others leave.

        >>> ParallelDims.for_world(64, ep=32).edp
        2
        """
        if min(tp, pp, etp) < 1:
            raise InputError(f"parallel degrees must be at least 1, got tp={tp}, pp={pp}, etp={etp}")
        if ep is None and world % (etp * pp):
            raise InputError(
                f"etp={etp} x pp={pp} = {etp * pp} does not divide world_size={world}; divisors: {divisors(world)}"
            )
        ep = max(world // (etp * pp), 1) if ep is None else ep
        dp = max(world // (tp * pp), 1) if dp is None else dp
        return cls(world=world, ep=ep, dp=dp, tp=tp, pp=pp, etp=etp)

    @property
    def stage_size(self) -> int:
        """Devices of one pipeline stage."""
        return self.world // self.pp

    @property
    def pipeline_width(self) -> int:
        """Devices of one stage that work on micro-batches together: the fewest that hold whole ep x etp and tp groups."""
        return math.lcm(self.ep * self.etp, self.tp)

    @property
    def num_pipelines(self) -> int:
        """Pipelines side by side that meet only to reduce their gradients."""
        return self.stage_size // self.pipeline_width

    def stage_ranks(self, stage: int, pipeline: int) -> Ints:
        """Devices of a stage of one pipeline, those of an expert-parallel group following each other.

        With etp > 1 such a group is every etp-th device: one of each expert-tensor-parallel group.
        """
        first = stage * self.stage_size + pipeline * self.pipeline_width
        devices = np.arange(first, first + self.pipeline_width)
        return devices.reshape(-1, self.ep, self.etp).transpose(0, 2, 1).ravel()

    def tensor_groups(self, stage: int, pipeline: int) -> tuple[Ints, ...]:
        """Devices that share one copy of the attention and dense weights: tp consecutive ones each."""
        first = stage * self.stage_size + pipeline * self.pipeline_width
        return tuple(np.arange(first, first + self.pipeline_width).reshape(-1, self.tp))

    def expert_tensor_groups(self, stage: int, pipeline: int) -> tuple[Ints, ...]:
        """Devices that share one copy of their experts: etp consecutive ones each."""
        first = stage * self.stage_size + pipeline * self.pipeline_width
        return tuple(np.arange(first, first + self.pipeline_width).reshape(-1, self.etp))

    def data_groups(self, stage: int) -> tuple[Ints, ...]:
        """Devices of a stage that hold the same attention and dense weights: tp groups of dp devices."""
        devices = np.arange(stage * self.stage_size, (stage + 1) * self.stage_size)
        return tuple(devices.reshape(-1, self.tp).T)

    def expert_data_groups(self, stage: int) -> tuple[Ints, ...]:
        """Devices of a stage that hold the same experts: ep x etp groups of edp devices."""
        devices = np.arange(stage * self.stage_size, (stage + 1) * self.stage_size)
        return tuple(devices.reshape(-1, self.ep * self.etp).T)


def deal_layers(num_layers: int, num_parts: int, sizes: Sequence[int] | None = None) -> tuple[range, ...]:
    """Model layer indices of each part of a pipeline: consecutive runs, equal unless `sizes` says how many each holds.

    Raises InputError where the layers cannot be dealt, with the product or sum that misses them.

    >>> deal_layers(4, 2), deal_layers(5, 2, [3, 2])
    ((range(0, 2), range(2, 4)), (range(0, 3), range(3, 5)))
    """
    if sizes is None:
        each, left = divmod(num_layers, num_parts)
        if left or not each:
            even = [num_layers // num_parts + (part < num_layers % num_parts) for part in range(num_parts)]
            if not each:
                raise InputError(
                    f"{num_parts} pipeline parts (pp x chunks) are more than the {num_layers} layers to deal to them; "
                    f"take one of {divisors(num_layers)}"
                )
            say = f" or say how many each holds, as in train.stage_layers: {even}" if num_parts <= 64 else ""
            raise InputError(
                f"{num_parts} pipeline parts (pp x chunks) do not divide {num_layers} layers: {num_parts} x {each} = "
                f"{num_parts * each}; take one of {divisors(num_layers)}{say}"
            )
        sizes = [each] * num_parts
    if len(sizes) != num_parts or sum(sizes) != num_layers or min(sizes) < 0:
        raise InputError(
            f"train.stage_layers has {len(sizes)} entries that sum to {sum(sizes)}; this pipeline has {num_parts} parts for "
            f"{num_layers} layers"
        )
    ends = np.cumsum(sizes).tolist()
    return tuple(range(end - size, end) for end, size in zip(ends, sizes, strict=True))
