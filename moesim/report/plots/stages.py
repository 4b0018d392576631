"""Where the seconds of each pipeline stage go in a training step: one bar a stage, stacked by what it does."""

import numpy as np
from matplotlib.figure import Figure

from moesim.report.figure import INK, PHASE_COLOUR, QUIET, new_figure, styled
from moesim.report.words import scale_of_time
from moesim.result import TrainingResult

# What a stage does, in the order it is stacked: field of StageResult, words, colour.
PARTS = (
    ("forward_s", "forward", PHASE_COLOUR["attention"]),
    ("backward_s", "backward", PHASE_COLOUR["experts"]),
    ("overlapped_s", "both overlapped", "#56b4e9"),
    ("weight_gradient_s", "weights' gradients", PHASE_COLOUR["dispatch"]),
    ("gradient_reduction_s", "reduction of gradients", PHASE_COLOUR["combine"]),
    ("optimizer_s", "optimizer", PHASE_COLOUR["dense"]),
    ("bubble_s", "idle", QUIET),
)


@styled
def draw(training: TrainingResult) -> Figure:
    """Stages from the top down; every bar is as long as the step."""
    stages = training.stages
    longest = max((sum(getattr(stage, name) for name, _, _ in PARTS) for stage in stages), default=0.0)
    factor, unit = scale_of_time(longest)
    figure, (axes,) = new_figure(min(3.6, 1.5 + 0.16 * max(len(stages), 4)))
    left = np.zeros(len(stages))
    for name, words, colour in PARTS:
        width = np.array([getattr(stage, name) * factor for stage in stages])
        if width.any():
            axes.barh(range(len(stages)), width, left=left, height=0.8, color=colour, label=words)
        left = left + width
    every = max(1, -(-len(stages) // 8))
    axes.set_yticks(range(0, len(stages), every), [str(stage.stage) for stage in stages[::every]], color=INK)
    axes.set_ylim(max(len(stages), 1) - 0.4, -0.6)
    axes.set_xlim(0, longest * factor * 1.02 or 1.0)
    axes.set_xlabel(f"time of a step ({unit})")
    axes.set_ylabel("stage")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=0.9)
    return figure
