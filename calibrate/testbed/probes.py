"""Probes of the emulated cluster: exchanges by pair class and size, experts, and both kernels on drawn routing.

Nothing of a trace is in them: what is fitted here is tested on traffic it has not seen.
Array letters: D rank, S slot of a rank.
"""

import hashlib
import json
import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.measurement import Measurement
from calibrate.testbed.cases import ALGORITHMS, LayerShape, drawn_routing
from calibrate.testbed.session import Session
from calibrate.testbed.wiring import Wiring

PAIR_BYTES = (1_024, 16_384, 65_536, 262_144)
MESSAGE_BYTES = (64, 65_536, 524_288)
TOKENS_PER_RANK = (128, 256, 384)
SKEWED = ((128, 0.25), (256, 0.25), (256, 0.5))  # tokens per rank, how uneven the ranks' experts are
TOKENS_PER_SLOT = (8, 64, 128, 192, 256)
SLOTS_PER_RANK = 9
EXPERTS, TOP_K = 64, 6
PHASES = ("dispatch", "expert_mlp", "combine")
_SOURCE = "calibrate.testbed on this machine"


def probe(session: Session, shape: LayerShape, repeats: int, told: Callable[[str], None]) -> list[Measurement]:
    """Run every probe; `told` hears what is being measured."""
    found: list[Measurement] = []
    for part in (_exchanges, _point_to_point, _experts, _kernels):
        told(f"probe: {part.__doc__}")
        found += part(session, shape, repeats)
    return found


def environment(wiring: Wiring) -> dict[str, Any]:
    """What the times depend on: the emulated network and the machine's software."""
    record = {
        "device": f"{platform.machine()} CPU, one thread a rank",
        "kernel": platform.release().split("-")[0],
        "libraries": {name: metadata.version(name) for name in ("torch", "numpy")},
        "wiring": {name: getattr(wiring, name) for name in wiring.__slots__},
    }
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
    return {"id": f"testbed-{digest}", **record}


def pair_matrix(wiring: Wiring, pair_class: str, size: int) -> NDArray[np.int64]:
    """Bytes [D, D]: `size` for every pair of that class (scale_up: in a node; cross_node; all), own rank excluded."""
    node_D = np.arange(wiring.ranks) // wiring.ranks_per_node
    same_DD = node_D[:, None] == node_D[None, :]
    chosen = {"scale_up": same_DD, "cross_node": ~same_DD, "all": np.ones_like(same_DD)}[pair_class]
    matrix: NDArray[np.int64] = np.where(chosen & ~np.eye(wiring.ranks, dtype=bool), size, 0).astype(np.int64)
    return matrix


def skewed_matrix(wiring: Wiring, size: int) -> NDArray[np.int64]:
    """Uneven bytes [D, D]: receiver r gets 1 + r / 2 shares of every other rank, `size` bytes on average."""
    share_D = 1.0 + np.arange(wiring.ranks) / 2
    matrix: NDArray[np.int64] = pair_matrix(wiring, "all", 1) * np.rint(size * share_D / share_D.mean()).astype(
        np.int64
    )
    return matrix


def matrix_of(wiring: Wiring, params: dict[str, Any]) -> NDArray[np.int64]:
    """The bytes [D, D] that an all_to_all or point_to_point measurement of these parameters sent."""
    if params.get("skewed"):
        return skewed_matrix(wiring, params["pair_bytes"])
    if "to_rank" in params:
        matrix = np.zeros((wiring.ranks, wiring.ranks), dtype=np.int64)
        matrix[0, params["to_rank"]] = params["bytes"]
        return matrix
    return pair_matrix(wiring, params["pair_class"], params["pair_bytes"])


def load_of(wiring: Wiring, params: dict[str, Any]) -> NDArray[np.int64]:
    """Tokens [D, S] of an expert_mlp measurement of these parameters: rank 0 has all of them."""
    load_DS = np.zeros((wiring.ranks, params["groups"]), dtype=np.int64)
    load_DS[0] = params["tokens_per_group"]
    if params["distribution"] != "balanced":
        load_DS[0, 0] *= params["groups"] // 2
        load_DS[0, 1:] //= 2
    return load_DS


