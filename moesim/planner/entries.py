"""The list of expert copies that load-blind strategies arrange.

Entry j < E is expert j; each extra entry j >= E repeats expert (j - E) mod E.
"""

import numpy as np
from numpy.typing import NDArray


def copy_entries(num_slots: int, num_experts: int) -> NDArray[np.int64]:
    """The expert of each of `num_slots` entries.

    >>> copy_entries(7, 3).tolist()
    [0, 1, 2, 0, 1, 2, 0]
    """
    return np.arange(num_slots) % num_experts
