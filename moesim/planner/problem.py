"""PlacementProblem: what a strategy is given: loads and slots, and what one that optimises the step needs beside them.

Array letters: L MoE ordinal, E expert, D device of an expert-parallel group, N node, P slot, T token of the sketch, K
top-k, W window.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.placement import MOST_DEVICES, ExpertPlacement, check_all_slots, check_slots, slots_per_device
from moesim.planner.objective_tables import CostTables

LARGEST_LOAD = 1e30  # tokens; keeps sums and float32 arithmetic finite


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenSketch:
    """Tokens of the planning window, all or a sample, the same ones in every layer; checked when made.

    Token t of `window_T` goes to experts `experts_LTK[:, t]` (int32, -1 = none) from rank `source_T` (of all ranks), and
    stands for `weight_T` tokens of one step of its window. `token_T` is the index by which replica policies draw a copy
    for it. `window_weight_W` sums to 1. `whole`: every token of every window is there with weight 1 and a window is one
    step, so that loads are counts; else they are estimates of a mean.
    """

    experts_LTK: NDArray[np.int32]
    source_T: NDArray[np.int32]
    weight_T: NDArray[np.float64]
    window_T: NDArray[np.int32]
    window_weight_W: NDArray[np.float64]
    token_T: NDArray[np.int64]
    whole: bool

    def __post_init__(self) -> None:
        tokens = self.experts_LTK.shape[1] if self.experts_LTK.ndim == 3 else -1
        rows = (self.source_T, self.weight_T, self.window_T, self.token_T)
        if any(row.shape != (tokens,) for row in rows):
            shapes = [row.shape for row in rows]
            raise InputError(f"a sketch of {self.experts_LTK.shape} experts has rows of {tokens} tokens; got {shapes}")
        if tokens and not 0 <= self.window_T.min() <= self.window_T.max() < self.window_weight_W.size:
            raise InputError(
                f"a sketch of {self.window_weight_W.size} windows has tokens of window {self.window_T.max()}"
            )

    @property
    def num_windows(self) -> int:
        """Number of windows, W."""
        return self.window_weight_W.size

    @property
    def num_tokens(self) -> int:
        """Number of tokens, T."""
        return self.source_T.size


@dataclass(frozen=True, slots=True, eq=False)
class PlacementProblem:
    """What a strategy needs to place every MoE layer's experts; checked when made.

    `load_LE` is tokens per expert over the planning window, finite and >= 0. Device d is on node d //
    `devices_per_node`. `num_slots` counts one layer's slots. `num_groups` are the model's expert groups (consecutive
    experts), which hierarchical strategies keep on one node.

    The rest is optional. `sketch` and `costs` say what a step costs under a placement (moesim.planner.objective).
    `speed_D` are relative speeds of compute. `slots_D` are the slots of each device in every layer, where they do not
    follow the rule of moesim.placement: a device with less memory has fewer. `old` is the placement in use, `survive`
    how many failure domains (nodes, or devices of a single node) each expert must outlive. `work_limit` scales the
    deterministic amount of work solvers may do, 1 = their default. Raises InputError naming the value and its bound.
    """

    load_LE: NDArray[np.float64]
    num_devices: int
    devices_per_node: int
    num_slots: int
    num_groups: int = 1
    seed: int = 0
    sketch: TokenSketch | None = None
    costs: CostTables | None = None
    speed_D: NDArray[np.float64] | None = None
    slots_D: NDArray[np.int64] | None = None
    old: tuple[ExpertPlacement, ...] | None = None
    survive: int = 0
    work_limit: float = 1.0

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
        check_all_slots(self.num_slots, self.num_layers)
        if self.num_groups < 1 or self.num_experts % self.num_groups:
            raise InputError(f"groups={self.num_groups} does not divide experts={self.num_experts}")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} is negative; seeds are integers >= 0")
        self._check_devices()

    def _check_devices(self) -> None:
        """Refuse speeds and slots that are not one per device."""
        if self.speed_D is not None and (self.speed_D.shape != (self.num_devices,) or not (self.speed_D > 0).all()):
            raise InputError(f"speeds must be one number > 0 for each of {self.num_devices} devices")
        if self.slots_D is not None:
            right_shape = self.slots_D.shape == (self.num_devices,) and (self.slots_D >= 0).all()
            if not right_shape or self.slots_D.sum() != self.num_slots:
                raise InputError(
                    f"slots of devices must be {self.num_devices} numbers >= 0 that add up to {self.num_slots}; they add "
                    f"up to {self.slots_D.sum()}"
                )

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

    @property
    def slots_of_devices(self) -> NDArray[np.int64]:
        """Slots of each device in every layer, [D]."""
        return slots_per_device(self.num_slots, self.num_devices) if self.slots_D is None else self.slots_D

    @property
    def speeds(self) -> NDArray[np.float64]:
        """Relative speed of each device, [D]."""
        return np.ones(self.num_devices) if self.speed_D is None else self.speed_D

    @property
    def node_of_devices(self) -> NDArray[np.int64]:
        """The node of each device, [D]."""
        return np.arange(self.num_devices) // self.devices_per_node

    def placement(
        self, expert_of_slot_P: NDArray[np.integer], split_NP: NDArray[np.float64] | None = None
    ) -> ExpertPlacement:
        """One layer's placement on this problem's devices; `split_NP` as in ExpertPlacement."""
        slots_D = None if self.slots_D is None else tuple(int(slots) for slots in self.slots_D)
        return ExpertPlacement(
            expert_of_slot_P.astype(np.int32), self.num_experts, self.num_devices, slots_D=slots_D, split_NP=split_NP
        )


@dataclass(frozen=True, slots=True)
class PlacementAnswer:
    """One placement per MoE layer, in order, and sentences on what the strategy did differently from what was asked.

    `proven`: no placement of these slots is better on what the strategy minimises. `out_of_time`: work ended first.
    """

    placements: tuple[ExpertPlacement, ...]
    notes: tuple[str, ...] = ()
    proven: bool = False
    out_of_time: bool = False


def first_alike(problem: PlacementProblem, sketch: TokenSketch) -> list[int]:
    """For each layer the first one with the same tokens, loads and old copies; a routing that repeats is placed once."""
    first: dict[bytes, int] = {}
    alike = []
    for layer in range(problem.num_layers):
        digest = hashlib.sha256(sketch.experts_LTK[layer].tobytes())
        digest.update(problem.load_LE[layer].tobytes())
        if problem.old is not None:
            digest.update(problem.old[layer].expert_of_slot_P.tobytes())
        alike.append(first.setdefault(digest.digest(), layer))
    return alike
