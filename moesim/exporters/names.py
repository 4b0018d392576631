"""Names of the exporters as users write them, with hyphens, and their parts."""

from collections.abc import Callable
from typing import Any

from moesim.errors import unknown_name
from moesim.registry import Registry

TARGETS = Registry("moesim.exporters.targets", kind="exporter", attribute="export")


def exporter_names() -> tuple[str, ...]:
    """All exporters, sorted.

    >>> "vllm-ascend" in exporter_names()
    True
    """
    return tuple(name.replace("_", "-") for name in TARGETS.names())


def find_exporter(name: str) -> Callable[..., Any]:
    """The `export` of a name; raises UnknownName with the nearest known name."""
    if name not in exporter_names():
        raise unknown_name("exporter", name, exporter_names())
    return TARGETS.get(name.replace("-", "_"))
