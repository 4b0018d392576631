"""Recorders beside SGLang's own dumps: what each one leaves out, what is refused, and hostile files.

Array letters: L MoE layer, T token, K top-k, E expert.
"""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from moesim.errors import InputError
from moesim.model import load_model
from moesim.trace.convert import recognised_format
from tests.trace.readers.recordings import (
    IDS_LTK,
    Toy,
    converted,
    loads,
    npy_text,
    router_lines,
    save_imatrix,
    save_json,
    save_lines,
    save_statistic,
    with_dense,
)

IDS_TRK = with_dense(IDS_LTK, 0).transpose(1, 0, 2)
RAW = base64.b64encode(IDS_TRK.astype("<i4").tobytes()).decode()
STATISTIC = {f"{iteration}_{layer}": np.arange(8) for iteration in (3, 4) for layer in (1, 2)}


def _answer(text: str) -> dict[str, Any]:
    return {"choices": [{"index": 0, "routed_experts": text}]}


def test_the_two_flavours_of_base64_are_told_apart(tmp_path: Path) -> None:
    """Raw ids given as vLLM's and the other way round name the other format."""
    raw, npy = save_json(tmp_path / "a", _answer(RAW)), save_json(tmp_path / "b", _answer(npy_text(IDS_TRK)))
    assert ("sglang_routed_experts", "vllm_routed_experts") == (recognised_format(raw), recognised_format(npy))
    with pytest.raises(InputError, match=r"no \\x93NUMPY at its start.*--format sglang_routed_experts"):
        converted(raw, format="vllm_routed_experts")
    with pytest.raises(InputError, match="as vLLM writes: --format vllm_routed_experts"):
        converted(npy, format="sglang_routed_experts")


def test_answers_come_one_a_line_in_lists_and_folders(tmp_path: Path) -> None:
    """Each is a sequence; an answer to an empty prompt is none."""
    answers = [_answer(npy_text(IDS_TRK[:2])), _answer(npy_text(IDS_TRK[2:]))]
    for path in (save_lines(tmp_path / "a", answers), save_json(tmp_path / "b", answers)):
        info, experts_LTK = converted(path)
        assert (True, IDS_LTK.tolist()) == (info.has_sequences, experts_LTK.tolist())
    folder = tmp_path / "answers"
    folder.mkdir()
    for number, answer in enumerate([*answers, _answer(npy_text(IDS_TRK[:0]))]):
        save_json(folder / f"{number}.json", answer)
    assert IDS_LTK.tolist() == converted(folder)[1].tolist()


def test_arrays_saved_from_python_are_read(tmp_path: Path) -> None:
    """CompletionOutput.routed_experts by np.save: uint8 [tokens, layers, top-k]."""
    np.save(tmp_path / "x.npy", IDS_TRK.astype(np.uint8))
    assert "vllm_routed_experts" == recognised_format(tmp_path / "x.npy")
    info, experts_LTK = converted(tmp_path / "x.npy", None)
    assert ((1, 2, 3), IDS_LTK.tolist()) == (info.layers, experts_LTK.tolist())


def test_a_dense_layer_of_a_top_1_model_needs_the_model(tmp_path: Path) -> None:
    """Zeros are also expert 0."""
    path = save_json(tmp_path / "x", _answer(npy_text(IDS_TRK[..., :1])))
    with pytest.raises(InputError, match="row 0 is a dense layer or always expert 0; --model tells which"):
        converted(path, None)
    assert IDS_LTK[..., :1].tolist() == converted(path, Toy(top_k=1))[1].tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (npy_text(IDS_TRK)[:-24], r"claims 320 bytes, but holds 304; it is truncated"),
        (npy_text(IDS_TRK.astype(object)), r"must be integers \[tokens, layers, top-k\], got object"),
        (npy_text(IDS_TRK[0]), r"must be integers \[tokens, layers, top-k\]"),
        ("k05VTVBZ!", "is not base64"),
        (npy_text(IDS_TRK + 8), "routing for layer 0, which is not a MoE layer"),
        (npy_text(with_dense(IDS_LTK + 8, 0).transpose(1, 0, 2)), r"outside 0\.\.7"),
        (npy_text(IDS_TRK[:, :3]), "has 3 layer rows, one for every layer of its model, but toy has 4 layers"),
        (RAW[:-8], r"has 156 bytes, which is no multiple of 4 \* 4 layers \* top-2"),
    ],
)
def test_damaged_answers(tmp_path: Path, text: str, message: str) -> None:
    """One sentence each; lengths that lie and pickled objects are refused."""
    with pytest.raises(InputError, match=message):
        kind = "sglang_routed_experts" if text == RAW[:-8] else "vllm_routed_experts"
        converted(save_json(tmp_path / "x", _answer(text)), format=kind)


