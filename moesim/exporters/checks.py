"""Checks of a table of slots as it was written: stricter than the loaders, which accept much that then goes wrong."""

from collections.abc import Sequence
from typing import Any

from moesim.exporters.export import Check


def slot_checks(
    rows: Sequence[Sequence[Any]], *, experts: int, ranks: int, num_rows: int, rows_name: str, unlike: bool = False
) -> tuple[Check, ...]:
    """Rules 1 to 5 for rows of slots, one per layer, slots contiguous by rank.

    `rows_name` says what a row is. `unlike` True: two copies of an expert on one rank break the target, else they are
    only reported.
    """
    whole = all(type(expert) is int and 0 <= expert < experts for row in rows for expert in row)
    widths = {len(row) for row in rows}
    even = len(widths) == 1 and min(widths) >= experts and min(widths) % ranks == 0
    return (
        Check("expert ids are integers in [0, E)", whole),
        Check("every expert has a slot in every layer", whole and all(len(set(row)) == experts for row in rows)),
        Check("all ranks have equally many slots", even),
        Check("no expert twice on one rank", even and not repeated(rows, ranks), required=unlike),
        Check(f"one row per {rows_name}", len(rows) == num_rows),
    )


def repeated(rows: Sequence[Sequence[int]], ranks: int) -> bool:
    """Whether a rank holds an expert twice in some layer."""
    for row in rows:
        each = len(row) // ranks
        parts = (row[first : first + each] for first in range(0, len(row), each))
        if any(len(set(part)) < len(part) for part in parts):
            return True
    return False
