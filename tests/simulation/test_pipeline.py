"""Pipeline schedules: every pass once, nothing before its inputs, and the bubbles the papers state."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.simulation.passes import Pass, make_order, most_in_flight
from moesim.simulation.pipeline import SPAN_KINDS, run_pipeline
from moesim.simulation.schedules import num_parts, schedule_order

NAMES = ["1f1b", "gpipe", "interleaved", "zero_bubble", "dualpipe"]


def order_of(name, stages, batches, chunks=1):
    return schedule_order(name, stages=stages, micro_batches=batches, chunks=chunks)


def run(name, stages, batches, chunks=1, *, forward=1.0, inputs=1.0, weights=1.0, pair=None, send=0.0):
    """The run with equal stages; `pair` is the time of an overlapped pair, by default that of both passes."""
    seconds = {
        "forward": forward,
        "backward": inputs + weights,
        "backward_input": inputs,
        "backward_weight": weights,
    }

    def duration_s(_stage, slot):
        return pair if pair and len(slot) > 1 else sum(seconds[item.kind] for item in slot) / chunks

    return run_pipeline(order_of(name, stages, batches, chunks), duration_s, lambda _from, _to: send)


@st.composite
def shapes(draw):
    """A schedule with stages, micro-batches and chunks it accepts."""
    name = draw(st.sampled_from(NAMES))
    stages = draw(st.integers(1, 8))
    batches = draw(st.integers(1, 24))
    if name == "interleaved":
        return name, stages, stages * draw(st.integers(1, 4)), draw(st.integers(1, 3))
    if name == "dualpipe":
        stages += stages % 2
        return name, stages, 2 * stages + 2 * draw(st.integers(0, 8)), 1
    return name, stages, batches, 1


@given(shape=shapes())
def test_every_micro_batch_passes_every_part_once_each_way(shape):
    """One forward pass, one gradient of the input and one of the weights for each micro-batch and part."""
    name, stages, batches, chunks = shape
    parts = num_parts(name, stages=stages, chunks=chunks)
    found = Counter(item for slots in order_of(*shape) for slot in slots for item in slot)
    assert [] == [item for item, times in found.items() if times != 1]
    for batch in range(batches):
        for part in range(parts):
            assert Pass("forward", batch, part) in found
            halves = {Pass("backward_input", batch, part), Pass("backward_weight", batch, part)} & found.keys()
            assert (0 if Pass("backward", batch, part) in found else 2) == len(halves)


@given(shape=shapes(), send=st.sampled_from([0.0, 0.3]))
def test_no_pass_starts_before_its_inputs_have_come(shape, send):
    """Forward after the part before, backward after the part behind, each later by the send between stages."""
    result = run(*shape, forward=1.0, inputs=1.5, weights=0.7, send=send)
    when = {}
    order = order_of(*shape)
    for stage, slots in enumerate(order):
        mine = [v for v in range(len(result.stage)) if result.stage[v] == stage]
        for v, slot in zip(mine, slots, strict=True):
            for item in slot:
                when[item] = (result.start_s[v], result.end_s[v], stage)
    last = max(item.part for item in when)
    for item, (start, _end, stage) in when.items():
        if item.kind == "forward" and item.part > 0:
            _, ready, source = when[item._replace(part=item.part - 1)]
        elif item.kind in ("backward", "backward_input") and item.part < last:
            nearer = [item._replace(kind=kind, part=item.part + 1) for kind in ("backward", "backward_input")]
            _, ready, source = next(when[near] for near in nearer if near in when)
        else:
            continue
        assert start >= ready + (send if source != stage else 0.0) - 1e-9


@given(shape=shapes())
def test_stages_do_one_thing_at_a_time(shape):
    """Busy time and bubble of every stage are the time of the run."""
    result = run(*shape, forward=1.0, inputs=1.3, weights=0.9)
    for stage in range(result.num_stages):
        mine = result.stage == stage
        assert (result.start_s[mine][1:] >= result.end_s[mine][:-1] - 1e-9).all()
    total = result.busy_s().sum(axis=1) + result.bubble_s()
    assert total == pytest.approx(result.time_s)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@given(stages=st.integers(1, 12), batches=st.integers(1, 40), weights=st.floats(0.1, 3))
def test_the_bubble_of_gpipe_and_1f1b(name, stages, batches, weights):
    """(p - 1) / (m + p - 1) of the time, on every stage."""
    result = run(name, stages, batches, weights=weights)
    share = (stages - 1) / (batches + stages - 1)
    assert result.bubble_s() / result.time_s == pytest.approx(share, abs=1e-9)


@given(stages=st.integers(2, 8), rounds=st.integers(1, 4), chunks=st.integers(1, 4))
def test_interleaving_divides_the_bubble_by_the_chunks(stages, rounds, chunks):
    """(p - 1) (F + B) / v beside m (F + B) of work."""
    result = run("interleaved", stages, stages * rounds, chunks, inputs=1.0, weights=1.0)
    assert result.bubble_s() == pytest.approx((stages - 1) * 3.0 / chunks)


@pytest.mark.parametrize(("stages", "batches"), [(2, 4), (4, 8), (4, 20), (8, 32), (16, 120)])
def test_putting_weights_off_leaves_a_third_of_the_bubble(stages, batches):
    """ZB-H1 with equal passes: (p - 1) (F + B - W) where 1f1b has (p - 1) (F + B + W)."""
    assert stages - 1 == pytest.approx(run("zero_bubble", stages, batches).bubble_s().min())
    assert 3 * (stages - 1) == pytest.approx(run("1f1b", stages, batches).bubble_s().min())


@given(
    stages=st.integers(1, 8),
    batches=st.integers(1, 20),
    inputs=st.floats(0.2, 3),
    weights=st.floats(0.2, 3),
    send=st.floats(0, 1),
)
def test_putting_weights_off_never_makes_a_step_longer(stages, batches, inputs, weights, send):
    """zero_bubble against 1f1b, whatever the passes and the sends last."""
    seconds = {"inputs": inputs, "weights": weights, "send": send}
    split, plain = (run(name, stages, batches, **seconds).time_s for name in ("zero_bubble", "1f1b"))
    assert split <= plain + 1e-9


@given(shape=shapes(), more=st.integers(1, 3))
def test_more_micro_batches_never_shorten_the_pipeline(shape, more):
    """One round of micro-batches more (a multiple that every schedule accepts)."""
    name, stages, batches, chunks = shape
    longer = run(name, stages, batches + more * 2 * stages, chunks)
    assert run(name, stages, batches, chunks).time_s < longer.time_s


@pytest.mark.parametrize("pair", [3.0, 2.2])
@pytest.mark.parametrize(("stages", "batches"), [(4, 8), (8, 40), (16, 120)])
def test_the_published_bubble_of_dualpipe(stages, batches, pair):
    """(p / 2 - 1) (F&B + B - 3 W), table 2 of arXiv 2412.19437, B being the whole backward pass: on the middle stages."""
    result = run("dualpipe", stages, batches, pair=pair)
    bubble_s = result.bubble_s()
    assert (stages / 2 - 1) * (pair + 2.0 - 3.0) == pytest.approx(bubble_s.max())
    assert bubble_s.max() == pytest.approx(bubble_s[stages // 2])


def test_1f1b_holds_as_many_micro_batches_as_stages_are_left():
    """Stage s of p holds p - s; gpipe holds all m; interleaved 2 (p - s - 1) + (v - 1) p + 1 parts' worth."""
    assert [4, 3, 2, 1] == [sum(most_in_flight(slots).values()) for slots in order_of("1f1b", 4, 9)]
    assert [9, 9, 9, 9] == [sum(most_in_flight(slots).values()) for slots in order_of("gpipe", 4, 9)]
    assert [11, 9, 7, 5] == [sum(most_in_flight(slots).values()) for slots in order_of("interleaved", 4, 12, 2)]


