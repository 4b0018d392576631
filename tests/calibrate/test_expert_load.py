"""Tokens per expert behind the named distributions, names of accelerators, and the physical bound."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrate.expert_load import even_shares, tokens_per_expert
from calibrate.hardware_names import catalogue_name, profile_of
from calibrate.link_limit import fastest_time_s, flag_of
from calibrate.wire_bytes import all_to_all_wire_bytes, copy_bytes, distinct_ranks, remote_bytes


@given(st.integers(0, 10**6), st.integers(1, 512))
def test_even_shares_sum_and_differ_by_one(pairs, groups):
    """Nothing is lost, and no expert has more than one token above another."""
    shares = even_shares(pairs, groups)
    assert (pairs, groups) == (sum(shares), len(shares))
    assert max(shares) - min(shares) <= 1


@given(
    st.integers(1, 4096),
    st.sampled_from([1, 2, 8]),
    st.sampled_from([8, 64, 256]),
    st.sampled_from([0.6, 0.8, 1.01, 1.2]),
)
def test_a_power_law_over_all_experts_keeps_every_pair(tokens, top_k, experts, alpha):
    """The loads sum to tokens x top_k, come largest first, and are the same every time."""
    params = {"num_tokens": tokens, "top_k": top_k, "experts": experts, "groups": experts}
    params["distribution"] = f"power_law:{alpha}"
    loads = tokens_per_expert(params)
    assert tokens * top_k == sum(loads)
    assert sorted(loads, reverse=True) == loads == tokens_per_expert(params)
    assert min(loads) >= 0


def test_the_timed_rank_of_a_power_law_is_the_fullest():
    """With 8 ranks the timed one has more than its even share and less than everything; steeper laws give it more."""
    even = 4096 * 8 // 8
    params = {"num_tokens": 4096, "top_k": 8, "experts": 256, "groups": 32}
    mild, steep = (sum(tokens_per_expert({**params, "distribution": f"power_law:{a}"})) for a in (0.6, 1.2))
    assert even < mild < steep < 8 * even


def test_given_counts_come_first():
    """`tokens` per expert beats an equal count, which beats a distribution; another distribution is refused."""
    params = {"groups": 4, "tokens": [1, 5], "tokens_per_group": 2, "distribution": "balanced"}
    assert [5, 1] == tokens_per_expert(params)
    assert [2] * 4 == tokens_per_expert({name: value for name, value in params.items() if name != "tokens"})
    with pytest.raises(ValueError, match="zipf"):
        tokens_per_expert({"groups": 4, "num_tokens": 1, "top_k": 1, "experts": 4, "distribution": "zipf"})


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA A100-SXM4-40GB", "a100-40-sxm"),
        ("AMD Instinct MI300X OAM", "mi300x"),
        ("8xH800 NVLink(400GB/s bidir; ~160GB/s measured max) + CX7 IB", "h800-sxm"),
        ("GB200 NVL72 (MNNVL)", "gb200-nvl72"),
        ("b200_sxm", "b200-sxm"),
        ("tpu-v5p", "tpu-v5p"),
        ("NVIDIA H100 PCIe", None),
        ("8xMI350X xGMI", None),
        ("H200 (assumed)", None),
        ("h100-sxm; rm", None),
    ],
)
def test_names_come_from_the_table_or_not_at_all(text, name):
    """Known spellings map to the catalogue, near misses to nothing."""
    assert name == catalogue_name(text)


def test_both_a100_share_a_profile():
    """The shipped profile a100-sxm serves both memory sizes."""
    assert ["a100-sxm", "a100-sxm", "h100-sxm"] == [profile_of(n) for n in ("a100-40-sxm", "a100-80-sxm", "h100-sxm")]


@given(st.floats(1, 1e12), st.integers(2, 1024))
def test_wire_bytes_are_less_than_logical_bytes(size, ranks):
    """The own block never crosses a link; with one node nothing is remote."""
    assert 0 < all_to_all_wire_bytes(size, ranks) < size
    assert 0 == remote_bytes(size, 1)


@given(st.sampled_from([2, 4, 8, 16]), st.integers(1, 8))
def test_distinct_ranks_lie_between_one_and_top_k(ranks, top_k):
    """A token reaches at least one rank and at most top_k of them; one expert reaches exactly one."""
    reached = distinct_ranks(ranks, 256, top_k)
    assert 1 - 1e-9 <= reached <= min(top_k, ranks) + 1e-9
    assert math.isclose(1.0, distinct_ranks(ranks, 256, 1))


def test_a_low_latency_fp8_copy_is_7408_bytes():
    """Payload 7168, scales 224, header 16; BF16 has neither scales nor header."""
    assert (7408, 7392, 14336) == (
        copy_bytes(7168, "fp8", header=True),
        copy_bytes(7168, "fp8", header=False),
        copy_bytes(7168, "bf16", header=True),
    )


def test_the_bound_of_an_all_to_all_is_its_network():
    """16 H100 in 2 nodes, 16 GiB a rank: half leaves the node at 50 GB/s a device, the measured 175 ms is allowed."""
    params = {"hardware": "h100-sxm", "ranks": 16, "nodes": 2, "bytes_per_rank": 2**34}
    assert 2**33 / 50e9 == pytest.approx(fastest_time_s("all_to_all", params))
    assert None is flag_of("all_to_all", params, 0.174994)
    assert "they need" in str(flag_of("all_to_all", params, 0.160))
    assert None is flag_of("all_to_all", {**params, "hardware": "tpu-v4"}, 1e-9)
    assert None is flag_of("all_reduce", params, 1e-9)
