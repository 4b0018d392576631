"""Where facts and results come from: sourced numbers, data folders, versions and input hashes."""

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from moesim.errors import InputError

Kind = Literal["datasheet", "measured", "derived", "assumed"]
_PACKAGE = Path(__file__).resolve().parent
_RECORDED_PACKAGES = ("moesim", "numpy", "numba", "simpy", "pyarrow", "pydantic")


class Fact(BaseModel):
    """One number or text from the world, with where it was read and how it was come by."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    value: float | int | str
    kind: Kind
    source: str = Field(min_length=3)


def data_folder(name: str) -> Path:
    """The drawer `name` (topologies, models or traces): inside an installed package, else beside it in a checkout."""
    for folder in (_PACKAGE / "data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InputError(f"data folder {name!r} is missing beside {_PACKAGE}; reinstall moesim")


def versions() -> dict[str, str]:
    """Versions of moesim and of the packages whose change could change a result."""
    return {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_json(value: Any) -> str:
    """Hex digest of `value` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
