"""CalibrationProfile: what ships is sourced, curves are piecewise linear in log2, files are refused politely."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.calibration import Curve, list_profiles, load_profile
from moesim.errors import InputError, MissingMeasurement, UnknownName


def curve(at, value):
    return Curve(against="nodes", at=at, value=value, kind="measured", source="a table")


@given(st.floats(1, 1000), st.floats(0, 1), st.floats(0, 1))
def test_a_curve_is_linear_in_log2_between_and_beyond_its_points(count, low, high):
    """Between 1 and 1024 the value is low + (high - low) log2(count) / 10."""
    expected = low + (high - low) * math.log2(count) / 10
    assert expected == pytest.approx(curve((1, 1024), (low, high)).read(count), abs=1e-12)


@given(st.lists(st.integers(1, 512), min_size=1, max_size=6, unique=True), st.data())
def test_a_curve_passes_through_its_points(at, data):
    """Reading at a published count gives the published value."""
    at = tuple(float(x) for x in sorted(at))
    value = tuple(data.draw(st.floats(0, 1)) for _ in at)
    assert value == pytest.approx([curve(at, value).read(x) for x in at], abs=1e-9)


def test_a_falling_curve_never_extrapolates_below_zero():
    """A cost cannot be negative."""
    assert 0.0 == curve((1, 2), (1.0, 0.1)).read(1 << 20)


def test_reading_outside_the_points_is_told():
    """`covers` is what a result's extrapolation note rests on."""
    assert (True, False) == (curve((1, 8), (1.0, 2.0)).covers(8), curve((1, 8), (1.0, 2.0)).covers(9))


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_loads_and_answers_to_its_name(name):
    """File name and profile name agree, and every figure in it has a source."""
    assert name == load_profile(name).name


def test_an_unknown_kernel_names_the_kernels_that_have_figures():
    """No number is invented for a kernel without one."""
    with pytest.raises(MissingMeasurement, match="deepep-normal"):
        load_profile().kernel("pplx")


def test_an_unknown_profile_names_the_nearest():
    """A misspelt profile is an input error with a hint."""
    with pytest.raises(UnknownName, match="did you mean 'datasheet'"):
        load_profile("datashet")


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"surprise": 1},
        {"kernels": 3},
        {"compute": {}},
        {"name": ""},
    ],
)
def test_a_profile_file_that_is_not_one_is_refused(tmp_path, change):
    """Wrong version, unknown key, wrong type, missing part: one sentence with the file's name."""
    data = json.loads(load_profile().model_dump_json()) | change
    path = tmp_path / "p.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"p\.json") as error:
        load_profile(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '{"format_version": NaN}', "[" * 100_000])
def test_a_damaged_profile_file_is_refused(tmp_path, text):
    """Empty, truncated, not an object, NaN, too deep."""
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InputError):
        load_profile(str(path))


def test_a_missing_profile_file_is_refused():
    """The path is in the sentence."""
    with pytest.raises(InputError, match=r"nowhere\.json"):
        load_profile("nowhere.json")
