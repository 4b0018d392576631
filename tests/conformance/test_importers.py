"""Every importer: takes no file that is not its own, and no damaged file as more than an InputError."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.import_logs import _RECOGNISERS, IMPORTERS
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.measurement import Measurement
from moesim.errors import InputError
from tests.calibrate.test_import_collectives import CSV, RESULT, ROW, results_json, table
from tests.calibrate.test_import_deepep import ELASTIC, INTRANODE
from tests.calibrate.test_import_profiler import kernel, trace
from tests.calibrate.test_published import GOOD, HEADER

OWN = {
    "deepep": [INTRANODE, ELASTIC],
    "nccl_tests": [table(ROW), results_json([RESULT])],
    "profiler": [trace(kernel(), kernel(dur=3.0))],
    "rccl_tests": [CSV, table(ROW, device="AMD Instinct MI300X"), json.dumps([{"numCycle": 1, "busBw": 1.0}])],
    "table": [HEADER + GOOD],
}


def read(name, path):
    return list(IMPORTERS.get(name)(str(path), ImportOptions(), ImportReport()))


def test_every_importer_has_samples():
    """A new importer is exercised here as soon as its file is there (aiconfigurator reads a package, not a file)."""
    assert sorted([*OWN, "aiconfigurator"]) == list(IMPORTERS.names())


@pytest.mark.parametrize("name", sorted(OWN))
def test_each_file_is_recognised_by_its_importer_alone(name):
    """The samples of one importer are no other's; an empty head is nobody's."""
    for text in OWN[name]:
        assert [name] == [n for n in _RECOGNISERS.names() if _RECOGNISERS.get(n)("x.log", text.encode())]
    assert not _RECOGNISERS.get(name)("x.log", b"")


@pytest.mark.parametrize("name", sorted(OWN))
@given(data=st.data())
def test_a_damaged_file_is_read_in_part_or_refused(tmp_path_factory, name, data):
    """Bytes overwritten, dropped or put in anywhere: measurements or an InputError, never another exception."""
    content = bytearray(data.draw(st.sampled_from(OWN[name])).encode())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content)))
        junk = data.draw(
            st.sampled_from([b"", b"\x00", b"\xff\xfe", b"-", b"9" * 400, b"nan", b"1e999", b'"', b"[", b"\n"])
        )
        content[at : at + data.draw(st.integers(0, 30))] = junk
    path = tmp_path_factory.mktemp("damaged") / "x.log"
    path.write_bytes(content)
    try:
        measurements = read(name, path)
    except InputError:
        return
    assert all(isinstance(measurement, Measurement) for measurement in measurements)
