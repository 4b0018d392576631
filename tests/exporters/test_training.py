"""Permutations and flags for training stacks."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.capacity import Capacity
from moesim.errors import InputError
from moesim.exporters import ExportRequest, TargetRefuses, expert_permutation, export_plan
from moesim.exporters.expert_order import groups_kept, read_permutation
from moesim.exporters.group_order import whole_groups
from tests.exporters.test_serving import IDENTITY, MODEL, UNEVEN
from tests.strategies.plan import exported, plan_of, plans

STACKS = ("deepspeed", "hf-checkpoint", "maxtext", "megatron", "torchtitan", "tutel")


@settings(max_examples=30)
@given(plan=plans(replicas=False), ending=st.sampled_from([".json", ".npz"]), target=st.sampled_from(STACKS[1:]))
def test_the_permutation_reads_back_from_both_formats(plan, ending, target):
    """Row l, position s: the expert in slot s of the plan; layers are model layer indices."""
    content = exported(plan, target, f"p{ending}", MODEL).files[f"p{ending}"]
    order, layers = read_permutation(content)
    assert (list(plan.layers), [list(row) for row in plan.expert_of_slot]) == (layers, order.tolist())
    assert (np.array(expert_permutation(plan)) == order).all()


@pytest.mark.parametrize("target", STACKS)
def test_replicas_are_refused_by_every_training_stack(target):
    """Exit status 2, and the slots of the nearest plan."""
    row = (*IDENTITY, 0, 5, 9, 13)
    with pytest.raises(TargetRefuses, match="slots=16") as refused:
        exported(plan_of((row, row), 4), target, "p.json", MODEL)
    assert (2, 16) == (refused.value.exit_status, refused.value.slots)


@pytest.mark.parametrize("target", STACKS)
def test_ranks_that_do_not_divide_the_experts_are_refused_with_the_ranks_that_do(target):
    """16 experts on 3 ranks: no number of slots helps."""
    with pytest.raises(TargetRefuses, match="1, 2, 4, 8, 16") as refused:
        exported(plan_of((IDENTITY, IDENTITY), 3), target, "p.json", MODEL)
    assert refused.value.slots is None


def flags(target, policy="dropless", factors=(), **capacity):
    """Launch flags of the identity on 4 ranks."""
    plan = plan_of((IDENTITY, IDENTITY), 4, capacity_factors=factors)
    request = ExportRequest(
        plan=plan, target=target, out=_path(), model=MODEL, capacity=Capacity(policy=policy, **capacity)
    )
    return export_plan(request).launch_flags


def _path():
    from pathlib import Path

    return Path("p.json")


def test_megatron_flags_follow_the_capacity_rule():
    """Dropless has no capacity flag; position and pad have theirs; probs is the other."""
    assert not [flag for flag in flags("megatron") if "capacity" in flag or "drop" in flag]
    position = flags("megatron", "drop_by_position", (1.25, 1.25), factor=1.25)
    assert {"--moe-expert-capacity-factor 1.25", "--moe-token-drop-policy position"} <= set(position)
    padded = flags("megatron", "pad", (1.0, 1.5), factor=1.0)
    assert {"--moe-expert-capacity-factor 1.5", "--moe-pad-expert-input-to-capacity"} <= set(padded)
    assert "--moe-token-drop-policy probs" in padded
    assert {"--expert-model-parallel-size 4", "--num-experts 16", "--moe-router-topk 2"} <= set(padded)
    assert "--moe-expert-capacity-factor 1.5" in flags("megatron", "drop_by_probability", (), factor=1.5)


def test_other_stacks_say_dropless_in_their_own_words():
    """MaxText -1, Tutel 0, DeepSpeed drop_tokens=False."""
    assert "capacity_factor=-1" in flags("maxtext")
    assert '"capacity_factor": 0' in flags("tutel")[0]
    assert "drop_tokens=False" in flags("deepspeed")[1]
    assert "capacity_factor=2" in flags("deepspeed", "pad", (2.0, 2.0), factor=2.0)[1]


def deepspeed_rule(descriptor):
    """DeepSpeed's own validator in short: version, one entry a rank, experts covered, none twice on a rank."""
    assert 1 == descriptor["version"]
    assert list(range(descriptor["ep_size"])) == [entry["rank"] for entry in descriptor["ranks"]]
    held = [entry["experts"] for entry in descriptor["ranks"]]
    assert set(range(descriptor["num_experts"])) == {expert for experts in held for expert in experts}
    assert all(len(set(experts)) == len(experts) for experts in held)
    return held


@settings(max_examples=30)
@given(plan=plans(replicas=False))
def test_deepspeed_descriptors_hold_what_the_ranks_hold(plan):
    """One descriptor where all layers agree, else one for every layer beside the permutation."""
    files = exported(plan, "deepspeed", "d.json", MODEL).files
    each = 16 // plan.num_devices
    for layer, row in zip(plan.layers, plan.expert_of_slot, strict=True):
        content = files.get(f"d.layer_{layer}.json", files["d.json"])
        expected = [list(row[first : first + each]) for first in range(0, 16, each)]
        assert expected == deepspeed_rule(json.loads(content))


@settings(max_examples=30)
@given(plan=plans(replicas=False), groups=st.sampled_from([2, 4, 8]))
def test_whole_groups_are_kept_and_found_with_few_moves(plan, groups):
    """Every group of positions holds one group of experts; a plan that keeps groups is left on its devices."""
    fitted = whole_groups(plan, groups)
    order = expert_permutation(fitted, num_groups=groups)
    assert groups_kept(order, groups).all()
    again = whole_groups(fitted, groups)
    each = 16 // plan.num_devices
    for one, two in zip(fitted.expert_of_slot, again.expert_of_slot, strict=True):
        assert [set(one[i : i + each]) for i in range(0, 16, each)] == [
            set(two[i : i + each]) for i in range(0, 16, each)
        ]


def test_a_plan_that_mixes_groups_is_refused():
    """Experts 0 and 15 change places: with two groups a permuted model would route otherwise."""
    row = (15, *range(1, 15), 0)
    plan = plan_of((IDENTITY, row), 4)
    assert (2, 16) == expert_permutation(plan).shape
    with pytest.raises(TargetRefuses, match="mixes groups in layer 2"):
        expert_permutation(plan, num_groups=2)


def test_a_checkpoint_is_refused_where_nothing_would_permute_it(tmp_path):
    """SGLang reads a map: --checkpoint would be ignored without a word."""
    request = ExportRequest(
        plan=plan_of((IDENTITY, IDENTITY), 4),
        target="sglang",
        out=tmp_path / "x.json",
        model=MODEL,
        checkpoint=tmp_path,
    )
    with pytest.raises(InputError, match="permutes no checkpoint"):
        export_plan(request)


def test_npz_of_the_same_plan_is_the_same_bytes():
    """No clock in the archive."""
    plan = plan_of((IDENTITY, IDENTITY), 4)
    first, second = (exported(plan, "megatron", "p.npz", MODEL).files["p.npz"] for _ in range(2))
    assert first == second
    assert {"layers", "permutation"} == set(np.load(io.BytesIO(first)).files)


def test_uneven_slots_are_no_permutation():
    """18 slots of 16 experts."""
    with pytest.raises(TargetRefuses):
        expert_permutation(plan_of((UNEVEN, UNEVEN), 4))
