"""How commands speak: one JSON object or a rich page on stdout, progress on stderr and only on a terminal."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object.")]
Out = Annotated[
    Path | None, typer.Option("--out", help="Folder for report.html, timeline.pftrace, result.json, tables.")
]


def print_json(answer: Any) -> None:
    """One JSON object on stdout; numbers that JSON lacks (NaN) are refused as our bug."""
    sys.stdout.write(json.dumps(answer, allow_nan=False, indent=1) + "\n")


def print_page(renderable: Any) -> None:
    """A rich renderable on stdout, without colours where that is no terminal."""
    from rich.console import Console  # late: --help needs none of it

    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(renderable)


def say(text: str) -> None:
    """A line of talk on stderr."""
    print(text, file=sys.stderr)


@contextmanager
def progress(total: int | None) -> Iterator[Callable[[str, int], None] | None]:
    """A function to tell (what, how many done); shows a bar on a terminal once two seconds have passed, else None."""
    if not sys.stderr.isatty():
        yield None
        return
    import time

    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task("", total=total)
    began, done_of = time.monotonic(), dict[str, int]()

    def tell(what: str, done: int) -> None:
        done_of[what] = done
        if time.monotonic() - began > 2.0 and not bar.live.is_started:
            bar.start()
        bar.update(task, description=what, completed=sum(done_of.values()))

    try:
        yield tell
    finally:
        bar.stop()
