"""The YAML reader: plain data, YAML 1.2 scalars, everything else refused in one sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from moesim.errors import InputError, UnknownName
from moesim.yaml_file import parse_yaml, read_yaml, validate


def test_scalars_are_those_of_yaml_1_2() -> None:
    """Where YAML 1.1 surprises (4:8 = 248, no = false, 010 = 8, 1e9 = text, dates), text stays text, numbers numbers."""
    text = "{a: 4:8, b: no, c: 010, d: 1e9, e: 2024-01-01, f: .5, g: ~, h: true, i: 0x10, j: '5', k: 1_000, l: -3}"
    values = ["4:8", "no", 10, 1e9, "2024-01-01", 0.5, None, True, 16, "5", "1_000", -3]
    assert values == list(parse_yaml(text, "x.yaml").values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.yaml is empty"),
        ("# only a comment\n", "x.yaml is empty"),
        ("- 1", "holds a list at its top"),
        ("just text", "holds a str at its top"),
        ("a: *b", r"uses the alias \*b"),
        ("a: &b 1", "defines the anchor &b"),
        ("a: !!python/object/apply:os.system [ls]", "uses the tag"),
        ("a: !x 1", "uses the tag '!x'"),
        ("a: 1\nb: 2\na: 3", "the key 'a' is given twice at line 3"),
        ("a: {b: 1, b: 2}", "the key 'b' is given twice"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: [1, 2", "x.yaml is not usable YAML"),
        ("a: b: c", "x.yaml is not usable YAML"),
        ("\ta: 1", "x.yaml is not usable YAML"),
        ("a: \x07", "x.yaml is not usable YAML"),
        ("a: {b: [1, .nan]}", r"a\.b\[1\] is nan; numbers must be finite"),
        ("a: -.INF", "a is -inf"),
        ("a: 1e400", "a is inf"),
        ("a: " + "9" * 5000, "x.yaml is not usable YAML"),
        ("a: " + "9" * 100, "a is larger than 1e"),
        ("a: " + "[" * 50 + "]" * 50, "nested more than 32 levels"),
        ("[" * 100_000, "nested more than 32 levels"),
        ("1: 2", "the key '1' is a int, keys must be text"),
        ("? [a]\n: 2", "keys must be text"),
    ],
)
def test_unusable_text_is_refused(text: str, message: str) -> None:
    """Each is one line that names the file and the trouble."""
    with pytest.raises(InputError, match=message) as caught:
        parse_yaml(text, "x.yaml")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_bomb_is_refused_before_it_grows() -> None:
    """Nine levels of ninefold aliases would be 3e8 items; the first anchor already ends it."""
    lines = ['a: &a ["x","x","x","x","x","x","x","x","x"]']
    lines += [f"{b}: &{b} [{','.join(['*' + a] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(InputError, match="line 1 defines the anchor &a"):
        parse_yaml("\n".join(lines), "x.yaml")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing, a folder, too large, not UTF-8, a name no file can have: one sentence each."""
    (tmp_path / "large.yaml").write_bytes(b"a: 1\n" * 300_000)
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    cases = {"none.yaml": "does not exist", ".": "is a folder", "large.yaml": "larger than 1000000 bytes"}
    for name, message in {**cases, "latin.yaml": "not UTF-8 text: byte 6", "a" * 5000: "cannot read"}.items():
        with pytest.raises(InputError, match=message):
            read_yaml(tmp_path / name)
    with pytest.raises(InputError, match=r"cannot read|does not exist"):
        read_yaml("a\0b.yaml")


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(-1e20, 1e20) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=80)
@given(data=st.dictionaries(st.text(max_size=8), PLAIN, min_size=1, max_size=4))
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    """Plain data written with quoted text comes back as it was."""
    text = yaml.dump(data, Dumper=QuotingDumper, allow_unicode=False)
    assert data == parse_yaml(text, "x.yaml")


class QuotingDumper(yaml.SafeDumper):
    """Writes every text in double quotes, and never an alias."""

    def ignore_aliases(self, data: Any) -> bool:
        """Aliases are not read, so none are written."""
        return True


QuotingDumper.add_representer(
    str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')
)


class Wheel(BaseModel):
    """Innermost model of the examples below."""

    model_config = ConfigDict(extra="forbid")
    radius: float = Field(gt=0)


class Car(BaseModel):
    """A model with models below it."""

    model_config = ConfigDict(extra="forbid")
    wheels: list[Wheel] = []
    spare: Wheel | None = None
    by_name: dict[str, Wheel] = {}
    seats: int


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"seats": 4, "wheels": [{"radius": 1}, {"radius": -1}]},
            r"car.yaml: wheels\[1\]\.radius got -1; Input should be",
        ),
        ({"seats": 4, "spare": {"radus": 1}}, r"unknown key in car.yaml \(spare\): 'radus'; did you mean 'radius'"),
        ({"seats": 4, "by_name": {"a": {"radus": 1}}}, r"\(by_name\.a\): 'radus'; did you mean 'radius'"),
        ({"seats": 4, "wheels": [{"radus": 1}]}, r"\(wheels\[0\]\): 'radus'; did you mean 'radius'"),
        ({"seets": 4}, r"unknown key in car.yaml: 'seets'; did you mean 'seats'"),
        ({}, r"car.yaml: the key seats is missing"),
        ({"seats": "x" * 500}, r"seats got 'x+\.\.\.;"),
        ([], r"car.yaml: the whole got \[\]"),
    ],
)
def test_the_first_problem_is_a_sentence(data: Any, message: str) -> None:
    """Where, what was got, what is allowed; an unknown key with the nearest known one, before the key it leaves missing."""
    with pytest.raises(InputError, match=message):
        validate(Car, data, "car.yaml")


def test_unknown_keys_are_unknown_names() -> None:
    """The error family of a misspelt key is that of any misspelt name."""
    with pytest.raises(UnknownName):
        validate(Car, {"seets": 1}, "car.yaml")
    assert 4 == validate(Car, {"seats": 4}, "car.yaml").seats