def test_truncated_json(tmp_path: Path) -> None:
    """Says so."""
    path = save_json(tmp_path / "x", _answer(npy_text(IDS_TRK)))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(InputError, match=r"is not JSON .* truncated or damaged"):
        converted(path)


def test_sentinels_of_answers_are_dropped_and_counted(tmp_path: Path) -> None:
    """-1 in every layer is a padding token."""
    padded = np.concatenate([IDS_TRK, np.full_like(IDS_TRK[:2], -1)])
    path = save_json(tmp_path / "x", _answer(base64.b64encode(padded.astype("<i4").tobytes()).decode()))
    info, experts_LTK = converted(path)
    assert (5, IDS_LTK.tolist()) == (info.num_tokens, experts_LTK.tolist())
    assert ("2 padding tokens (no expert in any layer) were dropped",) == info.notes


def test_what_a_statistic_lacks_is_listed(tmp_path: Path) -> None:
    """(iteration, layer, rank), an iteration in between, a rank's file, the meta file."""
    partial = {name: load for name, load in STATISTIC.items() if name != "4_2"}
    with pytest.raises(InputError, match=r"misses \(iteration, layer, rank\) \(4, 2, 1\)"):
        converted(save_statistic(tmp_path / "a", {0: STATISTIC, 1: partial}))
    gap = {name.replace("4_", "5_"): load for name, load in STATISTIC.items()}
    with pytest.raises(InputError, match="1 iterations are missing, the first after 3; they must be contiguous"):
        converted(save_statistic(tmp_path / "b", {0: gap}))
    with pytest.raises(InputError, match="missing rank 1"):
        converted(save_statistic(tmp_path / "c", {0: STATISTIC, 2: STATISTIC}))
    folder = save_statistic(tmp_path / "d", {0: STATISTIC})
    with pytest.raises(InputError, match="top-k 2, but toy has 3"):
        converted(folder, Toy(top_k=3))
    (folder / "meta_info.json").unlink()
    with pytest.raises(InputError, match=r"no meta_info\.json"):
        converted(folder, format="trtllm_statistic")


