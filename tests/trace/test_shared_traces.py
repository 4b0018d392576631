"""Recorded traces of real models convert, inspect and deal to their published figures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.routing import RoutingTrace
from moesim.trace.convert import convert_trace
from moesim.trace.dealing import deal
from moesim.trace.inspect import inspect_trace
from moesim.trace.store import open_trace

pytestmark = pytest.mark.shared


@dataclass(frozen=True)
class Model:
    """The dims a trace asks of a model."""

    name: str
    num_layers: int
    moe_layer_indices: tuple[int, ...]
    num_experts: int
    top_k: int
    has_heads_merged: bool = False


GPT_OSS = Model("gpt-oss-20b", 24, tuple(range(24)), 32, 4)
LITE = Model("deepseek-v2-lite", 27, tuple(range(1, 27)), 64, 6)
LING = Model("ling-1t", 80, tuple(range(4, 80)), 256, 8)


def _convert(shared_data: Path, out: Path, name: str, **options: Any) -> tuple[dict[str, Any], RoutingTrace]:
    answer = convert_trace(shared_data / "traces" / name, out / "t.parquet", **options)
    return answer, open_trace(out / "t.parquet")


def test_gpt_oss_decode(shared_data: Path, tmp_path: Path) -> None:
    """Hottest expert 2.55x the mean, neighbours share 0.44 (0.19 if independent); sequences stay on their rank."""
    answer, trace = _convert(shared_data, tmp_path, "gpt_oss_20b_decode.npz", model=GPT_OSS)
    assert (24 * 67261, 67261) == (answer["rows"], answer["tokens"])
    found = inspect_trace(trace.path)
    assert "2.55" == f"{np.mean(found['max_over_mean']):.2f}"
    assert "0.44" == f"{np.mean(found['adjacent_overlap']):.2f}"
    assert "0.19" == f"{np.mean(found['adjacent_overlap_independent']):.2f}"
    (step,) = deal(trace, num_ranks=32, mode="decode", tokens_per_rank=128, steps=(0, 1))
    ids_LTK = np.load(shared_data / "traces" / "gpt_oss_20b_decode.npz")["topk_ids"]
    lengths = np.load(shared_data / "traces" / "gpt_oss_20b_decode.npz")["seq_len"]
    starts = np.cumsum(lengths) - lengths
    by_rank = np.argsort(np.arange(215) % 32, kind="stable")
    assert (ids_LTK[:, starts[by_rank]] == step.experts_LTK).all()
    assert 215 / 4096 == step.fill


@pytest.mark.parametrize(("name", "tokens"), [("intent", 8222), ("translation", 8251)])
def test_deepseek_v2_lite_prefill(shared_data: Path, tmp_path: Path, name: str, tokens: int) -> None:
    """26 rows are MoE layers 1..26, and gate weights come along within float16 of their ten-thousandths."""
    answer, trace = _convert(shared_data, tmp_path, f"deepseek_v2_lite_{name}.npz", model=LITE)
    assert (26 * tokens, tokens, tuple(range(1, 27))) == (answer["rows"], answer["tokens"], trace.info.layers)
    (step,) = deal(trace, num_ranks=1, mode="prefill")
    assert step.weights_LTK is not None
    stored = np.load(shared_data / "traces" / f"deepseek_v2_lite_{name}.npz")["topk_weights_x1e4"]
    assert np.abs(step.weights_LTK - stored * 1e-4).max() < 3e-4


def test_flame_states_its_layers(shared_data: Path, tmp_path: Path) -> None:
    """Layers 2..9 without a model; the number of experts is inferred and noted."""
    _, trace = _convert(shared_data, tmp_path, "flame_moe_290m_prefill.npz")
    assert (tuple(range(2, 10)), 64, 1) == (trace.info.layers, trace.info.num_experts, len(trace.info.notes))


def test_ling_counts_expand_to_their_load(shared_data: Path, tmp_path: Path) -> None:
    """Four dense layers go; 2,494,387 tokens; a step of 4096 tokens has the counted load within sampling error."""
    key = "expert_dist_orz_math_5000_steps"
    answer, trace = _convert(shared_data, tmp_path, "ling_1t_counts.npz", model=LING, key=key)
    assert (76 * 256, 2_494_387) == (answer["rows"], answer["tokens"])
    (step,) = deal(trace, num_ranks=32, mode="decode", tokens_per_rank=128, steps=(9, 10))
    counts_E = np.load(shared_data / "traces" / "ling_1t_counts.npz")[key][6]
    found_E = np.bincount(step.experts_LTK[2].ravel(), minlength=256) / 4096
    assert np.abs(found_E - counts_E * 8 / counts_E.sum()).max() < 0.04
    with pytest.raises(InputError, match="pick one with --key"):
        _convert(shared_data, tmp_path, "ling_1t_counts.npz", model=LING)


def test_counts_of_a_few_layers(shared_data: Path, tmp_path: Path) -> None:
    """OLMoE's three rows need their layers named."""
    key = "olmoe_1b_7b__expert_counts__c4"
    _, trace = _convert(shared_data, tmp_path, "olmoe_domain_counts.npz", key=key, layers=[0, 7, 15])
    assert ((0, 7, 15), 64) == (trace.info.layers, trace.info.num_experts)
    with pytest.raises(InputError, match="give --model NAME or --layers"):
        _convert(shared_data, tmp_path, "olmoe_domain_counts.npz", key=key)
