"""Real model code with tiny random weights: a permuted checkpoint computes what it did, on other experts."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from moesim.checkpoint import permute_checkpoint  # noqa: E402
from tests.tiny_moe import EXPERTS, TYPES, tiny_model  # noqa: E402

KINDS = ("mixtral", "qwen3_moe", "olmoe", "gpt_oss", "deepseek_v3", "glm4_moe", "granitemoe", "minimax_m2")
WITH_DENSE_FIRST = ("deepseek_v3", "glm4_moe")


def routing_of(model, tokens):
    """Logits, and the experts each MoE layer chose, as its experts module was handed them."""
    chosen = []

    def remember(_module, inputs):
        indices = next(x for x in inputs if torch.is_tensor(x) and x.dim() == 2 and not x.is_floating_point())
        chosen.append(indices.sort(dim=-1).values.numpy().copy())

    handles = [
        module.register_forward_pre_hook(remember)
        for name, module in model.named_modules()
        if name.endswith(".experts") and type(module).__name__.endswith("Experts")
    ]
    with torch.no_grad():
        logits = model(tokens).logits
    for handle in handles:
        handle.remove()
    return logits, chosen


def grouped_order(num_groups, seed):
    """A permutation that moves whole groups and shuffles inside each."""
    random = np.random.default_rng(seed)
    size = EXPERTS // num_groups
    return np.concatenate([group * size + random.permutation(size) for group in random.permutation(num_groups)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_permuted_model_computes_the_same_on_permuted_experts(kind, tmp_path):
    """Logits are equal to 1e-5, and layer by layer the chosen experts are the old ones at their new positions."""
    model = tiny_model(kind)
    model.save_pretrained(tmp_path / "old")
    layers = (1,) if kind in WITH_DENSE_FIRST else (0, 1)
    groups = TYPES[kind].get("n_group", 1)
    orders = {layer: grouped_order(groups, seed=layer + 1) for layer in layers}
    done = permute_checkpoint(tmp_path / "old", tmp_path / "new", orders, num_experts=EXPERTS)
    assert done["permuted"] > 0
    tokens = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype=torch.float32).eval()
    before, chosen_before = routing_of(model, tokens)
    after, chosen_after = routing_of(reloaded, tokens)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    assert len(chosen_before) == len(chosen_after) == len(layers)
    for layer, old, new in zip(layers, chosen_before, chosen_after, strict=True):
        position_of = np.argsort(orders[layer])
        np.testing.assert_array_equal(np.sort(position_of[old], axis=-1), new)
        assert not np.array_equal(old, new)


def test_the_whole_folder_comes_along(tmp_path):
    """Config and other files are copied, every shard keeps its tensors, and the index names each at its shard."""
    model = tiny_model("qwen3_moe")
    model.save_pretrained(tmp_path / "old", max_shard_size="40KB")
    (tmp_path / "old" / "notes.txt").write_text("keep me")
    orders = {0: np.arange(EXPERTS)[::-1].copy(), 1: np.arange(EXPERTS)}
    done = permute_checkpoint(tmp_path / "old", tmp_path / "new", orders, num_experts=EXPERTS)
    assert len(done["files"]) > 1
    assert sorted(p.name for p in (tmp_path / "old").iterdir()) == sorted(p.name for p in (tmp_path / "new").iterdir())
    index = json.loads((tmp_path / "new" / "model.safetensors.index.json").read_text())["weight_map"]
    from safetensors import safe_open

    for name, file in index.items():
        with safe_open(tmp_path / "new" / file, framework="pt") as shard:
            assert name in shard.keys()  # noqa: SIM118  (safetensors' own object)
