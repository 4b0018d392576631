"""Source tables: the copy of each expert that every source device uses, before anything is searched.

Array letters: E expert, D device.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


def nearest_sources(holds_ED: NDArray[np.bool_], devices_per_node: int) -> NDArray[np.int32]:
    """The device whose copy each source device uses, int32 [E, D]: its own, else one of its node, else any.

    Among copies that are equally near, the one that fewest sources use yet, then the first device. Every expert must
    have a copy.

    >>> nearest_sources(np.array([[True, False, False, False], [False, True, False, True]]), 2).tolist()
    [[0, 0, 0, 0], [1, 1, 3, 3]]
    """
    device_ED = np.zeros(holds_ED.shape, dtype=np.int32)
    _nearest(holds_ED, device_ED, devices_per_node)
    return device_ED


@njit(cache=True, nogil=True)
def _nearest(holds_ED, device_ED, per_node):  # type: ignore[no-untyped-def]  # types are numba's
    num_experts, num_devices = holds_ED.shape
    uses_D = np.zeros(num_devices, dtype=np.int64)
    for expert in range(num_experts):
        uses_D[:] = 0
        for width in (1, per_node, num_devices):
            for source in range(num_devices):
                if width > 1 and device_ED[expert, source] >= 0:
                    continue
                first = source // width * width
                chosen = -1
                for device in range(first, min(first + width, num_devices)):
                    if holds_ED[expert, device] and (chosen < 0 or uses_D[device] < uses_D[chosen]):
                        chosen = device
                device_ED[expert, source] = chosen
                if chosen >= 0:
                    uses_D[chosen] += 1
