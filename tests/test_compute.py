"""Roofline compute: closed forms, tile rounding, weight reads, device speed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.calibration import load_profile
from moesim.cluster import Accelerator, Device
from moesim.compute import DeviceRates, expert_cost, matrix_cost, score_cost
from moesim.errors import UnknownName
from moesim.model import load_model

MODEL = load_model("deepseek-v2-lite")
PEAK, HBM = 100e12, 1e12
ACCELERATOR = Accelerator("toy", {"bf16": PEAK, "fp8": 2 * PEAK}, 80e9, HBM)


def rates(*speeds, launches=True):
    devices = tuple(Device(f"node0.dev{i}", i, 0, i, ACCELERATOR, speed=speed) for i, speed in enumerate(speeds))
    return DeviceRates.of(devices, load_profile().compute, launches=launches)


def experts(load, device, rate, dtype="bf16"):
    return expert_cost(np.array(load), np.array(device, dtype=np.int32), rate, MODEL, dtype)


def test_few_tokens_cost_the_weights_of_active_experts():
    """One token on each of two experts: both weights are read once; an idle third is not."""
    cost = experts([1, 1, 0], [0, 0, 0], rates(1.0, launches=False))
    activations = 2 * 2.0 * (2 * 2048 + 2 * 1408) / HBM
    assert 2 * MODEL.expert_params * 2 / HBM + activations == pytest.approx(cost.time_s[0])
    assert cost.memory_bound[0]


def test_many_tokens_cost_their_flops():
    """64 x 1000 tokens fill tiles exactly: 2 FLOP per weight and token at the peak rate."""
    tokens = 64_000
    cost = experts([tokens], [0], rates(1.0, launches=False))
    flops_s = 2.0 * MODEL.expert_params * tokens / PEAK
    assert flops_s + tokens * 2.0 * (2 * 2048 + 2 * 1408) / HBM == pytest.approx(cost.time_s[0])
    assert not cost.memory_bound[0]


@given(st.integers(1, 5000))
def test_tokens_are_rounded_up_to_whole_tiles(tokens):
    """n tokens of one expert compute as long as the next multiple of 64, but move only their own activations."""
    rate = rates(1.0, launches=False)
    own, full = experts([tokens], [0], rate).time_s[0], experts([-(-tokens // 64) * 64], [0], rate).time_s[0]
    spare = (-(-tokens // 64) * 64 - tokens) * 2.0 * (2 * 2048 + 2 * 1408) / HBM
    assert full - spare == pytest.approx(own, rel=1e-9)


def test_a_copy_of_an_expert_can_hurt_decode():
    """Two half-loaded copies on one device read the weights twice: slower than one copy."""
    rate = rates(1.0)
    assert experts([2, 2], [0, 0], rate).time_s[0] > experts([4, 0], [0, 0], rate).time_s[0]


def test_a_device_without_tokens_costs_nothing():
    """Not even a launch."""
    assert [0.0] == experts([5, 0], [0, 1], rates(1.0, 1.0)).time_s[1:].tolist()
    assert 0.0 == matrix_cost(np.zeros(1), 1e9, rates(1.0), "bf16").time_s[0]


@given(st.floats(0.1, 4.0))
def test_time_without_launches_is_inverse_to_speed(speed):
    """A device at half speed takes twice as long, whichever roof binds."""
    load = [3, 700]
    full = experts(load, [0, 1], rates(1.0, 1.0, launches=False))
    scaled = experts(load, [0, 1], rates(speed, speed, launches=False))
    assert full.time_s == pytest.approx(scaled.time_s * speed, rel=1e-9)


def test_fp8_weights_halve_reads_and_double_the_rate():
    """Both roofs of the routed matrices scale; activations do not."""
    rate = rates(1.0, launches=False)
    activations = 64_000 * 2.0 * (2 * 2048 + 2 * 1408) / HBM
    bf16, fp8 = (experts([64_000], [0], rate, dtype).time_s[0] - activations for dtype in ("bf16", "fp8"))
    assert bf16 == pytest.approx(2 * fp8)


def test_an_unknown_weight_type_is_refused():
    """The known types are named."""
    with pytest.raises(UnknownName, match="mxfp4"):
        experts([1], [0], rates(1.0), "fp7")


def test_decode_scores_read_the_cache_and_prefill_does_not():
    """With one token and a long context, decode is bound by the cache it reads."""
    rate = rates(1.0)
    decode = score_cost(np.ones(1), 100_000, rate, MODEL, 1, decode=True)
    prefill = score_cost(np.ones(1), 100_000, rate, MODEL, 1, decode=False)
    assert decode.time_s[0] >= 100_000 * MODEL.kv_bytes_per_token("bf16") / HBM
    assert prefill.time_s[0] < decode.time_s[0]


@given(st.lists(st.integers(0, 3000), min_size=4, max_size=4), st.integers(0, 3))
def test_more_tokens_are_never_faster(load, slot):
    """Expert time is monotone in every slot's load."""
    more = list(load)
    more[slot] += 1
    rate = rates(1.0, 1.0)
    assert (experts(load, [0, 0, 1, 1], rate).time_s <= experts(more, [0, 0, 1, 1], rate).time_s + 1e-15).all()
