"""one_f_one_b (1f1b): one forward, one backward in turn (PipeDream-Flush, arXiv 2006.09503); bubble as gpipe's."""

from moesim.simulation.passes import Order, Pass, make_order


def order(stages: int, micro_batches: int, chunks: int) -> Order:
    """Stage s starts with p - s - 1 forward passes, so it holds p - s micro-batches at most."""
    made = []
    for stage in range(stages):
        ahead = min(stages - stage - 1, micro_batches)
        slots = [Pass("forward", batch, stage) for batch in range(ahead)]
        for batch in range(ahead, micro_batches):
            slots += [Pass("forward", batch, stage), Pass("backward", batch - ahead, stage)]
        slots += [Pass("backward", batch, stage) for batch in range(micro_batches - ahead, micro_batches)]
        made.append(slots)
    return make_order(made)
