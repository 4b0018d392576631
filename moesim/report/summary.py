"""The words and numbers that every report format shows, derived from a comparison without any drawing."""

from dataclasses import dataclass

from moesim.report.sentences import answer, limit_words, over, question, remarks, sureness, time_of
from moesim.result import ComparedRun, Comparison, Headroom, SimulationResult

BASELINE = "contiguous"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One strategy as a table row; `limit` is what holds it back, `limit_link` on which link."""

    strategy: str
    declined: str | None
    step_time_s: float | None
    speedup: float | None
    balancedness: float | None
    fanout_nodes: float | None
    plan_s: float | None
    limit: str
    limit_link: str
    is_best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a report says: the question, its answer, what limits, how sure we are, and the rows behind it.

    `best` and `contrast` name the two runs that figures show side by side; either is None when there is no such run.
    `lines` are sorted fastest first, strategies that declined last.
    """

    question: str
    answer: str
    remarks: tuple[str, ...]
    sureness: tuple[str, ...]
    lines: tuple[RunLine, ...]
    best: str | None
    contrast: str | None
    baseline: str | None
    headroom: Headroom
    assumptions: tuple[str, ...]


def as_comparison(subject: Comparison | SimulationResult) -> Comparison:
    """A comparison as it is; one result as a comparison of a single run, its scenario read from its provenance."""
    if isinstance(subject, Comparison):
        return subject
    scenario = subject.provenance.get("scenario")
    run = ComparedRun(
        strategy=subject.strategy,
        step_time_s=subject.step_time_s,
        balancedness=subject.balancedness,
        fanout_nodes=subject.fanout_nodes,
    )
    return Comparison(
        runs=(run,),
        headroom=Headroom(),
        results={subject.strategy: subject},
        scenario=scenario if isinstance(scenario, dict) else {},
        assumptions=subject.assumptions,
    )


def summarise(subject: Comparison | SimulationResult) -> Summary:
    """The summary of a comparison, or of one result."""
    comparison = as_comparison(subject)
    timed = _fastest_first(comparison.runs)
    best = timed[0] if timed else None
    baseline = next((run for run in timed if run.strategy == BASELINE), None)
    contrast = baseline if baseline is not None and baseline is not best else (timed[-1] if len(timed) > 1 else None)
    shown = comparison.results.get(best.strategy) if best else None
    return Summary(
        question=question(comparison, len(timed)),
        answer=answer(comparison, timed, baseline, shown),
        remarks=remarks(comparison, timed, shown),
        sureness=sureness(shown),
        lines=_lines(comparison, timed, baseline),
        best=best.strategy if best else None,
        contrast=contrast.strategy if contrast else None,
        baseline=baseline.strategy if baseline else None,
        headroom=comparison.headroom,
        assumptions=_assumptions(comparison),
    )


def shown_results(comparison: Comparison, summary: Summary) -> list[tuple[str, SimulationResult]]:
    """The runs drawn side by side, contrast first, each with its caption; runs without a result are left out."""
    names = [(summary.contrast, "baseline" if summary.contrast == summary.baseline else "slowest")]
    names.append((summary.best, "fastest" if len(summary.lines) > 1 else "this run"))
    return [
        (f"{role}: {name}", comparison.results[name])
        for name, role in names
        if name is not None and name in comparison.results
    ]


def _fastest_first(runs: tuple[ComparedRun, ...]) -> list[ComparedRun]:
    timed = [run for run in runs if run.step_time_s is not None]
    return sorted(timed, key=time_of)  # stable: equal times keep the order asked for


def _lines(comparison: Comparison, timed: list[ComparedRun], baseline: ComparedRun | None) -> tuple[RunLine, ...]:
    declined = [run for run in comparison.runs if run.step_time_s is None]
    return tuple(_line(run, comparison, timed, baseline) for run in [*timed, *declined])


def _line(run: ComparedRun, comparison: Comparison, timed: list[ComparedRun], baseline: ComparedRun | None) -> RunLine:
    time = run.step_time_s
    speedup = run.speedup
    if speedup is None and time is not None and baseline is not None:
        speedup = over(time_of(baseline), time)
    result = comparison.results.get(run.strategy)
    return RunLine(
        strategy=run.strategy,
        declined=(run.declined or "declined") if time is None else None,
        step_time_s=time,
        speedup=speedup,
        balancedness=run.balancedness,
        fanout_nodes=run.fanout_nodes,
        plan_s=run.plan_s,
        limit=limit_words(result.bottleneck) if result and time is not None else "",
        limit_link=result.bottleneck.name if result and time is not None else "",
        is_best=bool(timed) and run is timed[0],
    )


def _assumptions(comparison: Comparison) -> tuple[str, ...]:
    """All assumptions, once each, those of the comparison first; one that only some runs make names them."""
    users: dict[str, list[str]] = {}
    for name, result in comparison.results.items():
        for assumption in result.assumptions:
            users.setdefault(assumption, []).append(name)
    told = dict.fromkeys([*comparison.assumptions, *users])  # in order, each once
    return tuple(_with_users(assumption, users.get(assumption, []), len(comparison.results)) for assumption in told)


def _with_users(assumption: str, users: list[str], num_results: int) -> str:
    everyone = len(users) in (0, num_results)
    return assumption if everyone else f"{assumption} ({', '.join(users)})"
