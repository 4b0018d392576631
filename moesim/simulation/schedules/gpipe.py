"""gpipe: all forward passes, then all backward passes (arXiv 1811.06965); bubble share (p - 1) / (m + p - 1)."""

from moesim.simulation.passes import Order, Pass, make_order


def order(stages: int, micro_batches: int, chunks: int) -> Order:
    """Backward passes in the order of the forward ones; every stage holds all micro-batches."""
    batches = range(micro_batches)
    return make_order(
        [[Pass(kind, batch, stage) for kind in ("forward", "backward") for batch in batches] for stage in range(stages)]
    )
