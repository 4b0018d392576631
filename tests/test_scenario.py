"""Scenario files: what is accepted, what is refused and in which words."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.scenario import load_scenario, make_scenario, parse_window

COMPLETE = """
format_version: 1
model: gpt-oss-20b
cluster: {topology: dgx-h100-superpod, nodes: 4}
parallel: {ep: 32}
trace: {path: x.parquet, steps: "0:8", tokens_per_rank: 128}
placement: {strategy: contiguous, slots: 32}
weights: {dtype: fp8}
dispatch: {algorithm: node_dedup, dtype: fp8, replica: nearest}
combine: {dtype: bf16}
capacity: {policy: dropless}
network: {fidelity: fluid, tolerance: 0.0}
mode: {kind: decode, overlap: none}
train: {micro_batches: 8, schedule: 1f1b, zero: 1, sequence_length: 4096, recompute: none}
plan: {objective: mean, survive: 0}
faults: []
seed: 0
"""


def complete():
    return yaml.safe_load(COMPLETE)


def write(tmp_path, text):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return path


def test_the_documented_scenario_is_read(tmp_path):
    """Every section of the interface, with its default values."""
    scenario = load_scenario(write(tmp_path, COMPLETE))
    assert ("gpt-oss-20b", 32, (0, 8), 4) == (
        scenario.model,
        scenario.parallel.ep,
        scenario.trace.steps,
        scenario.cluster.parameters["nodes"],
    )


def test_the_record_of_a_scenario_is_a_scenario_with_the_same_record():
    """A result's scenario can be rerun: writing it out and reading it changes nothing."""
    scenario = make_scenario(complete())
    again = make_scenario(yaml.safe_load(yaml.safe_dump(scenario.record())))
    assert scenario.record() == again.record()


def test_steps_without_quotes_are_read_as_a_window(tmp_path):
    """YAML 1.1 would make 0:8 a base-60 number; here it is text."""
    scenario = load_scenario(write(tmp_path, COMPLETE.replace('"0:8"', "0:8")))
    assert (0, 8) == scenario.trace.steps


def test_one_trace_in_a_list_is_that_trace():
    """The list form of the interface with a single entry."""
    data = complete()
    data["trace"] = [data["trace"] | {"weight": 1.0}]
    assert "x.parquet" == make_scenario(data).trace.path


@pytest.mark.parametrize(
    ("section", "keys", "words"),
    [
        ("parallel", {"expert": 4}, "dp, ep, etp"),
        ("parallel", {"ep": 0}, "ep"),
        ("parallel", {"ep": 1.5}, "ep"),
        ("trace", {"tokens_per_rank": -1}, "tokens_per_rank"),
        ("trace", {"steps": "8:8"}, "empty"),
        ("trace", {"steps": "a:b"}, "window"),
        ("trace", {"router": "zipf"}, "exactly one of path"),
        ("placement", {"extra_slots_per_device": 1}, "not both"),
        ("placement", {"plan": "p.json"}, "not both"),
        ("dispatch", {"algorithm": "carrier_pigeon"}, "node_dedup"),
        ("dispatch", {"sms": 0}, "sms"),
        ("network", {"tolerance": float("nan")}, "tolerance"),
        ("network", {"tolerance": -0.1}, "tolerance"),
        ("network", {"fidelity": "packet"}, "fluid"),
        ("mode", {"kind": "dream"}, "decode"),
        ("mode", {"context_length": 10**12}, "context_length"),
        ("capacity", {"policy": "drop"}, "dropless"),
        ("cluster", {"devices": [{"match": "x", "speed": -1}]}, "speed"),
        ("cluster", {"devices": [{"match": "x", "memory": "64 parsecs"}]}, "memory"),
    ],
)
def test_a_wrong_key_or_value_is_named(section, keys, words):
    """One sentence holds the key and what is allowed."""
    data = complete()
    data[section] = data[section] | keys
    with pytest.raises(InputError) as error:
        make_scenario(data)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("version", [None, 0, 2, "1", True, [1]])
def test_another_format_version_is_refused(version):
    """Only version 1, an integer, is read."""
    with pytest.raises(InputError, match="format_version"):
        make_scenario(complete() | {"format_version": version})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("faults", "device_down", "expected a list"),
        ("faults", {"kind": "device_down"}, "expected a list"),
        ("mode", ["decode"], "expected a mapping of keys to values"),
        ("cluster", None, "expected a mapping of keys to values"),
        ("model", 7, "expected text"),
    ],
)
def test_a_value_of_another_kind_is_refused_in_words_of_the_file(key, value, words):
    """A user of YAML meets lists and mappings, not Python's tuples and dictionaries."""
    with pytest.raises(InputError, match=rf"{key} got .*; {words}"):
        make_scenario(complete() | {key: value})


@pytest.mark.parametrize("missing", ["model", "cluster", "trace"])
def test_a_missing_section_is_named(missing):
    """What has no default must be given."""
    data = complete()
    del data[missing]
    with pytest.raises(InputError, match=missing):
        make_scenario(data)


def test_an_unknown_section_names_the_nearest():
    """A misspelt section is not dropped in silence."""
    with pytest.raises(InputError, match="'placement'"):
        make_scenario(complete() | {"placment": {}})


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "a: &x [1]\nb: *x", "!!python/object:os.system x", "{", "a: 1\na: 2", "\x00"]
)
def test_a_file_that_is_no_scenario_is_refused(tmp_path, text):
    """Empty, no mapping, aliases, tags, truncated, duplicate keys, control bytes."""
    with pytest.raises(InputError) as error:
        load_scenario(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_paths_start_beside_the_scenario_file(tmp_path):
    """A scenario folder can be moved whole."""
    (tmp_path / "x.parquet").write_bytes(b"")
    scenario = load_scenario(write(tmp_path, COMPLETE))
    assert tmp_path / "x.parquet" == scenario.resolve_path("x.parquet")


def test_changing_a_section_checks_it_again():
    """Command-line options go through the same refusals as the file."""
    scenario = make_scenario(complete())
    assert 64 == scenario.changed(placement={"slots": 64}).placement.slots
    with pytest.raises(InputError, match="slots"):
        scenario.changed(placement={"slots": -1})


@given(st.text(max_size=12))
def test_any_window_text_is_a_window_or_refused(text):
    """A window read from text has START < STOP."""
    try:
        start, stop = parse_window(text)
    except ValueError:
        return
    assert 0 <= start < stop


@given(st.data())
def test_mutated_scenario_files_are_read_or_refused_in_one_sentence(tmp_path_factory, data):
    """Cut, doubled and replaced bytes never escape as another error."""
    raw = bytearray(COMPLETE.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        action = data.draw(st.sampled_from(["cut", "flip", "double"]))
        if action == "cut":
            del raw[at : at + data.draw(st.integers(1, 20))]
        elif action == "flip":
            raw[at] = data.draw(st.integers(0, 255))
        else:
            raw[at:at] = raw[at : at + 30]
        if not raw:
            raw = bytearray(b" ")
    path = tmp_path_factory.mktemp("mutated") / "s.yaml"
    path.write_bytes(bytes(raw))
    try:
        load_scenario(path)
    except InputError as error:
        assert "\n" not in str(error)
