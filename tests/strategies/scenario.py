"""Tiny scenarios: a two-layer model on one or two small nodes, with synthetic routing."""

from pathlib import Path
from typing import Any

import yaml

TINY_MODEL = """
format_version: 1
name: tiny
family: decoder
layers: {count: 3, first_dense: 1}
d_model: 256
attention: {kind: gqa, heads: 4, kv_heads: 2, head_dim: 64}
dense_d_ff: 512
dense_gated: true
moe:
  num_experts: 16
  top_k: 2
  expert_d_ff: 128
  gated: true
  router: {kind: top_k_softmax}
vocab_size: 1000
tied_embeddings: false
weight_dtype: bf16
dense_dtype: bf16
sources:
  '*': {kind: assumed, source: "invented for tests"}
"""


def tiny_scenario(folder: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """A complete scenario as a mapping; `sections` replace keys of its sections. The model's file goes to `folder`."""
    path = folder / "tiny.yaml"
    path.write_text(TINY_MODEL)
    scenario: dict[str, Any] = {
        "format_version": 1,
        "model": str(path),
        "cluster": {"topology": "dgx-h100-superpod", "nodes": 2},
        "trace": {"router": "zipf", "tokens_per_rank": 16, "steps": "0:2", "seed": 1},
        "placement": {"strategy": "contiguous", "slots": 16},
        "network": {"fidelity": "fluid"},
        "mode": {"kind": "decode", "context_length": 128},
    }
    for name, keys in sections.items():
        scenario[name] = keys if name in ("trace",) and "path" in keys else {**scenario.get(name, {}), **keys}
    return scenario


def write_scenario(folder: Path, **sections: dict[str, Any]) -> Path:
    """The scenario of `tiny_scenario` as a file in `folder`."""
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump(tiny_scenario(folder, **sections)))
    return path
