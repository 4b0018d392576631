"""Shape torus: chips on a grid of one to three axes, each axis a ring (wrapped) or a line (a mesh), or a twisted ring.

A device is a chip, and a node is a host: a block of chips, as the file says it (along an axis that the block does not
divide, their greatest common divisor). Devices are numbered host by host, hosts and the chips in them with the last axis
fastest. Every chip has one link to its neighbour in each direction of each axis (`node3.dev1.x+`), in tier `ici`, each
with the axis's bandwidth; a wrapped axis of two chips has two links each way between them. There are no NICs.

`twist` says where a wrapped axis leads to: going up from the last chip of axis x leads to the first one, shifted along
the other axes by `twist: {x: [0, 0, 4]}` (and going down from the first one back). An axis that is shifted along may
not itself be twisted. `twist: standard` (or a shape written `4x4x8_twisted`) is that of TPU v4 for n x n x 2n (both short
axes shift n along the long one) and n x 2n x 2n (the short axis shifts n along both long ones).

`slices` builds the grid several times over and joins the nodes of different slices by a slower network that does not
block: one `dcn` link up and one down per node.
"""

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, model_validator

from moesim.cluster import Accelerator, Cluster, Device, Index, Link, TorusLayout
from moesim.errors import InputError
from moesim.topology.facts import Count, CountFact, RateFact, Section, Seed, TimeFact
from moesim.topology.grid import AXES, Grid, parse_lengths, slice_lengths, standard_twist, wrapped_axes
from moesim.topology.header import Header
from moesim.topology.scale_up import LARGEST_CLUSTER

LARGEST_SHIFT = 1_000_000


def _twist(value: Any) -> Any:
    """A word, or a vector of whole numbers for each axis named; axes and lengths are checked against the grid later."""
    if isinstance(value, str) or value is None:
        return value
    if not isinstance(value, dict):
        raise ValueError(f"twist must be standard, none or vectors such as {{x: [0, 0, 4]}}, got {str(value)[:40]!r}")
    for axis, vector in value.items():
        whole = isinstance(vector, list) and len(vector) <= 3 and all(type(step) is int for step in vector)
        if not whole or any(abs(step) > LARGEST_SHIFT for step in vector):
            raise ValueError(
                f"{str(axis)[:20]}: {str(vector)[:40]} must be up to 3 whole numbers of at most {LARGEST_SHIFT}"
            )
    return {str(axis): vector for axis, vector in value.items()}


Twist = Annotated[str | dict[str, list[int]], BeforeValidator(_twist)]


class Axis(Section):
    """One axis: its chips when no shape is asked for, and the bytes/s of one link along it."""

    chips: CountFact
    bandwidth: RateFact


class Wrap(Section):
    """An axis wraps when its length is a multiple of `multiple`; `together`: only when all axes are, else none does."""

    multiple: CountFact
    together: bool = False


class Host(Section):
    """The block of chips on one host."""

    x: CountFact
    y: CountFact | None = None
    z: CountFact | None = None


class Dcn(Section):
    """The network between slices: bytes/s of one chip's share of its host's ports, latency end to end."""

    bandwidth_per_chip: RateFact
    latency: TimeFact


class Spec(Header):
    """A topology file of this shape. `name_counts`: what a slice's name counts per chip (`v4-256` is 256 cores)."""

    shape: Literal["torus"]
    x: Axis
    y: Axis | None = None
    z: Axis | None = None
    hop_latency: TimeFact
    wrap: Wrap
    host: Host
    dcn: Dcn | None = None
    name_counts: CountFact | None = None
    path_policy: str = "dimension_order"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.z and not self.y:
            raise ValueError("a grid with an axis z has an axis y too")
        if (self.host.y and not self.y) or (self.host.z and not self.z):
            raise ValueError("host names an axis that the grid does not have")
        return self

    @property
    def axes(self) -> list[Axis]:
        """The axes there are, x first."""
        return [axis for axis in (self.x, self.y, self.z) if axis]


class Parameters(Section):
    """What may be asked for beside the file: another shape, the size in a slice's name, wrapping, twist, slices."""

    shape: str | None = None
    slice: Count | None = None
    wrap: str | None = None  # all, none, or the axes that wrap: xz
    twist: Twist | None = None
    slices: Count | None = None
    hash_seed: Seed | None = None
    path_policy: str | None = None


