"""SGLang's recorder: modes told apart by keys, slots undone or refused, copies of ranks, padding, and hostile files.

Array letters: L MoE layer, T token, K top-k, S step.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moesim.errors import InputError
from moesim.trace import torch_file
from moesim.trace.convert import recognised_format
from tests.trace.readers.recordings import (
    IDS_LTK,
    Toy,
    converted,
    loads,
    per_token_record,
    save_records,
    trivial_map,
    with_dense,
)


def _counts(ids_LTK: Any) -> Any:
    return torch.from_numpy(with_dense(loads(ids_LTK), 0).astype(np.int32))


def _pass(number: int, rank: int = 0, ids_LTK: Any = IDS_LTK) -> dict[str, Any]:
    record = {"forward_pass_id": number, "rank": rank, "gatherer_key": "primary"}
    return {**record, "global_physical_count": _counts(ids_LTK)}


def test_the_ring_of_stat_is_summed(tmp_path: Path) -> None:
    """Steps have no order there, and unused ones are zero."""
    path = tmp_path / "x.pt"
    counts = _counts(IDS_LTK)
    ring = torch.stack([counts, torch.zeros_like(counts), counts])
    torch.save({"rank": 0, "logical_count": ring, "average_utilization_rate_over_window": None}, path)
    info, load_SLE = converted(path)
    assert ([(2 * loads(IDS_LTK)).tolist()], 10) == (load_SLE.tolist(), info.num_tokens)
    assert ("the sum of 2 recorded steps, whose order is not known",) == info.notes


def test_ranks_of_a_pass_are_summed(tmp_path: Path) -> None:
    """As SGLang's own reader does; passes stay apart and in order."""
    for rank in range(2):
        save_records(tmp_path / f"{rank}.pt", [_pass(9, rank), _pass(4, rank, IDS_LTK[:, :2])], trivial_map())
    _, load_SLE = converted(tmp_path)
    assert [(2 * loads(IDS_LTK[:, :2])).tolist(), (2 * loads(IDS_LTK)).tolist()] == load_SLE.tolist()


def test_the_mode_is_said_when_another_was_expected(tmp_path: Path) -> None:
    """The keys found, and the format to name."""
    path = save_records(tmp_path / "x.pt", [_pass(1)], trivial_map())
    assert "sglang_per_pass" == recognised_format(path)
    keys = (
        "its keys are last_physical_to_logical_map, records; the recorder's mode was per_pass: --format sglang_per_pass"
    )
    with pytest.raises(InputError, match=f"not a stat dump: {keys}"):
        converted(path, format="sglang_stat")
    with pytest.raises(InputError, match="not a per_token dump"):
        converted(path, format="sglang_per_token")


def test_slots_need_a_map_unless_there_is_no_redundancy(tmp_path: Path) -> None:
    """Eight slots of eight experts are the experts, where the model is known to have eight."""
    path = save_records(tmp_path / "x.pt", [_pass(1)], None)
    assert [loads(IDS_LTK).tolist()] == converted(path)[1].tolist()
    for model in (None, Toy(num_experts=6)):
        with pytest.raises(InputError, match="no last_physical_to_logical_map"):
            converted(path, model)
    path = save_records(tmp_path / "y.pt", [per_token_record(IDS_LTK, 1)], None)
    with pytest.raises(InputError, match="no last_physical_to_logical_map"):
        converted(path)
    path = save_records(tmp_path / "z.pt", [per_token_record(IDS_LTK, 1)], trivial_map(num_slots=7))
    with pytest.raises(InputError, match=r"slot ids -1\.\.7; slots are 0\.\.6"):
        converted(path, None)


def test_tensor_parallel_copies_are_taken_once(tmp_path: Path) -> None:
    """Ranks that all recorded the same tokens saw the same tokens; ranks of different tokens stay ranks."""
    for rank in range(2):
        save_records(tmp_path / f"{rank}.pt", [per_token_record(IDS_LTK, 1, rank)], trivial_map())
    info, experts_LTK = converted(tmp_path)
    assert (5, 1, IDS_LTK.tolist()) == (info.num_tokens, info.num_ranks, experts_LTK.tolist())
    assert ("all 2 ranks recorded the same tokens; they are taken once",) == info.notes
    save_records(tmp_path / "1.pt", [per_token_record(IDS_LTK[:, ::-1], 1, 1)], trivial_map())
    info, experts_LTK = converted(tmp_path)
    assert (10, 2) == (info.num_tokens, info.num_ranks)
    assert np.concatenate([IDS_LTK, IDS_LTK[:, ::-1]], axis=1).tolist() == experts_LTK.tolist()


def test_padding_is_dropped_and_counted_and_gaps_close(tmp_path: Path) -> None:
    """A token of no expert in any layer goes; one that lacks them in one layer stays, ids first; idle passes go."""
    ids_LTK = IDS_LTK.copy()
    ids_LTK[:, 1] = -1
    ids_LTK[0, 2] = [-1, 3]
    ids_LTK[1, 2] = -1
    idle = per_token_record(IDS_LTK[:, :0], 7)
    path = save_records(tmp_path / "x.pt", [per_token_record(ids_LTK, 8), idle], trivial_map())
    info, experts_LTK = converted(path)
    assert (4, 1) == (info.num_tokens, info.num_steps)
    assert [[3, -1], [-1, -1], [0, 1]] == experts_LTK[:, 1].tolist()
    assert ("1 padding tokens (no expert in any layer) were dropped",) == info.notes


