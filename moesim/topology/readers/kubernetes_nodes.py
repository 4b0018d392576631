"""Reader of Kubernetes nodes (`kubectl get nodes -o yaml` or json): labels that say which nodes are near each other.

Hosts of one NVLink domain (`nvidia.com/gpu.clique`) are one node here, as a scale-up domain is. No rates stand in it.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moesim.errors import InputError
from moesim.topology.claims import Claims, Said
from moesim.topology.device_names import by_product
from moesim.topology.foreign_text import read_text, yaml_documents

_KIND = re.compile(r"""["']?kind["']?\s*:\s*["']?(Node|NodeList|List)\b""")
_CLIQUES = ("nvidia.com/gpu.clique", "accelerator.topograph.run/domain", "network.topology.nvidia.com/accelerator")
_LADDERS = (  # nearest first
    ("network.topology.nvidia.com/leaf", "network.topology.nvidia.com/spine", "network.topology.nvidia.com/core"),
    ("network.topology.nvidia.com/leaf", "network.topology.nvidia.com/spine", "network.topology.nvidia.com/datacenter"),
    tuple(f"fabric.topograph.run/tier-{tier}" for tier in range(3)),
    tuple(f"cloud.google.com/gce-topology-{level}" for level in ("subblock", "block")),  # its `host` is one machine
    tuple(f"topology.k8s.aws/network-node-layer-{layer}" for layer in (3, 2, 1)),
)
_COUNTS = ("nvidia.com/gpu.count", "amd.com/gpu.count")
_CAPACITIES = ("nvidia.com/gpu", "amd.com/gpu")
_PRODUCTS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "cloud.google.com/gke-accelerator")


def recognises(text: str) -> bool:
    """Whether `kind: Node` or a list is there with labels of kubernetes.io."""
    return _KIND.search(text) is not None and "kubernetes.io/" in text


def read(path: Path) -> Claims:
    """Nodes, their devices and switches as far as labels say. Raises InputError where no label says anything."""
    labels_of: dict[str, Mapping[str, Any]] = {}
    devices: dict[str, int] = {}
    for item in _nodes(yaml_documents(read_text(path), str(path))):
        labels = item["metadata"].get("labels")
        labels = labels if isinstance(labels, dict) else {}
        name = str(item["metadata"].get("name") or labels.get("kubernetes.io/hostname"))
        if name in labels_of:
            raise InputError(f"{path} has the node {name[:60]} twice")
        labels_of[name] = labels
        devices[name] = _devices(item, labels)
    if not labels_of:
        raise InputError(f"{path} has no Node; export them with `kubectl get nodes -o yaml`")
    ladder = next((one for one in _LADDERS if all(one[0] in labels for labels in labels_of.values())), ())
    domain_of = _domains(labels_of)
    switches: dict[str, tuple[str, ...]] = {}
    for name, labels in labels_of.items():
        way = tuple(str(labels[label]) for label in ladder if label in labels)
        if switches.setdefault(domain_of[name], way) != way:
            raise InputError(f"{path}: hosts of the NVLink domain {domain_of[name][:60]} are under different leaves")
    hosts_per_domain = max(list(domain_of.values()).count(domain) for domain in switches)
    facts = {}
    if max(devices.values()):
        count = max(devices.values()) * hosts_per_domain
        facts["scale_up.devices"] = Said(count, "datasheet", f"{path.name}: devices of a node x hosts of its domain")
    products = {str(labels[label]): None for labels in labels_of.values() for label in _PRODUCTS if label in labels}
    if len(products) == 1:
        facts |= by_product(next(iter(products)), path.name)
    notes = [] if ladder else [f"{path.name} has no labels of leaves on all nodes"]
    if not ladder:
        facts["nodes"] = Said(len(switches), "datasheet", f"{path.name}: nodes")
    return Claims(file=path.name, facts=facts, switches=switches if ladder else {}, notes=tuple(notes))


def _nodes(documents: list[Any]) -> Iterator[Mapping[str, Any]]:
    for document in documents:
        if isinstance(document, dict) and isinstance(document.get("items"), list):
            yield from _nodes(document["items"])
        elif _is_node(document):
            yield document


def _is_node(document: Any) -> bool:
    is_kind = isinstance(document, dict) and document.get("kind") in (None, "Node")
    return is_kind and isinstance(document.get("metadata"), dict)


def _devices(item: Mapping[str, Any], labels: Mapping[str, Any]) -> int:
    """Devices of a node, 0 where it does not say."""
    capacity = item.get("status", {}).get("capacity") if isinstance(item.get("status"), dict) else None
    found = [labels.get(label) for label in _COUNTS]
    found += [capacity.get(label) for label in _CAPACITIES] if isinstance(capacity, dict) else []
    return next((int(value) for value in map(str, found) if value.isdecimal() and len(value) < 6), 0)


def _domains(labels_of: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Node -> its NVLink domain; the node itself where no domain has two, so that other files' names of it match."""
    found = {
        name: next((f"domain {labels[label]}" for label in _CLIQUES if labels.get(label)), name)
        for name, labels in labels_of.items()
    }
    return found if len(set(found.values())) < len(found) else {name: name for name in found}
