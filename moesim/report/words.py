"""Text and numbers as people read them: printable lines of bounded length, times in one unit."""

from collections.abc import Sequence

_LONGEST = 4000


def printable(text: str, longest: int = _LONGEST) -> str:
    """`text` without control characters (terminal escapes, line breaks, lone surrogates), cut at `longest`.

    >>> printable("red\\x1b[31m alert")
    'red?[31m alert'
    """
    cut = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return "".join(letter if letter.isprintable() else "?" for letter in cut)


def scale_of_time(largest_s: float) -> tuple[float, str]:
    """Factor and unit that bring times up to `largest_s` to numbers of a few digits: `time_s * factor` is in `unit`."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
        if largest_s * factor >= 1:
            return factor, unit
    return 1e6, "us"


def aligned_times(times_s: Sequence[float | None]) -> tuple[list[str], str]:
    """Times of one column in one unit with one number of decimals, and the unit; "-" for None.

    >>> aligned_times([0.00123, 0.0104, None])
    (['1.23', '10.40', '-'], 'ms')
    """
    largest = max((time for time in times_s if time is not None), default=0.0)
    factor, unit = scale_of_time(largest)
    decimals = max(0, 4 - len(str(int(largest * factor))))
    return ["-" if time is None else f"{time * factor:.{decimals}f}" for time in times_s], unit
