"""Sourced numbers of topology files: typed by what they measure, listed one line each."""

import operator
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from moesim.provenance import Fact
from moesim.units import BytesPerSecond, FlopsPerSecond, PositiveBytes, Seconds, format_rate, format_time

# Far beyond any machine, near enough to catch a unit or an exponent too many.
LARGEST_RATE, LARGEST_TIME, LARGEST_BYTES, LARGEST_FLOPS, LARGEST_COUNT = 1e16, 10.0, 1e16, 1e21, 1_000_000


def _whole(value: Any) -> int:
    if isinstance(value, (bool, float, str)):
        raise ValueError(f"expected a whole number, got {str(value)[:40]!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"expected a whole number, got a {type(value).__name__}") from None


Count = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=LARGEST_COUNT)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,79}$")]
Seed = Annotated[int, BeforeValidator(_whole), Field(ge=0, lt=2**31)]
Ratio = Annotated[float, Field(gt=0.0, le=1000.0, allow_inf_nan=False)]


class Section(BaseModel):
    """A group of keys in a topology file; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RateFact(Fact):
    """A bandwidth, one direction."""

    value: Annotated[BytesPerSecond, Field(le=LARGEST_RATE)]

    def shown(self) -> str:
        """The value as people write it."""
        return format_rate(self.value)


class TimeFact(Fact):
    """A latency."""

    value: Annotated[Seconds, Field(le=LARGEST_TIME)]

    def shown(self) -> str:
        """The value as people write it."""
        return format_time(self.value)


class BytesFact(Fact):
    """A memory size."""

    value: Annotated[PositiveBytes, Field(le=LARGEST_BYTES)]

    def shown(self) -> str:
        """The value as people write it."""
        return f"{self.value / 1e9:g} GB"


class FlopsFact(Fact):
    """A compute rate."""

    value: Annotated[FlopsPerSecond, Field(le=LARGEST_FLOPS)]

    def shown(self) -> str:
        """The value as people write it."""
        return f"{self.value / 1e12:.5g} Tflop/s"


class CountFact(Fact):
    """A number of things, at least one."""

    value: Count

    def shown(self) -> str:
        """The value as people write it."""
        return str(self.value)


class RatioFact(Fact):
    """A ratio of two bandwidths."""

    value: Ratio

    def shown(self) -> str:
        """The value as people write it."""
        return f"{self.value:g}"


SourcedFact = RateFact | TimeFact | BytesFact | FlopsFact | CountFact | RatioFact


def source_lines(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """One line per fact below `section`: its key, value, kind and source, in file order."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, SourcedFact):
            yield f"{prefix}{name} = {value.shown()} ({value.kind}): {value.source}"
        elif isinstance(value, BaseModel):
            yield from source_lines(value, f"{prefix}{name}.")
