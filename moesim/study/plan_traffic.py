"""Plan traffic: the bytes that a plan moves from device to device on its scenario's steps.

Array letters: F flow, D device.
"""

import dataclasses
import functools

import numpy as np
from numpy.typing import NDArray

from moesim.errors import InputError
from moesim.exporters.export import LayerTraffic
from moesim.network.flow import Flows
from moesim.plan_file import Plan
from moesim.scenario import Scenario
from moesim.setting import load_setting
from moesim.step_bound import collective_time
from moesim.step_work import StepWork, WorkPlan
from moesim.study.work_plan import make_work_plan


class TrafficCounter:
    """Counts a plan's traffic under a scenario, layer by layer; the scenario is opened when somebody asks."""

    def __init__(self, plan: Plan, scenario: Scenario) -> None:
        self.plan, self.scenario = plan, scenario

    @functools.cached_property
    def _steps(self) -> tuple[WorkPlan, list[StepWork]]:
        setting = load_setting(self.scenario)
        if setting.training:
            raise InputError(
                "traffic is counted for decode and prefill steps; give --scenario with mode kind prefill and the same trace"
            )
        policy = self.scenario.dispatch.replica or self.plan.replica_policy
        work = make_work_plan(setting, self.plan.placements, policy)
        return work, [StepWork(plan=work, dealt=dealt) for dealt in setting.steps()]

    def layer(self, ordinal: int) -> LayerTraffic:
        """Mean over the scenario's steps."""
        work, steps = self._steps
        parts = [_traffic_of(work, step, ordinal) for step in steps]
        means = {
            field.name: np.mean([getattr(part, field.name) for part in parts], axis=0)
            for field in dataclasses.fields(LayerTraffic)
        }
        return LayerTraffic(**{**means, **{name: float(means[name]) for name in ("dispatch_s", "combine_s")}})


def _traffic_of(work: WorkPlan, step: StepWork, ordinal: int) -> LayerTraffic:
    layer, links = step.layer(ordinal), work.builder.links
    return LayerTraffic(
        dispatch_DD=_bytes(layer.dispatch.flows, work.num_devices),
        combine_DD=_bytes(layer.combine.flows, work.num_devices),
        attention_s_D=layer.attention.time_s,
        experts_s_D=layer.experts.time_s,
        tokens_D=step.tokens_D,
        load_D=layer.load_D.astype(np.float64),
        dispatch_s=collective_time(layer.dispatch, links),
        combine_s=collective_time(layer.combine, links),
    )


def _bytes(flows: Flows, num_devices: int) -> NDArray[np.float64]:
    """Bytes from device to device over all flows."""
    pair_F = flows.source_F.astype(np.int64) * num_devices + flows.target_F
    total = np.bincount(pair_F, weights=flows.bytes_F, minlength=num_devices**2).astype(np.float64)
    return total.reshape(num_devices, num_devices)
