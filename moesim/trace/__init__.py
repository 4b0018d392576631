"""Traces: reading, storing, dealing to ranks, converting, inspecting and drawing synthetic ones.

Heavy modules are imported by the call that needs them, so that naming this package stays cheap.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moesim.routing import RoutingTrace


def load_trace(path: str | Path) -> "RoutingTrace":
    """The routing trace in the Parquet file `path`, its header checked, its rows unread.

    Raises InputError for anything else, naming `moesim trace convert` for the formats that one reads.
    """
    from moesim.trace.store import open_trace  # pyarrow takes a tenth of a second to import

    return open_trace(path)
