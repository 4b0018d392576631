"""PlacementProblem: the loads of a window and the slots to place experts in.

Array letters: L MoE ordinal, E expert, D device, P slot.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.placement import MOST_DEVICES, ExpertPlacement, check_slots

LARGEST_LOAD = 1e30  # tokens; keeps sums and float32 arithmetic finite
LARGEST_SLOTS = 1 << 28  # over all layers: a gigabyte of answer


@dataclass(frozen=True, slots=True, eq=False)
class PlacementProblem:
    """What a strategy needs to place every MoE layer's experts; checked when made.

    `load_LE` is tokens per expert over the planning window, finite and >= 0. Device d is on node d //
    `devices_per_node`. `num_slots` counts one layer's slots. `num_groups` are the model's expert groups (consecutive
    experts), which hierarchical strategies keep on one node. Raises InputError naming the value and its bound.
    """

    load_LE: NDArray[np.float64]
    num_devices: int
    devices_per_node: int
    num_slots: int
    num_groups: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        load_LE = np.array(self.load_LE, dtype=np.float64)
        if load_LE.ndim != 2 or 0 in load_LE.shape:
            raise InputError(f"loads must be [layers, experts], at least one of each; got shape {load_LE.shape}")
        if not (np.isfinite(load_LE) & (load_LE >= 0) & (load_LE <= LARGEST_LOAD)).all():
            layer, expert = np.argwhere(~((load_LE >= 0) & (load_LE <= LARGEST_LOAD)))[0]
            value = load_LE[layer, expert]
            raise InputError(
                f"load {value} of expert {expert}, MoE ordinal {layer}, is outside 0..{LARGEST_LOAD:g} tokens"
            )
        load_LE.setflags(write=False)
        object.__setattr__(self, "load_LE", load_LE)
        for name, value in (("devices", self.num_devices), ("devices_per_node", self.devices_per_node)):
            if not 1 <= value <= MOST_DEVICES:
                raise InputError(f"{name}={value} is outside 1..{MOST_DEVICES}")
        check_slots(self.num_slots, self.num_experts)
        if self.num_slots * self.num_layers > LARGEST_SLOTS:
            raise InputError(
                f"slots={self.num_slots} in each of {self.num_layers} layers is more than {LARGEST_SLOTS} in all; "
                f"ask for at most {LARGEST_SLOTS // self.num_layers}"
            )
        if self.num_groups < 1 or self.num_experts % self.num_groups:
            raise InputError(f"groups={self.num_groups} does not divide experts={self.num_experts}")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} is negative; seeds are integers >= 0")

    @property
    def num_layers(self) -> int:
        """Number of MoE layers, L."""
        return int(self.load_LE.shape[0])

    @property
    def num_experts(self) -> int:
        """Number of experts of each layer, E."""
        return int(self.load_LE.shape[1])

    @property
    def num_nodes(self) -> int:
        """Number of nodes, the last perhaps partly filled."""
        return -(-self.num_devices // self.devices_per_node)

    def placement(self, expert_of_slot_P: NDArray[np.integer]) -> ExpertPlacement:
        """One layer's placement on this problem's devices."""
        return ExpertPlacement(expert_of_slot_P.astype(np.int32), self.num_experts, self.num_devices)


@dataclass(frozen=True, slots=True)
class PlacementAnswer:
    """One placement per MoE layer, in order, and sentences on what the strategy did differently from what was asked."""

    placements: tuple[ExpertPlacement, ...]
    notes: tuple[str, ...] = ()
