"""The words of a report follow from its numbers."""

import dataclasses
import doctest
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from moesim.report import context, words
from moesim.report.summary import Summary, as_comparison, shown_results, summarise
from moesim.result import ComparedRun, Comparison, Headroom
from tests.strategies.result import STRATEGIES, broken, make_comparison, make_result, trained

SMALL: dict[str, Any] = {"nodes": 2, "local": 2, "layers": 2, "steps": 1}


def compared(**times: float) -> Summary:
    """The summary of strategies that took these times, with one result to describe them all."""
    result = make_result(**SMALL)
    runs = tuple(ComparedRun(strategy=name, step_time_s=time) for name, time in times.items())
    results = {name: result.model_copy(update={"strategy": name}) for name in times}
    return summarise(Comparison(runs, Headroom(), results, {}, ()))


@given(st.permutations(["contiguous", "random", "eplb_global"]))
def test_lines_are_sorted_whatever_order_was_asked_for(order: list[str]) -> None:
    """Lines stand fastest first, strategies that declined last."""
    summary = summarise(make_comparison(tuple(order), declined=("exact", "affinity"), **SMALL))
    times = [line.step_time_s for line in summary.lines if line.step_time_s is not None]
    assert sorted(times) == times
    assert [line.strategy for line in summary.lines[-2:]] == ["exact", "affinity"]


def test_the_answer_names_winner_time_and_gain() -> None:
    """A clear winner is named with its time and how many times as fast as contiguous it is."""
    summary = compared(contiguous=0.0012, eplb_global=0.001)
    assert "eplb_global is fastest: 1 ms for a step, 1.20x as fast as contiguous" in summary.answer
    assert "the step is limited by NIC links (" in summary.answer
    assert (summary.best, summary.contrast, summary.baseline) == ("eplb_global", "contiguous", "contiguous")


def test_small_differences_are_told_as_none() -> None:
    """Within 1 % the answer is that placement hardly matters."""
    summary = compared(contiguous=1.0, random=1.004, eplb_global=0.999)
    assert "placement hardly matters: all 3 strategies are within 0.5% of each other" in summary.answer


def test_a_winner_hardly_ahead_of_the_baseline_is_told_so() -> None:
    """Under 1 % over contiguous the gain is called small, and the worst choice is named."""
    assert "hardly ahead of contiguous" in compared(contiguous=1.0, random=1.5, eplb_global=0.996).answer
    assert "a bad choice (random) takes 51% longer" in compared(contiguous=1.0, random=1.5, eplb_global=0.996).answer


def test_the_baseline_can_win() -> None:
    """When contiguous is fastest, figures contrast it with the slowest."""
    summary = compared(random=2.0, contiguous=1.0)
    assert "contiguous, the baseline, is fastest" in summary.answer
    assert (summary.best, summary.contrast) == ("contiguous", "random")


def test_near_ties_are_named() -> None:
    """Strategies within 1 % of the fastest are listed."""
    assert "hash is within 1% of the fastest." in compared(contiguous=2.0, random=1.0, hash=1.005).remarks


def test_without_contiguous_the_slowest_is_the_reference() -> None:
    """No baseline in the comparison: the gain is told over the slowest, and no speedup is claimed."""
    summary = compared(random=2.0, hash=1.0)
    assert "2.00x as fast as random" in summary.answer
    assert [line.speedup for line in summary.lines] == [None, None]


def test_all_declined_is_no_answer() -> None:
    """When every strategy declined, the report says so and has a line with the reason for each."""
    summary = summarise(make_comparison((), declined=("exact",)))
    assert summary.answer.startswith("No answer")
    assert (summary.best, summary.contrast, summary.sureness) == (None, None, ())
    assert summary.lines[0].declined == "no product keys in this model"


def test_a_single_result_asks_how_fast() -> None:
    """Of one run the question is how fast it is; its scenario is read from its provenance."""
    result = make_result(**SMALL)
    scenario = {"model": "m", "cluster": {"topology": "t", "nodes": 1}, "mode": {"kind": "decode"}}
    result = result.model_copy(update={"provenance": {**result.provenance, "scenario": scenario}})
    summary = summarise(result)
    assert summary.question == "How fast is m on 1 node of t?"
    assert "On 1 node of t (4 devices), a decode step takes" in summary.answer
    assert [("this run: contiguous", result)] == shown_results(as_comparison(result), summary)


def test_zero_times_compare_as_equal() -> None:
    """A step of no time does not divide by zero."""
    assert "hardly matters" in compared(contiguous=0.0, random=0.0).answer
    assert "random is fastest" in compared(contiguous=1.0, random=0.0).answer


