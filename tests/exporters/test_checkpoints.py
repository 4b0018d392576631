"""Checkpoints in the names of every stack, permuted by an export: position s holds the old expert of slot s."""

import json

import numpy as np
import pytest

import moesim
from moesim.errors import InputError
from moesim.exporters.expert_order import read_permutation
from tests.checkpoint.test_permute import read, write
from tests.strategies.plan import TINY_LAYERS, plan_of

STACKED = {  # router, experts stacked along their first axis
    "hf-checkpoint": ("model.layers.{}.mlp.gate.weight", "model.layers.{}.mlp.experts.gate_up_proj"),
    "megatron": ("decoder.layers.{}.mlp.router.weight", "decoder.layers.{}.mlp.experts.experts.linear_fc1.weight"),
    "torchtitan": ("layers.{}.moe.router.gate.weight", "layers.{}.moe.routed_experts.inner_experts.w1_EFD"),
    "maxtext": ("params.decoder.layers.{}.moe_layer.gate.kernel", "params.decoder.layers.{}.moe_layer.experts.wi_0"),
    "tutel": ("layers.{}.moe_layer.gates.0.wg.weight", "layers.{}.moe_layer.experts.batched_fc1_w"),
}
NUMBERED = {  # router, one tensor for every expert
    "vllm": ("model.layers.{}.block_sparse_moe.gate.weight", "model.layers.{}.block_sparse_moe.experts.{}.w1.weight"),
    "deepspeed": (
        "module.layers.{}.mlp.deepspeed_moe.gate.wg.weight",
        "module.layers.{}.mlp.deepspeed_moe.experts.deepspeed_experts.{}.fc1.weight",
    ),
    "megatron": ("decoder.layers.{}.mlp.router.weight", "decoder.layers.{}.mlp.experts.linear_fc1.weight{}"),
}


def plan_with_groups(seed):
    """16 experts on 4 ranks, every layer in another order."""
    random = np.random.default_rng(seed)
    return plan_of(tuple(tuple(random.permutation(16).tolist()) for _ in TINY_LAYERS), 4)


def numbers(*shape, seed):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def tiny_folder(folder, target="hf-checkpoint", numbered=False):
    """A checkpoint folder of the tiny model in the names of a stack."""
    folder.mkdir()
    router, experts = (NUMBERED if numbered else STACKED)[target]
    tensors = {"model.embed_tokens.weight": numbers(16, 3, seed=0)}
    for layer in TINY_LAYERS:
        tensors[router.format(layer)] = numbers(16, 3, seed=layer)
        if numbered:
            tensors |= {experts.format(layer, e): numbers(2, 3, seed=100 * layer + e) for e in range(16)}
        else:
            tensors[experts.format(layer)] = numbers(16, 2, 3, seed=10 * layer)
    write(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps({"num_experts": 16}))
    return folder


@pytest.mark.parametrize("target", STACKED)
def test_stacked_experts_and_routers_are_in_the_plans_order(target, tmp_path):
    """Rows of the new tensors are the old rows of the plan's slots; other tensors and the old checkpoint stay."""
    plan, source = plan_with_groups(1), tiny_folder(tmp_path / "old", target)
    before = read(source / "model.safetensors")
    made = moesim.export(plan, target, tmp_path / "new", checkpoint=source)
    after = read(tmp_path / "new" / "model.safetensors")
    for layer, row in zip(plan.layers, plan.expert_of_slot, strict=True):
        for name in STACKED[target]:
            np.testing.assert_array_equal(before[name.format(layer)][list(row)], after[name.format(layer)])
    np.testing.assert_array_equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert [tmp_path / "new", tmp_path / "new.permutation.json"] == list(made.files)
    order, layers = read_permutation(made.files[1].read_bytes())
    assert (list(plan.layers), [list(row) for row in plan.expert_of_slot]) == (layers, order.tolist())
    assert (source / "config.json").read_bytes() == (tmp_path / "new" / "config.json").read_bytes()


@pytest.mark.parametrize("target", NUMBERED)
def test_numbered_experts_carry_their_new_number(target, tmp_path):
    """Expert row[s] of the old checkpoint is expert s of the new one; its router row goes with it."""
    plan, source = plan_with_groups(2), tiny_folder(tmp_path / "old", target, numbered=True)
    before = read(source / "model.safetensors")
    moesim.export(plan, target, tmp_path / "new", checkpoint=source)
    after = read(tmp_path / "new" / "model.safetensors")
    router, experts = NUMBERED[target]
    for layer, row in zip(plan.layers, plan.expert_of_slot, strict=True):
        np.testing.assert_array_equal(before[router.format(layer)][list(row)], after[router.format(layer)])
        for slot, expert in enumerate(row):
            np.testing.assert_array_equal(before[experts.format(layer, expert)], after[experts.format(layer, slot)])


def test_deepspeed_gets_a_permuted_checkpoint_or_a_descriptor_never_both(tmp_path):
    """Both would place the experts twice."""
    plan, source = plan_with_groups(3), tiny_folder(tmp_path / "old", "deepspeed", numbered=True)
    made = moesim.export(plan, "deepspeed", tmp_path / "new", checkpoint=source)
    assert ["new", "new.permutation.json"] == [path.name for path in made.files]
    assert not [check.name for check in made.checks if not check.ok]
    plain = moesim.export(plan, "deepspeed", tmp_path / "d.json")
    assert ["d.json", "d.layer_1.json", "d.layer_2.json"] == [path.name for path in plain.files]
    assert "never both" in plain.notes[-1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("__0_0.distcp", "torch.distributed checkpoint"),
        ("layer_0_expert_3_mp_rank_00_model_states.pt", "pickles DeepSpeed saves, one per expert"),
        ("pytorch_model.bin", "holds no .safetensors file but pickles"),
        ("notes.txt", "save the model with safe_serialization=True"),
    ],
)
def test_other_layouts_are_named_and_refused(name, words, tmp_path):
    """Nothing is unpickled; no file appears."""
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / name).write_bytes(b"x")
    with pytest.raises(InputError, match=words) as refused:
        moesim.export(plan_with_groups(1), "megatron", tmp_path / "new", checkpoint=tmp_path / "old")
    assert "\n" not in str(refused.value)
    assert ["old"] == [path.name for path in tmp_path.iterdir()]


def test_a_checkpoint_of_one_rank_and_one_of_another_model_are_refused(tmp_path):
    """Half the experts, another number of experts, a target that exists: one sentence, nothing written."""
    plan, half = plan_with_groups(1), tiny_folder(tmp_path / "half", "vllm", numbered=True)
    kept = {name: array for name, array in read(half / "model.safetensors").items() if ".experts.9." not in name}
    write(half / "model.safetensors", kept)
    with pytest.raises(InputError, match="15 of its 16 experts"):
        moesim.export(plan, "vllm", tmp_path / "new", checkpoint=half)
    other = tiny_folder(tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"num_experts": 64}))
    with pytest.raises(InputError, match="num_experts=64, but the plan places 16"):
        moesim.export(plan, "hf-checkpoint", tmp_path / "new", checkpoint=other)
    with pytest.raises(InputError, match="is a folder"):
        moesim.export(plan, "hf-checkpoint", other, checkpoint=half)
    assert ["half", "other"] == sorted(path.name for path in tmp_path.iterdir())
