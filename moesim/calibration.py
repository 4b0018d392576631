"""CalibrationProfile: the numbers between a datasheet and a second: kernel costs, rates, efficiencies, with their sources.

A profile is a JSON file. `calibrate/profiles/datasheet.json` is the one used when a scenario names none: published
figures for the communication kernels and an ideal roofline for compute, fitted to nothing, and it says so.
"""

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from moesim.calibration_curves import Curve, ExpertCurve, Figure, FitError, ProfilePart
from moesim.errors import InputError, MissingMeasurement, unknown_name
from moesim.provenance import data_folder

FORMAT_VERSION = 1
LARGEST_FILE_BYTES = 64 * 2**20
DATASHEET = "datasheet"

Operation = Literal["dispatch", "combine"]


class OperationProfile(ProfilePart):
    """Costs of one operation (dispatch or combine) of one communication kernel.

    time = max( bytes of the fullest link or copy engine / its rate / reached + latency + fixed_s + protocol_s
                + message_s x messages + expert_s x experts + fill_s_per_byte x bytes of a copy, floor_s )
    `fixed_s`, `floor_s`: seconds against nodes or ranks. `message_s`: seconds for each other device the busiest device
    sends to (or receives from); `expert_s`: for each expert of the group (its signal); `fill_s_per_byte`: what the first
    chunk of copies takes to fill the pipeline. `protocol_s`: seconds that the library's protocol for a size adds (NCCL: LL,
    LL128, Simple), `reached`: fraction of the links' rate reached, 1 where absent; both against bytes a message, all bytes
    of the busiest device, or ranks (few peers do not fill a link).
    `sm_rate_in_node`, `sm_rate_across_nodes`: bytes/s of logical copies one SM
    moves; absent = the copy engine never limits.
    """

    fixed_s: Curve
    sm_rate_in_node: Figure | None = None
    sm_rate_across_nodes: Figure | None = None
    floor_s: Curve | None = None
    message_s: Figure | None = None
    expert_s: Figure | None = None
    fill_s_per_byte: Figure | None = None
    protocol_s: Curve | None = None
    reached: Curve | None = None
    error: FitError | None = None


class KernelProfile(ProfilePart):
    """One communication kernel: its algorithm, default SM count, overlap chunk and the costs of its two operations.

    `nic`, `scale_up`: fractions of nominal rates this kernel reaches, where they are not the profile's common ones.
    `valid_range`: what was measured of ranks, tokens_per_rank, hidden, bytes_per_rank (a send buffer) and sms.
    """

    algorithm: Literal["direct", "per_device", "node_dedup", "all_gather", "torus"]
    sms: int | None = Field(default=None, ge=1, le=1024)
    chunk_tokens: Figure
    dispatch: OperationProfile
    combine: OperationProfile
    nic: Figure | None = None
    scale_up: Figure | None = None
    valid_range: dict[str, tuple[float, float]] = Field(default_factory=dict)

    def operation(self, name: Operation) -> OperationProfile:
        """Costs of that operation."""
        return self.dispatch if name == "dispatch" else self.combine


class ComputeProfile(ProfilePart):
    """Roofline of one device: fractions of the datasheet rates that are reached, tile of a grouped GEMM, launch cost.

    `experts`: fitted curves of the routed experts by weight type; a type without one takes the roofline. `permute_fraction`:
    fraction of the HBM rate at which rows of tokens are gathered and scattered, `memory_fraction` where absent.
    """

    flops_fraction: Figure
    memory_fraction: Figure
    tile_tokens: Figure
    launch_s: Figure
    permute_fraction: Figure | None = None
    experts: dict[str, ExpertCurve] = Field(default_factory=dict)


class LinkProfile(ProfilePart):
    """Fraction of a link's nominal bandwidth that is reached, by tier."""

    nic: Figure
    scale_up: Figure


class CalibrationProfile(ProfilePart):
    """Everything a run takes from measurement or citation; `basis` is what the result page calls it.

    `accelerator`: the device it was measured on, absent where it is for any.
    """

    format_version: Literal[1]
    name: str = Field(min_length=1, max_length=80)
    basis: str = Field(min_length=3)
    compute: ComputeProfile
    links: LinkProfile
    kernels: dict[str, KernelProfile]
    accelerator: str | None = None
    sources: tuple[str, ...] = ()

    def kernel(self, name: str) -> KernelProfile:
        """Costs of kernel `name`; raises MissingMeasurement naming the kernels that have figures."""
        if name not in self.kernels:
            raise MissingMeasurement(
                f"profile {self.name!r} has no figures for kernel {name!r}; it has: {', '.join(sorted(self.kernels))}"
            )
        return self.kernels[name]


def list_profiles() -> list[str]:
    """Names of the profiles that ship with moesim, sorted."""
    return sorted(path.stem for path in data_folder("calibrate/profiles").glob("*.json"))


def load_profile(name_or_path: str | None = None) -> CalibrationProfile:
    """The profile of that name or file; None is the datasheet profile. InputError when it cannot be used."""
    name = name_or_path or DATASHEET
    path = Path(name)
    if path.suffix != ".json":
        if name not in list_profiles():
            raise unknown_name("profile", name, list_profiles())
        path = data_folder("calibrate/profiles") / f"{name}.json"
    return _read(path)


def _read(path: Path) -> CalibrationProfile:
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise InputError(f"{path} is larger than {LARGEST_FILE_BYTES} bytes, which no profile is")
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read profile {path}: {error}") from None
    if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
        found = data.get("format_version") if isinstance(data, dict) else type(data).__name__
        raise InputError(f"{path} has format_version {found!r}; this moesim reads {FORMAT_VERSION}")
    try:
        return CalibrationProfile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg']} (got {str(first.get('input'))[:60]!r})") from None
