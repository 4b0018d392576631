"""Files that appear only when whole: after an end, an exception, a kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from moesim.trace import appearing_file as module
from moesim.trace.appearing_file import appearing_file

KILLED = """
import sys, pathlib
from moesim.trace.appearing_file import appearing_file
with appearing_file(pathlib.Path(sys.argv[1])) as stream:
    stream.write(b"half")
    stream.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["unnamed", "partial"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, with and without files that have no name."""
    if request.param == "partial":
        monkeypatch.setattr(module, "_unnamed_file", lambda folder: None)
    return tmp_path


def test_the_bytes_appear_at_the_end(folder: Path) -> None:
    """Old bytes until the block ends, the new ones afterwards, nothing beside them, permissions of any new file."""
    path, other = folder / "a", folder / "b"
    for old, new in ((None, b"one"), (b"one", b"two")):
        with appearing_file(path) as stream:
            stream.write(new)
            assert old == (path.read_bytes() if path.exists() else None)
        assert new == path.read_bytes()
    other.write_bytes(b"")
    assert other.stat().st_mode == path.stat().st_mode
    assert ["a", "b"] == sorted(file.name for file in folder.iterdir())


def test_an_exception_leaves_what_was_there(folder: Path) -> None:
    """And a file left by a program that was killed is no obstacle."""
    (folder / "a").write_bytes(b"one")
    (folder / "a.partial").write_bytes(b"old")
    with pytest.raises(KeyError), appearing_file(folder / "a") as stream:
        stream.write(b"two")
        raise KeyError
    assert [b"one"] == [file.read_bytes() for file in folder.iterdir()]
    (folder / "a.partial").write_bytes(b"old")
    with appearing_file(folder / "a") as stream:
        stream.write(b"two")
    assert [b"two"] == [file.read_bytes() for file in folder.iterdir()]


def test_a_folder_that_is_not_there_is_an_os_error(folder: Path) -> None:
    """FileNotFoundError, before the block."""
    with pytest.raises(FileNotFoundError), appearing_file(folder / "none" / "a"):
        pytest.fail("the block ran")


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="files without a name are Linux's")
def test_a_kill_leaves_nothing(tmp_path: Path) -> None:
    """Not even a file under another name."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "a")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert b"written\n" == child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert [] == list(tmp_path.iterdir())
