"""Dealing keeps every token, its experts and the order of its sequence, whatever the file and the window.

Array letters: L layer, T token, K top-k.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import DealtStep
from moesim.trace import dealing
from moesim.trace.dealing import deal, num_dealt_steps
from moesim.trace.rows import TokenRows, TraceRows
from moesim.trace.store import open_trace, write_trace
from tests.strategies.routing import Recording, recording_of, recordings, with_own_deal

modes = st.sampled_from(["decode", "prefill", "train"])


def _named(recording: Recording) -> Recording:
    """The recording with weights by which every token is known: its number / 64 beside its first expert."""
    name_T = np.arange(recording.info.num_tokens) / 64
    weights_LTK = np.zeros(recording.experts_LTK.shape, np.float16)
    weights_LTK[:, :, 0] = name_T
    info = recording.info.model_copy(update={"has_weights": True})
    return Recording(info, recording.step_T, recording.rank_T, recording.sequence_T, recording.experts_LTK, weights_LTK)


def _names(step: DealtStep) -> list[int]:
    assert step.weights_LTK is not None
    assert (step.weights_LTK[:, :, 0] == step.weights_LTK[0, :, 0]).all()
    return [int(name) for name in step.weights_LTK[0, :, 0] * 64]


@settings(max_examples=50)
@given(recordings(), st.integers(1, 5), modes, st.one_of(st.none(), st.integers(1, 6)))
def test_every_token_is_dealt_once_with_its_experts(
    tmp_path_factory: pytest.TempPathFactory, recording: Recording, num_ranks: int, mode: dealing.Mode, size: int | None
) -> None:
    """All steps together hold each token once, with the same experts in every layer, in fullness that is stated."""
    named = _named(recording)
    trace = named.write(tmp_path_factory.getbasetemp() / "deal.parquet")
    steps = list(deal(trace, num_ranks=num_ranks, mode=mode, tokens_per_rank=size))
    assert num_dealt_steps(trace, num_ranks=num_ranks, mode=mode, tokens_per_rank=size) == len(steps)
    assert list(range(len(steps))) == [step.step for step in steps]
    assert list(range(named.info.num_tokens)) == sorted(name for step in steps for name in _names(step))
    for step in steps:
        assert (np.diff(step.rank_T) >= 0).all()
        assert named.experts_LTK[:, _names(step)].tolist() == step.experts_LTK.tolist()
        assert (1.0 if size is None else step.num_tokens / (num_ranks * size)) == step.fill
        assert size is None or np.bincount(step.rank_T, minlength=1).max(initial=0) <= size


@settings(max_examples=30)
@given(recordings(), st.integers(1, 5), modes, st.integers(1, 4), st.data())
def test_a_window_is_a_part_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    recording: Recording,
    num_ranks: int,
    mode: dealing.Mode,
    size: int,
    data: st.DataObject,
) -> None:
    """Steps are absolute: a window holds the very steps that dealing everything gives."""
    trace = recording.write(tmp_path_factory.getbasetemp() / "window.parquet")
    whole = list(deal(trace, num_ranks=num_ranks, mode=mode, tokens_per_rank=size))
    first = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(first + 1, len(whole)))
    part = list(deal(trace, num_ranks=num_ranks, mode=mode, tokens_per_rank=size, steps=(first, end)))
    assert [_plain(step) for step in whole[first:end]] == [_plain(step) for step in part]


def _plain(step: DealtStep) -> tuple[object, ...]:
    weights = None if step.weights_LTK is None else step.weights_LTK.tolist()
    return step.step, step.rank_T.tolist(), step.experts_LTK.tolist(), weights, step.fill


@settings(max_examples=40)
@given(st.lists(st.integers(1, 12), min_size=5, max_size=9), st.integers(1, 5), st.integers(1, 3))
def test_decode_runs_each_sequence_a_token_a_step_on_one_rank(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], num_ranks: int, size: int
) -> None:
    """A sequence stays on rank i mod R, and its tokens come in order in consecutive steps."""
    recording = _named(recording_of(lengths))
    trace = recording.write(tmp_path_factory.getbasetemp() / "decode.parquet")
    places: dict[int, list[tuple[int, int, int]]] = {}
    for step in deal(trace, num_ranks=num_ranks, mode="decode", tokens_per_rank=size):
        for name, rank in zip(_names(step), step.rank_T.tolist(), strict=True):
            assert recording.sequence_T is not None
            places.setdefault(int(recording.sequence_T[name]), []).append((name, step.step, rank))
    for sequence, found in places.items():
        names, steps, ranks = zip(*found, strict=True)
        assert list(range(names[0], names[0] + lengths[sequence])) == list(names)
        assert list(range(steps[0], steps[0] + lengths[sequence])) == list(steps)
        assert {sequence % num_ranks} == set(ranks)


def test_prefill_cuts_what_a_rank_has_into_pieces(tmp_path: Path) -> None:
    """Ranks 0 and 1 get sequences 0, 2 and 1, 3 of lengths 3 5 2 1; pieces of 2 tokens; the shorter rank runs out."""
    trace = _named(recording_of([3, 5, 2, 1])).write(tmp_path / "t.parquet")
    steps = list(deal(trace, num_ranks=2, mode="prefill", tokens_per_rank=2))
    assert [[0, 1, 3, 4], [2, 8, 5, 6], [9, 7, 10]] == [_names(step) for step in steps]
    assert [[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1]] == [step.rank_T.tolist() for step in steps]
    assert [1.0, 1.0, 0.75] == [step.fill for step in steps]


def test_decode_starts_the_next_sequence_when_one_ends(tmp_path: Path) -> None:
    """One rank, two running, lengths 1 3 2: sequence 2 takes the place of sequence 0 in step 1."""
    trace = _named(recording_of([1, 3, 2])).write(tmp_path / "t.parquet")
    steps = list(deal(trace, num_ranks=1, mode="decode", tokens_per_rank=2))
    assert [[0, 1], [2, 4], [3, 5]] == [_names(step) for step in steps]


def test_one_sequence_is_cut_into_a_chunk_for_every_rank(tmp_path: Path) -> None:
    """Seven tokens of one sequence on three ranks: chunks of 3, 2, 2."""
    trace = _named(recording_of([7], with_sequences=False)).write(tmp_path / "t.parquet")
    (step,) = deal(trace, num_ranks=3, mode="decode")
    assert [0, 0, 0, 1, 1, 2, 2] == step.rank_T.tolist()
    assert list(range(7)) == _names(step)


@settings(max_examples=30)
@given(recordings(), modes)
def test_a_file_with_its_own_deal_is_used_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, recording: Recording, mode: dealing.Mode
) -> None:
    """With the file's number of ranks its own steps and ranks come back, empty steps too."""
    own = with_own_deal(recording, 3, min(4, recording.info.num_tokens))
    trace = own.write(tmp_path_factory.getbasetemp() / "own.parquet")
    steps = list(deal(trace, num_ranks=3, mode=mode))
    expected = [own.rank_T[own.step_T == step].tolist() for step in range(own.info.num_steps)]
    assert expected == [step.rank_T.tolist() for step in steps]


