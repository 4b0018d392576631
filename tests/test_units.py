"""Quantities: what is read, what is refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.units import format_bytes, format_rate, format_time, parse_quantity


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("400 Gbit/s", "rate", 50e9),
        ("450 GB/s", "rate", 450e9),
        ("80 GiB", "bytes", 80 * 2**30),
        ("80 GB", "bytes", 80e9),
        ("3.7 us", "time", 3.7e-6),
        ("989 Tflop/s", "flops", 989e12),
        (5e9, "rate", 5e9),
        (0, "time", 0.0),
    ],
)
def test_text_with_a_unit_is_its_si_value(text, kind, expected):
    """A bit is an eighth of a byte, GB is decimal, GiB is binary, plain numbers are SI."""
    assert expected == pytest.approx(parse_quantity(text, kind), rel=1e-12)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("400 Gbit", "rate"),
        ("3 apples", "rate"),
        ("", "time"),
        ("nan s", "time"),
        ("1e400 s", "time"),
        (math.nan, "bytes"),
        (math.inf, "bytes"),
        (-1.0, "bytes"),
        ("-3 us", "time"),
        (1e40, "flops"),
        ("9**9**9 s", "time"),
        ("1 s" * 60, "time"),
        ("__import__('os')", "time"),
        ("20 degC", "time"),
        ("80 percent", "bytes"),
        ("3 radian", "bytes"),
        ("5 bytes", "time"),
    ],
)
def test_what_is_no_such_quantity_is_refused_in_one_sentence(text, kind):
    """Wrong units, negatives, NaN, infinities, absurd sizes and hostile text raise InputError without a line break."""
    with pytest.raises(InputError) as error:
        parse_quantity(text, kind)
    assert "\n" not in str(error.value)


@given(st.text(max_size=70), st.sampled_from(["time", "bytes", "rate", "flops"]))
def test_any_text_is_a_finite_quantity_or_refused(text, kind):
    """No text makes the parser fail in another way, or give a number outside its bounds."""
    try:
        value = parse_quantity(text, kind)
    except InputError:
        return
    assert math.isfinite(value) and value >= 0


@given(st.floats(1e-9, 1e6), st.floats(1, 1e15))
def test_formatted_quantities_read_back_within_their_digits(seconds, size):
    """What people are shown is what the parser reads, to four digits."""
    assert seconds == pytest.approx(parse_quantity(format_time(seconds), "time"), rel=1e-3)
    assert size == pytest.approx(parse_quantity(format_bytes(size), "bytes"), rel=1e-3)
    assert size == pytest.approx(parse_quantity(format_rate(size), "rate"), rel=1e-3)
