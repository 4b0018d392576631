"""interleaved: 1f1b over v parts a stage (Megatron-LM, arXiv 2104.04473); bubble 1/v of that of 1f1b.

Part c x p + s lies on stage s. Micro-batches go in rounds of p: a stage runs p of them through its first part, then the
same p through its second, and so on; backward passes take the parts in reverse.
"""

from moesim.errors import InputError
from moesim.simulation.passes import Order, Pass, make_order


def order(stages: int, micro_batches: int, chunks: int) -> Order:
    """Raises InputError where the micro-batches are no multiple of the stages."""
    if micro_batches % stages:
        raise InputError(
            f"schedule interleaved needs train.micro_batches a multiple of pp={stages}, got {micro_batches}; "
            f"take {-(-micro_batches // stages) * stages}"
        )
    total = micro_batches * chunks

    def batch_and_chunk(place: int) -> tuple[int, int]:
        """Micro-batch and chunk of the place-th forward pass of every stage."""
        chunk, within = divmod(place % (stages * chunks), stages)
        return place // (stages * chunks) * stages + within, chunk

    made = []
    for stage in range(stages):
        forward, backward = [], []
        for place in range(total):
            batch, chunk = batch_and_chunk(place)
            forward.append(Pass("forward", batch, chunk * stages + stage))
            backward.append(Pass("backward", batch, (chunks - 1 - chunk) * stages + stage))
        ahead = min(2 * (stages - stage - 1) + (chunks - 1) * stages, total)
        slots = forward[:ahead]
        for place in range(ahead, total):
            slots += [forward[place], backward[place - ahead]]
        made.append(slots + backward[total - ahead :])
    return make_order(made)