def test_prefills_are_sequences(tmp_path: Path) -> None:
    """While every pass has its requests' lengths."""
    prefill = per_token_record(IDS_LTK, 1, extend_seq_lens=[3, 2])
    path = save_records(tmp_path / "x.pt", [prefill], trivial_map())
    assert converted(path)[0].has_sequences
    path = save_records(tmp_path / "x.pt", [prefill, per_token_record(IDS_LTK, 2)], trivial_map())
    assert not converted(path)[0].has_sequences


def test_passes_twice_and_missing_ranks_are_refused(tmp_path: Path) -> None:
    """The same (pass, rank) in two files; ranks 0 and 2 without 1."""
    save_records(tmp_path / "a.pt", [_pass(1)], trivial_map())
    save_records(tmp_path / "b.pt", [_pass(1)], trivial_map())
    with pytest.raises(InputError, match=r"pass 1 of rank 0 was already in .*a\.pt record 0"):
        converted(tmp_path)
    save_records(tmp_path / "b.pt", [_pass(1, 2)], trivial_map())
    with pytest.raises(InputError, match="missing rank 1"):
        converted(tmp_path)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"topk_ids_of_layer": torch.zeros(4, 5, 8)}, "tensor of integers in 3 dimensions, got torch.float32"),
    ({"topk_ids_of_layer": torch.zeros(1, dtype=torch.int32).expand(4, 10**9, 8)}, "tensor of integers"),
    ({"topk_ids_of_layer": torch.zeros(3, 5, 8, dtype=torch.int32)}, r"shape \(4, 8\), but the record has 3 layers"),
    ({"forward_pass_id": True}, "forward_pass_id must be a whole number"),
    ({"rank": -1}, "rank must be a whole number"),
    ({"extend_seq_lens": "ten"}, "extend_seq_lens must be a list of whole numbers"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_damaged_records(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    """One sentence naming the record, and no memory for a tensor that only claims to be large."""
    path = save_records(tmp_path / "x.pt", [per_token_record(IDS_LTK, 1, **fields)], trivial_map())
    with pytest.raises(InputError, match=message):
        converted(path, format="sglang_per_token")


class _Bomb:
    """What pickles as a call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.mkdir, (self.folder,))


def test_a_pickle_bomb_does_not_go_off(tmp_path: Path) -> None:
    """Code in a dump is refused, not run."""
    path = tmp_path / "x.pt"
    torch.save({"records": [_Bomb(tmp_path / "ran")], "logical_count": 1}, path)
    with pytest.raises(InputError, match="something else than tensors and plain containers, which is never loaded"):
        converted(path)
    assert not (tmp_path / "ran").exists()


def _repacked(path: Path, **changes: Any) -> Path:
    """The archive with its members compressed, or with one of them replaced."""
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(path, "w", changes.get("method", 0)) as target:
        for member in source.infolist():
            name = member.filename.partition("/")[2]
            target.writestr(member.filename, changes.get(name.replace("/", "_").replace(".", "_"), source.read(member)))
    return path


def test_archives_that_lie_are_refused_unread(tmp_path: Path) -> None:
    """Compressed members (a zip bomb), sizes beyond the file, a cut-off file, a tensor larger than the file."""
    good = save_records(tmp_path / "x.pt", [_pass(1)], trivial_map()).read_bytes()
    path = tmp_path / "bomb.pt"
    path.write_bytes(good)
    with pytest.raises(InputError, match=r"compressed members, which torch\.save never writes"):
        converted(_repacked(path, method=zipfile.ZIP_DEFLATED), format="sglang_per_pass")
    at = good.rindex(b"PK\x01\x02")
    path.write_bytes(good[: at + 20] + b"\xff\xff\xff\x7f" * 2 + good[at + 28 :])
    with pytest.raises(InputError, match=r"claims \d+ bytes inside, but has"):
        converted(path, format="sglang_per_pass")
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match="truncated, damaged or not one"):
        converted(path)
    path.write_bytes(good)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    lying = pickled.replace(b"K\x04K\x08\x86", b"J\0\0\0\x0fK\x08\x86")
    assert lying != pickled
    with pytest.raises(InputError, match=r"cannot read .* as a torch file \(Trying to resize storage"):
        converted(_repacked(path, data_pkl=lying), format="sglang_per_pass")


def test_a_text_that_claims_two_gigabytes(tmp_path: Path) -> None:
    """A length field in the pickle beyond its end takes no memory."""
    path = save_records(tmp_path / "x.pt", [_pass(1)], trivial_map())
    lying = b"\x80\x02}q\x00X\xff\xff\xff\x7flogical_count"
    with pytest.raises(InputError, match=r"cannot read .* as a torch file"):
        converted(_repacked(path, data_pkl=lying), format="sglang_stat")
    plain = pickle.dumps([1, 2], protocol=2)
    with pytest.raises(InputError, match="holds a list; expected the dict"):
        converted(_repacked(path, data_pkl=plain), format="sglang_stat")


def test_without_torch_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And recognition goes without it."""
    path = save_records(tmp_path / "x.pt", [_pass(1)], trivial_map())
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    assert torch_file.is_torch_file(path)
    with pytest.raises(InputError, match="needs torch to be read: pip install torch"):
        converted(path)
