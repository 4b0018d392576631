"""What a recorder writes is what the trace holds: the same routing through every format that has a writer.

Array letters: L MoE layer, T token, K top-k, P slot, E expert.
"""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.trace.readers.recordings import (
    TOY,
    converted,
    loads,
    npy_text,
    per_token_record,
    router_lines,
    save_imatrix,
    save_json,
    save_lines,
    save_records,
    save_statistic,
    with_dense,
)


@st.composite
def routings(draw: st.DrawFn) -> NDArray[np.int64]:
    """Expert ids [3, T, 2] of the toy model, no layer of which is all expert 0."""
    num_tokens, seed = draw(st.integers(1, 12)), draw(st.integers(0, 2**31))
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(8), (3, num_tokens, 1)), axis=2)
    return np.ascontiguousarray(order[..., :2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the examples of one test may all write into."""
    return tmp_path_factory.mktemp("recordings")


@settings(max_examples=15)
@given(routings(), st.integers(0, 2**31))
def test_sglang_slots_become_the_experts_they_hold(folder: Path, ids_LTK: NDArray[Any], seed: int) -> None:
    """Any replica of an expert stands for it, whatever the map."""
    rng = np.random.default_rng(seed)
    map_RP = np.stack([rng.permutation(np.concatenate([np.arange(8), rng.integers(0, 8, 4)])) for _ in range(4)])
    slots_LTK = np.array(
        [
            [[rng.choice(np.flatnonzero(map_P == expert)) for expert in ids_K] for ids_K in ids_TK]
            for map_P, ids_TK in zip(map_RP[1:], ids_LTK, strict=True)
        ]
    )
    path = save_records(folder / "x.pt", [per_token_record(slots_LTK, 5)], map_RP)
    info, experts_LTK = converted(path)
    assert ((1, 2, 3), 8, 2) == (info.layers, info.num_experts, info.top_k)
    assert ids_LTK.tolist() == experts_LTK.tolist()


@settings(max_examples=15)
@given(routings())
def test_answers_of_servers_keep_order_and_ids(folder: Path, ids_LTK: NDArray[Any]) -> None:
    """vLLM's .npy and SGLang's raw int32, tokens outermost, give the same trace."""
    ids_TRK = with_dense(ids_LTK, 0).transpose(1, 0, 2)
    vllm = save_json(folder / "v.json", {"choices": [{"routed_experts": npy_text(ids_TRK.astype(np.uint8))}]})
    raw = base64.b64encode(ids_TRK.astype("<i4").tobytes()).decode()
    sglang = save_json(folder / "s.json", {"meta_info": {"routed_experts": raw}})
    assert ids_LTK.tolist() == converted(vllm)[1].tolist() == converted(sglang)[1].tolist()


@settings(max_examples=15)
@given(routings())
def test_megatron_keeps_the_set_of_experts(folder: Path, ids_LTK: NDArray[Any]) -> None:
    """Ids come back ascending: the file has lost their order."""
    info, experts_LTK = converted(save_lines(folder / "r.jsonl", router_lines(ids_LTK)))
    assert np.sort(ids_LTK, axis=2).tolist() == experts_LTK.tolist()
    assert any("ascend" in note for note in info.notes)


@settings(max_examples=10)
@given(routings())
def test_counts_of_two_ranks_add_up(folder: Path, ids_LTK: NDArray[Any]) -> None:
    """TensorRT-LLM's ranks sum to the whole; llama.cpp's counts are the whole."""
    load_LE, half = loads(ids_LTK), ids_LTK.shape[1] // 2
    parts = [loads(ids_LTK[:, :half]), loads(ids_LTK[:, half:])]
    tables = {rank: {f"7_{layer}": load_E for layer, load_E in enumerate(part, 1)} for rank, part in enumerate(parts)}
    info, load_SLE = converted(save_statistic(folder / "trt", tables))
    assert ([load_LE.tolist()], ids_LTK.shape[1]) == (load_SLE.tolist(), info.num_tokens)
    assert [load_LE.tolist()] == converted(save_imatrix(folder / "i.gguf", load_LE))[1].tolist()


def test_imatrix_knows_its_top_k_by_its_chunks(tmp_path: Path) -> None:
    """Counts / tokens, where that is whole; else it stays unknown."""
    load_LE = np.full((3, 8), 4)
    assert 2 == converted(save_imatrix(tmp_path / "a.gguf", load_LE, 4, 4), None)[0].top_k
    assert 0 == converted(save_imatrix(tmp_path / "b.gguf", load_LE, 5, 4), None)[0].top_k
    assert TOY.top_k == converted(save_imatrix(tmp_path / "c.gguf", load_LE, 5, 4))[0].top_k
