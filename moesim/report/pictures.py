"""The pictures of a report page: which are drawn, of which runs, with which caption."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from moesim.report.context import dead_devices, limits_tokens
from moesim.report.figure import svg
from moesim.report.link_grid import link_use
from moesim.report.plots import capacity as capacity_plot
from moesim.report.plots import comparison as comparison_plot
from moesim.report.plots import device_load, fan_out, layers, links, phases, pipeline, stages, timeline
from moesim.report.plots import faults as faults_plot
from moesim.report.plots import memory as memory_plot
from moesim.report.summary import Summary, shown_results
from moesim.result import Comparison, SimulationResult

Captioned = list[tuple[str, SimulationResult]]


@dataclass(frozen=True, slots=True)
class Picture:
    """One drawing: `caption` above it, `svg` the element to put into the page."""

    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Section:
    """Pictures that are read together, under a heading, with a sentence that says how to read them."""

    anchor: str
    heading: str
    reading: str
    pictures: tuple[Picture, ...]


def sections(comparison: Comparison, summary: Summary) -> list[Section]:
    """All sections of a page in order; those whose tables a result did not keep are left out."""
    shown = shown_results(comparison, summary)
    drawn = [(caption, result) for caption, result in shown if result.tables is not None]
    found = [_compared(comparison, summary)] if len(summary.lines) > 1 else []
    found.append(_phases(comparison, summary, shown))
    found.append(_pipeline(shown))
    if drawn:
        found += [_timeline(drawn), _loads(drawn), _links(drawn), _fan_out(drawn)]
    found.append(_capacity(shown))
    found.append(_faults(shown))
    found.append(_memory(shown))
    return [section for section in found if section is not None and section.pictures]


def _picture(anchor: str, place: int, caption: str, figure: Figure) -> Picture:
    return Picture(caption, svg(figure, f"{anchor}, {caption}", f"{anchor}-{place}"))


def _each(anchor: str, runs: Captioned, draw: Callable[[SimulationResult], Figure]) -> tuple[Picture, ...]:
    return tuple(_picture(anchor, place, caption, draw(result)) for place, (caption, result) in enumerate(runs))


def _compared(comparison: Comparison, summary: Summary) -> Section | None:
    rows = [
        (line.strategy, comparison.results[line.strategy]) for line in summary.lines if line.step_time_s is not None
    ]
    if not rows:
        return None
    pictures = (
        _picture("comparison", 0, "Time of a step", comparison_plot.draw(summary)),
        _picture("comparison", 1, "What the step consists of", phases.draw(rows)),
    )
    over = f" Speedups are over {summary.baseline}." if summary.baseline else ""
    return Section("comparison", "The strategies", f"Shorter is faster; all saw the same tokens.{over}", pictures)


def _phases(comparison: Comparison, summary: Summary, runs: Captioned) -> Section | None:
    runs = [(caption, result) for caption, result in runs if result.layers]
    top = max((layers.slowest_layer_s(result) for _, result in runs), default=0.0)
    pictures = _each("layers", runs, lambda result: layers.draw(result, top))
    reading = f"Mean over steps, on the slowest rank of each phase.{_same_scale(runs)}"
    if len(summary.lines) == 1 and runs:
        pictures += (
            _picture("layers", 9, "What the step consists of", phases.draw([(runs[0][1].strategy, runs[0][1])])),
        )
    return Section("layers", "Time per layer", reading, pictures)


def _timeline(runs: Captioned) -> Section | None:
    place = timeline.slowest_layer(runs[0][1])
    if place is None:
        return None
    step, ordinal = place
    length = max(timeline.duration_s(result, step, ordinal) for _, result in runs)
    pictures = _each("timeline", runs, lambda result: timeline.draw(result, step, ordinal, length))
    reading = (
        f"Layer {_layer_index(runs[0][1], ordinal)} of step {step}, the slowest one, "
        f"on {_rank_words(runs[0][1], place)}: "
        "blanks, and the tails of long communication bars, are ranks that wait for others."
        f"{_same_scale(runs)} The whole run is in timeline.pftrace."
    )
    return Section("timeline", "One layer, rank by rank", reading, pictures)


def _capacity(runs: Captioned) -> Section | None:
    runs = [(caption, result) for caption, result in runs if limits_tokens(result)]
    top = max((capacity_plot.highest_rate(result) for _, result in runs), default=0.0)
    lost = " (lost: were on dead devices, or without a live copy)" if any(r.lost_pairs for _, r in runs) else ""
    reading = (
        f"Of the (token, expert) pairs routed, how many found their expert full{lost}; of the rows the experts compute, "
        f"how many are padding.{_same_scale(runs)}"
    )
    pictures = _each("capacity", runs, lambda result: capacity_plot.draw(result, top))
    return Section("capacity", "Dropped and padded", reading, pictures)


def _faults(runs: Captioned) -> Section | None:
    runs = [(caption, result) for caption, result in runs if result.faults is not None]
    reading = "The same placement and the same tokens, with everything at work and with what breaks."
    return Section("faults", "What the faults cost", reading, _each("faults", runs, faults_plot.draw))


def _pipeline(runs: Captioned) -> Section | None:
    runs = [(caption, result) for caption, result in runs if result.pipeline]
    pictures: tuple[Picture, ...] = ()
    for place, (caption, result) in enumerate(runs):
        spans, opening = result.pipeline, pipeline.opening_s(result.pipeline)
        drawn = [(f"{caption}: the whole step", pipeline.draw(spans, pipeline.end_s(spans)))]
        if len(spans) > pipeline.MOST_BOXES:
            drawn.append((f"{caption}: the beginning", pipeline.draw(spans, opening)))
        if result.training is not None:
            drawn.append((f"{caption}: what each stage does", stages.draw(result.training)))
        pictures += tuple(_picture("pipeline", 4 * place + i, *each) for i, each in enumerate(drawn))
    reading = (
        "A stage runs one pass of one micro-batch after the other; two that overlap share its row. Blanks are the bubble: "
        "the stage waits for its neighbours."
    )
    return Section("pipeline", "The pipeline", reading, pictures)


def _memory(runs: Captioned) -> Section | None:
    if not any(result.memory.breakdown for _, result in runs):
        return None
    reading = (
        "What the device with least memory to spare holds in the step that needs most. Dispatch buffers are sized "
        "before routing is known: for the most that can arrive."
    )
    rows = [(result.strategy, result.memory) for _, result in runs]
    return Section("memory", "Memory", reading, (_picture("memory", 0, "The tightest device", memory_plot.draw(rows)),))


def _same_scale(runs: Captioned) -> str:
    return " Both on one scale." if len(runs) > 1 else ""


def _layer_index(result: SimulationResult, ordinal: int) -> int:
    return result.layers[ordinal].layer if ordinal < len(result.layers) else ordinal


def _rank_words(result: SimulationResult, place: tuple[int, int]) -> str:
    assert result.tables is not None
    spans = result.tables.spans
    chosen = timeline.layer_spans(spans, *place)
    ranks, total = len(timeline.drawn_ranks(spans, chosen)), len(set(spans.rank[chosen].tolist()))
    return f"all {total} ranks" if ranks == total else f"{ranks} of {total} ranks"


def _loads(runs: Captioned) -> Section | None:
    if not any(result.tables is not None and result.tables.load_LD.any() for _, result in runs):
        return None
    top = max(device_load.highest_load(result) for _, result in runs)
    reading = (
        "Tokens that each device's experts compute, over the mean of the layer (1x, white). A step waits for its "
        f"fullest device, so dark red is time lost.{_dead_words(runs)}{_same_scale(runs)}"
    )
    pictures = _each("load", runs, lambda result: device_load.draw(result, top))
    return Section("load", "Load of the devices", reading, pictures)


def _dead_words(runs: Captioned) -> str:
    return " Blank columns are devices that are down." if any(dead_devices(result) for _, result in runs) else ""


def _links(runs: Captioned) -> Section | None:
    top = max((float(link_use(result).max(initial=0.0)) for _, result in runs), default=0.0)
    if top <= 0:
        return None
    reading = (
        "Bytes each link carried over what it could have carried in that time. A link far brighter than its "
        f"neighbours is one that many tokens wait for.{_same_scale(runs)}"
    )
    pictures = _each("links", runs, lambda result: links.draw(result, top))
    return Section("links", "Use of the links", reading, pictures)


def _fan_out(runs: Captioned) -> Section | None:
    if not any(result.tables is not None and result.tables.fanout_nodes_count.any() for _, result in runs):
        return None
    reading = (
        "Nodes that hold experts of one token. A dispatch with node_dedup crosses to each only once, so fewer nodes "
        "mean fewer bytes between nodes."
    )
    return Section("fan-out", "Fan-out", reading, (_picture("fan-out", 0, "Nodes per token", fan_out.draw(runs)),))
