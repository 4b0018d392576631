"""Jobs: what the ranks are asked to run, as files: .npz in, one .json per rank out; both appear whole or not at all."""

import json
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

STOP = "stop"
_POLL_S = 0.01


def write_job(folder: Path, number: int, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Job `number`: a header of JSON values (its `kind` among them) and arrays."""
    partial = folder / f"job{number}.partial"
    with open(partial, "wb") as file:
        np.savez(file, header=np.array(json.dumps(dict(header))), **arrays)
    partial.rename(folder / f"job{number}.npz")


def read_job(folder: Path, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Wait for job `number`; returns its header and its arrays."""
    path = folder / f"job{number}.npz"
    while not path.exists():
        time.sleep(_POLL_S)
    try:
        with np.load(path, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (ValueError, zipfile.BadZipFile) as error:
        raise RuntimeError(f"{path} is not a job: {error}") from None
    return json.loads(str(arrays.pop("header"))), arrays


def write_answer(folder: Path, number: int, rank: int, answer: Mapping[str, Any]) -> None:
    """What rank `rank` has to say to job `number`."""
    partial = folder / f"answer{number}.{rank}.partial"
    partial.write_text(json.dumps(dict(answer)), encoding="utf-8")
    partial.rename(folder / f"answer{number}.{rank}.json")


def read_answer(folder: Path, number: int, rank: int) -> dict[str, Any] | None:
    """The answer of one rank, or None while there is none."""
    path = folder / f"answer{number}.{rank}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
