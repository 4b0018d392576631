"""Strategies for MoEModel: data of small valid models, as a file would hold it."""

from typing import Any

from hypothesis import strategies as st

from moesim.model import DTYPE_BYTES

SOURCES = {"*": {"kind": "assumed", "source": "made up for a test"}}


@st.composite
def layer_sections(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 12))
    if draw(st.booleans()):
        listed = draw(st.sets(st.integers(0, count - 1), min_size=1))
        return {"count": count, "moe": sorted(listed)}
    return {"count": count, "first_dense": draw(st.integers(0, count - 1)), "every": draw(st.integers(1, 4))}


def state_sections() -> st.SearchStrategy[dict[str, Any]]:
    heads, width = st.integers(1, 4), st.integers(1, 64)
    linear = st.fixed_dictionaries(
        {"kind": st.just("linear"), "key_heads": heads, "key_dim": width, "value_heads": heads, "value_dim": width}
    )
    windowed = st.fixed_dictionaries(
        {
            "kind": st.just("gqa"),
            "heads": st.just(4),
            "kv_heads": st.sampled_from([1, 2]),
            "head_dim": width,
            "v_dim": width,
            "output_gate": st.booleans(),
            "window": st.integers(1, 5000),
        }
    )
    experts = st.fixed_dictionaries(
        {
            "kind": st.just("moa"),
            "num_experts": st.integers(3, 5),
            "top_k": st.integers(1, 3),
            "kv_heads": heads,
            "head_dim": width,
        }
    )
    return linear | windowed | experts | st.fixed_dictionaries({"kind": st.just("lstm"), "cells": width})


def attention_sections() -> st.SearchStrategy[dict[str, Any] | None]:
    width = st.integers(1, 64)
    latent = st.fixed_dictionaries(
        {
            "kind": st.just("mla"),
            "heads": st.integers(1, 8),
            "q_lora": st.sampled_from([0, 24]),
            "kv_lora": width,
            "qk_nope": width,
            "qk_rope": width,
            "v_dim": width,
        }
    )
    grouped = st.builds(
        lambda kv_heads, sharing, head_dim: {
            "kind": "mha" if sharing == 1 else "gqa",
            "heads": kv_heads * sharing,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
        },
        st.integers(1, 4),
        st.integers(1, 4),
        width,
    )
    return st.none() | latent | grouped


@st.composite
def moe_sections(draw: st.DrawFn) -> dict[str, Any]:
    num_groups = draw(st.integers(1, 4))
    experts_per_group = draw(st.integers(1, 16))
    top_groups = draw(st.integers(1, num_groups))
    shared = draw(st.integers(0, 2))
    return {
        "num_experts": num_groups * experts_per_group,
        "top_k": draw(st.integers(1, experts_per_group * top_groups)),
        "expert_d_ff": draw(st.integers(1, 64)),
        "gated": draw(st.booleans()),
        "num_zero_experts": draw(st.sampled_from([0, 3])),
        "shared_pool": draw(st.booleans()),
        "num_shared_experts": shared,
        "shared_d_ff": shared * 16,
        "payload_width": draw(st.none() | st.integers(1, 32)),
        "num_groups": num_groups,
        "top_groups": top_groups,
        "router": {"kind": draw(st.sampled_from(["softmax_top_k", "top_k_softmax", "sigmoid_bias", "noisy_top_k"]))},
    }


@st.composite
def model_data(draw: st.DrawFn) -> dict[str, Any]:
    """Data of one valid decoder model, ready for MoEModel.model_validate."""
    dtype = st.sampled_from(sorted(DTYPE_BYTES))
    layers, other = draw(layer_sections()), draw(st.none() | state_sections())
    layers |= {"moe_alone": draw(st.booleans()), "attention_blocks": draw(st.integers(1, 2))}
    layers |= {
        "modulation": draw(st.sampled_from([0, 6])),
        "attention_every": 1 if other is None else draw(st.integers(2, 4)),
    }
    return {
        "format_version": 1,
        "name": "made-up",
        "family": "decoder",
        "layers": layers,
        "d_model": draw(st.integers(1, 128)),
        "attention": draw(attention_sections()),
        "other_attention": other,
        "moe": draw(moe_sections()),
        "dense_d_ff": draw(st.integers(0, 256)),
        "dense_gated": draw(st.booleans()),
        "vocab_size": draw(st.none() | st.integers(1, 1000)),
        "tied_embeddings": draw(st.booleans()),
        "weight_dtype": draw(dtype),
        "dense_dtype": draw(dtype),
        "sources": SOURCES,
    }
