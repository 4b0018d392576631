"""A simulated step against closed forms."""

import numpy as np
import pytest

from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.simulation.run import run_step
from moesim.step_bound import balanced_phases, step_phases
from moesim.step_work import StepWork
from moesim.study.placing import placed
from tests.strategies.scenario import tiny_scenario


def symmetric_step(num_ranks=16, num_layers=2):
    """Every rank sends one token to each pair of experts (r + i, r + i + 1): all devices and links carry the same."""
    tokens = np.arange(num_ranks * 16)
    first = (tokens // 16 + tokens % 16) % 16
    experts = np.stack([first, (first + 1) % 16], axis=1).astype(np.int32)
    rank = np.repeat(np.arange(num_ranks, dtype=np.int32), 16)
    return DealtStep(0, rank, np.repeat(experts[None], num_layers, axis=0), None, 1.0)


def work_of(folder, algorithm):
    setting = load_setting(make_scenario(tiny_scenario(folder, dispatch={"algorithm": algorithm})))
    return placed(setting, None)[1]


@pytest.mark.parametrize("algorithm", ["direct", "per_device", "node_dedup", "all_gather"])
def test_an_even_step_is_the_closed_form(tmp_path, algorithm):
    """With equal work everywhere nobody waits for anybody: the DES step under `bound` equals the sum of phases."""
    work = StepWork(plan=work_of(tmp_path, algorithm), dealt=symmetric_step())
    assert step_phases(work).step_s == pytest.approx(run_step(work, fidelity="bound", tolerance=0.0).time_s, rel=1e-9)


@pytest.mark.parametrize("algorithm", ["direct", "per_device", "node_dedup", "all_gather"])
def test_an_even_step_under_fluid_adds_differences_of_latency_only(tmp_path, algorithm):
    """The closed form takes a link's smallest latency; flows that share it may have the largest: at most that more."""
    work = StepWork(plan=work_of(tmp_path, algorithm), dealt=symmetric_step())
    latency = work.layer(0).dispatch.flows.latency_F
    bound_s = step_phases(work).step_s
    fluid_s = run_step(work, fidelity="fluid", tolerance=0.0).time_s
    assert bound_s * (1 - 1e-12) <= fluid_s <= bound_s + 4 * (latency.max() - latency.min()) + 1e-12


@pytest.mark.parametrize("algorithm", ["direct", "per_device", "node_dedup", "all_gather"])
def test_an_even_step_is_perfectly_balanced(tmp_path, algorithm):
    """Perfect balance of work that is balanced already changes nothing."""
    work = StepWork(plan=work_of(tmp_path, algorithm), dealt=symmetric_step())
    assert step_phases(work).step_s == pytest.approx(balanced_phases(work).step_s, rel=1e-9)


def test_a_step_without_tokens_takes_the_fixed_costs_only(tmp_path):
    """Two collectives a layer, no compute, no bytes."""
    empty = DealtStep(0, np.zeros(0, np.int32), np.zeros((2, 0, 2), np.int32), None, 0.0)
    plan = work_of(tmp_path, "node_dedup")
    fixed = plan.builder.fixed_s("dispatch") + plan.builder.fixed_s("combine")
    for fidelity in ("bound", "fluid"):
        time_s = run_step(StepWork(plan=plan, dealt=empty), fidelity=fidelity, tolerance=0.0).time_s
        assert 2 * fixed == pytest.approx(time_s, rel=1e-12)


def test_one_device_alone_only_computes(tmp_path):
    """ep 1 on one device: dispatch and combine cost their fixed time, nothing travels."""
    scenario = tiny_scenario(tmp_path, cluster={"topology": "dgx-h100-superpod", "nodes": 1}, parallel={"ep": 1})
    setting = load_setting(make_scenario(scenario))
    work = StepWork(plan=placed(setting, None)[1], dealt=next(iter(setting.steps())))
    phases = step_phases(work)
    fixed = 2 * (work.plan.builder.fixed_s("dispatch") + work.plan.builder.fixed_s("combine"))
    assert fixed == pytest.approx(phases.dispatch_s + phases.combine_s, rel=1e-12)