def build(spec: Spec, parameters: Parameters, accelerator: Accelerator, sources: tuple[str, ...]) -> Cluster:
    """The grid as a cluster; raises InputError for shapes, wraps and twists that cannot be."""
    grid = _grid(spec, parameters)
    slices = parameters.slices or 1
    num_chips = math.prod(grid.lengths) * slices
    if num_chips > LARGEST_CLUSTER:
        asked = grid.text + (f" times {slices} slices" if slices > 1 else "")
        raise InputError(f"{spec.name}: {asked} is {num_chips} chips; at most {LARGEST_CLUSTER} are built")
    if slices > 1 and spec.dcn is None:
        raise InputError(f"{spec.name} has no network between slices (key dcn), got slices={slices}")
    devices = _devices(grid, slices, accelerator)
    neighbor_DP = grid.neighbors(slices)
    links: list[Link] = []
    link_DP = _add_links(links, devices, neighbor_DP, spec)
    dcn_up_N, dcn_down_N = _add_dcn(links, devices, spec.dcn if slices > 1 else None)
    layout = TorusLayout(
        lengths=grid.lengths,
        wraps=grid.wraps,
        twist_AA=grid.twist_AA,
        slice_of_device_D=np.repeat(np.arange(slices, dtype=np.int32), grid.num_chips),
        coordinate_DA=np.tile(grid.coordinate_DA, (slices, 1)),
        chip_at=grid.chip_at(slices),
        link_DP=link_DP,
        neighbor_DP=neighbor_DP,
        dcn_up_N=dcn_up_N,
        dcn_down_N=dcn_down_N,
        hash_seed=parameters.hash_seed or 0,
    )
    policy = parameters.path_policy or spec.path_policy
    return Cluster(spec.name, devices, tuple(links), layout, (*_shown(grid, slices), *sources), policy)


def _grid(spec: Spec, parameters: Parameters) -> Grid:
    lengths, marked = _lengths(spec, parameters)
    wraps = wrapped_axes(parameters.wrap, lengths, spec.wrap.multiple.value, together=spec.wrap.together)
    given = [spec.host.x, spec.host.y, spec.host.z][: len(lengths)]
    block = tuple(math.gcd(length, host.value if host else 1) for length, host in zip(lengths, given, strict=True))
    twist = parameters.twist
    if marked is not None and twist is not None:
        raise InputError("give the twist either in shape or as twist, not both")
    if marked or twist == "standard":
        return Grid(lengths, wraps, standard_twist(lengths), block)
    if isinstance(twist, str) and twist != "none":
        raise InputError(f"twist must be standard, none or vectors such as {{x: [0, 0, 4]}}, got {twist[:40]!r}")
    return Grid(lengths, wraps, _vectors(twist if isinstance(twist, dict) else {}, lengths), block)


def _lengths(spec: Spec, parameters: Parameters) -> tuple[tuple[int, ...], bool | None]:
    """Chips along each axis, and what the shape's ending says about a twist (None: nothing)."""
    own = tuple(axis.chips.value for axis in spec.axes)
    if parameters.slice is None:
        return parse_lengths(parameters.shape, len(own)) if parameters.shape is not None else (own, None)
    if parameters.shape is not None:
        raise InputError(f"{spec.name}: give shape or slice, not both")
    if spec.name_counts is None:
        raise InputError(f"{spec.name} has no slice names; give a shape such as {'x'.join(map(str, own))}")
    return slice_lengths(spec.name, parameters.slice, spec.name_counts.value, own), None


def _vectors(twist: dict[str, list[int]], lengths: tuple[int, ...]) -> Index:
    known = AXES[: len(lengths)]
    result = np.zeros((len(lengths), len(lengths)), dtype=np.int32)
    for axis, vector in twist.items():
        if axis not in known or len(vector) != len(lengths):
            raise InputError(
                f"twist {str(axis)[:20]}: {vector} must give one of the axes {known} a shift of {len(lengths)} numbers"
            )
        result[known.index(axis)] = vector
    return result


def _devices(grid: Grid, slices: int, accelerator: Accelerator) -> tuple[Device, ...]:
    per_host = math.prod(grid.block)
    return tuple(
        Device(f"node{chip // per_host}.dev{chip % per_host}", chip, chip // per_host, chip % per_host, accelerator)
        for chip in range(grid.num_chips * slices)
    )


def _add_links(links: list[Link], devices: tuple[Device, ...], neighbor_DP: Index, spec: Spec) -> Index:
    """A link for every port that leads somewhere."""
    link_DP = np.full_like(neighbor_DP, -1)
    bandwidths = [axis.bandwidth.value for axis in spec.axes]
    for chip, port in np.argwhere(neighbor_DP >= 0).tolist():
        link_DP[chip, port] = len(links)
        name = f"{devices[chip].name}.{AXES[port // 2]}{'+-'[port % 2]}"
        links.append(Link(name, bandwidths[port // 2], spec.hop_latency.value, "ici"))
    return link_DP


def _add_dcn(links: list[Link], devices: tuple[Device, ...], dcn: Dcn | None) -> tuple[Index, Index]:
    if dcn is None:
        return np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)
    chips_N = np.bincount([device.node for device in devices])
    first = len(links)
    for node, chips in enumerate(chips_N.tolist()):
        rate, latency_s = chips * dcn.bandwidth_per_chip.value, dcn.latency.value / 2
        links += [Link(f"node{node}.dcn.{way}", rate, latency_s, "dcn") for way in ("up", "down")]
    up_N = first + 2 * np.arange(len(chips_N), dtype=np.int32)
    return up_N, up_N + 1


def _shown(grid: Grid, slices: int) -> tuple[str, ...]:
    """One line that says which grid was built."""
    times = f", {slices} slices" if slices > 1 else ""
    return (f"grid = {grid.text}{times} (derived): {grid.wrap_text}{grid.twist_text}",)
