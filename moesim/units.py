"""Quantities as people write them ("400 Gbit/s") to SI floats and back; the only module that knows bits.

Inside moesim every quantity is a float in seconds, bytes, bytes/s, FLOP or FLOP/s.
pint does the parsing; it is imported at the first text quantity, because it is slow to import.
"""

import functools
import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from moesim.errors import InputError

# Nothing physical in this field is larger: it catches typing errors such as an exponent too many.
LARGEST = 1e30
LARGEST_TEXT = 64

_SI_UNIT = {
    "time": "second",
    "bytes": "byte",
    "rate": "byte / second",
    "flops": "flop / second",
}
_EXAMPLE = {"time": "3.7 us", "bytes": "80 GiB", "rate": "400 Gbit/s", "flops": "989 Tflop/s"}


@functools.cache
def _registry() -> Any:
    import pint  # slow to import, and needed only when a file holds text quantities

    registry: Any = pint.UnitRegistry(autoconvert_offset_to_baseunit=False, cache_folder=None)
    registry.define("flop = [computation]")
    return registry


@functools.lru_cache(maxsize=4096)
def parse_quantity(value: str | float, kind: str, *, minimum: float = 0.0) -> float:
    """`value` in SI units; `kind` is time, bytes, rate or flops; plain numbers are SI already.

    >>> parse_quantity("400 Gbit/s", "rate")
    50000000000.0
    >>> parse_quantity("80 GiB", "bytes")
    85899345920.0

    Raises InputError for a wrong unit, NaN, an infinity, or a value outside minimum..1e30.
    """
    number = float(value) if not isinstance(value, str) else _parse_text(value, kind)
    if not math.isfinite(number):
        raise InputError(f"{kind} {value!r} is not a finite number")
    if not minimum <= number <= LARGEST:
        raise InputError(f"{kind} {value!r} is outside {minimum:g}..{LARGEST:g} (SI units)")
    return number


def _parse_text(text: str, kind: str) -> float:
    if len(text) > LARGEST_TEXT or "**" in text or "^" in text:
        raise InputError(f"cannot read {text[:40]!r} as {kind}; write for example {_EXAMPLE[kind]!r}")
    try:
        quantity = _registry().Quantity(text)
        # To pint bits and bytes are pure numbers, as percent and radian are; only the name tells them apart.
        if kind in ("bytes", "rate") and not quantity.unitless and not re.search("bit|byte", str(quantity.units)):
            raise TypeError("no bits or bytes")
        return float(text) if quantity.unitless else float(quantity.to(_SI_UNIT[kind]).magnitude)
    except Exception as error:  # pint and its tokenizer raise errors of many families on hostile text
        raise InputError(
            f"cannot read {text!r} as {kind} ({type(error).__name__}); write for example {_EXAMPLE[kind]!r}"
        ) from None


def _validator(kind: str, minimum: float) -> BeforeValidator:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError(f"expected a number or a text such as {_EXAMPLE[kind]!r}, got {type(value).__name__}")
        try:
            return parse_quantity(value, kind, minimum=minimum)
        except InputError as error:
            raise ValueError(str(error)) from None

    return BeforeValidator(read)


TINY = 1e-30  # the smallest strictly positive quantity accepted

Seconds = Annotated[float, _validator("time", 0.0)]
Bytes = Annotated[float, _validator("bytes", 0.0)]
PositiveBytes = Annotated[float, _validator("bytes", TINY)]
BytesPerSecond = Annotated[float, _validator("rate", TINY)]
FlopsPerSecond = Annotated[float, _validator("flops", TINY)]


def format_time(seconds: float) -> str:
    """
    >>> format_time(0.00123), format_time(3.7e-6), format_time(12.5)
    ('1.23 ms', '3.7 us', '12.5 s')
    """
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if abs(seconds) >= factor:
            return f"{seconds / factor:.4g} {unit}"
    return f"{seconds / 1e-9:.4g} ns" if seconds else "0 s"


def format_bytes(size: float) -> str:
    """
    >>> format_bytes(80 * 2**30), format_bytes(512)
    ('80 GiB', '512 B')
    """
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(size) >= 1024**power:
            return f"{size / 1024**power:.4g} {unit}"
    return f"{size:.4g} B"


def format_rate(bytes_per_s: float) -> str:
    """
    >>> format_rate(50e9)
    '50 GB/s'
    """
    for factor, unit in ((1e12, "TB/s"), (1e9, "GB/s"), (1e6, "MB/s")):
        if abs(bytes_per_s) >= factor:
            return f"{bytes_per_s / factor:.4g} {unit}"
    return f"{bytes_per_s:.4g} B/s"
