"""The page on adding a reader: its example is a reader."""

import re
from pathlib import Path
from typing import Any

from tests.trace.readers.recordings import TOY

PAGE = Path(__file__).resolve().parents[3] / "docs" / "adding" / "a-reader.md"


def test_the_example_reads(tmp_path: Path) -> None:
    """The file it describes, and not another one."""
    example = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert example is not None
    reader: dict[str, Any] = {}
    exec(example.group(1), reader)
    path = tmp_path / "x"
    path.write_text("layer,1,4,0,0,0,0,0,0,0\nlayer,3,0,1,1,1,1,0,0,0\n")
    assert reader["recognises"](path)
    trace = reader["read"](path, model=TOY)
    assert ((1, 3), 2) == (trace.info.layers, trace.info.num_tokens)
    assert [4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0] == next(iter(trace.rows)).tokens_W.tolist()
    path.write_text("layers\n")
    assert not reader["recognises"](path)
