"""Reader of SimAI's topology text: GPUs, NVSwitches and fabric switches with every link, its rate and its latency."""

import re
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.topology.claims import Claims
from moesim.topology.device_names import by_product
from moesim.topology.foreign_text import read_text
from moesim.units import parse_quantity

_FIRST = re.compile(r"\s*\d+ \d+ \d+ \d+ \d+ [A-Za-z]\w*[ \t]*\r?\n\s*\d")
_RATE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT])bps", re.IGNORECASE)


def recognises(text: str) -> bool:
    """Whether the first line is five counts and the name of a GPU."""
    return _FIRST.match(text) is not None


def read(path: Path) -> Claims:
    """The graph, all but the accelerator's own figures. Raises InputError where counts and lines do not agree."""
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
    head = lines[0]
    if len(lines) < 2 or len(head) != 6 or not all(word.isdecimal() and len(word) < 9 for word in head[:5]):
        raise InputError(
            f"{path}: the first line must be nodes, GPUs a server, NVSwitches, switches, links and the GPU's name"
        )
    num_nodes, per_server, num_nvswitches, num_others, num_links = map(int, head[:5])
    switches = lines[1]
    num_gpus = num_nodes - num_nvswitches - num_others
    wanted = [str(number) for number in range(num_gpus, num_nodes)]
    if num_gpus < 1 or per_server < 1 or num_gpus % per_server or sorted(switches, key=_place) != wanted:
        raise InputError(
            f"{path}: {num_nodes} nodes must be whole servers of {per_server} GPUs, then the switches {switches[:8]}"
        )
    if len(lines) - 2 != num_links:
        raise InputError(f"{path} claims {num_links} links, but has {len(lines) - 2} lines of them; it is truncated")
    vertices: list[dict[str, Any]] = [{"id": gpu, "node": gpu // per_server} for gpu in range(num_gpus)]
    vertices += [{"id": number, "kind": "switch"} for number in range(num_gpus, num_nodes)]
    nvswitches = range(num_gpus, num_gpus + num_nvswitches)
    edges = [_edge(words, num_nodes, nvswitches, f"{path} link {number}") for number, words in enumerate(lines[2:])]
    seen: dict[tuple[int, int], int] = {}
    for edge in edges:  # parallel links need keys
        pair = (min(edge["source"], edge["target"]), max(edge["source"], edge["target"]))
        seen[pair] = seen.get(pair, -1) + 1
        edge["key"] = seen[pair]
    graph = {"directed": False, "multigraph": True, "graph": {}, "nodes": vertices, "edges": edges}
    return Claims(file=path.name, facts=by_product(head[5], path.name), graph=graph)


def _place(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 9 else -1


def _edge(words: list[str], num_nodes: int, nvswitches: range, place: str) -> dict[str, Any]:
    if len(words) != 5 or not all(0 <= _place(word) < num_nodes for word in words[:2]):
        raise InputError(
            f"{place} must be two ids below {num_nodes}, bandwidth, latency and error rate: {' '.join(words)[:60]!r}"
        )
    rate = _RATE.fullmatch(words[2])
    if rate is None:
        raise InputError(f"{place}: the bandwidth {words[2][:40]!r} is not like 400Gbps")
    source, target = int(words[0]), int(words[1])
    try:
        latency_s = parse_quantity(words[3], "time")
    except InputError as error:
        raise InputError(f"{place}: latency: {error}") from None
    factor = {"K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}[rate[2].upper()]
    edge = {"source": source, "target": target, "bandwidth": float(rate[1]) * factor / 8, "latency": latency_s}
    return {**edge, "tier": "scale_up"} if source in nvswitches or target in nvswitches else edge
