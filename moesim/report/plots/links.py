"""How busy every link was: one small heat map per tier and direction."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from moesim.report.figure import INK, new_figure, styled
from moesim.report.link_grid import LinkGrid, link_grids
from moesim.report.words import printable
from moesim.result import SimulationResult

_TIER_WORDS = {"scale_up": "scale-up", "ici": "ICI", "nic": "NIC", "dcn": "DCN", "copy_engine": "copy engine"}
_SHOWN_ROWS = 8


@styled
def draw(result: SimulationResult, top: float) -> Figure:
    """Colour from 0 to `top` (share of the time a link was needed at full rate), the same scale in every grid."""
    grids = link_grids(result)
    rows = _rows(grids)[:_SHOWN_ROWS]
    heights = [0.35 + 0.16 * min(max(grid.use.shape[0] for grid in row), 12) for row in rows]
    height = max(0.5 + sum(heights) + 0.28 * len(rows), 1.5)
    figure, panels = new_figure(height, max(len(rows), 1), 2, height_ratios=heights or None)
    image = None
    for place, axes in enumerate(panels):
        row = rows[place // 2] if rows else []
        if place % 2 < len(row):
            image = _panel(axes, row[place % 2], top)
        else:
            axes.set_axis_off()
    if image is not None:
        bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.03, aspect=26)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}" if top >= 0.05 else f"{value:.1%}")
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0)
    return figure


def _rows(grids: list[LinkGrid]) -> list[list[LinkGrid]]:
    """Two grids a row, none of two tiers; those of a tier in their order."""
    rows = []
    for tier in dict.fromkeys(grid.tier for grid in grids):
        mine = [grid for grid in grids if grid.tier == tier]
        rows += [mine[place : place + 2] for place in range(0, len(mine), 2)]
    return rows


def _panel(axes: Axes, grid: LinkGrid, top: float) -> AxesImage:
    image = axes.imshow(grid.use, cmap="viridis", vmin=0.0, vmax=top, aspect="auto")
    name = f"{_TIER_WORDS.get(grid.tier, grid.tier)} {grid.direction}".strip()
    axes.set_title(printable(name, 24), loc="left", size=8.5, color=INK, pad=3)
    rows, columns = grid.use.shape
    axes.set_xticks(*_ticks(columns))
    axes.set_yticks(*_ticks(rows) if grid.row_word and rows > 1 else ([], []))
    if grid.row_word and rows > 1:
        axes.set_ylabel(printable(grid.row_word, 24))
    axes.set_xlabel(printable(grid.column_word, 24), labelpad=1)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, pad=2, labelsize=7)
    return image


def _ticks(count: int) -> tuple[list[int], list[str]]:
    positions = list(range(0, count, max(1, -(-count // (8 if count <= 100 else 4)))))
    return positions, [str(position) for position in positions]
