"""What an import was asked for and what it has to tell: options of all importers, counted remarks. Stdlib only."""

from dataclasses import dataclass, field

TAKE = ("out_of_place", "in_place", "both")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a log does not say itself: catalogue name of the accelerator, ranks, nodes, SMs, which columns to take.

    `take` chooses between the out-of-place and in-place columns of nccl-tests and rccl-tests; `library` renames the
    library (a log of another build of NCCL, say). None = as the log says.
    """

    hardware: str | None = None
    library: str | None = None
    ranks: int | None = None
    nodes: int | None = None
    tokens_per_rank: int | None = None
    hidden: int | None = None
    top_k: int | None = None
    experts: int | None = None
    dtype: str | None = None
    take: str = "out_of_place"


@dataclass(slots=True)
class ImportReport:
    """Counted remarks of one source, in the order they first came up: rows left out and why, rows flagged, choices made."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, remark: str, count: int = 1) -> None:
        """Count `remark` once more (or `count` times)."""
        self.counts[remark] = self.counts.get(remark, 0) + count

    def once(self, remark: str) -> None:
        """Note `remark`, however often it is said."""
        self.counts[remark] = 1

    def lines(self) -> list[str]:
        """One line a remark: "12 x zero-size rows left out"; remarks that happened once stand alone."""
        return [remark if count == 1 else f"{count} x {remark}" for remark, count in self.counts.items()]
