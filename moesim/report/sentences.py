"""The sentences of a report: the question, its answer, what to know beside it, how sure it is."""

from moesim.report.context import cluster_phrase, model_phrase, profile_phrase, step_phrase, windows_phrase
from moesim.result import Bottleneck, ComparedRun, Comparison, FaultResult, Headroom, SimulationResult, TrainingResult
from moesim.units import format_time

# Below this relative difference two step times are told as equal: no model here claims to be that exact.
HARDLY = 0.01
WORTH_IT = 0.03  # gains below this are within what profiles and drift leave uncertain

LIMIT_WORDS = {
    "nic": "NIC links",
    "scale_up": "scale-up links",
    "copy_engine": "copy engine",
    "compute": "compute",
    "memory": "memory bandwidth",
    "fixed": "fixed costs",
}


def limit_words(bottleneck: Bottleneck) -> str:
    """What limits a step, in a table's cell: "NIC links, 63%"."""
    return f"{LIMIT_WORDS[bottleneck.kind]}, {bottleneck.share:.0%}"


def limit_phrase(bottleneck: Bottleneck) -> str:
    """What limits a step, in words: "NIC links (node3.nic2.up), 63% of it"."""
    words = LIMIT_WORDS[bottleneck.kind]
    named = f" ({bottleneck.name})" if bottleneck.name and bottleneck.name != bottleneck.kind else ""
    return f"{words}{named}, {bottleneck.share:.0%} of it"


def time_of(run: ComparedRun) -> float:
    """Step time of a run that did not decline."""
    assert run.step_time_s is not None
    return run.step_time_s


def over(time: float, reference: float) -> float:
    """`time` over `reference`; two zeros are equal."""
    return time / reference if reference > 0 else (1.0 if time == 0 else float("inf"))


def question(comparison: Comparison, num_timed: int) -> str:
    """The question the report answers; of one run there is nothing to choose."""
    model, cluster = model_phrase(comparison.scenario), cluster_phrase(comparison, counted=False)
    if num_timed > 1:
        return f"Which expert placement makes {model} fastest on {cluster}?"
    return f"How fast is {model} on {cluster}?"


def answer(
    comparison: Comparison, timed: list[ComparedRun], baseline: ComparedRun | None, shown: SimulationResult | None
) -> str:
    """The answer in one sentence; `timed` fastest first, `shown` the result of the fastest."""
    if not timed:
        return f"No answer: none of the {len(comparison.runs)} strategies produced a placement (reasons in the table)."
    limited = f"; the step is limited by {limit_phrase(shown.bottleneck)}" if shown else ""
    where = f"On {cluster_phrase(comparison)}"
    return f"{where}, {_verdict(timed, baseline, step_phrase(comparison.scenario))}{limited}."


def _verdict(timed: list[ComparedRun], baseline: ComparedRun | None, step: str) -> str:
    best, slowest = timed[0], timed[-1]
    time = format_time(time_of(best))
    if len(timed) == 1:
        return f"{step} takes {time} with the placement {best.strategy}"
    spread = over(time_of(slowest), time_of(best)) - 1
    if spread < HARDLY:
        return (
            f"the choice of placement hardly matters: all {len(timed)} strategies are within "
            f"{spread:.1%} of each other, at {time} for {step}"
        )
    if baseline is best:
        return (
            f"{best.strategy}, the baseline, is fastest: {time} for {step}; the others take up to {spread:.0%} longer"
        )
    reference = baseline or slowest
    ratio = over(time_of(reference), time_of(best))
    if ratio - 1 < HARDLY:
        return (
            f"{best.strategy} is fastest, but hardly ahead of {reference.strategy}: {time} for {step}, "
            f"{ratio - 1:.1%} less; a bad choice ({slowest.strategy}) takes {spread:.0%} longer"
        )
    return f"{best.strategy} is fastest: {time} for {step}, {ratio:.2f}x as fast as {reference.strategy}"


