"""Memory of a device: worked by hand for one model, refused with the arithmetic, more with everything that is larger."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.memory import activation_bytes, check_fit, most_copies, other_weight_bytes, slot_bytes, tightest_device
from moesim.model import load_model
from moesim.scenario import make_scenario
from moesim.study import compare, simulate
from tests.strategies.scenario import tiny_scenario


def run(folder, **sections):
    return simulate(make_scenario(tiny_scenario(folder, **sections)))


def test_a_tiny_decode_step_by_hand(tmp_path):
    """16 ranks with a slot a layer, 16 sequences of 128 cached tokens each, node_dedup in bf16, all counted on paper."""
    memory = run(tmp_path).memory
    expert = 3 * 256 * 128 * 2
    attention = 256 * (4 * 64 + 2 * 64 + 2 * 64 + 4 * 64) * 2
    others = 3 * attention + 2 * 16 * 256 * 2 + 3 * 256 * 512 * 2 + 2 * 1000 * 256 * 2
    assert memory.breakdown == {
        "expert_weights": 2 * expert,
        "other_weights": others,
        "kv_cache": 3 * 16 * 128 * (2 * 2 * 64) * 2,
        "dispatch_buffers": 16 * 16 * 2 * (256 * 2 + 16),
        "activations": 16 * (4 * 256 + 2 * 512) * 2,
    }
    assert memory.max_device_bytes == sum(memory.breakdown.values())


def test_mixtral_in_bf16_on_one_node_holds_its_published_weights():
    """46.7 B parameters in bf16: the experts of 8 devices and one copy of everything else are all of them."""
    model = load_model("mixtral-8x7b")
    experts = 8 * 32 * slot_bytes(model, "bf16")
    assert (experts + other_weight_bytes(model, "bf16")) / 2 == pytest.approx(46.7e9, rel=0.002)
    assert slot_bytes(model, "fp8") * 2 == slot_bytes(model, "bf16")


def test_a_refusal_shows_every_part_and_their_sum(tmp_path):
    """A device of 4 MiB cannot hold even what is no expert: parts, their sum, the capacity, the way out."""
    with pytest.raises(InputError) as error:
        run(tmp_path, cluster={"devices": [{"match": "node1.dev3", "memory": "4 MiB"}]})
    text = str(error.value)
    assert "\n" not in text
    for words in ("node1.dev3", "other weights", "kv cache", "dispatch buffers", "check: warn"):
        assert words in text
    sizes = [float(size) for size in re.findall(r"([0-9.]+) MiB", text)]
    assert sizes[-1] == 4
    kib = [float(size) / 1024 for size in re.findall(r"([0-9.]+) KiB", text)]
    assert sum(sizes[:-2]) + sum(kib) == pytest.approx(sizes[-2], rel=0.01)


def test_a_flag_turns_refusal_into_a_note(tmp_path):
    """With check: warn the times are those of a device with room, and the result says that it does not fit."""
    small = {"devices": [{"match": "*", "memory": "4 MiB"}]}
    warned = run(tmp_path, cluster=small, memory={"check": "warn"})
    assert any(sentence.startswith("does not fit") for sentence in warned.assumptions)
    assert warned.memory.capacity_bytes == 4 * 2**20
    assert warned.step_time_s == run(tmp_path).step_time_s


def test_a_comparison_is_refused_as_a_run_is(tmp_path):
    """No strategy is timed on devices that cannot hold it; the sentence has slots asked, the sum and the way out."""
    scenario = make_scenario(tiny_scenario(tmp_path, cluster={"devices": [{"match": "*", "memory": "1 MiB"}]}))
    with pytest.raises(InputError, match="do not fit") as error:
        compare(scenario, ["contiguous"])
    for words in ("slots=16", "kv cache 3 MiB + ", " of 1 MiB", "check: warn"):
        assert words in str(error.value)


@pytest.mark.parametrize("value", ["ignore", "", None, 1, ["warn"]])
def test_checks_of_other_names_are_refused(tmp_path, value):
    """`memory.check` is refuse or warn."""
    with pytest.raises(InputError, match="memory"):
        make_scenario(tiny_scenario(tmp_path, memory={"check": value}))


def test_the_tightest_device_is_the_one_with_least_left():
    """A device with less memory, or with a slot more; groups repeat their slots."""
    slots = np.array([2, 1])
    assert tightest_device(slots, 10.0, np.array([100.0, 100.0, 100.0, 100.0])) == 0
    assert tightest_device(slots, 10.0, np.array([100.0, 100.0, 100.0, 85.0])) == 3


@given(st.dictionaries(st.sampled_from("abcde"), st.floats(0, 1e12), min_size=1), st.floats(0, 1e12))
def test_parts_are_refused_exactly_when_their_sum_is_larger(parts, capacity):
    """Equality fits."""
    if sum(parts.values()) <= capacity:
        check_fit(parts, capacity, "device 0")
    else:
        with pytest.raises(InputError, match="device 0 does not fit"):
            check_fit(parts, capacity, "device 0")


@given(
    st.sampled_from(["direct", "torus", "per_device", "node_dedup", "all_gather"]),
    st.integers(0, 10_000),
    st.integers(1, 16),
    st.integers(1, 64),
    st.none() | st.integers(0, 1000),
)
def test_no_routing_sends_more_than_the_buffers_take(algorithm, tokens, top_k, slots, capacity):
    """A device gets at most one copy a token, or one per expert it holds, and at most what its experts' capacity is."""
    copies = most_copies(algorithm, tokens, top_k, slots, capacity)
    per_token = min(top_k, slots) if algorithm in ("direct", "torus") else 1
    limit = tokens * per_token if capacity is None else min(tokens * per_token, slots * capacity)
    assert copies == limit
    assert copies <= most_copies(algorithm, tokens + 1, top_k, slots, capacity)


@pytest.mark.parametrize(
    ("longer", "part"),
    [
        ({"mode": {"context_length": 4096}}, "kv_cache"),
        ({"trace": {"tokens_per_rank": 64}}, "activations"),
        ({"trace": {"tokens_per_rank": 64}}, "dispatch_buffers"),
        ({"placement": {"slots": 64}}, "expert_weights"),
        ({"weights": {"dtype": "fp32"}}, "expert_weights"),
    ],
)
def test_more_of_something_needs_more_of_its_part(tmp_path, longer, part):
    """Longer contexts, more tokens, more slots, wider types."""
    assert run(tmp_path, **longer).memory.breakdown[part] > run(tmp_path).memory.breakdown[part]


def test_activations_follow_the_widest_layer():
    """DeepSeek-V2-Lite: dense MLP 2 x 10944, experts 2 x (6 x 1408 + 2 x 1408): the experts are wider."""
    model = load_model("deepseek-v2-lite")
    assert activation_bytes(model, 10) == 10 * (4 * 2048 + max(2 * 10944, 2 * (6 * 1408 + 2816))) * 2
