"""Overlap of communication and compute: what each mode takes for granted, and the SMs that communication takes; pure."""

from collections.abc import Sequence

from moesim.cluster import Device
from moesim.errors import InputError
from moesim.model import MoEModel


def communication_sms(overlap: str, sms: int | None, devices: Sequence[Device]) -> int:
    """SMs that a transfer in flight takes from compute: `sms` under dualpipe, 0 under every other mode or when None.

    Raises InputError when a device would have none left.
    """
    if overlap != "dualpipe" or sms is None:
        return 0
    for device in devices:
        count = device.accelerator.num_sms
        if count is not None and sms >= count:
            raise InputError(
                f"dispatch.sms={sms} leaves none of the {count} SMs of {device.name} to compute under overlap dualpipe; "
                "take fewer"
            )
    return sms


def overlap_sentences(overlap: str, model: MoEModel, sms: int | None, devices: Sequence[Device]) -> list[str]:
    """What a run under `overlap` assumes, for its result."""
    if overlap == "shared_expert":
        if model.shared_params == 0:
            return [f"overlap shared_expert: {model.name} has no shared expert, so nothing runs beside the dispatch"]
        return ["overlap shared_expert: the shared expert runs while the dispatch is in flight, at full speed"]
    if overlap == "two_batch":
        return ["overlap two_batch: halves of each rank's tokens alternate; communication takes nothing from compute"]
    if overlap == "dualpipe":
        known = [device.accelerator.num_sms for device in devices if device.accelerator.num_sms]
        if sms is None or not known:
            why = "the kernel states no SMs" if sms is None else "the devices have no SMs"
            return [f"overlap dualpipe: {why}, so communication takes nothing from compute"]
        return [f"overlap dualpipe: communication in flight takes {sms} of {min(known)} SMs from compute"]
    return []
