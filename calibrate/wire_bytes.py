"""Logical bytes to wire bytes, and published bandwidths back to times: the one place where conventions are converted.

A published bandwidth divides *logical* bytes by the time, and each library counts its own way (docs/MODEL.md 1):
- nccl-tests, rccl-tests: `size` is the send buffer of one rank, own block included; algbw = size/time, busbw = algbw x (n-1)/n.
  For all_gather and reduce_scatter `size` is the larger buffer (of all ranks), for all_reduce the buffer.
- DeepEP normal kernels ("RDMA GB/s"): one copy per distinct node of a token, its own node included.
- DeepEP normal kernels ("NVLink GB/s"), UCCL-EP and HybridEP inside one domain: copies one rank receives, its own included.
- low-latency kernels: one copy per (token, expert), local experts included.
Wire bytes are logical bytes without the own node, rank or block. Copies of the normal kernels' tests weigh width x
(1 + 4/128) bytes in FP8 and width x 2 in BF16; those of low-latency kernels add a header of 16 bytes in FP8.
"""

# Distinct nodes per token in DeepEP's normal-kernel test: 256 experts, top 8 of the best min(nodes, 4) node groups.
_DISTINCT_NODES = {1: 1.0, 2: 1.994, 4: 3.62, 8: 3.98, 16: 4.0}
HEADER_BYTES = 16
_SCALE_BYTES_PER_CHANNEL = 4 / 128


def all_to_all_wire_bytes(bytes_per_rank: float, ranks: int) -> float:
    """Bytes one rank puts on links in an equal all-to-all of `bytes_per_rank`, the own block not counted."""
    return bytes_per_rank * (ranks - 1) / ranks


def remote_bytes(bytes_per_rank: float, nodes: int) -> float:
    """Of an equal all-to-all's `bytes_per_rank`, the part that leaves the node."""
    return bytes_per_rank * (nodes - 1) / nodes


def copy_bytes(hidden: int, dtype: str, *, header: bool) -> float:
    """Bytes of one token's copy: payload, FP8 scales, and the header of FP8 low-latency messages.

    >>> copy_bytes(7168, "fp8", header=True), copy_bytes(7168, "bf16", header=True)
    (7408.0, 14336.0)
    """
    if dtype.startswith("fp8"):
        return hidden * (1 + _SCALE_BYTES_PER_CHANNEL) + (HEADER_BYTES if header else 0)
    return hidden * 2.0


def distinct_nodes(nodes: int) -> float | None:
    """Distinct nodes a token is sent to in DeepEP's normal-kernel test; None for a count of nodes without a figure."""
    return _DISTINCT_NODES.get(nodes)


def distinct_ranks(ranks: int, experts: int, top_k: int) -> float:
    """Expected distinct ranks of a token whose `top_k` different experts are drawn uniformly.

    >>> round(distinct_ranks(8, 256, 8), 2)
    5.29
    """
    per_rank = experts // ranks
    missed = 1.0
    for drawn in range(top_k):
        missed *= (experts - per_rank - drawn) / (experts - drawn)
    return ranks * (1.0 - missed)


def logical_dispatch_bytes(
    fabric: str, *, tokens: int, hidden: int, top_k: int, experts: int, ranks: int, nodes: int, dtype: str
) -> float | None:
    """Logical bytes behind a published dispatch or combine bandwidth of one rank; None where the rule is not known.

    `fabric`: rdma (normal kernels across nodes), nvlink or xgmi (inside one domain), low_latency.
    """
    if fabric == "low_latency":
        return tokens * top_k * copy_bytes(hidden, dtype, header=True)
    copy = copy_bytes(hidden, dtype, header=False)
    if fabric == "rdma":
        reached = distinct_nodes(nodes)
        return None if reached is None else tokens * reached * copy
    if fabric in ("nvlink", "xgmi") and nodes == 1:
        return tokens * distinct_ranks(ranks, experts, top_k) * copy
    return None
