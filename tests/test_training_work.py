"""What passes ask of devices: GEMMs twice backward, collectives swapped, recomputation in front."""

import dataclasses

import numpy as np
import pytest

from moesim.scenario import make_scenario
from moesim.setting import load_setting
from moesim.step_work import StepWork
from moesim.study.placing import placed
from moesim.training_work import PartWork, TrainingRules
from tests.strategies.scenario import tiny_scenario

RULES = TrainingRules(
    recompute="none", gradient_bytes=0.0, shared_beside=False, tensor_s=0.0, spread_s=(0.0, 0.0), gather_s=(0.0,)
)


@pytest.fixture
def part(tmp_path):
    """The whole tiny model as one part, under rules that may be changed."""

    def make(parallel=None, **changes):
        data = tiny_scenario(tmp_path, mode={"kind": "train"}, parallel={"ep": 16} if parallel is None else parallel)
        setting = load_setting(make_scenario(data))
        _, plan, _ = placed(setting, None)
        (dealt, _) = setting.steps()
        work = StepWork(plan=plan, dealt=dealt, context=8)
        return PartWork(work, range(3), 0, dataclasses.replace(RULES, **changes), last=True)

    return make


def seconds(steps, phase=None):
    return sum(step.cost.time_s for step in steps if step.cost is not None and phase in (None, step.phase))


def collectives(steps):
    return [(step.phase, step.collective) for step in steps if step.collective is not None]


def test_gradients_of_inputs_and_of_weights_cost_a_forward_pass_each(part):
    """Experts and head: twice the forward time backward, in one pass or in two."""
    made = part()
    forward, both, inputs, weights = (
        made.steps(kind) for kind in ("forward", "backward", "backward_input", "backward_weight")
    )
    for phase in ("experts", "other"):
        assert 2 * seconds(forward, phase) == pytest.approx(seconds(both, phase))
        assert seconds(both, phase) == pytest.approx(seconds(inputs, phase) + seconds(weights, phase))
    assert seconds(both) == pytest.approx(seconds(inputs) + seconds(weights))
    assert (seconds(both, "attention") > 2 * seconds(forward, "attention")).all()  # the scores cost 2.5 times as much


def test_dispatch_and_combine_swap_roles_backward(part):
    """Gradients of outputs travel as the dispatch did, those of inputs as the combine, layers in reverse."""
    made = part()
    there = collectives(made.steps("forward"))
    back = collectives(made.steps("backward"))
    assert ["dispatch", "combine"] * 2 == [phase for phase, _ in there]
    assert ["combine", "dispatch"] * 2 == [phase for phase, _ in back]
    dispatched, combined = there[2][1], there[3][1]
    assert (dispatched, combined) == (back[0][1], back[1][1])
    assert [] == collectives(made.steps("backward_weight"))


def test_full_recomputation_runs_a_layer_forward_before_its_gradients(part):
    """Backward then has every collective of the forward pass too."""
    made = part(recompute="full")
    assert ["dispatch", "combine", "combine", "dispatch"] * 2 == [
        phase for phase, _ in collectives(made.steps("backward"))
    ]
    extra = seconds(made.steps("backward")) - seconds(part().steps("backward"))
    assert seconds(part().steps("forward")) - seconds(part().steps("forward"), "other") == pytest.approx(extra)


def test_adding_to_gradients_in_memory_bounds_the_weights_pass(part):
    """With enough bytes a gradient, the pass of the weights takes 2 x bytes x weights / memory rate."""
    made = part(gradient_bytes=1e6)
    model, rates = made.work.plan.model, made.work.plan.rates
    expected = 2e6 * model.expert_params / rates.memory_bytes_per_s  # one expert a device
    experts = [step for step in made.steps("backward_weight") if step.phase == "experts"]
    loaded = made.layers[-1].work.load_D > 0
    assert expected[loaded] == pytest.approx(experts[0].cost.time_s[loaded])
    assert experts[0].cost.memory_bound[loaded].all()


def test_tensor_parallel_groups_gather_and_scatter_round_attention_and_mlp(part):
    """Two collectives round each attention and each dense MLP, forward and backward; none in the weights' pass."""
    plain, cut = part(), part(tensor_s=1.0)
    for kind in ("forward", "backward_input"):
        extra = seconds(cut.steps(kind)) - seconds(plain.steps(kind))
        assert np.full(16, 2.0 * (3 + 1)) == pytest.approx(extra)
    assert seconds(plain.steps("backward_weight")) == pytest.approx(seconds(cut.steps("backward_weight")))


def test_gathered_weights_come_before_both_passes(part):
    """ZeRO 3: one more step in front, none before the weights' pass."""
    made = part(gather_s=(0.5,))
    assert [0.5, 0.5] == [made.steps(kind)[0].cost.time_s[0] for kind in ("forward", "backward")]
    assert len(part().steps("backward_weight")) == len(made.steps("backward_weight"))


def test_expert_tensor_parallel_devices_share_their_pairs(part):
    """With etp 2 both devices of a group compute the pairs of both; per byte, gathering costs time round the experts."""
    made = part(parallel={"ep": 8, "etp": 2}, spread_s=(1.0, 0.0))
    steps = made.steps("forward")
    experts = next(step.cost.time_s for step in steps if step.phase == "experts")
    loads = made.layers[-1].work.load_D
    assert (experts[:8] == experts[8:]).all()
    assert (experts >= 2.0).all()
    assert loads[:8].tolist() != loads[8:].tolist()
