"""SplitPaths: several paths for one flow, and the share of its bytes on each."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.network.flow import Paths


@dataclass(frozen=True, slots=True)
class SplitPaths:
    """Path P carries `share_P` of the bytes of flow `flow_P`; shares of a flow sum to 1, paths are in the order of flows.

    A flow to its own device has one empty path.
    """

    paths: Paths
    flow_P: NDArray[np.int64]
    share_P: NDArray[np.float64]


def unsplit(paths: Paths) -> SplitPaths:
    """Every flow whole on its one path."""
    return SplitPaths(paths, np.arange(paths.num_flows, dtype=np.int64), np.ones(paths.num_flows))