def _exchanges(session: Session, shape: LayerShape, repeats: int) -> Iterator[Measurement]:
    """all-to-all of equal sizes inside nodes, across nodes and among all, of uneven sizes, and gloo's own."""
    wiring = session.wiring
    classes = [name for name in ("scale_up", "cross_node", "all") if pair_matrix(wiring, name, 1).any()]
    plans: list[dict[str, Any]] = [{"pair_class": name, "pair_bytes": size} for name in classes for size in PAIR_BYTES]
    plans += [{"pair_class": "all", "pair_bytes": size, "skewed": True} for size in PAIR_BYTES[1:]]
    plans += [{"pair_class": "all", "pair_bytes": size, "call": "all_to_all_single"} for size in PAIR_BYTES[-2:]]
    for params in plans:
        times = session.exchange_s(matrix_of(wiring, params), repeats, library="call" in params)
        yield _measured("all_to_all", wiring, {"call": "grouped", **params}, times)


def _point_to_point(session: Session, shape: LayerShape, repeats: int) -> Iterator[Measurement]:
    """one message inside a node and across nodes."""
    wiring = session.wiring
    for pair_class, peer in (("scale_up", 1), ("cross_node", wiring.ranks_per_node)):
        if pair_matrix(wiring, pair_class, 1).any():
            for size in MESSAGE_BYTES:
                params = {"pair_class": pair_class, "to_rank": peer, "bytes": size}
                times = session.exchange_s(matrix_of(wiring, params), repeats)
                yield _measured("point_to_point", wiring, params, times)


def _experts(session: Session, shape: LayerShape, repeats: int) -> Iterator[Measurement]:
    """expert MLPs of one rank, equal and uneven; the others wait, as most ranks do at any time of a layer."""
    wiring = session.wiring
    for tokens in TOKENS_PER_SLOT:
        for distribution in ("balanced", "one_hot_half"):
            params = {
                "kernel": "torch-loop",
                "groups": SLOTS_PER_RANK,
                "tokens_per_group": tokens,
                "d_model": shape.width,
                "d_ff": shape.hidden,
                "gated": True,
                "dtype": "fp32",
                "distribution": distribution,
            }
            times = session.experts_s(load_of(wiring, params), shape.width, shape.hidden, repeats)
            yield _measured("expert_mlp", wiring, params, times[:, 0])


def _kernels(session: Session, shape: LayerShape, repeats: int) -> Iterator[Measurement]:
    """dispatch and combine of drawn routing, even and uneven, by both algorithms, each phase from a start of its own."""
    wiring = session.wiring
    for algorithm in ALGORITHMS:
        for tokens, skew in [*((tokens, 0.0) for tokens in TOKENS_PER_RANK), *SKEWED]:
            params = {
                "algorithm": algorithm,
                "skew": skew,
                "tokens_per_rank": tokens,
                "hidden": shape.width,
                "experts": EXPERTS,
                "top_k": TOP_K,
                "dtype": "fp32",
                "chunk_tokens": shape.chunk_tokens,
            }
            routing = drawn_routing(wiring, tokens, EXPERTS, TOP_K, seed=tokens, skew=skew)
            header = {
                "algorithm": algorithm,
                "width": shape.width,
                "hidden": shape.hidden,
                "repeats": repeats,
                "chunk_tokens": shape.chunk_tokens,
                "apart": True,
            }
            answers = session.layer(routing, np.arange(EXPERTS), header)
            ends = np.array([answer["end_s"] for answer in answers]).max(axis=0)  # [repeats, phases]
            for operation in ("dispatch", "combine"):
                yield _measured(operation, wiring, params, ends[:, PHASES.index(operation)])


def _measured(operation: str, wiring: Wiring, params: dict[str, Any], times: NDArray[np.float64]) -> Measurement:
    low, middle, high = np.quantile(times, [0.1, 0.5, 0.9]).tolist()
    places = {
        "hardware": "cpu-rank",
        "library": "gloo",
        "ranks": wiring.ranks,
        "nodes": wiring.nodes,
        "ranks_per_node": wiring.ranks_per_node,
    }
    return Measurement(
        probe=operation,
        operation=operation,
        params={**places, **params},
        time_s=middle,
        environment=environment(wiring)["id"],
        source=_SOURCE,
        repeats=len(times),
        quantiles={"p10": low, "p90": high},
    )