def test_datasheet_times_are_not_called_measured() -> None:
    """With a datasheet roofline the report says plainly that no measured error is known."""
    assert "no measured error is known" in compared(contiguous=1.0).sureness[0]
    named = make_result(**SMALL)
    named = named.model_copy(update={"provenance": {"profile": "h100-sxm"}})
    assert summarise(named).sureness[0] == "Compute and kernel times come from the calibration profile h100-sxm."
    fitted = {"name": "h100-sxm", "basis": "fitted to 9 measurements (median error, held out: nccl 2.1%)"}
    named = named.model_copy(update={"provenance": {"profile": fitted}})
    assert "h100-sxm, fitted to 9 measurements (median error, held out: nccl 2.1%)." in summarise(named).sureness[0]


def test_the_network_model_states_its_error() -> None:
    """The sentence on the network follows fidelity, tolerance and error bound."""
    result = make_result(**SMALL)
    told = [
        summarise(result.model_copy(update={"network": result.network.model_copy(update=change)})).sureness[1]
        for change in ({"fidelity": "bound", "error_bound": None}, {"tolerance": 0.0}, {"error_bound": 0.5})
    ]
    assert [
        next(word for word in ("states no error", "exactly", "at most 50.0%") if word in sentence) for sentence in told
    ] == ["states no error", "exactly", "at most 50.0%"]


def test_windows_are_told_where_the_scenario_has_them() -> None:
    """Planned and judged windows are a remark; the same window is warned about."""
    assert "Planned on steps 0:4, judged on steps 4:8." in summarise(make_comparison(**SMALL)).remarks
    same = dataclasses.replace(make_comparison(**SMALL), scenario={"plan_steps": "0:4", "steps": "0:4"})
    assert any("same steps (0:4)" in remark for remark in summarise(same).remarks)


def test_assumptions_come_once_and_name_who_makes_them() -> None:
    """An assumption of all runs is listed once; one of a single run carries its name."""
    comparison = make_comparison(("contiguous", "random"), **SMALL)
    odd = comparison.results["random"]
    comparison.results["random"] = odd.model_copy(update={"assumptions": (*odd.assumptions, "only here")})
    told = summarise(comparison).assumptions
    assert len(told) == len(set(told))
    assert told[-1] == "only here (random)"


def test_every_strategy_has_a_line() -> None:
    """Nothing that was compared is left out."""
    summary = summarise(make_comparison(**SMALL))
    assert sorted([*STRATEGIES, "key_grid"]) == sorted(line.strategy for line in summary.lines)
    assert [line.is_best for line in summary.lines if line.strategy == summary.best] == [True]


def test_examples_in_docstrings_hold() -> None:
    """The examples of the modules that format text and numbers run as shown."""
    assert [doctest.testmod(module).failed for module in (context, words)] == [0, 0]


@given(st.text(max_size=50))
def test_printable_text_is_one_printable_line(text: str) -> None:
    """Whatever a file holds, what is shown has no control characters and keeps its length."""
    shown = words.printable(text)
    assert shown.isprintable()
    assert len(text) == len(shown)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=8))
def test_times_of_a_column_share_unit_and_decimals(times: list[float]) -> None:
    """All numbers of a column have equally many decimals and are within half of the last one."""
    texts, unit = words.aligned_times(times)
    factor = {"s": 1.0, "ms": 1e3, "us": 1e6}[unit]
    decimals = {len(text.partition(".")[2]) for text in texts}
    assert len(decimals) == 1
    half = 0.51 * 10.0 ** -min(decimals)
    assert all(abs(float(text) - time * factor) <= half for text, time in zip(texts, times, strict=True))


def test_faults_and_losses_are_told_apart_from_drops() -> None:
    """8 % of the pairs are computed by nobody: 3 % lost to dead devices, so 5 % dropped by the capacity."""
    remarks = " ".join(summarise(broken(make_result(**SMALL))).remarks)
    assert "5.0% of (token, expert) pairs are dropped by the capacity limit." in remarks
    assert "The faults cost +25.0%: without them a step takes" in remarks
    assert "3.0% of (token, expert) pairs are lost to dead devices, with 56 tokens that were on them." in remarks


def test_losses_alone_are_no_drops() -> None:
    """Where every missing pair was lost to a dead device, nothing is said of a capacity."""
    result = broken(make_result(**SMALL)).model_copy(update={"drop_rate": 0.03})
    assert "capacity" not in " ".join(summarise(result).remarks)


def test_a_training_step_tells_its_schedule_and_bubble() -> None:
    """Beside the answer: schedule, micro-batches, stages, and how long they idle."""
    remarks = " ".join(summarise(trained(make_result(**SMALL))).remarks)
    assert "Schedule 1f1b runs 8 micro-batches through 4 stages, which are idle 20.0% of the time" in remarks