def test_dualpipe_holds_one_micro_batch_more_than_stages():
    """Activations p + 1 of table 2 of arXiv 2412.19437, on every stage."""
    assert [9] * 8 == [sum(most_in_flight(slots).values()) for slots in order_of("dualpipe", 8, 32)]


def test_a_slow_stage_sets_the_pace():
    """m micro-batches at the slowest stage's time, and the way in and out of the others."""
    order = order_of("1f1b", 4, 50)
    result = run_pipeline(order, lambda stage, _slot: 2.0 if stage == 2 else 1.0, lambda _from, _to: 0.0)
    assert 50 * 4.0 <= result.time_s <= 50 * 4.0 + 3 * 2.0 + 1e-9


@pytest.mark.parametrize(
    ("name", "stages", "batches", "words"),
    [
        ("interleaved", 4, 6, "multiple of pp=4, got 6; take 8"),
        ("dualpipe", 4, 6, "at least 2 x pp"),
        ("dualpipe", 3, 12, "even pp"),
        ("1f1c", 4, 4, "1f1c"),
    ],
)
def test_schedules_that_cannot_be_are_refused(name, stages, batches, words):
    """One sentence with the numbers and what to take instead."""
    with pytest.raises(InputError, match=words):
        order_of(name, stages, batches, 2)


def test_an_order_that_waits_for_itself_is_found():
    """Backward before forward on one stage never starts the second stage."""
    order = make_order(
        [[Pass("backward", 0, 0), Pass("forward", 0, 0)], [Pass("forward", 0, 1), Pass("backward", 0, 1)]]
    )
    with pytest.raises(AssertionError, match="waits for itself"):
        run_pipeline(order, lambda _stage, _slot: 1.0, lambda _from, _to: 0.0)


def test_an_overlapped_pair_is_one_span():
    """Its kind is its own, its time what the caller says."""
    result = run("dualpipe", 2, 8, pair=2.5)
    pairs = result.kind == SPAN_KINDS.index("overlapped")
    assert pairs.any()
    assert (result.end_s - result.start_s)[pairs] == pytest.approx(2.5)