def test_safetensors_that_lie(tmp_path: Path) -> None:
    """A header of 2 GB, a tensor beyond the file, another shape, a cut-off file."""
    folder = save_statistic(tmp_path / "x", {0: STATISTIC})
    file = folder / "rank0.safetensors"
    good = file.read_bytes()
    for content, message in (
        (struct.pack("<Q", 2**31) + good[8:], "not a safetensors file; it is truncated"),
        (good[:-8], "ends beyond the file"),
        (good[:20], "not a safetensors file; it is truncated"),
        (good.replace(b'"shape":[8]', b'"shape":[9]'), r"damaged header \(a tensor of shape \(9,\) claims bytes"),
        (good.replace(b'"I64"', b'"I99"'), "the type 'I99' is not known"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            converted(folder)


def test_megatron_leaves_prediction_blocks_out_and_wants_whole_steps(tmp_path: Path) -> None:
    """Their lines are counted; a layer missing in a step, and layers of unequal tokens are refused."""
    lines = router_lines(IDS_LTK)
    extra = {**lines[0], "block": "mtp", "mtp_idx": 0}
    info, _ = converted(save_lines(tmp_path / "a", [*lines, extra]))
    assert "1 lines of multi-token-prediction blocks were left out" in info.notes
    with pytest.raises(InputError, match=r"step 1 of rank 0 misses layer 3; .* one stage at a time"):
        converted(save_lines(tmp_path / "b", [*lines, *router_lines(IDS_LTK, step=1)[:2]]))
    with pytest.raises(InputError, match="step 0 of rank 0 has layers of shapes"):
        converted(save_lines(tmp_path / "c", [*lines[:2], router_lines(IDS_LTK[:, :3])[2]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_tokens": 4}, r"line 1: top_indices must be 4 lists of 2 whole numbers, got int64 \(5, 2\)"),
        ({"top_indices": [[1], [1, 2]]}, "line 1: top_indices must be 5 lists of 2 ids, got other lengths"),
        ({"top_indices": "aaaa"}, "line 1: top_indices must be 5 lists"),
        ({"layer": 2**40}, r"line 1: layer must be a whole number of 0\.\.32767"),
        ({"step": None}, "line 1: step must be a whole number"),
    ],
)
def test_damaged_lines_of_megatron(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Each is named by its line."""
    path = save_lines(tmp_path / "x", [{**router_lines(IDS_LTK)[0], **changes}])
    with pytest.raises(InputError, match=message):
        converted(path, format="megatron_router_trace")


def test_experts_of_ranks_are_laid_side_by_side(tmp_path: Path) -> None:
    """Rank r has experts 2r and 2r + 1; four more ranks are the same experts again; microbatches are summed."""
    load_LE = loads(IDS_LTK)
    for rank in range(8):
        part = [
            {"iter": 1, "block": "decoder", "layer": layer, "tpe": [load_E[rank % 4 * 2 :][:2].tolist()] * 2}
            for layer, load_E in enumerate(load_LE, 1)
        ]
        save_lines(tmp_path / f"rank{rank}.jsonl", part)
    info, load_SLE = converted(tmp_path)
    assert ([(4 * load_LE).tolist()], 20) == (load_SLE.tolist(), info.num_tokens)
    assert ("2 data-parallel groups of consecutive ranks are assumed",) == info.notes
    (tmp_path / "rank5.jsonl").unlink()
    with pytest.raises(InputError, match="missing rank 5"):
        converted(tmp_path)


def test_gguf_that_lies(tmp_path: Path) -> None:
    """Counts and lengths beyond the file take neither memory nor time; an imatrix of the old format says what it is."""
    path = save_imatrix(tmp_path / "x.gguf", loads(IDS_LTK))
    good = path.read_bytes()
    for content, message in (
        (good[:8] + struct.pack("<Q", 2**40) + good[16:], "tensors cannot be in"),
        (good[:24] + struct.pack("<Q", 2**31) + good[32:], "reach beyond the end"),
        (good[:-1000], "ends beyond the file; it is truncated or lies"),
        (good[:60], "it is truncated or damaged"),
        (good.replace(b"_exps", b"_shed"), "no counts of experts"),
        (good.replace(struct.pack("<f", 2.0), struct.pack("<f", -2.0)), "negative or no numbers"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            converted(path, format="llamacpp_imatrix")
    name = b"blk.1.ffn_gate_exps.weight"
    path.write_bytes(struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 3, 4) + bytes(16))
    with pytest.raises(InputError, match=r"old \.dat format, which has no per-expert counts; make a GGUF one"):
        converted(path)


def _omni(folder: Path, ranks: int = 4, pattern: bool = True) -> Path:
    """Dumps of one step: rank r holds experts 2r and 2r + 1, and with a pattern their order is reversed over ranks."""
    folder.mkdir()
    is_here = np.repeat(np.arange(8)[::-1] // 2 == np.arange(4)[:, None], 3, axis=0).reshape(4, 3, 8)
    if pattern:
        np.save(folder / "pattern.npy", is_here.astype(np.int32))
    for rank in range(ranks):
        text = "".join(f"{10 * rank + layer}\t{layer}\n" for layer in range(3))
        (folder / f"activation_counts_recordstep_9_rank_{rank}.txt").write_text(text)
    return folder


def test_omni_slots_are_undone_by_the_pattern(tmp_path: Path) -> None:
    """Ascending expert ids of a rank; without a pattern experts lie in order, if they are as many as slots."""
    assert [30, 0, 20, 0, 10, 0, 0, 0] == converted(_omni(tmp_path / "a"))[1][0, 0].tolist()
    assert [0, 0, 10, 0, 20, 0, 30, 0] == converted(_omni(tmp_path / "b", pattern=False))[1][0, 0].tolist()
    with pytest.raises(InputError, match=r"physical slots; put the placement pattern \(\.npy\)"):
        converted(tmp_path / "b", None, layers=[1, 2, 3])
    with pytest.raises(InputError, match="missing rank 3"):
        converted(_omni(tmp_path / "c", ranks=3))


def test_omni_logs_are_read(tmp_path: Path) -> None:
    """The same counts as lines of a log, among others."""
    lines = [
        f"INFO [dump activation] decode step 5 in rank {rank} for layer {layer} get 2 experts data: {rank}\t{layer}\n"
        for rank in range(4)
        for layer in range(3)
    ]
    (tmp_path / "x.log").write_text("start\n" + "".join(lines))
    assert [[0, 2, 1, 2, 2, 2, 3, 2]] == converted(tmp_path / "x.log")[1][:, 2].tolist()
    (tmp_path / "x.log").write_text("start\n" + "".join(lines[:-1]))
    with pytest.raises(InputError, match=r"step 5 of rank 3 misses layers \[2\]"):
        converted(tmp_path / "x.log")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"moe_layer_count": 4}, "says moe_layer_count 4, but lists 3 layers"),
        ({"layer_list": []}, "no layer_list of objects"),
        ({"experts": [0, 0, 1]}, r"layer_list\[0\]\.device_list\[0\]\.device_expert names an expert twice"),
        ({"experts": [0, 1]}, "devices hold unequal numbers of experts"),
        ({"experts": [2, 1, 3]}, r"expert 0 is on no device in layer_list\[0\]"),
        ({"experts": [0, 1, 9]}, "has the expert 9, but toy has 8"),
        ({"experts": [0, 1, "2"]}, "must be ids >= 0"),
    ],
)
def test_ascend_maps_are_held_to_stricter_rules_than_its_loader(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """A duplicate on a device, which that loader accepts, included."""
    devices = [[0, 1, 2], [3, 4, 5], [6, 7, 1]]
    listed = [
        {"layer_id": 0, "device_list": [{"device_id": 0, "device_expert": experts} for experts in devices]}
        for _ in range(3)
    ]
    if "experts" in changes:
        listed[0]["device_list"][0]["device_expert"] = changes.pop("experts")  # type: ignore[index]
    path = save_json(tmp_path / "x", {"moe_layer_count": 3, "layer_list": listed, **changes})
    with pytest.raises(InputError, match=message):
        converted(path, format="vllm_ascend_map")


def test_router_logits_of_a_softmax_router_give_its_choice(tmp_path: Path) -> None:
    """The largest logits, best first; tokens that the attention mask leaves out go. bfloat16 is read."""
    mixtral = load_model("mixtral-8x7b")
    rng = np.random.default_rng(3)
    logits = rng.permuted(np.tile(np.arange(8.0), (mixtral.num_layers, 6, 1)), axis=2).astype(np.float32)
    expected = np.argsort(-logits, axis=2)[:, :4, :2]
    mask = np.array([[1, 1, 1], [1, 0, 0]])
    tables = {f"router_logits.{layer}": table for layer, table in enumerate(logits)}
    save_file({**tables, "attention_mask": mask}, tmp_path / "x")
    info, experts_LTK = converted(tmp_path / "x", mixtral)
    assert expected.tolist() == experts_LTK.tolist()
    assert "2 padding tokens (no expert in any layer) were dropped" in info.notes
    header = json.dumps(
        {"router_logits": {"dtype": "BF16", "shape": list(logits.shape), "data_offsets": [0, logits.size * 2]}}
    )
    words = (logits.view(np.uint32) >> 16).astype("<u2").tobytes()
    (tmp_path / "y").write_bytes(struct.pack("<Q", len(header)) + header.encode() + words)
    assert expected.tolist() == converted(tmp_path / "y", mixtral)[1][:, :4].tolist()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("deepseek-v3", r"indices cannot be recomputed from router_logits for deepseek-v3 \(router sigmoid_bias, 8"),
        (None, "only for a known router; give --model NAME"),
    ],
)
def test_router_logits_of_other_routers_are_refused(tmp_path: Path, model: str | None, message: str) -> None:
    """Sigmoid scores with a bias or groups choose by more than the logits."""
    save_file({"router_logits.0": np.zeros((2, 8), np.float32)}, tmp_path / "x")
    with pytest.raises(InputError, match=message):
        converted(tmp_path / "x", None if model is None else load_model(model))


def test_router_logits_that_are_damaged(tmp_path: Path) -> None:
    """NaN, a missing layer, another number of experts."""
    mixtral = load_model("mixtral-8x7b")
    for tables, message in (
        ({"router_logits": np.full((32, 2, 8), np.nan, np.float32)}, "hold NaN or infinity"),
        ({"router_logits.0": np.zeros((2, 8)), "router_logits.2": np.zeros((2, 8))}, r"misses .* ordinals \[1\]"),
        ({"router_logits": np.zeros((32, 2, 9), np.float32)}, r"expected \[tokens, 8\] in every layer"),
    ):
        save_file(tables, tmp_path / "x")
        with pytest.raises(InputError, match=message):
            converted(tmp_path / "x", mixtral)