def test_a_file_whose_own_deal_does_not_fit_is_dealt_by_sequence(tmp_path: Path) -> None:
    """Four tokens on rank 0 do not fit two a rank: the file's ranks are sequences then."""
    own = with_own_deal(recording_of([8], with_sequences=False), 2, 1)
    own = Recording(own.info, np.zeros(8, int), np.repeat([0, 1], 4), None, own.experts_LTK, None)
    trace = own.write(tmp_path / "t.parquet")
    assert 1 == num_dealt_steps(trace, num_ranks=2, mode="prefill", tokens_per_rank=4)
    steps = list(deal(trace, num_ranks=2, mode="prefill", tokens_per_rank=2))
    assert [[0, 0, 1, 1], [0, 0, 1, 1]] == [step.rank_T.tolist() for step in steps]
    assert own.experts_LTK[:, [0, 1, 4, 5]].tolist() == steps[0].experts_LTK.tolist()


def test_windows_smaller_than_memory_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a step at a time gives what reading all at once gives."""
    trace = recording_of([5, 9, 3, 7], with_weights=True).write(tmp_path / "t.parquet")
    whole = [_plain(step) for step in deal(trace, num_ranks=2, mode="decode", tokens_per_rank=1)]
    monkeypatch.setattr(dealing, "_WINDOW_BYTES", 1)
    assert whole == [_plain(step) for step in deal(trace, num_ranks=2, mode="decode", tokens_per_rank=1)]


def test_row_groups_without_asked_tokens_are_not_read(tmp_path: Path) -> None:
    """With a spoilt last row group the steps before it are dealt, and the step in it is refused."""
    path = tmp_path / "t.parquet"
    write_trace(recording_of([7, 7, 7, 7], num_layers=1).rows(rows_per_batch=7), path)
    trace = open_trace(path)
    last = pq.ParquetFile(path).metadata.row_group(3).column(4)
    content = bytearray(path.read_bytes())
    content[last.data_page_offset + last.total_compressed_size - 1] ^= 0xFF
    path.write_bytes(content)
    assert 3 == len(list(deal(trace, num_ranks=1, mode="prefill", tokens_per_rank=7, steps=(0, 3))))
    with pytest.raises(InputError, match="cannot read"):
        list(deal(trace, num_ranks=1, mode="prefill", tokens_per_rank=7))


def test_layers_with_other_tokens_are_refused(tmp_path: Path) -> None:
    """Every layer of a step has the same tokens in the same order."""
    recording = recording_of([8])
    first, second = recording.rows(8).rows
    assert isinstance(second, TokenRows)
    turned = replace(second, token_W=second.token_W[::-1].copy())
    write_trace(TraceRows(recording.info, [first, turned]), tmp_path / "t.parquet")
    with pytest.raises(
        InputError, match=r"row 8 \(step 0, layer 3, token 7\) is not the token of layer 1 at its place"
    ):
        list(deal(open_trace(tmp_path / "t.parquet"), num_ranks=2, mode="decode"))


@pytest.mark.parametrize("steps", [(0, 4), (3, 4), (-1, 2), (2, 2), (2, 1)])
def test_steps_beyond_the_trace_are_refused(tmp_path: Path, steps: tuple[int, int]) -> None:
    """At the call, naming how many steps there are."""
    trace = recording_of([3, 3]).write(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"not within the 3 steps \(0:3\)"):
        deal(trace, num_ranks=2, mode="decode", tokens_per_rank=1, steps=steps)


@pytest.mark.parametrize(("ranks", "size"), [(0, 1), (-1, None), (1, 0), (1, -5)])
def test_ranks_and_tokens_below_one_are_refused(tmp_path: Path, ranks: int, size: int | None) -> None:
    """Both numbers are named."""
    trace = recording_of([3, 3]).write(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=f"must be >= 1, got {ranks} and {size}"):
        deal(trace, num_ranks=ranks, mode="prefill", tokens_per_rank=size)


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    """With the nearest known one."""
    trace = recording_of([3]).write(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="unknown mode 'decoding'; did you mean 'decode'"):
        deal(trace, num_ranks=1, mode="decoding")  # type: ignore[arg-type]  # the wrong word is the point
