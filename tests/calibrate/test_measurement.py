"""Measurement files: what is written is read back, a killed run keeps what it measured, damage is named and passed over."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.measurement import (
    Measurement,
    Skipped,
    append_lines,
    environment_line,
    measurement_id,
    measurement_line,
    read_measurements,
    skipped_line,
    write_measurements,
)

NUMBERS = st.integers(1, 2**40) | st.floats(1e-9, 1e9) | st.text(max_size=8) | st.booleans()


def one(time_s=1e-3, **params):
    return Measurement(
        probe="copy", operation="copy", params={"bytes": 8, **params}, time_s=time_s, environment="e", source="here"
    )


@given(st.dictionaries(st.text(min_size=1, max_size=6), NUMBERS, max_size=4), st.floats(1e-9, 1e3))
def test_a_written_measurement_is_read_back(tmp_path_factory, params, time_s):
    """Same parameters, time, id."""
    path = tmp_path_factory.mktemp("m") / "m.jsonl"
    written = one(time_s, **params)
    write_measurements(path, [written], [{"id": "e", "device": "toy"}])
    read = read_measurements(path)
    assert (written,) == read.measurements
    assert {"e": {"id": "e", "device": "toy"}} == dict(read.environments)


def test_a_cut_off_line_costs_that_line_only(tmp_path):
    """After a kill in mid-line the next run's lines are whole, and the damage is named by its line."""
    path = tmp_path / "m.jsonl"
    append_lines(path, [measurement_line(one(bytes=1)), measurement_line(one(bytes=2))[:30]])
    append_lines(path, [measurement_line(one(bytes=3)), skipped_line(Skipped("copy", "no room"))])
    read = read_measurements(path)
    assert [1, 3] == [m.params["bytes"] for m in read.measurements]
    assert (Skipped("copy", "no room"),) == read.skipped
    assert ["line 2"] == [text.split(":")[0] for text in read.damaged]


@pytest.mark.parametrize("time_s", [0.0, -1.0, float("nan"), float("inf"), "1", True])
def test_times_that_are_none_are_refused(time_s):
    """Zero, negative, NaN, text."""
    with pytest.raises(ValueError, match="time_s"):
        one(time_s)


def test_nan_unknown_operations_and_other_objects_are_damage_and_another_version_is_refused(tmp_path):
    """NaN is no JSON number here; a file of another version is not read as this one."""
    path = tmp_path / "m.jsonl"
    good = measurement_line(one())
    path.write_text(good + good.replace("0.001", "NaN") + good.replace('"copy"', '"fly"') + "[1]\n")
    assert (1, 3) == (len(read_measurements(path).measurements), len(read_measurements(path).damaged))
    path.write_text(good.replace('"format_version": 1', '"format_version": 9'))
    with pytest.raises(ValueError, match="format_version 9"):
        read_measurements(path)


def test_a_measurement_taken_again_replaces_the_first(tmp_path):
    """Same probe, parameters and environment: same id, and the later time counts."""
    path = tmp_path / "m.jsonl"
    append_lines(path, [measurement_line(one(1.0)), measurement_line(one(2.0))])
    assert [2.0] == [m.time_s for m in read_measurements(path).measurements]
    assert one().id == measurement_id("copy", {"bytes": 8}, "e")


def test_an_environment_needs_an_id():
    """Measurements refer to it by that."""
    with pytest.raises(ValueError, match="id"):
        environment_line({"device": "toy"})
