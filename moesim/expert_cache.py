"""ExpertCache: expert weights that live in host memory or another slower tier, and those a device keeps beside them; pure.

A device keeps ("pins") the slots that got most tokens in a window, as many as its cache holds over all layers. A slot that
it does not keep is fetched whenever a token comes for it, before its expert is computed, and dropped afterwards.
Array letters: L MoE ordinal, E expert, P slot, D device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertCache:
    """Per MoE layer, which slots [P] are kept in device memory; the others come at `tier_bytes_per_s` to each device.

    `kept_share`: share of the window's (token, expert) pairs that find their expert kept, 0..1.
    """

    kept_LP: tuple[NDArray[np.bool_], ...]
    tier_bytes_per_s: float
    cache_bytes: float
    kept_share: float

    def fetch_s(
        self,
        ordinal: int,
        load_P: NDArray[np.integer],
        device_of_slot_P: NDArray[np.int32],
        slot_bytes: float,
        num_devices: int,
    ) -> NDArray[np.float64]:
        """Seconds [D] of fetching the slots with tokens that a device does not keep; slots of all groups in a row."""
        kept_P = np.tile(self.kept_LP[ordinal], load_P.size // self.kept_LP[ordinal].size)
        missed_D = np.bincount(device_of_slot_P[(load_P > 0) & ~kept_P], minlength=num_devices).astype(np.float64)
        fetch_D: NDArray[np.float64] = missed_D * (slot_bytes / self.tier_bytes_per_s)
        return fetch_D


def pin_hottest(
    placements: Sequence[ExpertPlacement],
    load_LE: NDArray[np.float64],
    slot_bytes: float,
    cache_bytes: float,
    tier_bytes_per_s: float,
) -> ExpertCache:
    """The cache in which every device keeps its slots with the largest load per copy, over all layers, up to `cache_bytes`."""
    share_L = [
        load_E[p.expert_of_slot_P] / p.replicas_E[p.expert_of_slot_P]
        for p, load_E in zip(placements, load_LE, strict=True)
    ]
    share_A = np.concatenate(share_L)
    device_A = np.concatenate([placement.device_of_slot_P for placement in placements])
    order_A = np.lexsort((-share_A, device_A))
    count_D = np.bincount(device_A, minlength=placements[0].num_devices)
    place_A = np.arange(order_A.size) - np.repeat(np.cumsum(count_D) - count_D, count_D)
    kept_A = np.zeros(share_A.size, dtype=np.bool_)
    kept_A[order_A[place_A < int(cache_bytes // slot_bytes)]] = True
    total = float(share_A.sum())
    return ExpertCache(
        kept_LP=tuple(np.split(kept_A, np.cumsum([share.size for share in share_L])[:-1])),
        tier_bytes_per_s=tier_bytes_per_s,
        cache_bytes=cache_bytes,
        kept_share=float(share_A[kept_A].sum()) / total if total > 0 else 1.0,
    )
