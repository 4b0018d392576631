"""Levelling: shares of replicated experts that make the fullest device as empty as a placement allows.

Least sum over devices of speed x (load / speed)^2 is reached where no tokens gain by going to another copy, and there the
largest load / speed is least too. Found by filling one expert's devices like connected vessels after the other, again and
again. Array letters: E expert, H replicated expert, C copy, D device, P slot.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from moesim.placement import ExpertPlacement

Floats = NDArray[np.float64]
SWEEPS = 200  # over all replicated experts: within 1e-3 of the linear program on chains of 64 devices


def level_shares(placement: ExpertPlacement, load_E: Floats, speed_D: Floats) -> Floats:
    """The part of its expert's tokens that each slot takes [P], the same from every source; load / speed is levelled.

    Of several copies on one device the first takes all. Experts without load are split evenly.
    """
    expert_P, device_P = placement.expert_of_slot_P.astype(np.int64), placement.device_of_slot_P.astype(np.int64)
    home_E, hot_H, home_HC, copies_H = copy_graph(expert_P, device_P, load_E.size)
    taken_HC, _ = levelled(load_E / max(float(load_E.max()), 1e-300), home_E, hot_H, home_HC, copies_H, speed_D, SWEEPS)
    share_P = np.zeros(expert_P.size)
    share_P[[np.flatnonzero(expert_P == expert)[0] for expert in np.flatnonzero(home_E >= 0)]] = 1.0
    for expert, devices_C, taken_C, copies in zip(hot_H, home_HC, taken_HC, copies_H, strict=True):
        slots = np.flatnonzero(expert_P == expert)
        first = slots[np.searchsorted(device_P[slots], devices_C[:copies])]
        total = float(taken_C[:copies].sum())
        share_P[first] = taken_C[:copies] / total if total > 0.0 else 1.0 / copies
    return share_P


@njit(cache=True, nogil=True)
def copy_graph(expert_P, device_P, num_experts):  # type: ignore[no-untyped-def]  # types are numba's
    """The device of each expert that is on one device only (else -1) [E]; the others [H] and their distinct devices [H, C].

    Devices are in order, `copies_H` of them; slots must be in device order.
    """
    copies_E, last_E = np.zeros(num_experts, dtype=np.int64), np.full(num_experts, -1, dtype=np.int64)
    for slot in range(expert_P.size):
        if last_E[expert_P[slot]] != device_P[slot]:
            copies_E[expert_P[slot]] += 1
            last_E[expert_P[slot]] = device_P[slot]
    hot_H = np.flatnonzero(copies_E > 1)
    home_E, copies_H = np.where(copies_E == 1, last_E, -1), np.zeros(hot_H.size, dtype=np.int64)
    row_E = np.zeros(num_experts, dtype=np.int64)
    row_E[hot_H] = np.arange(hot_H.size)
    home_HC = np.full((hot_H.size, copies_E.max()), -1, dtype=np.int64)
    for slot in range(expert_P.size):
        if copies_E[expert_P[slot]] > 1:
            row = row_E[expert_P[slot]]
            if copies_H[row] == 0 or home_HC[row, copies_H[row] - 1] != device_P[slot]:
                home_HC[row, copies_H[row]] = device_P[slot]
                copies_H[row] += 1
    return home_E, hot_H, home_HC, copies_H


@njit(cache=True, nogil=True)
def levelled(load_E, home_E, hot_H, home_HC, copies_H, speed_D, sweeps):  # type: ignore[no-untyped-def]
    """Tokens of each copy [H, C] after so many sweeps from even shares, and the load of each device [D]."""
    taken_HC = np.zeros(home_HC.shape)
    load_D = np.zeros(speed_D.size)
    order_C = np.empty(home_HC.shape[1], dtype=np.int64)
    for expert in range(load_E.size):
        if home_E[expert] >= 0:
            load_D[home_E[expert]] += load_E[expert]
    for row in range(hot_H.size):
        for copy in range(copies_H[row]):
            taken_HC[row, copy] = load_E[hot_H[row]] / copies_H[row]
            load_D[home_HC[row, copy]] += taken_HC[row, copy]
    for _ in range(sweeps):
        for row in range(hot_H.size):
            _fill(load_E[hot_H[row]], home_HC[row], copies_H[row], taken_HC[row], load_D, speed_D, order_C)
    return taken_HC, load_D


@njit(cache=True, nogil=True)
def _fill(load, home_C, copies, taken_C, load_D, speed_D, order_C):  # type: ignore[no-untyped-def]
    """Pour one expert's tokens anew onto its devices, all that get some to the same load / speed."""
    for copy in range(copies):
        load_D[home_C[copy]] -= taken_C[copy]
    for copy in range(copies):  # devices by load / speed, lowest first
        device, place = home_C[copy], copy
        while place > 0:
            before = home_C[order_C[place - 1]]
            if load_D[before] * speed_D[device] <= load_D[device] * speed_D[before]:
                break
            order_C[place] = order_C[place - 1]
            place -= 1
        order_C[place] = copy
    level, held, speed = 0.0, load, 0.0
    for place in range(copies):
        device = home_C[order_C[place]]
        if place > 0 and level * speed_D[device] <= load_D[device]:
            break
        held += load_D[device]
        speed += speed_D[device]
        level = held / speed
    for copy in range(copies):
        device = home_C[copy]
        taken_C[copy] = max(level * speed_D[device] - load_D[device], 0.0)
        load_D[device] += taken_C[copy]
