"""Flow: bytes that travel from a source to a target along a path of links.

Array letters: F flow. A path list is stored as CSR: the links of flow f are `links[offsets[f]:offsets[f + 1]]`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.units import LARGEST


@dataclass(frozen=True, slots=True)
class Paths:
    """The links each flow crosses, in order; an empty path is local (source and target share memory, no link).

    offsets: int64 [F + 1], starts at 0 and never falls. links: int32 [offsets[-1]], link ids >= 0.
    Raises InputError when the two do not describe F paths.
    """

    offsets: NDArray[np.int64]
    links: NDArray[np.int32]

    def __post_init__(self) -> None:
        """Bring both arrays to their dtype; refuse offsets that do not cut `links` into paths."""
        object.__setattr__(self, "offsets", _integers("path offsets", self.offsets, np.int64))
        object.__setattr__(self, "links", _integers("path links", self.links, np.int32))
        offsets = self.offsets
        if len(offsets) == 0 or offsets[0] != 0:
            raise InputError(f"path offsets must start at 0, got {offsets[:1].tolist()}; an empty set of flows is [0]")
        falls = np.flatnonzero(np.diff(offsets) < 0)
        if len(falls):
            at = int(falls[0])
            raise InputError(
                f"path offsets fall from {offsets[at]} to {offsets[at + 1]} at flow {at}; they must not fall"
            )
        if offsets[-1] != len(self.links):
            raise InputError(f"path offsets end at {offsets[-1]} but there are {len(self.links)} path links")
        if len(self.links) and int(self.links.min()) < 0:
            at = int(np.argmin(self.links))
            raise InputError(f"path link {at} is {self.links[at]}; link ids start at 0")

    @property
    def num_flows(self) -> int:
        """Number of paths, F."""
        return len(self.offsets) - 1

    def check_links(self, num_links: int) -> None:
        """Raise InputError when a path names a link outside 0..num_links - 1."""
        if len(self.links) and int(self.links.max()) >= num_links:
            at = int(np.argmax(self.links))
            raise InputError(f"path link {at} is {self.links[at]}, outside 0..{num_links - 1}")


@dataclass(frozen=True, slots=True)
class Flows:
    """Flows of one transfer: who sends how much to whom over which links.

    source_F, target_F: int32 [F] device indices. bytes_F: float64 [F] >= 0. latency_F: float64 [F] seconds from the last
    byte sent to the last byte received. weight_F: float64 [F] > 0, the share a flow gets where it competes.
    Raises InputError for lengths that differ, numbers that are negative, NaN, infinite or above 1e30.
    """

    source_F: NDArray[np.int32]
    target_F: NDArray[np.int32]
    bytes_F: NDArray[np.float64]
    paths: Paths
    latency_F: NDArray[np.float64]
    weight_F: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Bring the arrays to their dtype; refuse numbers no flow can have."""
        object.__setattr__(self, "source_F", _integers("flow source", self.source_F, np.int32))
        object.__setattr__(self, "target_F", _integers("flow target", self.target_F, np.int32))
        object.__setattr__(self, "bytes_F", amounts("flow bytes", self.bytes_F))
        object.__setattr__(self, "latency_F", amounts("flow latency", self.latency_F))
        object.__setattr__(self, "weight_F", amounts("flow weight", self.weight_F, positive=True))
        for name in ("source_F", "target_F", "bytes_F", "latency_F", "weight_F"):
            if len(getattr(self, name)) != self.paths.num_flows:
                raise InputError(f"{name} has {len(getattr(self, name))} entries for {self.paths.num_flows} paths")

    @property
    def num_flows(self) -> int:
        """Number of flows, F."""
        return self.paths.num_flows


def amounts(name: str, values: Any, *, positive: bool = False) -> NDArray[np.float64]:
    """`values` as a float64 vector; InputError names the first entry that is not a usable amount."""
    try:
        vector = np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a list of numbers, got {type(values).__name__}") from None
    if vector.ndim != 1:
        raise InputError(f"{name} must have one dimension, got shape {vector.shape}")
    good = (vector > 1.0 / LARGEST if positive else vector >= 0.0) & (vector <= LARGEST)  # NaN fails both
    if not good.all():
        at = int(np.argmin(good))
        bound = f"{1.0 / LARGEST:g}..{LARGEST:g}" if positive else f"0..{LARGEST:g}"
        raise InputError(f"{name} {at} is {vector[at]}, outside {bound}")
    return vector


def _integers(name: str, values: Any, dtype: type[np.signedinteger[Any]]) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError(f"{name} must be a list of whole numbers, got {array.dtype} with shape {array.shape}")
    limits = np.iinfo(dtype)
    if array.dtype != dtype and array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
        raise InputError(f"{name} has a number outside {limits.min}..{limits.max}")
    return np.ascontiguousarray(array, dtype=dtype)
