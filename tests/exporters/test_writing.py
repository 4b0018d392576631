"""Several files appear together or not at all."""

from pathlib import Path

import pytest

from moesim.errors import InputError
from moesim.exporters.writing import write_all


def test_all_files_appear_whole_and_no_others(tmp_path):
    """Bytes, and what a function writes; nothing temporary stays."""
    paths = write_all(tmp_path / "new", {"b": b"2", "a": lambda path: path.write_bytes(b"1")})
    assert ["b", "a"] == [path.name for path in paths]
    assert {"a": b"1", "b": b"2"} == {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}


def failing(path):
    path.mkdir()
    (path / "part").write_bytes(b"x")
    raise OSError(28, "No space left on device")


def test_a_failure_leaves_what_was_there(tmp_path):
    """The second content fails: the first file keeps its old bytes, no temporary stays."""
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(InputError, match="No space left on device"):
        write_all(tmp_path, {"a": b"new", "b": failing})
    assert {"a": b"old"} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_failing_rename_brings_the_old_files_back(tmp_path, monkeypatch):
    """The rename of the second file fails after the first was put in place."""
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "b").write_bytes(b"old b")
    rename = Path.replace

    def replace(self, target):
        if self.name.endswith(".partial") and Path(target).name == "b":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(InputError, match="Input/output error"):
        write_all(tmp_path, {"a": b"new", "b": b"new"})
    assert {"a": b"old a", "b": b"old b"} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_folder_in_the_way_is_refused(tmp_path):
    """Named b: nothing is written."""
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="b is a folder"):
        write_all(tmp_path, {"a": b"1", "b": b"2"})
    assert ["b"] == [path.name for path in tmp_path.iterdir()]
