"""Reader of this program's own Parquet traces: checks every row, and names the model where the file does not."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from moesim.errors import InputError
from moesim.routing import RoutedModel, RoutingTrace
from moesim.trace.layer_rule import check_model
from moesim.trace.rows import CountRows, TokenRows, TraceRows
from moesim.trace.source_files import head_of
from moesim.trace.store import open_trace, read_rows


def recognises(path: Path) -> bool:
    """Whether `path` starts as a Parquet file does."""
    return head_of(path, 4) == b"PAR1"


def read(
    path: Path, *, model: RoutedModel | None = None, key: str | None = None, layers: Sequence[int] | None = None
) -> TraceRows:
    """The trace in `path`; it states its own layers, so `key` and `layers` are refused. Raises InputError."""
    if key is not None or layers is not None:
        raise InputError(f"{path} is a Parquet trace, which states its own layers; leave out --key and --layers")
    trace = open_trace(path)
    if model is None:
        return TraceRows(trace.info, _rows(trace), is_checked=True)
    check_model(trace.info, model, str(path))
    return TraceRows(trace.info.model_copy(update={"model": model.name}), _rows(trace), is_checked=True)


def _rows(trace: RoutingTrace) -> Iterator[TokenRows | CountRows]:
    for _, rows in read_rows(trace):
        yield rows
