"""zero_bubble: 1f1b with the weights' gradients put off into what would be bubbles (ZB-H1, arXiv 2401.10241).

Stage s runs p - s - 1 forward passes ahead, as in 1f1b, and the weights' pass of a micro-batch s backward passes after
its gradient of the input: so a stage holds p micro-batches at most until their weights' gradients are made, as many as
the first stage of 1f1b. With equal passes the bubble is (p - 1) (F + B - W), a third of that of 1f1b.
"""

from moesim.simulation.passes import Order, Pass, make_order


def order(stages: int, micro_batches: int, chunks: int) -> Order:
    """Fixed here, whatever the passes last in the run."""
    return make_order([_stage(stage, stages, micro_batches) for stage in range(stages)])


def _stage(stage: int, stages: int, micro_batches: int) -> list[Pass]:
    ahead = min(stages - stage - 1, micro_batches)
    slots = [Pass("forward", batch, stage) for batch in range(ahead)]
    for batch in range(micro_batches):
        if batch + ahead < micro_batches:
            slots.append(Pass("forward", batch + ahead, stage))
        slots.append(Pass("backward_input", batch, stage))
        if batch >= stage:
            slots.append(Pass("backward_weight", batch - stage, stage))
    late = range(max(micro_batches - stage, 0), micro_batches)
    return slots + [Pass("backward_weight", batch, stage) for batch in late]
