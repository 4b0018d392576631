"""dualpipe: micro-batches enter at both ends; a forward and a backward pass of opposite ways overlap (arXiv 2412.19437).

Stage i holds parts i and p - 1 - i. Micro-batches 0..m/2-1 go from stage 0 up, m/2..m-1 from stage p - 1 down. Seen
from a stage, way 0 starts at the end it is nearer to; the eight runs of passes below, with h = distance to the nearer
end and half = p / 2, are those of the published implementation (github.com/deepseek-ai/DualPipe, its `step`):
  2 (half - h - 1) F0 | (h + 1) (F0 F1) | (half - h - 1) (I1 W F1) | (m/2 - p + h + 1) (F0+B1 F1+B0)
  | (half - h - 1) (B1 F1+B0) | (h + 1) (B1 B0), the later half as I | (half - h - 1) (W I0) | (h + 1) W
where F is forward, B backward, I and W its halves, W the oldest put off, and + an overlapped pair.
"""

from moesim.errors import InputError
from moesim.simulation.passes import Kind, Order, Pass, Slot, make_order


def order(stages: int, micro_batches: int, chunks: int) -> Order:
    """Raises InputError unless the stages are even and the micro-batches even and at least twice as many."""
    if stages % 2 or micro_batches % 2 or micro_batches < 2 * stages:
        raise InputError(
            f"schedule dualpipe needs an even pp and an even train.micro_batches of at least 2 x pp, got pp={stages} and "
            f"micro_batches={micro_batches}; with pp={stages + stages % 2} take {2 * (stages + stages % 2)} or more"
        )
    return make_order([_stage(stage, stages, micro_batches // 2) for stage in range(stages)])


class _Stage:
    """Slots of one stage as they are added; way 0 starts at the nearer end of the pipeline."""

    def __init__(self, stage: int, stages: int, half_batches: int) -> None:
        in_second_half = stage >= stages // 2
        self.slots: list[Slot] = []
        self._part = (stages - 1 - stage, stage) if in_second_half else (stage, stages - 1 - stage)
        self._first = (half_batches, 0) if in_second_half else (0, half_batches)
        self._done = {"forward": [0, 0], "backward": [0, 0]}
        self._put_off: list[Pass] = []

    def _next(self, way: int, kind: Kind) -> Pass:
        done = self._done["forward" if kind == "forward" else "backward"]
        done[way] += 1
        return Pass(kind, self._first[way] + done[way] - 1, self._part[way])

    def forward(self, way: int) -> None:
        self.slots.append((self._next(way, "forward"),))

    def backward(self, way: int, *, put_off: bool = False) -> None:
        made = self._next(way, "backward_input" if put_off else "backward")
        self.slots.append((made,))
        if put_off:
            self._put_off.append(made._replace(kind="backward_weight"))

    def weights(self) -> None:
        self.slots.append((self._put_off.pop(0),))

    def pair(self, forward_way: int) -> None:
        self.slots.append((self._next(forward_way, "forward"), self._next(1 - forward_way, "backward")))


def _stage(stage: int, stages: int, half_batches: int) -> list[Slot]:
    inner = min(stage, stages - 1 - stage)
    outer = stages // 2 - inner - 1
    made = _Stage(stage, stages, half_batches)
    for _ in range(2 * outer):
        made.forward(0)
    for _ in range(inner + 1):
        made.forward(0)
        made.forward(1)
    for _ in range(outer):
        made.backward(1, put_off=True)
        made.weights()
        made.forward(1)
    for turn in range(half_batches - stages + inner + 1):
        if turn == 0 and outer == 0:  # the middle stages do not overlap their first two, which shortens the bubble
            made.forward(0)
            made.backward(1)
        else:
            made.pair(0)
        made.pair(1)
    for _ in range(outer):
        made.backward(1)
        made.pair(1)
    put_off = False
    for turn in range(inner + 1):
        put_off = put_off or (turn == (inner + 1) // 2 and inner % 2 == 1)
        made.backward(1, put_off=put_off)
        put_off = put_off or (turn == (inner + 1) // 2 and inner % 2 == 0)
        made.backward(0, put_off=put_off)
    for _ in range(outer):
        made.weights()
        made.backward(0, put_off=True)
    for _ in range(inner + 1):
        made.weights()
    return made.slots
