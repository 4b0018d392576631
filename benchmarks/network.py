"""Speed of simulate_flows against a plain loop, and of the fabrics on one decode step; `--smoke` for a quick small run.

    python benchmarks/network.py

Every ratio compares two figures of the same run. Compilation is not timed. The plain loop is the obvious numba program:
at every completion it shares the links anew among all flows by progressive filling.
"""

import argparse
import resource
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import simpy
from numba import njit
from numpy.typing import NDArray

from moesim.network import FlowTimes, simulate_flows
from moesim.network.fabric import BoundFabric, Fabric, FluidFabric
from moesim.network.flow import Flows, Paths
from moesim.network.transfer import Transfer


@dataclass(frozen=True, slots=True)
class Star:
    """All-to-all between hosts on a non-blocking switch, 50e9 B/s each way."""

    num_hosts: int
    is_skewed: bool

    def arguments(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
        """Link bandwidth, path offsets, path links, flow bytes."""
        num = self.num_hosts
        source, target = np.nonzero(~np.eye(num, dtype=bool))
        size = np.full(len(source), 2.0**20)
        if self.is_skewed:
            size = np.rint(2**20 * np.random.default_rng(0).lognormal(0, 1, (num, num)))[source, target]
        links = np.stack([source, num + target], axis=1).astype(np.int32).ravel()
        return np.full(2 * num, 50e9), np.arange(len(source) + 1) * 2, links, size


@njit(cache=True)
def plain_loop(bandwidth, offsets, links, size):  # type: ignore[no-untyped-def]
    """Finish times by sharing all links anew at every completion."""
    num_flows, num_links = len(size), len(bandwidth)
    starts = np.zeros(num_links + 1, np.int64)
    for link in links:
        starts[link + 1] += 1
    starts = np.cumsum(starts)
    place = starts[:-1].copy()
    flows = np.empty(len(links), np.int64)
    for flow in range(num_flows):
        for hop in range(offsets[flow], offsets[flow + 1]):
            flows[place[links[hop]]] = flow
            place[links[hop]] += 1
    left_bytes = size.copy()
    finish = np.zeros(num_flows)
    ended = np.zeros(num_flows, np.bool_)
    rate = np.zeros(num_flows)
    count = np.empty(num_links, np.int64)
    now, num_ended = 0.0, 0
    while num_ended < num_flows:
        left = bandwidth.copy()
        frozen = ended.copy()
        count[:] = 0
        for flow in range(num_flows):
            if not ended[flow]:
                for hop in range(offsets[flow], offsets[flow + 1]):
                    count[links[hop]] += 1
        while True:
            first, level = -1, np.inf
            for link in range(num_links):
                if count[link] > 0 and left[link] < level * count[link]:
                    first, level = link, left[link] / count[link]
            if first < 0:
                break
            for at in range(starts[first], starts[first + 1]):
                flow = flows[at]
                if not frozen[flow]:
                    frozen[flow] = True
                    rate[flow] = level
                    for hop in range(offsets[flow], offsets[flow + 1]):
                        left[links[hop]] -= level
                        count[links[hop]] -= 1
        step = np.inf
        for flow in range(num_flows):
            if not ended[flow]:
                step = min(step, left_bytes[flow] / rate[flow])
        now += step
        for flow in range(num_flows):
            if not ended[flow]:
                if left_bytes[flow] <= rate[flow] * step * (1 + 1e-12):
                    ended[flow] = True
                    finish[flow] = now
                    num_ended += 1
                else:
                    left_bytes[flow] -= rate[flow] * step
    return finish


def decode_layer(nodes: int, per_node: int, seed: int) -> tuple[NDArray[np.float64], Flows]:
    """One node_dedup dispatch of about 1,000 flows at 64 devices: NIC flows on rails, forwarding inside nodes."""
    num = nodes * per_node
    rng = np.random.default_rng(seed)
    up_out, up_in, nic_out, nic_in, engine = (np.arange(num) + kind * num for kind in range(5))
    rows: list[tuple[int, int, float, list[int]]] = []  # source, target, bytes, path
    for source in range(num):
        node, local = divmod(source, per_node)
        for other in range(nodes):
            if other != node:
                target = other * per_node + local
                rows.append((source, target, 7408.0 * rng.integers(20, 80), [nic_out[source], nic_in[target]]))
        for target in range(node * per_node, (node + 1) * per_node):
            path = [engine[source]] if target == source else [engine[source], up_out[source], up_in[target]]
            rows.append((source, target, 7408.0 * rng.integers(100, 400), path))
    source_F, target_F, bytes_F, paths = zip(*rows, strict=True)
    csr = Paths(np.cumsum([0, *map(len, paths)]), np.concatenate(paths))
    num_flows = len(rows)
    flows = Flows(
        np.array(source_F), np.array(target_F), np.array(bytes_F), csr, np.full(num_flows, 3e-6), np.ones(num_flows)
    )
    return np.repeat([200e9, 200e9, 50e9, 50e9, 300e9], num), flows


def run_step(make: Callable[..., Fabric], nodes: int, layers: int) -> tuple[float, int]:
    """Dispatch and combine of some layers, ranks at slightly different times; returns simulated seconds and solves."""
    layer_flows = [decode_layer(nodes, 8, seed) for seed in range(4)]
    num = nodes * 8
    env = simpy.Environment()
    fabric = make(env, layer_flows[0][0])
    lag = np.random.default_rng(9).exponential(1e-5, (2 * layers, num))
    transfers: dict[int, Transfer] = {}

    def rank(index: int) -> Generator[simpy.Event, Any, None]:
        for phase in range(2 * layers):
            yield env.timeout(20e-6 + lag[phase, index])
            if phase not in transfers:
                flows = layer_flows[phase % 4][1]
                waits = (np.arange(num + 1), np.arange(num))
                transfers[phase] = fabric.open(flows, flows.source_F, flows.target_F, num, *waits, extra_s=5e-6)
            yield transfers[phase].arrive(index)

    for index in range(num):
        env.process(rank(index))
    env.run()
    return float(env.now), fabric.solves


def report(name: str, seconds: float, *remarks: str) -> None:
    """One line of the table."""
    print(f"{name:44}{seconds:9.3f} s   {', '.join(remarks)}".rstrip())


def compare(num_hosts: int) -> None:
    """The exact answer and a merged one against the plain loop."""
    arguments = Star(num_hosts, True).arguments()
    plain, expected = timed(lambda: plain_loop(*arguments))
    report(f"{num_hosts} skewed hosts, plain loop", plain)
    exact, answer = timed(lambda: simulate_flows(*arguments))
    apart = float(np.max(np.abs(answer.finish_s / expected - 1.0)))
    ratio = f"1/{plain / exact:.1f} of the plain loop"
    report(f"{num_hosts} skewed hosts, exact", exact, ratio, f"flows at most {apart:.0e} apart", *figures(answer))
    merged, near = timed(lambda: simulate_flows(*arguments, tolerance=0.01))
    off = f"completion {near.completion_s / answer.completion_s - 1.0:+.1e} off"
    report(f"{num_hosts} skewed hosts, tolerance 0.01", merged, off, f"{near.solves} solves")


def figures(answer: FlowTimes) -> tuple[str, str]:
    """Completion and solves as text."""
    return f"completion {answer.completion_s * 1e3:.9f} ms", f"{answer.solves} solves"


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and answer of one call."""
    began = time.perf_counter()
    answer = call()
    return time.perf_counter() - began, answer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="small sizes, about two seconds")
    skewed, equal, large, layers = (16, 32, 48, 1) if parser.parse_args().smoke else (128, 512, 1024, 58)
    simulate_flows(*Star(4, True).arguments(), tolerance=0.1)  # compiles
    plain_loop(*Star(4, True).arguments())

    compare(skewed)
    arguments = Star(equal, False).arguments()
    report(f"{equal} equal hosts, exact", *figured(timed(lambda: simulate_flows(*arguments))))
    arguments = Star(large, True).arguments()
    took = figured(timed(lambda: simulate_flows(*arguments, tolerance=0.01)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    report(f"{large} skewed hosts, tolerance 0.01", *took, f"{memory:.2f} GiB")
    for name, make in FABRICS.items():
        run_step(make, 2, 1)  # compiles
        seconds, (end, solves) = timed(partial(run_step, make, 8, layers))
        report(f"64 ranks x {layers} layers, {name}", seconds, f"simulated {end * 1e3:.4f} ms", f"{solves} solves")


def figured(outcome: tuple[float, FlowTimes]) -> tuple[float, str, str]:
    """Seconds and figures of a timed call."""
    return outcome[0], *figures(outcome[1])


FABRICS: dict[str, Callable[..., Fabric]] = {
    "bound": BoundFabric,
    "fluid, tolerance 0.02": lambda env, bandwidth: FluidFabric(env, bandwidth, tolerance=0.02),
    "fluid, exact": FluidFabric,
}

if __name__ == "__main__":
    main()
