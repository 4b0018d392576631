"""The page on adding a topology: its example is a topology."""

import re
from pathlib import Path

from moesim.topology import describe_topology, load_topology

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding" / "a-topology.md"


def test_the_example_loads(tmp_path: Path) -> None:
    """The file the page shows builds: 16 nodes under one leaf, half of them across at NIC rate."""
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    path = tmp_path / "my-cluster.yaml"
    path.write_text(example.group(1))
    described = describe_topology(load_topology(path))
    assert (128, 16, 8 * 8 * 50e9) == tuple(described[key] for key in ("devices", "nodes", "bisection_bytes_per_s"))
