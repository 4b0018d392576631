"""SearchCosts: the part of the cost tables that the search's kernels read.

Numba passes a named tuple's arrays one by one to every kernel it calls, so each array less is less to compile.
Array letters as in moesim.planner.objective_tables: S rank, D device, C channel, X use of a resource, R resource, E expert.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moesim.planner.objective_tables import CostTables

Floats = NDArray[np.float64]


class SearchCosts(NamedTuple):
    """Fields of CostTables by their names; meanings and units are theirs."""

    devices_per_node: int
    channel_SD: NDArray[np.int32]
    channel_SN: NDArray[np.int32]
    node_copies: bool
    distinct: bool
    offsets_C1: NDArray[np.int64]
    resource_X: NDArray[np.int32]
    share_X: Floats
    seconds_R: Floats
    latency_R: Floats
    op_R: NDArray[np.int64]
    byte_s_S: Floats
    flop_s_S: Floats
    moved_s_S: Floats
    weight_bytes_E: Floats
    params_E: Floats
    activation_bytes_E: Floats
    tile: int
    launch_s: float
    shared_params: float
    shared_bytes: float
    shared_byte_s_S: Floats
    shared_flop_s_S: Floats
    shared_launch_s: float

    @property
    def num_ranks(self) -> int:
        """Ranks of all groups, S."""
        return int(self.channel_SD.shape[0])


def search_costs(costs: CostTables) -> SearchCosts:
    """The tables that the search reads."""
    return SearchCosts(*(getattr(costs, name) for name in SearchCosts._fields))