def remarks(comparison: Comparison, timed: list[ComparedRun], shown: SimulationResult | None) -> tuple[str, ...]:
    """Sentences a reader needs beside the answer: near ties, windows, headroom, dropped tokens."""
    remarks = []
    if len(timed) > 1:
        spread = over(time_of(timed[-1]), time_of(timed[0])) - 1
        close = [run.strategy for run in timed[1:] if over(time_of(run), time_of(timed[0])) - 1 < HARDLY]
        if close and spread >= HARDLY:
            verb = "is" if len(close) == 1 else "are"
            remarks.append(f"{', '.join(close)} {verb} within {HARDLY:.0%} of the fastest.")
    if windows := windows_phrase(comparison.scenario):
        remarks.append(windows)
    remarks += [_headroom_remark(what, time, timed) for what, time in _headroom(comparison.headroom) if timed]
    remarks += _worth_remark(timed, comparison.headroom.oracle_s)
    if shown and shown.drop_rate - shown.lost_rate > 1e-12:
        dropped = shown.drop_rate - shown.lost_rate
        remarks.append(f"{dropped:.1%} of (token, expert) pairs are dropped by the capacity limit.")
    if shown and shown.training is not None:
        remarks.append(_training_remark(shown.training))
    if shown and shown.faults is not None:
        remarks.append(_faults_remark(shown, shown.faults))
    if shown and shown.padding_rate > 0:
        remarks.append(f"{shown.padding_rate:.1%} of the rows the experts compute are padding.")
    if shown and shown.tables is not None and not shown.tables.link_bytes.any():
        remarks.append("Nothing was sent over any link.")
    fill = min((step.fill for step in shown.steps), default=1.0) if shown else 1.0
    if fill < 1 - HARDLY:
        remarks.append(f"The trace ran out: the emptiest step holds {fill:.0%} of the tokens asked for.")
    return tuple(remarks)


def _training_remark(training: TrainingResult) -> str:
    """The schedule, and how much of the stages' time it leaves idle."""
    stages = f"{training.num_stages} stage{'s' if training.num_stages != 1 else ''}"
    return (
        f"Schedule {training.schedule} runs {training.micro_batches} micro-batches through {stages}, which are idle "
        f"{training.bubble_fraction:.1%} of the time until the last pass."
    )


def _faults_remark(shown: SimulationResult, faults: FaultResult) -> str:
    """What the faults cost in time, and what was lost to dead devices."""
    whole = format_time(faults.step_time_without_s)
    cost = f"The faults cost {faults.cost:+.1%}: without them a step takes {whole}"
    if not shown.lost_pairs:
        return f"{cost}."
    return (
        f"{cost}; {shown.lost_rate:.1%} of (token, expert) pairs are lost to dead devices, with "
        f"{shown.lost_tokens:,} tokens that were on them."
    )


def _headroom(headroom: Headroom) -> list[tuple[str, float]]:
    known = (("perfect balance", headroom.perfect_balance_s), ("planning on the judged steps", headroom.oracle_s))
    return [(what, time) for what, time in known if time is not None]


def _headroom_remark(what: str, time: float, timed: list[ComparedRun]) -> str:
    return (
        f"With {what} a step would take {format_time(time)}, {over(time_of(timed[0]), time):.2f}x as fast as the best."
    )


def _worth_remark(timed: list[ComparedRun], oracle_s: float | None) -> list[str]:
    """Whether planning beyond EPLB can pay: its better mode against the plan that knew the judged steps."""
    published = [run for run in timed if run.strategy.startswith("eplb")]
    if oracle_s is None or not published:
        return []
    least_s = min(oracle_s, time_of(timed[0]))
    headroom = over(time_of(published[0]), least_s) - 1
    if headroom < WORTH_IT:
        return [f"Headroom over {published[0].strategy} is {headroom:.1%}: not worth it (below {WORTH_IT:.0%})."]
    got = over(time_of(published[0]), time_of(timed[0])) - 1
    return [f"Headroom over {published[0].strategy} is {headroom:.1%}, of which {timed[0].strategy} gets {got:.1%}."]


def sureness(shown: SimulationResult | None) -> tuple[str, ...]:
    """How far the times can be trusted: what compute rests on, and what the network model leaves open."""
    if shown is None:
        return ()
    profile = profile_phrase(shown.provenance)
    network = shown.network
    if network.fidelity == "bound":
        flows = "Network times are closed-form bounds; this model states no error."
    elif network.tolerance == 0:
        flows = "Network times solve the fluid (max-min fair) model exactly; the model's own error is not in that."
    else:
        bound = "not stated" if network.error_bound is None else f"at most {network.error_bound:.1%}"
        flows = f"Network times solve the fluid (max-min fair) model at tolerance {network.tolerance:g}: error {bound}."
    return (profile, flows)
