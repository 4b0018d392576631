"""How far and how wide a torus is: its diameter, and the smallest cut by planes into two halves.

Array letters: D chip, A axis.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from moesim.cluster import Cluster, TorusLayout


def bisection(cluster: Cluster, layout: TorusLayout) -> float | None:
    """Bytes/s one way across the smallest even cut: the first half of the chips in the order of any order of axes, for
    a twisted grid also any other set of parallel planes; for several slices half of the slices. None for one chip.

    Along an even axis of k chips this is chips / k (twice where it wraps) x link bandwidth.
    """
    if cluster.num_devices == 1:
        return None
    if layout.num_slices > 1:
        return float(np.sort(cluster.link_bandwidth[layout.dcn_up_N])[: cluster.num_nodes // 2].sum())
    cuts = [_cut(cluster, layout, order) for order in itertools.permutations(range(len(layout.lengths)))]
    return min([*cuts, *_slanted_cuts(cluster, layout)])


def diameter(layout: TorusLayout) -> int:
    """Most links on a shortest way; between slices it is two. A twisted grid looks the same from every chip."""
    if layout.twist_AA.any():
        furthest = int(_distances(layout).max())
    else:
        furthest = sum(
            length // 2 if wraps else length - 1 for length, wraps in zip(layout.lengths, layout.wraps, strict=True)
        )
    return max(furthest, 2) if layout.num_slices > 1 else furthest


def _cut(cluster: Cluster, layout: TorusLayout, order: tuple[int, ...]) -> float:
    """Links out of the first half of the chips, counted with the first axis of `order` slowest."""
    ranked_DA = layout.coordinate_DA[:, order]
    place_D = np.ravel_multi_index(tuple(ranked_DA.T), tuple(layout.lengths[axis] for axis in order))
    first_D = place_D < cluster.num_devices // 2
    leaves_DP = (layout.link_DP >= 0) & first_D[:, None] & ~first_D[layout.neighbor_DP]
    return float(cluster.link_bandwidth[layout.link_DP[leaves_DP]].sum())


def _slanted_cuts(cluster: Cluster, layout: TorusLayout) -> list[float]:
    """Cuts of a twisted grid along all other families of planes that close on themselves.

    Numbering the planes of a family 0..m-1, going one step up axis a moves frac x m planes, where frac is a component
    of a vector of the lattice dual to the one of the ways that lead back; half of the planes are cut from the others by
    chips x min(frac, 1 - frac) links up axis a and as many down.
    """
    if not layout.twist_AA.any():
        return []
    back_AA = np.diag(layout.lengths) - layout.twist_AA
    steps = np.indices(layout.lengths).reshape(len(layout.lengths), -1).T
    fractions = (steps @ np.linalg.inv(back_AA).T) % 1.0
    planes = np.array([_order(fraction, math.prod(layout.lengths)) for fraction in fractions])
    per_step = np.minimum(fractions, 1.0 - fractions)
    bandwidths = cluster.link_bandwidth[layout.link_DP[0, ::2]]
    cuts = 2.0 * cluster.num_devices * per_step @ bandwidths
    return sorted(set(np.round(cuts[planes % 2 == 0], 3).tolist()))[:1]


def _order(fraction: NDArray[np.float64], num_chips: int) -> int:
    """The number of planes of a family: the smallest m for which m x fraction is whole (it divides the chips)."""
    return next(m for m in range(1, num_chips + 1) if np.allclose(m * fraction, np.round(m * fraction), atol=1e-9))


def _distances(layout: TorusLayout) -> NDArray[np.int64]:
    """Links from chip 0 to every chip, breadth first."""
    distance_D = np.full(len(layout.neighbor_DP), -1)
    distance_D[0] = 0
    reached, hops = np.array([0]), 0
    while len(reached):
        hops += 1
        near = np.unique(layout.neighbor_DP[reached])
        reached = near[(near >= 0) & (distance_D[near] < 0)]
        distance_D[reached] = hops
    return distance_D
