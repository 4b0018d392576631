"""DeviceStreams: what the micro-batches of one rank share: its compute stream, and the SMs that communication takes from it."""

from collections.abc import Generator
from typing import Any

import simpy

Process = Generator[simpy.Event, Any, None]


class DeviceStreams:
    """One stream computes one thing at a time, first come first served; transfers run beside it.

    While any transfer of the rank is in flight, compute runs at 1 - `sms_share` of its speed (0 = undisturbed). With
    `paced` its speed may be set in the course of the step.
    """

    def __init__(self, env: simpy.Environment, sms_share: float = 0.0, *, paced: bool = False) -> None:
        self.env, self.sms_share, self.paced = env, sms_share, paced
        self.speed = 1.0
        self.compute = simpy.Resource(env, capacity=1)
        self._in_flight = 0
        self._changed = env.event()

    def work(self, seconds: float) -> Process:
        """Pass the time that work of `seconds` at full speed takes; the caller holds the compute stream."""
        if self.sms_share == 0.0 and not self.paced:
            yield self.env.timeout(seconds)
            return
        left_s = seconds
        while True:
            speed = self.speed * (1.0 - self.sms_share if self._in_flight else 1.0)
            begun_s = self.env.now
            done = self.env.timeout(left_s / speed)
            yield done | self._changed
            if done.processed:
                return
            left_s = max(left_s - (self.env.now - begun_s) * speed, 0.0)

    def set_speed(self, speed: float) -> None:
        """From now on compute runs at `speed` times the speed that its seconds are for; only when `paced`."""
        if speed != self.speed:
            self.speed = speed
            self._change()

    def begin_transfer(self) -> None:
        """A transfer of this rank is in flight from now on."""
        self._in_flight += 1
        if self._in_flight == 1 and self.sms_share > 0.0:
            self._change()

    def end_transfer(self) -> None:
        """A transfer of this rank has released it."""
        self._in_flight -= 1
        if self._in_flight == 0 and self.sms_share > 0.0:
            self._change()

    def _change(self) -> None:
        """Wake what computes, so that it goes on at its new speed."""
        changed, self._changed = self._changed, self.env.event()
        changed.succeed()
