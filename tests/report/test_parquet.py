"""The Parquet tables hold what the pictures are drawn from."""

import io

import numpy as np
import pyarrow.parquet as pq

from moesim.report.formats.parquet import render
from moesim.result import PHASES
from tests.strategies.result import make_comparison, make_result


def test_tables_round_trip() -> None:
    """Spans, links and device loads read back as they were."""
    result = make_result(nodes=2, local=2, layers=3, steps=2)
    tables = result.tables
    assert tables is not None
    read = {name: pq.read_table(io.BytesIO(data)) for name, data in render(result).items()}
    spans, links, devices = (read[f"{name}.parquet"] for name in ("spans", "links", "devices"))
    assert tables.spans.start_s.tolist() == spans["start_s"].to_pylist()
    assert [PHASES[code] for code in tables.spans.phase.tolist()] == spans["phase"].to_pylist()
    assert {-1, 1, 2, 3} == set(spans["layer"].to_pylist())
    assert list(tables.link_names) == links["link"].to_pylist()
    assert tables.link_bytes.tolist() == links["bytes"].to_pylist()
    np.testing.assert_array_equal(tables.load_LD, np.array(devices["load"]).reshape(3, 4))
    assert devices["node"].to_pylist()[:4] == [0, 0, 1, 1]
    assert spans.schema.metadata[b"moesim.strategy"] == b"contiguous"


def test_a_comparison_stores_its_fastest_run() -> None:
    """The tables are those of the best strategy."""
    comparison = make_comparison(("contiguous", "eplb_global"), nodes=2, local=2, layers=2, steps=1)
    assert render(comparison.results["eplb_global"]) == render(comparison)


def test_without_tables_nothing_is_stored() -> None:
    """A result that kept no tables has no Parquet files."""
    assert render(make_result(nodes=1, local=1, layers=1).model_copy(update={"tables": None})) == {}
