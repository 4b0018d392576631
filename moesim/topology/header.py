"""The keys every topology file has, whatever its shape."""

from typing import Literal

from moesim.topology.facts import CountFact, Name, Section


class Header(Section):
    """Name, shape and accelerator of a machine."""

    format_version: Literal[1]
    name: Name
    description: str = ""
    shape: str
    accelerator: str


class NodesHeader(Header):
    """The header of shapes sized in nodes; `nodes` is the count built when none is asked for."""

    nodes: CountFact
