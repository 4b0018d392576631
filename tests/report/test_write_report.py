"""A report folder gets whole files, the same bytes every time, and keeps what was there."""

from pathlib import Path
from typing import Any

import pytest

from moesim.errors import InputError
from moesim.report import FORMATS, write_report
from moesim.report.files import write_files
from tests.strategies.result import make_comparison, make_result

NAMES = [
    "devices.parquet",
    "links.parquet",
    "report.html",
    "result.json",
    "spans.parquet",
    "summary.txt",
    "timeline.pftrace",
]
SMALL: dict[str, Any] = {"nodes": 2, "local": 2, "layers": 2, "steps": 1}


def test_all_files_are_written_twice_alike_and_others_stay(tmp_path: Path) -> None:
    """Two reports of one comparison are equal bytes; a file that was in the folder stays; no temporary file remains."""
    (tmp_path / "mine.txt").write_text("kept")
    comparison = make_comparison(("contiguous", "random"), **SMALL)
    first = {path.name: path.read_bytes() for path in write_report(comparison, tmp_path)}
    paths = write_report(comparison, tmp_path)
    assert [path.name for path in paths] == NAMES
    assert first == {path.name: path.read_bytes() for path in paths}
    assert sorted([*NAMES, "mine.txt"]) == sorted(path.name for path in tmp_path.iterdir())


def test_the_folder_is_created(tmp_path: Path) -> None:
    """A missing folder, with missing parents, is made."""
    write_report(make_result(nodes=1, local=1, layers=1, tokens=0), tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == NAMES


def test_a_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    """A file in the way is the user's error, in one sentence."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write a report into"):
        write_files(tmp_path / "file", {"a": b""})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails in mid-write, the old file is whole and no partial file remains."""
    write_files(tmp_path, {"a": b"old"})

    def full_disk(path: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(InputError, match="No space left"):
        write_files(tmp_path, {"a": b"new"})
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"old")]


def test_formats_are_files_of_their_folder() -> None:
    """Every file of formats/ is a format with a `render`."""
    assert FORMATS.names() == ("html", "json", "parquet", "perfetto", "text")
    assert all(callable(FORMATS.get(name)) for name in FORMATS.names())
