"""Distinct nodes a token is sent to, as a histogram with one column per run."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import INK, QUIET, new_figure, styled
from moesim.report.words import printable
from moesim.result import SimulationResult

_SHOWN = 16


@styled
def draw(results: Sequence[tuple[str, SimulationResult]]) -> Figure:
    """`results` are (caption, result), at most two; the last is drawn in ink. Counts beyond 16 nodes are added up."""
    shares = [_shares(result) for _, result in results]
    first = 0 if any(share[0] > 0 for share in shares) else 1
    last = max((int(np.max(np.flatnonzero(share), initial=1)) for share in shares), default=1)
    figure, (axes,) = new_figure(2.5)
    width = 0.84 / max(len(results), 1)
    colours = [QUIET, INK][-len(results) :] if results else []
    for place, ((name, result), share) in enumerate(zip(results, shares, strict=True)):
        x = np.arange(first, last + 1) + (place - (len(results) - 1) / 2) * width
        label = f"{printable(name, 34)}, mean {result.fanout_nodes:.2f}"
        axes.bar(x, share[first : last + 1], width=width * 0.94, color=colours[place], label=label)
    ticks = list(range(first, last + 1))
    axes.set_xticks(ticks, [f"{tick}+" if tick == _SHOWN else str(tick) for tick in ticks])
    axes.set_ylim(0, 1.06 * max((float(share.max()) for share in shares), default=0.0) or 1.0)
    axes.set_xlabel("distinct nodes a token's experts lie on in one layer")
    axes.set_ylabel("share of tokens")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", handlelength=0.9, ncols=1)
    return figure


def _shares(result: SimulationResult) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Share of tokens by number of nodes, 0..16, the last holding all larger ones; zeros without tokens."""
    assert result.tables is not None
    counts = result.tables.fanout_nodes_count.astype(np.float64)
    shares = np.zeros(_SHOWN + 1)
    shares[: min(counts.size, _SHOWN)] = counts[:_SHOWN]
    shares[_SHOWN] = counts[_SHOWN:].sum()
    total = shares.sum()
    return shares / total if total > 0 else shares
