"""ExpertPlacement: which expert's weights each slot of one MoE layer holds.

Array letters: E expert, D device, N source node, P slot. Slots are numbered device by device; where the devices do not
divide the slots, the first P mod D devices hold one slot more, unless the placement says how many each holds. An expert
with several slots has that many copies (replicas).
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError

MOST_DEVICES = 1 << 20
LARGEST_SLOTS = 1 << 28  # over all layers: a gigabyte of answer
_MOST_SLOTS = int(np.iinfo(np.int32).max)


def slots_per_device(num_slots: int, num_devices: int) -> NDArray[np.int64]:
    """Slots each device holds, [D]: equal, the first P mod D devices one more.

    >>> slots_per_device(8, 3).tolist()
    [3, 3, 2]
    """
    slots_D = np.full(num_devices, num_slots // num_devices, dtype=np.int64)
    slots_D[: num_slots % num_devices] += 1
    return slots_D


def device_of_slot(num_slots: int, num_devices: int) -> NDArray[np.int32]:
    """The device that holds each slot, int32 [P].

    >>> device_of_slot(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    return np.repeat(np.arange(num_devices, dtype=np.int32), slots_per_device(num_slots, num_devices))


@dataclass(frozen=True, slots=True, eq=False)
class ExpertPlacement:
    """The slots of one MoE layer and the expert in each; checked when made, read-only afterwards.

    Every expert holds at least one slot. Two copies of an expert on one device are allowed, and counted by
    `same_device_duplicates`. Slots of `dead_devices` hold no copy, so that an expert may be left without any. `slots_D`
    are the slots of each device where they do not follow the rule of the module. `split_NP` is the share of its
    expert's tokens from source node n that slot p gets (replica policy split); D rows are those of source devices, one
    row stands for all, and shares are scaled to sum to 1 over an expert's slots. Raises InputError for an expert id out
    of range, an expert without a slot, slots that do not add up, shares that are negative or all zero for an expert.
    """

    expert_of_slot_P: NDArray[np.int32]
    num_experts: int
    num_devices: int
    dead_devices: tuple[int, ...] = ()
    slots_D: tuple[int, ...] | None = None
    split_NP: NDArray[np.float64] | None = field(default=None, repr=False)
    device_of_slot_P: NDArray[np.int32] = field(init=False, repr=False)
    replicas_E: NDArray[np.int64] = field(init=False, repr=False)  # live copies of each expert
    slot_offsets_E1: NDArray[np.int64] = field(init=False, repr=False)  # [E + 1], into slots_by_expert_P
    slots_by_expert_P: NDArray[np.int32] = field(init=False, repr=False)  # live ones, ascending within each expert

    def __post_init__(self) -> None:
        experts_P = _checked_experts(self.expert_of_slot_P, self.num_experts, self.num_devices)
        replicas_E = np.bincount(experts_P, minlength=self.num_experts)
        if not replicas_E.all():
            missing = np.flatnonzero(replicas_E == 0)
            raise InputError(
                f"{missing.size} of {self.num_experts} experts have no slot, the first is expert {missing[0]}"
            )
        device_P = self._devices(experts_P.size)
        slots_by_expert = _slots_by_expert(experts_P, self.num_experts)
        if self.dead_devices:
            alive_P = ~np.isin(device_P, self.dead_devices)
            replicas_E = np.bincount(experts_P[alive_P], minlength=self.num_experts)
            slots_by_expert = slots_by_expert[alive_P[slots_by_expert]]
        offsets = np.concatenate(([0], np.cumsum(replicas_E)))
        self._keep("expert_of_slot_P", experts_P)
        self._keep("device_of_slot_P", device_P)
        self._keep("replicas_E", replicas_E.astype(np.int64))
        self._keep("slot_offsets_E1", offsets.astype(np.int64))
        self._keep("slots_by_expert_P", slots_by_expert)
        if self.split_NP is not None:
            self._keep("split_NP", _checked_split(self.split_NP, experts_P, self.num_experts))

    def _devices(self, num_slots: int) -> NDArray[np.int32]:
        """The device of each slot."""
        if self.slots_D is None:
            return device_of_slot(num_slots, self.num_devices)
        if len(self.slots_D) != self.num_devices or min(self.slots_D) < 0 or sum(self.slots_D) != num_slots:
            raise InputError(
                f"slots of {len(self.slots_D)} devices add up to {sum(self.slots_D)}; this layer has {num_slots} slots on "
                f"{self.num_devices} devices"
            )
        return np.repeat(np.arange(self.num_devices, dtype=np.int32), self.slots_D)

    def _keep(self, name: str, array: NDArray[np.integer] | NDArray[np.float64]) -> None:
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    @property
    def num_slots(self) -> int:
        """Number of slots, P."""
        return self.expert_of_slot_P.size

    @property
    def slots_of_devices(self) -> NDArray[np.int64]:
        """Slots each device holds [D], those of dead devices too."""
        if self.slots_D is None:
            return slots_per_device(self.num_slots, self.num_devices)
        return np.array(self.slots_D, dtype=np.int64)

    @property
    def same_device_duplicates(self) -> int:
        """Slots that repeat an expert its device already holds.

        >>> ExpertPlacement(np.array([0, 0, 1, 0]), num_experts=2, num_devices=2).same_device_duplicates
        1
        """
        expert_P = self.expert_of_slot_P[self.slots_by_expert_P]
        device_P = self.device_of_slot_P[self.slots_by_expert_P]
        return int(np.count_nonzero((expert_P[1:] == expert_P[:-1]) & (device_P[1:] == device_P[:-1])))

    def slots_of_expert(self, expert: int) -> NDArray[np.int32]:
        """The slots that hold `expert`, ascending."""
        return self.slots_by_expert_P[self.slot_offsets_E1[expert] : self.slot_offsets_E1[expert + 1]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ExpertPlacement):
            return NotImplemented
        names = ("num_experts", "num_devices", "dead_devices", "slots_D")
        same = all(getattr(self, name) == getattr(other, name) for name in names)
        for name in ("expert_of_slot_P", "split_NP"):
            mine, theirs = getattr(self, name), getattr(other, name)
            same = same and (mine is None) == (theirs is None) and (mine is None or np.array_equal(mine, theirs))
        return same

    def __hash__(self) -> int:
        return hash((self.num_experts, self.num_devices, self.dead_devices, self.expert_of_slot_P.tobytes()))


def _slots_by_expert(experts_P: NDArray[np.int32], num_experts: int) -> NDArray[np.int32]:
    """Slots in the order of their experts, ascending within each."""
    if experts_P.size > num_experts:
        return np.argsort(experts_P, kind="stable").astype(np.int32)
    slot_E = np.empty(num_experts, dtype=np.int32)  # one copy of each: no need to sort
    slot_E[experts_P] = np.arange(num_experts, dtype=np.int32)
    return slot_E


def _checked_split(
    split_NP: NDArray[np.float64], experts_P: NDArray[np.int32], num_experts: int
) -> NDArray[np.float64]:
    """A private copy of the shares, those of an expert's slots summing to 1 for every source node."""
    shares_NP = np.array(split_NP, dtype=np.float64)
    if shares_NP.ndim != 2 or shares_NP.shape[0] < 1 or shares_NP.shape[1] != experts_P.size:
        raise InputError(f"a split has one share per source node and slot [N, {experts_P.size}]; got {shares_NP.shape}")
    if not (np.isfinite(shares_NP).all() and (shares_NP >= 0).all()):
        raise InputError("a split holds finite shares >= 0; found a negative, infinite or NaN one")
    total_NE = np.stack([np.bincount(experts_P, weights=row, minlength=num_experts) for row in shares_NP])
    if not (total_NE > 0).all():
        node, expert = np.argwhere(total_NE <= 0)[0]
        raise InputError(f"no slot of expert {expert} gets a share of the tokens of source node {node}")
    divided_NP: NDArray[np.float64] = shares_NP / total_NE[:, experts_P]
    return divided_NP


def check_slots(num_slots: int, num_experts: int) -> None:
    """Refuse fewer slots than experts with InputError."""
    if num_slots < num_experts:
        raise InputError(f"slots={num_slots} is fewer than experts={num_experts}; ask for at least {num_experts}")


def check_all_slots(num_slots: int, num_layers: int) -> None:
    """Refuse more slots over all layers than a placement may have with InputError."""
    if num_slots * num_layers > LARGEST_SLOTS:
        raise InputError(
            f"slots={num_slots} in each of {num_layers} layers is more than {LARGEST_SLOTS} in all; ask for at most "
            f"{LARGEST_SLOTS // num_layers}, or take a model with fewer layers or experts"
        )


def _checked_experts(expert_of_slot_P: NDArray[np.integer], num_experts: int, num_devices: int) -> NDArray[np.int32]:
    """A private int32 copy of the expert ids, all in range."""
    experts_P = np.asarray(expert_of_slot_P)
    if experts_P.ndim != 1 or experts_P.dtype.kind not in "iu":
        raise InputError(f"expert_of_slot must be a row of integers; got shape {experts_P.shape} of {experts_P.dtype}")
    bounds = (("experts", num_experts, _MOST_SLOTS), ("devices", num_devices, MOST_DEVICES))
    for name, value, most in (*bounds, ("slots", experts_P.size, _MOST_SLOTS)):
        if not 1 <= value <= most:
            raise InputError(f"{name}={value} is outside 1..{most}")
    check_slots(experts_P.size, num_experts)
    low, high = int(experts_P.min()), int(experts_P.max())
    if low < 0 or high >= num_experts:
        wrong = low if low < 0 else high
        slot = int(np.flatnonzero(experts_P == wrong)[0])
        raise InputError(f"slot {slot} holds expert {wrong}, outside 0..{num_experts - 1}")
    return experts_P.astype(np.int32)  # always a copy
