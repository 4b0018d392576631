"""Conversion of foreign traces into the Parquet store, by the reader that recognises the file's content."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from moesim.errors import InputError
from moesim.registry import Registry
from moesim.routing import RoutedModel
from moesim.trace.known_refusals import refuse_known
from moesim.trace.original_experts import original_experts
from moesim.trace.store import write_trace

READERS = Registry("moesim.trace.readers", kind="trace format", attribute="read")
_RECOGNISERS = Registry("moesim.trace.readers", kind="trace format", attribute="recognises")


def convert_trace(
    source: str | Path,
    out: str | Path,
    *,
    format: str = "auto",
    model: RoutedModel | None = None,
    key: str | None = None,
    layers: Sequence[int] | None = None,
    orders: Mapping[int, NDArray[np.int32]] | None = None,
) -> dict[str, Any]:
    """Write the trace in `source`, a file or folder, to the Parquet file `out`; {out, rows, tokens}, tokens may be None.

    `format` is a reader's name or auto. `model` gives the layers, the number of experts and the top-k, which the
    file must have; `layers` are the model layer indices of the file's rows; `key` picks one of several arrays. `orders`:
    the model's experts were permuted so, by layer; the trace gets the ids from before.
    Raises InputError, and then writes nothing.
    """
    path = Path(source)
    if not path.is_file() and not path.is_dir():
        raise InputError(f"there is no file {path}")
    if path.stat().st_size == 0 or (path.is_dir() and not any(path.iterdir())):
        raise InputError(f"{path} is empty; expected a trace ({', '.join(READERS.names())})")
    read = READERS.get(recognised_format(path) if format == "auto" else format)
    try:
        trace = read(path, model=model, key=key, layers=layers)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if orders is not None:
        trace = original_experts(trace, orders, str(path))
    num_rows = write_trace(trace, Path(out))
    return {"out": str(out), "rows": num_rows, "tokens": trace.info.num_tokens or None}


def recognised_format(path: Path) -> str:
    """Name of the first reader (by name) that recognises the content of `path`; InputError when none does."""
    for name in _RECOGNISERS.names():
        if _RECOGNISERS.get(name)(path):
            return name
    refuse_known(path)
    raise InputError(f"{path} is none of the trace formats {', '.join(_RECOGNISERS.names())}; name one with --format")
