"""SimulatedDevice: one rank's device under SimPy: it computes one thing at a time, and every span is recorded."""

from collections.abc import Generator
from typing import Any

import simpy

from moesim.simulation.recorder import Recorder

Process = Generator[simpy.Event, Any, None]


class SimulatedDevice:
    """Born idle; a rank process asks it to compute or to communicate, and it tells the recorder when each took place."""

    def __init__(self, env: simpy.Environment, rank: int, recorder: Recorder) -> None:
        self.env, self.rank, self.recorder = env, rank, recorder
        self.compute_stream = simpy.Resource(env, capacity=1)

    def compute(self, phase: str, layer: int, seconds: float) -> Process:
        """Hold the compute stream for `seconds`; starts when the stream is free, ends with the span recorded.

        Work of zero seconds takes no event and leaves no span.
        """
        if seconds <= 0.0:
            return
        with self.compute_stream.request() as turn:
            yield turn
            start_s = self.env.now
            yield self.env.timeout(seconds)
            self.recorder.add(self.rank, layer, phase, start_s, self.env.now)

    def communicate(self, phase: str, layer: int, released: simpy.Event) -> Process:
        """Wait for `released`, the event of this rank's receives; the span is the whole wait."""
        start_s = self.env.now
        yield released
        self.recorder.add(self.rank, layer, phase, start_s, self.env.now)
