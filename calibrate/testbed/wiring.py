"""Wiring: the links of the emulated cluster, and the `ip` and `tc` commands that make them.

Every rank has a network namespace with one veth into the bridge of its node; every node's bridge has one veth (the
uplink) into the core bridge. Both ends of both kinds are shaped by `tc tbf`, so each link has its rate in each direction:

    rank 0 --\
    rank 1 ---+-- node bridge ==uplink== core bridge ==uplink== node bridge --- rank 4 ...

All bridges live in one namespace of their own. Queues are long and socket buffers short enough that no packet is dropped.
"""

import math
from dataclasses import dataclass

INTERFACE = "eth0"  # of every rank, in its namespace
MOST_RANKS = 64
_SOCKET_BYTES = 262_144  # largest send and receive buffer of a connection
_QUEUE_BYTES = 64 * 2**20  # longer than all socket buffers together: what is in flight never overflows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """Sizes and rates: bytes/s of a rank's link and of a node's uplink, each direction; bytes of a token bucket.

    Rates count what tc counts: Ethernet frames with their headers.
    """

    nodes: int = 2
    ranks_per_node: int = 4
    rank_bytes_per_s: float = 3.125e6
    uplink_bytes_per_s: float = 6.25e6
    burst_bytes: int = 32_768

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.ranks_per_node < 1 or not 2 <= self.ranks <= MOST_RANKS:
            raise ValueError(
                f"nodes={self.nodes} x ranks_per_node={self.ranks_per_node} = {self.ranks} ranks; give 2 to {MOST_RANKS}"
            )
        for name, rate in (("rank link", self.rank_bytes_per_s), ("uplink", self.uplink_bytes_per_s)):
            if not math.isfinite(rate) or not 1e5 <= rate <= 1e10:
                raise ValueError(f"{name} rate {rate!r} bytes/s is outside 1e5..1e10")

    @property
    def ranks(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.ranks_per_node

    def address(self, rank: int) -> str:
        """The IPv4 address of a rank; all ranks are in one subnet."""
        return f"10.77.{rank // 200}.{rank % 200 + 1}"


def fabric_commands(wiring: Wiring, pid_of_rank: list[int]) -> list[str]:
    """Lines of `ip -batch` for the fabric's namespace: bridges, uplinks, and a veth into each rank's namespace."""
    lines = ["link set lo up", "link add core type bridge", "link set core up"]
    for node in range(wiring.nodes):
        lines += [
            f"link add node{node} type bridge",
            f"link set node{node} up",
            f"link add up{node} type veth peer name down{node}",
            f"link set up{node} master node{node} up",
            f"link set down{node} master core up",
        ]
    for rank, pid in enumerate(pid_of_rank):
        lines += [
            f"link add rank{rank} type veth peer name {INTERFACE} netns {pid}",
            f"link set rank{rank} master node{rank // wiring.ranks_per_node} up",
        ]
    return lines


def rank_commands(wiring: Wiring, rank: int) -> list[str]:
    """Lines of `ip -batch` for the namespace of one rank."""
    address = f"addr add {wiring.address(rank)}/16 dev {INTERFACE}"
    return ["link set lo up", address, f"link set {INTERFACE} gso_max_size 16384 up"]


def fabric_shaping(wiring: Wiring) -> list[str]:
    """Lines of `tc -batch` for the fabric: uplinks in both directions, and what flows towards each rank."""
    lines = [_tbf(f"{end}{node}", wiring.uplink_bytes_per_s, wiring) for node in range(wiring.nodes) for end in _ENDS]
    return lines + [_tbf(f"rank{rank}", wiring.rank_bytes_per_s, wiring) for rank in range(wiring.ranks)]


def rank_shaping(wiring: Wiring) -> list[str]:
    """Lines of `tc -batch` for the namespace of one rank: what it sends."""
    return [_tbf(INTERFACE, wiring.rank_bytes_per_s, wiring)]


def socket_settings() -> dict[str, str]:
    """Files under /proc/sys/net/ipv4 of a rank's namespace and what to write: one TCP, whatever the machine's default."""
    return {
        "tcp_congestion_control": "reno",
        "tcp_slow_start_after_idle": "0",
        "tcp_no_metrics_save": "1",
        "tcp_rmem": f"4096 131072 {_SOCKET_BYTES}",
        "tcp_wmem": f"4096 65536 {_SOCKET_BYTES}",
    }


_ENDS = ("up", "down")


def _tbf(device: str, bytes_per_s: float, wiring: Wiring) -> str:
    rate = f"rate {round(bytes_per_s * 8)}bit burst {wiring.burst_bytes} limit {_QUEUE_BYTES}"
    return f"qdisc replace dev {device} root tbf {rate}"
