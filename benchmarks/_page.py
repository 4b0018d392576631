"""Tables of benchmarks in the pages of docs: Markdown, and the part of a page between two marks."""

from collections.abc import Iterable, Sequence
from pathlib import Path


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The rows as a Markdown table."""
    lines = [headers, ("---",) * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def write_part(page: Path, begin: str, end: str, text: str) -> None:
    """Put `text` between the marks of `page`; raises ValueError where a mark is missing."""
    before, rest = page.read_text(encoding="utf-8").split(begin, 1)
    _, after = rest.split(end, 1)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
