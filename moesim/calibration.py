"""CalibrationProfile: the numbers between a datasheet and a second: kernel costs, rates, efficiencies, with their sources.

A profile is a JSON file. `calibrate/profiles/datasheet.json` is the one used when a scenario names none: published
figures for the communication kernels and an ideal roofline for compute, fitted to nothing, and it says so.
"""

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moesim.errors import InputError, MissingMeasurement, unknown_name
from moesim.provenance import Kind, data_folder

FORMAT_VERSION = 1
LARGEST_FILE_BYTES = 64 * 2**20
DATASHEET = "datasheet"

Operation = Literal["dispatch", "combine"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Figure(_Part):
    """One positive number with its kind and source; `fit_error` is the relative error of a fit, absent when not fitted."""

    value: float = Field(ge=0, le=1e30)
    kind: Kind
    source: str = Field(min_length=3)
    fit_error: float | None = Field(default=None, ge=0)


class Curve(_Part):
    """A cost against log2 of a count (nodes or ranks): linear between its points, and beyond them said to be extrapolated."""

    against: Literal["nodes", "ranks"]
    at: tuple[float, ...] = Field(min_length=1)
    value: tuple[float, ...] = Field(min_length=1)
    kind: Kind
    source: str = Field(min_length=3)
    measurements: tuple[str, ...] = ()
    fit_error: float | None = Field(default=None, ge=0)

    def model_post_init(self, _context: Any) -> None:
        """Check that the points are usable."""
        if len(self.at) != len(self.value) or list(self.at) != sorted(set(self.at)) or self.at[0] <= 0:
            raise ValueError(
                f"curve needs increasing positive `at` with one `value` each, got {self.at} and {self.value}"
            )
        if min(self.value) < 0:
            raise ValueError(f"curve values must not be negative, got {min(self.value)}")

    @property
    def valid_range(self) -> tuple[float, float]:
        """Counts between which the curve rests on published points."""
        return self.at[0], self.at[-1]

    def covers(self, count: float) -> bool:
        """Whether `count` is inside the valid range."""
        return self.at[0] <= count <= self.at[-1]

    def read(self, count: float) -> float:
        """Value at `count`, linear in log2(count); outside the range the end segment goes on, never below zero.

        >>> Curve(against="nodes", at=(2, 4), value=(10.0, 30.0), kind="measured", source="doc").read(8)
        50.0
        """
        if len(self.at) == 1:
            return self.value[0]
        x = math.log2(count)
        right = next((i for i in range(1, len(self.at) - 1) if count <= self.at[i]), len(self.at) - 1)
        left = right - 1
        x0, x1 = math.log2(self.at[left]), math.log2(self.at[right])
        slope = (self.value[right] - self.value[left]) / (x1 - x0)
        return max(self.value[left] + slope * (x - x0), 0.0)


class OperationProfile(_Part):
    """Costs of one operation (dispatch or combine) of one communication kernel.

    `sm_rate_in_node`, `sm_rate_across_nodes`: bytes/s of logical copies one SM moves; absent = the copy engine never limits.
    `fixed_s`: seconds on top of the bytes.
    """

    fixed_s: Curve
    sm_rate_in_node: Figure | None = None
    sm_rate_across_nodes: Figure | None = None


class KernelProfile(_Part):
    """One communication kernel: its algorithm, default SM count, overlap chunk and the costs of its two operations."""

    algorithm: Literal["direct", "per_device", "node_dedup", "all_gather", "torus"]
    sms: int | None = Field(default=None, ge=1, le=1024)
    chunk_tokens: Figure
    dispatch: OperationProfile
    combine: OperationProfile


class ComputeProfile(_Part):
    """Roofline of one device: fractions of the datasheet rates that are reached, tile of a grouped GEMM, launch cost."""

    flops_fraction: Figure
    memory_fraction: Figure
    tile_tokens: Figure
    launch_s: Figure


class LinkProfile(_Part):
    """Fraction of a link's nominal bandwidth that is reached, by tier."""

    nic: Figure
    scale_up: Figure


class CalibrationProfile(_Part):
    """Everything a run takes from measurement or citation; `basis` is what the result page calls it."""

    format_version: Literal[1]
    name: str = Field(min_length=1, max_length=80)
    basis: str = Field(min_length=3)
    compute: ComputeProfile
    links: LinkProfile
    kernels: dict[str, KernelProfile]

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
