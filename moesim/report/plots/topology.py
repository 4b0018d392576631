"""A cluster as a picture: whole when small, and honest about what is left out when not."""

import io
from pathlib import Path

from matplotlib.figure import Figure

from moesim.cluster import Cluster, DragonflyLayout, GraphLayout, TorusLayout
from moesim.report.figure import PAPER
from moesim.report.files import write_files
from moesim.report.plots._grid_drawing import draw_grid
from moesim.report.plots._network_drawing import draw_dragonfly, draw_graph
from moesim.report.plots._tree_drawing import draw_tree

DOTS_PER_INCH = 110


def draw_topology(cluster: Cluster, path_png: Path) -> Path:
    """Write the picture as PNG and return its path: same cluster, same bytes.

    Raises InputError in one sentence where the file cannot be written.
    """
    buffer = io.BytesIO()
    draw(cluster).savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor=PAPER, metadata={"Software": None})
    return write_files(path_png.parent, {path_png.name: buffer.getvalue()})[0]


def draw(cluster: Cluster) -> Figure:
    """The picture of the cluster's kind; the line under it says what is left out."""
    layout = cluster.layout
    if isinstance(layout, TorusLayout):
        return draw_grid(cluster, layout)
    if isinstance(layout, DragonflyLayout):
        return draw_dragonfly(cluster, layout)
    if isinstance(layout, GraphLayout):
        return draw_graph(cluster, layout)
    return draw_tree(cluster, layout)
