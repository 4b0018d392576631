"""SimulatedDevice: one rank's device under SimPy: it computes one thing at a time, and every span is recorded."""

import simpy

from moesim.simulation.recorder import Recorder
from moesim.simulation.streams import DeviceStreams, Process

__all__ = ["Process", "SimulatedDevice"]


class SimulatedDevice:
    """Born idle; a rank process asks it to compute or to communicate, and it tells the recorder when each took place."""

    def __init__(
        self, env: simpy.Environment, rank: int, recorder: Recorder, streams: DeviceStreams | None = None
    ) -> None:
        """`streams` is shared by the micro-batches of one rank; by default the rank has one."""
        self.env, self.rank, self.recorder = env, rank, recorder
        self.streams = streams if streams is not None else DeviceStreams(env)

    def compute(self, phase: str, layer: int, seconds: float) -> Process:
        """Hold the compute stream for `seconds`; starts when the stream is free, ends with the span recorded.

        Work of zero seconds takes no event and leaves no span.
        """
        if seconds <= 0.0:
            return
        with self.streams.compute.request() as turn:
            yield turn
            start_s = self.env.now
            yield from self.streams.work(seconds)
            self.recorder.add(self.rank, layer, phase, start_s, self.env.now)

    def communicate(self, phase: str, layer: int, released: simpy.Event, beside: Process | None = None) -> Process:
        """Wait for `released`, the event of this rank's receives, while `beside` runs; the span is until that event."""
        start_s = self.env.now
        self.streams.begin_transfer()

        def over(_event: simpy.Event) -> None:
            self.streams.end_transfer()
            self.recorder.add(self.rank, layer, phase, start_s, self.env.now)

        assert released.callbacks is not None  # it is told at this instant at the earliest, after this event
        released.callbacks.append(over)
        if beside is not None:
            yield from beside
        yield released
