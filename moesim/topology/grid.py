"""Grids of chips: lengths, wrapped axes, twists, host blocks; who is whose neighbour, and in which order chips count.

Array letters: D chip, A axis, P port (2 x axis, and one more for the - direction).
"""

import itertools
import math
import re
from dataclasses import dataclass

import numpy as np

from moesim.cluster import Index
from moesim.errors import InputError

AXES = "xyz"
_SHAPE = re.compile(r"(\d{1,9})(?:x(\d{1,9}))?(?:x(\d{1,9}))?(_twisted|_untwisted)?", re.ASCII)
_MOST_TWISTED = 16_384  # ways through a twisted grid are compared chip by chip, for up to so many chips
# Shapes of slices too small for a cube of 4x4x4 (https://cloud.google.com/tpu/docs/v4, configurations).
_SMALL_SLICES = {1: (1, 1, 1), 4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4)}


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Chips along each axis, which axes wrap, the shift at each wrap, and the block of chips on one host.

    Raises InputError for a twist that cannot be: of a cube, of an axis that does not wrap, along itself or along an axis
    that is twisted too, of a grid too large or too long.
    """

    lengths: tuple[int, ...]
    wraps: tuple[bool, ...]
    twist_AA: Index
    block: tuple[int, ...]

    def __post_init__(self) -> None:
        """Bring the shifts into 0..length - 1 and refuse the impossible ones."""
        twist_AA = (self.twist_AA % np.array(self.lengths)).astype(np.int32)
        object.__setattr__(self, "twist_AA", twist_AA)
        twisted = np.flatnonzero(twist_AA.any(axis=1)).tolist()
        if twisted and len(set(self.lengths)) == 1:
            raise InputError(f"a cube ({self.text}) cannot be twisted; twist n x n x 2n or n x 2n x 2n")
        if twisted and (max(self.lengths) > 4 * min(self.lengths) or self.num_chips > _MOST_TWISTED):
            raise InputError(
                f"{self.text} cannot be twisted here: at most {_MOST_TWISTED} chips, no axis over 4 times another"
            )
        for axis in twisted:
            name, others = AXES[axis], np.flatnonzero(twist_AA[axis]).tolist()
            if not all(self.wraps[other] for other in (axis, *others)):
                raise InputError(f"twist of axis {name}: all axes of it must wrap, {self.text} has {self.wrap_text}")
            if axis in others or set(others) & set(twisted):
                raise InputError(
                    f"twist of axis {name} may shift only along other axes that are not twisted themselves"
                )

    @property
    def num_chips(self) -> int:
        """Chips of the grid."""
        return math.prod(self.lengths)

    @property
    def text(self) -> str:
        """The shape as people write it."""
        return "x".join(str(length) for length in self.lengths)

    @property
    def wrap_text(self) -> str:
        """Which axes wrap, in words."""
        names = [AXES[axis] for axis, wrapped in enumerate(self.wraps) if wrapped]
        if not names:
            return "a mesh, no axis wraps"
        return "a torus, all axes wrap" if len(names) == len(self.wraps) else f"only {' and '.join(names)} wrap"

    @property
    def twist_text(self) -> str:
        """The twist vectors, empty where there are none."""
        rows = [f"{AXES[axis]}: {row.tolist()}" for axis, row in enumerate(self.twist_AA) if row.any()]
        return f", twisted {{{', '.join(rows)}}}" if rows else ""

    @property
    def coordinate_DA(self) -> Index:
        """Coordinates of each chip in the order chips are numbered: host by host, last axis fastest."""
        grid_DA = np.indices(self.lengths, dtype=np.int32).reshape(len(self.lengths), -1).T
        host_DA, inner_DA = grid_DA // np.array(self.block), grid_DA % np.array(self.block)
        keys = [*inner_DA.T[::-1], *host_DA.T[::-1]]  # lexsort takes the most important key last
        return np.ascontiguousarray(grid_DA[np.lexsort(keys)])

    def chip_at(self, slices: int = 1) -> Index:
        """Chip index by slice and coordinates, flat, last axis fastest."""
        place_D = np.ravel_multi_index(tuple(self.coordinate_DA.T), self.lengths)
        chip = np.empty(self.num_chips, dtype=np.int32)
        chip[place_D] = np.arange(self.num_chips, dtype=np.int32)
        return (np.arange(slices, dtype=np.int32)[:, None] * self.num_chips + chip).ravel()

    def neighbors(self, slices: int = 1) -> Index:
        """The chip behind each port of each chip of all slices, -1 where there is none."""
        chip_at = self.chip_at()
        columns = [self._behind(axis, step, chip_at) for axis in range(len(self.lengths)) for step in (1, -1)]
        one = np.stack(columns, axis=1)
        every = one[None] + self.num_chips * np.arange(slices, dtype=np.int32)[:, None, None]
        return np.where(one[None] < 0, -1, every).astype(np.int32).reshape(-1, one.shape[1])

    def _behind(self, axis: int, step: int, chip_at: Index) -> Index:
        next_DA = self.coordinate_DA
        next_DA[:, axis] += step
        crosses_D = (next_DA[:, axis] < 0) | (next_DA[:, axis] >= self.lengths[axis])
        next_DA[crosses_D] += step * self.twist_AA[axis]
        place_D = np.ravel_multi_index(tuple((next_DA % np.array(self.lengths)).T), self.lengths)
        ends = self.lengths[axis] == 1 or not self.wraps[axis]
        return np.where(crosses_D & ends, -1, chip_at[place_D]).astype(np.int32)


def parse_lengths(text: str, num_axes: int) -> tuple[tuple[int, ...], bool | None]:
    """`4x4x8` as lengths, and what its ending `_twisted` or `_untwisted` says (None: nothing).

    Raises InputError for any other text, an axis of no chips, or another number of axes.

    >>> parse_lengths("4x4x8_twisted", 3)
    ((4, 4, 8), True)
    """
    match = _SHAPE.fullmatch(text)
    lengths = tuple(int(length) for length in match.groups()[:3] if length) if match else ()
    if match is None or len(lengths) != num_axes or min(lengths) < 1:
        example = "x".join(["4", "4", "8"][:num_axes])
        raise InputError(
            f"shape must give {num_axes} axes of 1 or more chips each, such as {example}, got {text[:40]!r}"
        )
    return lengths, {"_twisted": True, "_untwisted": False}.get(match[4] or "")


def wrapped_axes(asked: str | None, lengths: tuple[int, ...], multiple: int, *, together: bool) -> tuple[bool, ...]:
    """Which axes wrap: as `asked` (all, none, or axis letters), else those whose length is a multiple of `multiple`.

    With `together` they wrap only when all are such multiples. An axis of one chip never wraps.
    """
    known = AXES[: len(lengths)]
    if asked is None:
        fits = [length % multiple == 0 for length in lengths]
        fits = [all(fits)] * len(fits) if together else fits
    elif asked in ("all", "none"):
        fits = [asked == "all"] * len(lengths)
    elif asked and set(asked) <= set(known) and len(set(asked)) == len(asked):
        fits = [axis in asked for axis in known]
    else:
        raise InputError(f"wrap must be all, none or some of the axes {known}, got {asked[:40]!r}")
    return tuple(fit and length > 1 for fit, length in zip(fits, lengths, strict=True))


def standard_twist(lengths: tuple[int, ...]) -> Index:
    """The shifts of n x n x 2n (both short axes: n along the long one) and n x 2n x 2n (n along both long ones).

    Raises InputError for any other shape.
    """
    short = min(lengths)
    is_short = [length == short for length in lengths]
    if len(lengths) != 3 or sorted(lengths)[2] != 2 * short or any(n not in (short, 2 * short) for n in lengths):
        raise InputError(
            f"{'x'.join(map(str, lengths))} has no standard twist: it needs n x n x 2n or n x 2n x 2n chips, "
            "such as 4x4x8 (a cube cannot be twisted)"
        )
    rows = [[short if is_short[axis] and not is_short[other] else 0 for other in range(3)] for axis in range(3)]
    return np.array(rows, dtype=np.int32)


def slice_lengths(name: str, size: int, per_chip: int, pod: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the slice whose name counts `size` (`per_chip` for each chip): 2-D as square as powers of two allow,
    3-D in cubes of 4x4x4 as close to a cube as their number allows, below that as published.

    Raises InputError for a size that no slice has, or that is larger than the pod.

    >>> slice_lengths("tpu-v4-pod", 256, 2, (16, 16, 16))
    (4, 4, 8)
    """
    num_chips, rest = divmod(size, per_chip)
    most = math.prod(pod)
    if rest or num_chips < 1 or num_chips > most:
        raise InputError(
            f"{name} has no slice of size {size}: its names count {per_chip} for each of 1 to {most} chips, "
            f"up to {most * per_chip}"
        )
    if len(pod) == 2 and num_chips & (num_chips - 1) == 0:
        short = 1 << ((num_chips.bit_length() - 1) // 2)
        return short, num_chips // short
    if len(pod) == 3 and num_chips in _SMALL_SLICES:
        return _SMALL_SLICES[num_chips]
    if len(pod) == 3 and num_chips % 64 == 0:
        return tuple(4 * cubes for cubes in _nearest_cube(num_chips // 64))
    raise InputError(
        f"{name} has no slice of {num_chips} chips by name; give its shape, such as shape: {'x'.join(map(str, pod))}"
    )


def _nearest_cube(number: int) -> tuple[int, int, int]:
    """Three factors of `number`, in order, with the smallest sum."""
    divisors = [divisor for divisor in range(1, number + 1) if number % divisor == 0]
    triples = [
        (a, b, number // (a * b))
        for a, b in itertools.combinations_with_replacement(divisors, 2)
        if number % (a * b) == 0 and number // (a * b) >= b
    ]
    return min(triples, key=lambda triple: (sum(triple), triple))
