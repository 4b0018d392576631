"""Report room: show a comparison or one result to a person, as text, page, timeline and tables.

A plan has a page of its own, written by moesim.report.plan_page.write_plan_report. Nothing is drawn on import:
matplotlib, jinja2, pyarrow and perfetto load with the format that needs them.
"""

from pathlib import Path

from moesim.registry import Registry
from moesim.report.files import write_files
from moesim.result import Comparison, SimulationResult

FORMATS = Registry("moesim.report.formats", kind="report format", attribute="render")

__all__ = ["FORMATS", "write_report"]


def write_report(subject: Comparison | SimulationResult, folder: Path) -> list[Path]:
    """Write every format's files into `folder` (created if missing); returns their paths, sorted by name.

    All files are rendered before the first is written, and each appears under its name only when whole; other files
    in the folder stay. Same subject, same bytes. Raises InputError where the folder cannot be written.
    """
    files: dict[str, bytes] = {}
    for name in FORMATS.names():
        files |= FORMATS.get(name)(subject)
    return write_files(folder, files)
