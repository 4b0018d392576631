"""TrafficMatrix and the token copies behind it: what one dispatch or combine sends from device to device.

Array letters: T token, K top-k, E expert, P slot, D device, N node. In a matrix the row is the sending device, the
column the receiving one; a device's own diagonal counts, though it crosses no wire.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from moesim.errors import InputError, unknown_name
from moesim.placement import ExpertPlacement
from moesim.replica import choose_replicas

HEADER_BYTES = 16  # per copy: source, offset, scale pointer (DeepEP low-latency message)
# dtype on the wire: bytes per channel, bytes of one scale, channels that share it (0 = no scales)
_WIRE_DTYPES = {
    "fp32": (4.0, 0, 0),
    "bf16": (2.0, 0, 0),
    "fp16": (2.0, 0, 0),
    "fp8": (1.0, 4, 128),
    "nvfp4": (0.5, 1, 16),
}
_MOST_DEVICES = 1 << 14  # a D x D matrix of int64 is 2 GiB there
_PARTIALS_BYTES = 1 << 29  # threads' private matrices together; above it fewer threads count
_PAIRS_PER_CHUNK = 1 << 20  # counted in milliseconds: less is not worth a thread, nor compiling for threads


@dataclass(frozen=True, slots=True)
class TrafficCounts:
    """Copies of tokens that one dispatch moves, counted at three levels of de-duplication (int64).

    A token with three experts on two devices of one node is 3 in `per_expert_DD`, 2 in `per_device_DD`, 1 in
    `per_node_DN`. The combine is the transpose. Fan-outs are means over all tokens, the token's own device and node
    included.
    """

    per_expert_DD: NDArray[np.int64]  # one copy per (token, expert)
    per_device_DD: NDArray[np.int64]  # one copy per distinct device of a token
    per_node_DN: NDArray[np.int64]  # one copy per distinct node of a token
    load_D: NDArray[np.int64]  # (token, expert) pairs each device computes
    tokens_D: NDArray[np.int64]  # tokens each device has, those without any expert included
    fanout_nodes_count: NDArray[np.int64]  # [N + 1]: tokens with 0, 1, ... N distinct nodes
    fanout_devices: float
    fanout_nodes: float

    @property
    def num_tokens(self) -> int:
        """Tokens counted, those without any expert included."""
        return int(self.fanout_nodes_count.sum())


@dataclass(frozen=True, slots=True)
class PlacedTraffic:
    """The counts of one dispatch under a placement, and the tokens each expert copy computes."""

    counts: TrafficCounts
    load_P: NDArray[np.int64]  # (token, expert) pairs of each slot


@dataclass(frozen=True, slots=True)
class TrafficMatrix:
    """Bytes from device to device of one dispatch or combine, float64 [D, D]."""

    bytes_DD: NDArray[np.float64]

    def __post_init__(self) -> None:
        bytes_DD = np.array(self.bytes_DD, dtype=np.float64)
        if bytes_DD.ndim != 2 or bytes_DD.shape[0] != bytes_DD.shape[1]:
            raise InputError(f"a traffic matrix is square, device by device; got shape {bytes_DD.shape}")
        if not (np.isfinite(bytes_DD).all() and (bytes_DD >= 0).all()):
            raise InputError("a traffic matrix holds finite bytes >= 0; found a negative, infinite or NaN entry")
        bytes_DD.setflags(write=False)
        object.__setattr__(self, "bytes_DD", bytes_DD)

    @classmethod
    def from_copies(cls, copies_DD: NDArray[np.int64], bytes_per_copy: float) -> "TrafficMatrix":
        """`copies_DD` token copies of `bytes_per_copy` bytes each."""
        return cls(np.multiply(copies_DD, float(bytes_per_copy), dtype=np.float64))

    def transpose(self) -> "TrafficMatrix":
        """The same copies sent back: a combine from its dispatch, at equal bytes per copy."""
        return TrafficMatrix(self.bytes_DD.T)


def copy_bytes(width: int, dtype: str) -> int:
    """Bytes of one token copy on the wire: `width` channels of `dtype`, their scales, a 16-byte header.

    FP8 carries one fp32 scale per 128 channels, NVFP4 one byte per 16. Raises UnknownName for another dtype.

    >>> copy_bytes(7168, "fp8")
    7408
    """
    if dtype not in _WIRE_DTYPES:
        raise unknown_name("dtype", dtype, _WIRE_DTYPES)
    if width < 1:
        raise InputError(f"width={width} channels is not a payload; it must be at least 1")
    channel_bytes, scale_bytes, channels_per_scale = _WIRE_DTYPES[dtype]
    scales = math.ceil(width / channels_per_scale) * scale_bytes if channels_per_scale else 0
    return math.ceil(width * channel_bytes) + scales + HEADER_BYTES


def count_traffic(
    expert_ids: NDArray[np.int32],
    source_device: NDArray[np.int32],
    device_of_expert: NDArray[np.int32],
    num_devices: int,
    devices_per_node: int,
) -> TrafficCounts:
    """Count the token copies of one dispatch.

    `expert_ids` [tokens, K] (-1 = none, anywhere in the row), `source_device` [tokens], `device_of_expert` [experts].
    Device d is on node d // devices_per_node; the last node may be partly filled. Runs on all numba threads; memory
    beyond the input is two D x D int64 matrices a thread, 512 MiB at most for all threads but the first. Raises
    InputError for wrong shapes, and for experts or devices out of range.
    """
    num_devices, devices_per_node = _checked_size(num_devices, devices_per_node)
    device_E = _checked_devices("device_of_expert", device_of_expert, num_devices)
    source_T = _checked_devices("source_device", source_device, num_devices)
    ids_TK = _checked_ids(expert_ids, source_T.size, device_E.size)
    num_nodes = -(-num_devices // devices_per_node)
    chunks = _num_chunks(ids_TK.size, num_devices, num_nodes)
    per_expert_CDD = np.zeros((chunks, num_devices, num_devices), dtype=np.int64)
    per_device_CDD = np.zeros((chunks, num_devices, num_devices), dtype=np.int64)
    per_node_CDN = np.zeros((chunks, num_devices, num_nodes), dtype=np.int64)
    fanout_CN1 = np.zeros((chunks, num_nodes + 1), dtype=np.int64)
    wrong_C = np.full(chunks, -1, dtype=np.int64)
    node_D = (np.arange(num_devices) // devices_per_node).astype(np.int32)
    order_T = np.argsort(source_T, kind="stable")  # a source's tokens together: its matrix rows stay in the cache
    inputs = (order_T, ids_TK, source_T, device_E, node_D)
    if chunks == 1:
        wrong_C[0] = _count(*inputs, per_expert_CDD[0], per_device_CDD[0], per_node_CDN[0], fanout_CN1[0])
    else:
        _count_chunks(*inputs, per_expert_CDD, per_device_CDD, per_node_CDN, fanout_CN1, wrong_C)
    _refuse_wrong_id(np.asarray(expert_ids), wrong_C, device_E.size)
    tokens_D = np.bincount(source_T, minlength=num_devices)
    copies = (_merged(per_expert_CDD), _merged(per_device_CDD), _merged(per_node_CDN))
    return _counts(*copies, _merged(fanout_CN1), tokens_D)


def count_placed(
    experts_TK: NDArray[np.int32],
    source_T: NDArray[np.int32],
    placement: ExpertPlacement,
    policy: str,
    devices_per_node: int,
    seed: int,
    token_offset: int = 0,
) -> PlacedTraffic:
    """Count the token copies of one dispatch to the copies of experts that replica `policy` (nearest, even) chooses.

    `token_offset` is the index of the first token, so that a step counted in pieces equals the step counted at once.
    """
    slots_TK = choose_replicas(experts_TK, source_T, placement, policy, devices_per_node, seed, token_offset)
    counts = count_traffic(slots_TK, source_T, placement.device_of_slot_P, placement.num_devices, devices_per_node)
    load_P = np.bincount(slots_TK[slots_TK >= 0], minlength=placement.num_slots)
    return PlacedTraffic(counts, load_P)


@njit(cache=True, nogil=True)
def _count(  # type: ignore[no-untyped-def]  # types are numba's
    order_T, ids_TK, source_T, device_E, node_D, per_expert_DD, per_device_DD, per_node_DN, fanout_N1
):
    """Add the copies of the tokens of `order_T`; returns the position of an id outside -1..E-1, which ends it, or -1.

    A device is new to a token when its stamp is not that token's number: no set, nothing to clear between tokens.
    Devices are looked up for the whole row first, so that the misses of the large table overlap, and the counting has
    no branch to mispredict.
    """
    top_k, num_experts = ids_TK.shape[1], device_E.size
    stamp_D = np.full(per_node_DN.shape[0], -1, dtype=np.int64)
    stamp_N = np.full(per_node_DN.shape[1], -1, dtype=np.int64)
    device_K = np.empty(top_k, dtype=np.int32)
    for token in order_T:
        found = 0
        for k in range(top_k):
            expert = ids_TK[token, k]
            if expert < 0 or expert >= num_experts:
                if expert == -1:
                    continue
                return token * top_k + k
            device_K[found] = device_E[expert]
            found += 1
        per_expert_D = per_expert_DD[source_T[token]]
        per_device_D = per_device_DD[source_T[token]]
        per_node_N = per_node_DN[source_T[token]]
        nodes = 0
        for k in range(found):
            device = device_K[k]
            node = node_D[device]
            new_node = stamp_N[node] != token
            per_expert_D[device] += 1
            per_device_D[device] += stamp_D[device] != token
            per_node_N[node] += new_node
            nodes += new_node
            stamp_D[device] = token
            stamp_N[node] = token
        fanout_N1[nodes] += 1
    return -1


@njit(cache=True, nogil=True, parallel=True)
def _count_chunks(  # type: ignore[no-untyped-def]
    order_T, ids_TK, source_T, device_E, node_D, per_expert_CDD, per_device_CDD, per_node_CDN, fanout_CN1, wrong_C
):
    """Count equal chunks of tokens in parallel, each into its own matrices."""
    num_chunks, num_tokens = wrong_C.size, order_T.size
    for chunk in prange(num_chunks):
        wrong_C[chunk] = _count(
            order_T[num_tokens * chunk // num_chunks : num_tokens * (chunk + 1) // num_chunks],
            ids_TK,
            source_T,
            device_E,
            node_D,
            per_expert_CDD[chunk],
            per_device_CDD[chunk],
            per_node_CDN[chunk],
            fanout_CN1[chunk],
        )


def _num_chunks(num_pairs: int, num_devices: int, num_nodes: int) -> int:
    """Chunks to count in parallel: one a thread, fewer where the input is small or the matrices are large."""
    partial_bytes = 8 * num_devices * (2 * num_devices + num_nodes)
    return max(1, min(get_num_threads(), num_pairs // _PAIRS_PER_CHUNK, _PARTIALS_BYTES // partial_bytes))


def _merged(partials: NDArray[np.int64]) -> NDArray[np.int64]:
    total = partials[0]
    for partial in partials[1:]:
        total += partial
    return np.array(total)  # a view would keep every partial alive


def _counts(
    per_expert_DD: NDArray[np.int64],
    per_device_DD: NDArray[np.int64],
    per_node_DN: NDArray[np.int64],
    fanout_N1: NDArray[np.int64],
    tokens_D: NDArray[np.int64],
) -> TrafficCounts:
    tokens = max(1, int(fanout_N1.sum()))  # no tokens: no fan-out
    return TrafficCounts(
        per_expert_DD=per_expert_DD,
        per_device_DD=per_device_DD,
        per_node_DN=per_node_DN,
        load_D=per_expert_DD.sum(axis=0),
        tokens_D=tokens_D,
        fanout_nodes_count=fanout_N1,
        fanout_devices=int(per_device_DD.sum()) / tokens,
        fanout_nodes=int(per_node_DN.sum()) / tokens,
    )


def _checked_size(num_devices: int, devices_per_node: int) -> tuple[int, int]:
    for name, value in (("num_devices", num_devices), ("devices_per_node", devices_per_node)):
        if not isinstance(value, int | np.integer) or not 1 <= value <= _MOST_DEVICES:
            raise InputError(f"{name}={value!r} is outside 1..{_MOST_DEVICES}, the largest matrix counted")
    return int(num_devices), int(devices_per_node)


def _checked_devices(name: str, devices: NDArray[np.integer], num_devices: int) -> NDArray[np.int32]:
    devices = np.asarray(devices)
    if devices.ndim != 1 or (devices.size and devices.dtype.kind not in "iu"):
        raise InputError(f"{name} must be a row of integers; got shape {devices.shape} of {devices.dtype}")
    if devices.size and not (devices.min() >= 0 and devices.max() < num_devices):
        wrong = int(np.flatnonzero((devices < 0) | (devices >= num_devices))[0])
        raise InputError(f"{name}[{wrong}]={devices[wrong]} is outside 0..{num_devices - 1}")
    return np.ascontiguousarray(devices, dtype=np.int32)


def _checked_ids(expert_ids: NDArray[np.integer], num_tokens: int, num_experts: int) -> NDArray[np.int32]:
    ids_TK = np.asarray(expert_ids)
    if ids_TK.ndim != 2 or (ids_TK.size and ids_TK.dtype.kind not in "iu"):
        raise InputError(f"expert_ids must be integers [tokens, K]; got shape {ids_TK.shape} of {ids_TK.dtype}")
    if ids_TK.shape[0] != num_tokens:
        raise InputError(f"expert_ids has {ids_TK.shape[0]} tokens, source_device has {num_tokens}; they must agree")
    # int32 is counted in place; other widths are rare, and a copy is cheaper than compiling a kernel for each
    clipped_TK = ids_TK if ids_TK.dtype == np.int32 else ids_TK.astype(np.int64).clip(-2, num_experts)
    return np.ascontiguousarray(clipped_TK, dtype=np.int32)


def _refuse_wrong_id(ids_TK: NDArray[np.integer], wrong_C: NDArray[np.int64], num_experts: int) -> None:
    wrong = wrong_C[wrong_C >= 0]
    if wrong.size:
        token, k = divmod(int(wrong[0]), ids_TK.shape[1])
        raise InputError(
            f"expert_ids[{token}, {k}]={ids_TK[token, k]} is outside 0..{num_experts - 1}; -1 stands for no expert"
        )
