"""Memory decides: more copies of every expert mean fewer nodes a token, more bytes a device, and gradients to exchange.

With room for every expert on every node a token stays on its node, and what is left is in-node traffic and weight reads.
Serving pays for copies with memory alone; training also with optimizer states and the exchange of gradients between them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moesim.memory import slot_bytes, slots_of_devices
from moesim.scenario import Scenario
from moesim.setting import load_setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork
from moesim.study.placing import place_experts, policy_of, problem_for
from moesim.study.work_plan import make_work_plan

STRATEGY = "topology"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesPoint:
    """One number of copies (room for `copies` x experts) judged on steps that it was not planned on; closed form.

    `device_bytes`: expert weights of the fullest device, all layers; the times are of the mean judged step.
    """

    copies: int
    device_bytes: float
    fanout_nodes: float
    fanout_devices: float
    communication_s: float
    step_s: float


def sweep_copies(scenario: Scenario, copies: Sequence[int]) -> Iterator[CopiesPoint]:
    """The scenario with room for r copies of every expert, for each r: planned on compare.plan_steps, judged on its steps."""
    for number in copies:
        setting = load_setting(scenario)
        slots = number * setting.model.num_experts
        setting = load_setting(scenario.changed(placement={"strategy": STRATEGY, "slots": slots}))
        problem = problem_for([STRATEGY], setting, scenario.compare.plan_steps)
        answer = place_experts(setting, STRATEGY, problem)
        work = make_work_plan(setting, answer.placements, policy_of(setting, STRATEGY))
        steps = [StepWork(plan=work, dealt=dealt) for dealt in setting.steps()]
        phases = [step_phases(step) for step in steps]
        nodes, devices = steps[0].layer(0).mean_fanout()
        each = slot_bytes(setting.model, setting.weight_dtype)
        yield CopiesPoint(
            copies=number,
            device_bytes=float(slots_of_devices(answer.placements).max() * each),
            fanout_nodes=nodes,
            fanout_devices=devices,
            communication_s=sum(phase.dispatch_s + phase.combine_s for phase in phases) / len(phases),
            step_s=sum(phase.step_s for phase in phases) / len(phases),
        )


def most_experts(device_bytes: float, devices_per_node: int, bytes_per_expert: float) -> float:
    """Experts, summed over layers, of which one node holds a whole copy in `device_bytes` of each of its devices.

    >>> most_experts(64e9, 8, 4096.0) / 2**20  # bf16 weights of single neurons, d_model 1024, 64 GB of an H100
    119.20928955078125
    """
    return device_bytes * devices_per_node / bytes_per_expert


def gradient_exchange_s(
    num_experts: float, gradient_bytes: float, devices_per_node: int, num_nodes: int, nic_bytes_per_s: float
) -> float:
    """Seconds of a ring all-reduce of the gradients of all experts between nodes that each hold a whole copy.

    Every device reduces its share of the node's experts over its own NIC. Gradients are dense: with few tokens a step most
    are zero, and sparse ones (ids and touched rows) take the touched share of this.

    >>> round(gradient_exchange_s(2**20, 4096.0, 8, 128, 50e9) * 1e3, 1)
    21.3
    """
    share = num_experts * gradient_bytes / devices_per_node
    return 2.0 * (num_nodes - 1) / num_nodes * share / nic_bytes_per_s


def tokens_to_pay(one: CopiesPoint, whole: CopiesPoint, exchange_s: float, tokens: int) -> float:
    """Tokens of a training step from which a whole copy on every node is quicker than one copy in all; inf: never.

    A step sends tokens forward and backward, each as the judged step of `tokens` tokens does; the exchange is per step.
    """
    saved_s = 2.0 * (one.communication_s - whole.communication_s)
    return exchange_s / saved_s * tokens if saved_s > 0 else float("inf")
