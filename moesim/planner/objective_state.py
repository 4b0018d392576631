"""LayerState: one MoE layer under a placement, as the arrays that a swap of two experts changes.

Array letters: T token of the sketch, X (token, expert) pair by expert, E expert, P slot, C copies of an expert, D device
of a group, N node of a group, G group, S rank, W window, R resource.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.stats import poisson

from moesim.errors import InputError
from moesim.placement import ExpertPlacement
from moesim.planner.objective_kernels import STEPS_PER_TILE, choose_again, refresh_costs, settle
from moesim.planner.objective_tables import CostTables
from moesim.planner.problem import TokenSketch
from moesim.planner.sketch import pairs_by_expert
from moesim.replica import POLICIES, live_shares, mix, replica_key

Floats = NDArray[np.float64]
_TABLE_TILES = 8  # mean rows, in tiles, up to which expected tiles are tabled
MOST_PER_TOKEN = 255  # experts of a token: copies are counted in bytes


class LayerState(NamedTuple):
    """The arrays; made by `make_state`, changed by the kernels of objective.py only.

    `load_WGP` tokens of a step on each slot, `load_WR` copies on each resource, `compute_WS` and `shared_WS` seconds of
    the routed and the shared experts. A slot keeps its device, `device_P`; its expert, `expert_P`, changes. `slots_EC` has
    room for a copy on every device, so no expert may get more.
    """

    source_T: NDArray[np.int32]
    window_T: NDArray[np.int32]
    weight_T: Floats
    token_key_T: NDArray[np.uint64]
    offsets_E1: NDArray[np.int64]
    token_X: NDArray[np.int32]
    slot_X: NDArray[np.int32]
    count_TD: NDArray[np.uint8]
    count_TN: NDArray[np.uint8]
    expert_P: NDArray[np.int32]
    device_P: NDArray[np.int32]
    offsets_D1: NDArray[np.int64]
    copies_E: NDArray[np.int32]
    slots_EC: NDArray[np.int32]
    near_ED: NDArray[np.int32]
    share_NP: Floats
    policy: int
    key: np.uint64
    load_WGP: Floats
    load_WR: Floats
    compute_WS: Floats
    shared_WS: Floats
    weight_W: Floats
    tiles_M: Floats
    delta_WC: Floats
    touched_WC: NDArray[np.bool_]
    waiting: NDArray[np.int64]
    stale_D: NDArray[np.bool_]


def make_state(
    costs: CostTables, sketch: TokenSketch, layer: int, placement: ExpertPlacement, policy: str, seed: int
) -> LayerState:
    """The state of MoE ordinal `layer` under a placement; `seed` is the run's, as in the simulator.

    Memory: a byte per token and device, and per token and node. Raises InputError for more than 255 experts a token.
    """
    experts_TK = sketch.experts_LTK[layer]
    num_tokens, top_k = experts_TK.shape
    if top_k > MOST_PER_TOKEN:
        raise InputError(f"a sketch counts at most {MOST_PER_TOKEN} experts a token; got {top_k}")
    windows, ranks = sketch.num_windows, costs.num_ranks
    groups, devices = ranks // costs.group_size, costs.group_size
    token_X, expert_X = pairs_by_expert(experts_TK)
    offsets_E1 = np.searchsorted(expert_X, np.arange(placement.num_experts + 1)).astype(np.int64)
    most = max(int(placement.replicas_E.max()), min(devices, placement.num_slots - placement.num_experts + 1))
    slots_EC = np.full((placement.num_experts, most), -1, dtype=np.int32)
    live_P = placement.slots_by_expert_P
    place_P = np.arange(live_P.size) - np.repeat(placement.slot_offsets_E1[:-1], placement.replicas_E)
    slots_EC[placement.expert_of_slot_P[live_P], place_P] = live_P
    device_P = placement.device_of_slot_P
    key = replica_key(seed + layer)
    channels = costs.offsets_C1.size - 1
    state = LayerState(
        source_T=sketch.source_T,
        window_T=sketch.window_T,
        weight_T=sketch.weight_T,
        token_key_T=_token_keys(key, sketch.token_T),
        offsets_E1=offsets_E1,
        token_X=token_X,
        slot_X=np.full(token_X.size, -1, dtype=np.int32),
        count_TD=np.zeros((num_tokens, devices), dtype=np.uint8),
        count_TN=np.zeros((num_tokens, -(-devices // costs.devices_per_node)), dtype=np.uint8),
        expert_P=placement.expert_of_slot_P.copy(),
        device_P=device_P,
        offsets_D1=np.searchsorted(device_P, np.arange(devices + 1)).astype(np.int64),
        copies_E=placement.replicas_E.astype(np.int32),
        slots_EC=slots_EC,
        near_ED=np.full((placement.num_experts if policy == "nearest" else 0, devices), -1, dtype=np.int32),
        # one memory layout for all: each other one would be compiled anew
        share_NP=np.array(live_shares(placement), order="C") if policy == "split" else np.zeros((0, 0)),
        policy=POLICIES.index(policy),
        key=key,
        load_WGP=np.zeros((windows, groups, placement.num_slots)),
        load_WR=np.zeros((windows, costs.seconds_R.size)),
        compute_WS=np.zeros((windows, ranks)),
        shared_WS=_shared(costs, sketch),
        weight_W=sketch.window_weight_W,
        tiles_M=np.zeros(0) if sketch.whole else tiles_table(costs.tile),
        delta_WC=np.zeros((windows, channels)),
        touched_WC=np.zeros((windows, channels), dtype=np.bool_),
        waiting=np.zeros(1 + windows * channels, dtype=np.int64),
        stale_D=np.ones(devices, dtype=np.bool_),
    )
    _choose_all(costs, state)
    return state


def _shared(costs: CostTables, sketch: TokenSketch) -> Floats:
    """Seconds of the shared expert on every rank (moesim.compute.matrix_cost)."""
    shared_WS = np.zeros((sketch.num_windows, costs.num_ranks))
    if costs.shared_params > 0:
        np.add.at(shared_WS, (sketch.window_T, sketch.source_T), sketch.weight_T)
        compute_WS = shared_WS * costs.shared_params * costs.shared_flop_s_S
        time_WS = costs.shared_launch_s + np.maximum(compute_WS, costs.shared_bytes * costs.shared_byte_s_S)
        shared_WS = np.where(shared_WS > 0, time_WS, 0.0)
    return shared_WS


def tiles_table(tile: int) -> Floats:
    """Expected rows, in whole tiles, of a Poisson number of tokens with mean m tile / 16, m = 0, 1, ...

    E[ceil(n / tile)] = sum over j >= 0 of P(n > j tile)

    >>> float(tiles_table(1)[16].round(6))
    1.0
    """
    mean_M = np.arange(_TABLE_TILES * STEPS_PER_TILE + 1) * (tile / STEPS_PER_TILE)
    most = int(mean_M[-1] + 12 * np.sqrt(mean_M[-1]) + 20)
    more_than = np.arange(0, most, tile)
    tiles_M: Floats = tile * poisson.sf(more_than[None, :], mean_M[:, None]).sum(axis=1)
    return tiles_M


@njit(cache=True, nogil=True)
def _token_keys(key, token_T):  # type: ignore[no-untyped-def]  # types are numba's
    keys_T = np.empty(token_T.size, dtype=np.uint64)
    for i in range(token_T.size):
        keys_T[i] = mix(key ^ np.uint64(token_T[i]))
    return keys_T


@njit(cache=True, nogil=True)
def _choose_all(costs, state):  # type: ignore[no-untyped-def]
    for expert in range(state.copies_E.size):
        if state.copies_E[expert]:
            choose_again(costs, state, expert)
    settle(costs, state)
    for device in range(state.stale_D.size):
        refresh_costs(costs, state, device)
