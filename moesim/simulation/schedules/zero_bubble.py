"""zero_bubble: 1f1b with the weights' gradients put off into what would be bubbles (ZB-H1, arXiv 2401.10241).

The order is found by list scheduling with passes of one time unit each: a stage takes a backward pass of the input when
one is ready, else a forward pass if it may, else a put-off pass of the weights. It may run p - s forward passes ahead of
its backward ones, as in 1f1b, and hold p + p / 3 micro-batches until their weights' gradients are made, where 1f1b holds
p at most (with p the list scheduling does not reach the bubble). With equal passes the bubble is (p - 1) (F + B - W), a
third of that of 1f1b.
"""

from moesim.simulation.passes import Order, Pass, make_order


def order(stages: int, micro_batches: int, chunks: int) -> Order:
    """Fixed here, whatever the passes last in the run."""
    made: list[list[Pass]] = [[] for _ in range(stages)]
    most_held = stages + stages // 3
    counts = [[0, 0, 0] for _ in range(stages)]  # passes done by each stage: forward, of the input, of the weights
    while any(weight < micro_batches for _, _, weight in counts):
        before = [tuple(count) for count in counts]  # what has ended when this time unit begins
        for stage, count in enumerate(counts):
            forward, backward, weight = count
            come = micro_batches if stage == 0 else before[stage - 1][0]
            back = forward if stage == stages - 1 else before[stage + 1][1]
            if backward < min(back, forward):
                made[stage].append(Pass("backward_input", backward, stage))
                count[1] += 1
            elif forward < come and forward - backward < stages - stage and forward - weight < most_held:
                made[stage].append(Pass("forward", forward, stage))
                count[0] += 1
            elif weight < backward:
                made[stage].append(Pass("backward_weight", weight, stage))
                count[2] += 1
    return make_order(made)
