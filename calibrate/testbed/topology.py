"""The emulated cluster as moesim sees it: a graph of ranks, node bridges and the core, with the nominal rates of tc."""

import json
import tempfile
from pathlib import Path

from calibrate.testbed.wiring import Wiring
from moesim.cluster import Accelerator, Cluster
from moesim.topology.shapes.graph import Parameters, Spec, build

CPU_RANK = Accelerator(
    name="cpu-rank",
    flops_per_s={"bf16": 1e11},  # fp32 arithmetic; nominal, the profile's fraction is what counts
    memory_bytes=2**30,
    memory_bytes_per_s=1e10,
)


def cluster_graph(wiring: Wiring) -> dict[str, object]:
    """The node-link graph that moesim's shape `graph` reads: rank links are scale-up, uplinks are NICs."""
    vertices: list[dict[str, object]] = [
        {"id": f"rank{rank}", "node": rank // wiring.ranks_per_node} for rank in range(wiring.ranks)
    ]
    vertices += [{"id": f"bridge{node}", "kind": "switch"} for node in range(wiring.nodes)]
    vertices.append({"id": "core", "kind": "switch"})
    edges: list[dict[str, object]] = [
        {
            "source": f"rank{rank}",
            "target": f"bridge{rank // wiring.ranks_per_node}",
            "bandwidth": wiring.rank_bytes_per_s,
            "tier": "scale_up",
        }
        for rank in range(wiring.ranks)
    ]
    edges += [
        {"source": f"bridge{node}", "target": "core", "bandwidth": wiring.uplink_bytes_per_s, "tier": "nic"}
        for node in range(wiring.nodes)
    ]
    return {"directed": False, "multigraph": False, "graph": {}, "nodes": vertices, "edges": edges}


def emulated(wiring: Wiring) -> Cluster:
    """The cluster of a wiring."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "emulated-cluster.json"
        path.write_text(json.dumps(cluster_graph(wiring)), encoding="utf-8")
        spec = Spec(format_version=1, name="emulated-cluster", shape="graph", accelerator=CPU_RANK.name, file=str(path))
        return build(spec, Parameters(), CPU_RANK, ("rates: as given to tc tbf",))
