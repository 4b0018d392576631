"""Laws and refusals of the permutation of checkpoints, on files written by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.checkpoint import permute_checkpoint
from moesim.checkpoint.shard import read_shard
from moesim.errors import InputError

E = 4  # experts
H = 3  # width
KINDS = {"F32": np.float32, "I64": np.int64, "U8": np.uint8}
ORDER = np.array([2, 0, 3, 1])  # the new position s holds old expert ORDER[s]


def write(path, tensors):
    """A safetensors file with these arrays, by the published layout."""
    header, data = {}, b""
    for name, array in tensors.items():
        kind = next(text for text, dtype in KINDS.items() if array.dtype == dtype)
        header[name] = {
            "dtype": kind,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def read(path):
    """Arrays of a safetensors file."""
    shard = read_shard(path)
    data = path.read_bytes()[shard.data_start :]
    return {t.name: np.frombuffer(data[t.start : t.stop], KINDS[t.dtype]).reshape(t.shape) for t in shard.tensors}


def numbers(*shape):
    """Distinct float32 numbers."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def checkpoint(seed=0):
    """One layer each in the ways the stacks write them; every array distinct."""
    random = np.random.default_rng(seed)
    fill = lambda *shape: random.random(shape).astype(np.float32)  # noqa: E731
    tensors = {
        "model.layers.0.mlp.gate.weight": fill(E, H),
        "model.layers.0.mlp.gate.e_score_correction_bias": fill(E),
        **{f"model.layers.0.mlp.experts.{e}.up_proj.weight": fill(2, H) for e in range(E)},
        "model.layers.0.mlp.shared_experts.up_proj.weight": fill(E, H),
        "model.layers.0.self_attn.gate.weight": fill(E, H),
        "decoder.layers.1.mlp.router.weight": fill(E, H),
        "decoder.layers.1.mlp.router.expert_bias": fill(E),
        **{f"decoder.layers.1.mlp.experts.linear_fc1.weight{e}": fill(2, H) for e in range(E)},
        "layers.2.moe.router.gate.weight": fill(E, H),
        "layers.2.moe.routed_experts.inner_experts.w1_EFD": fill(E, 2, H),
        "layers.2.moe.expert_bias_E": fill(E),
        "layers.3.moe_layer.gates.0.wg.weight": fill(E, H),
        "layers.3.moe_layer.experts.batched_fc1_w": fill(E, 2, H),
        "layers.4.mlp.deepspeed_moe.gate.wg.weight": fill(E, H),
        **{f"layers.4.mlp.deepspeed_moe.experts.deepspeed_experts.{e}.w": fill(H) for e in range(E)},
        "decoder.layers.5.mlp.gate.kernel": fill(H, E),
        "decoder.layers.5.mlp.experts.wi": fill(E, H),
        "layers.6.mlp.gate.weight": fill(E, H),
        "layers.6.mlp.gate.tid2eid": random.integers(-1, E, (5, 2)),
        "layers.6.mlp.experts.w_blocks": random.integers(0, 255, (E, 6)).astype(np.uint8),
        "model.embed_tokens.weight": fill(E, H),
    }
    return tensors


ORDERS = dict.fromkeys(range(7), ORDER)


def test_every_stack_names_are_known(tmp_path):
    """Position s of every router, bias and stack holds old expert order[s]; numbered tensors carry their new number."""
    old = checkpoint()
    permute_checkpoint(write(tmp_path / "old.safetensors", old), tmp_path / "new.safetensors", ORDERS, num_experts=E)
    new = read(tmp_path / "new.safetensors")
    rows = [
        "model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.e_score_correction_bias",
        "decoder.layers.1.mlp.router.weight", "decoder.layers.1.mlp.router.expert_bias",
        "layers.2.moe.router.gate.weight", "layers.2.moe.routed_experts.inner_experts.w1_EFD",
        "layers.2.moe.expert_bias_E", "layers.3.moe_layer.gates.0.wg.weight",
        "layers.3.moe_layer.experts.batched_fc1_w", "layers.4.mlp.deepspeed_moe.gate.wg.weight",
        "decoder.layers.5.mlp.experts.wi", "layers.6.mlp.gate.weight", "layers.6.mlp.experts.w_blocks",
    ]  # fmt: skip
    for name in rows:
        np.testing.assert_array_equal(old[name][ORDER], new[name], err_msg=name)
    np.testing.assert_array_equal(
        old["decoder.layers.5.mlp.gate.kernel"][:, ORDER], new["decoder.layers.5.mlp.gate.kernel"]
    )
    for position, expert in enumerate(ORDER):
        for name in ("model.layers.0.mlp.experts.{}.up_proj.weight", "decoder.layers.1.mlp.experts.linear_fc1.weight{}",
                     "layers.4.mlp.deepspeed_moe.experts.deepspeed_experts.{}.w"):  # fmt: skip
            np.testing.assert_array_equal(old[name.format(expert)], new[name.format(position)])
    for name in ("model.embed_tokens.weight", "model.layers.0.mlp.shared_experts.up_proj.weight",
                 "model.layers.0.self_attn.gate.weight"):  # fmt: skip
        np.testing.assert_array_equal(old[name], new[name])
    ids = old["layers.6.mlp.gate.tid2eid"]
    assert (np.where(ids < 0, -1, np.argsort(ORDER)[ids]) == new["layers.6.mlp.gate.tid2eid"]).all()


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(E)), seed=st.integers(0, 99))
def test_the_inverse_order_gives_the_bytes_back(tmp_path_factory, order, seed):
    """Permuting by an order and then by its inverse is the identity on every tensor."""
    folder = tmp_path_factory.mktemp("round")
    old = checkpoint(seed)
    path = write(folder / "old.safetensors", old)
    there = {layer: np.array(order) for layer in range(7)}
    back = {layer: np.argsort(order) for layer in range(7)}
    permute_checkpoint(path, folder / "there.safetensors", there, num_experts=E)
    permute_checkpoint(folder / "there.safetensors", folder / "back.safetensors", back, num_experts=E)
    again = read(folder / "back.safetensors")
    assert set(old) == set(again)
    for name, array in old.items():
        np.testing.assert_array_equal(array, again[name])


def dropped(*gone):
    """The checkpoint without some tensors."""
    return {name: array for name, array in checkpoint().items() if name not in gone}


@pytest.mark.parametrize(
    ("tensors", "orders", "experts", "part"),
    [
        (checkpoint(), {0: np.array([0, 0, 1, 2])}, E, "must name each of the 4 experts once"),
        (dropped("model.layers.0.mlp.gate.weight", "model.layers.0.mlp.gate.e_score_correction_bias"), {0: ORDER}, E,
         "layer 0 has no router"),
        (dropped("model.layers.0.mlp.experts.3.up_proj.weight"), {0: ORDER}, E, "tensors of 3 of its 4 experts"),
        (checkpoint(), {0: np.arange(3)}, 3, "plan has experts 0..2|has no axis of the plan's 3"),
        (checkpoint(), {2: np.arange(8)}, 8, "no axis of the plan's 8|should have the plan's 8 experts"),
        (checkpoint(), {9: ORDER}, E, "layer 9 has no router"),
    ],
)  # fmt: skip
def test_half_a_permutation_is_refused(tmp_path, tensors, orders, experts, part):
    """Nothing is written unless the router and all experts of every layer were found."""
    path = write(tmp_path / "old.safetensors", tensors)
    with pytest.raises(InputError, match=part):
        permute_checkpoint(path, tmp_path / "new.safetensors", orders, num_experts=experts)
    assert [path] == list(tmp_path.iterdir())


def test_groups_the_router_chooses_first_stay_together(tmp_path):
    """With two groups of two, an order that mixes them is refused and one that swaps them whole is not."""
    path = write(tmp_path / "old.safetensors", checkpoint())
    with pytest.raises(InputError, match="would mix experts of several of the 2 groups"):
        permute_checkpoint(path, tmp_path / "a.safetensors", {0: ORDER}, num_experts=E, num_groups=2)
    permute_checkpoint(path, tmp_path / "b.safetensors", {0: np.array([3, 2, 0, 1])}, num_experts=E, num_groups=2)


def damaged(data):
    """Ways a file can lie, as (name, bytes, what the refusal says)."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first = next(iter(header))

    def with_header(change):
        text = json.dumps(change).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + length :]

    return [
        ("empty", b"", "not a safetensors file"),
        ("huge header", (2**62).to_bytes(8, "little") + data[8:], "not a safetensors file"),
        ("no JSON", (4).to_bytes(8, "little") + b"}{][" + data, "not JSON"),
        ("a list", (2).to_bytes(8, "little") + b"[]", "not an object"),
        ("cut off", data[:-5], "cut off or damaged"),
        ("huge shape", with_header({**header, first: {**header[first], "shape": [2**40, 2**20]}}), "needs .* bytes"),
        ("overlap", with_header({**header, "twice": header[first]}), "starts at byte 0"),
        ("unknown dtype", with_header({**header, first: {**header[first], "dtype": "Q7"}}), "not readable"),
        ("no offsets", with_header({**header, first: {"dtype": "F32", "shape": [1]}}), "lacks a usable"),
    ]


@pytest.mark.parametrize("index", range(9))
def test_a_file_that_lies_is_refused_before_memory_is_taken(tmp_path, index):
    """Every damaged header is refused in one sentence and leaves nothing behind."""
    path = write(tmp_path / "old.safetensors", checkpoint())
    name, data, part = damaged(path.read_bytes())[index]
    path.write_bytes(data)
    with pytest.raises(InputError, match=part):
        permute_checkpoint(path, tmp_path / "new.safetensors", ORDERS, num_experts=E)
    assert [path] == list(tmp_path.iterdir()), name


def test_nothing_is_overwritten_and_wrong_places_are_named(tmp_path):
    """An existing target, a missing source, a folder without safetensors and another model's config are refused."""
    path = write(tmp_path / "old.safetensors", checkpoint())
    with pytest.raises(InputError, match="exists already"):
        permute_checkpoint(path, path, ORDERS, num_experts=E)
    with pytest.raises(InputError, match="there is no checkpoint"):
        permute_checkpoint(tmp_path / "none", tmp_path / "new", ORDERS, num_experts=E)
    (tmp_path / "bin").mkdir()
    with pytest.raises(InputError, match=r"holds no \.safetensors file"):
        permute_checkpoint(tmp_path / "bin", tmp_path / "new", ORDERS, num_experts=E)
    write(tmp_path / "bin" / "model.safetensors", checkpoint())
    (tmp_path / "bin" / "config.json").write_text('{"num_experts": 64}')
    with pytest.raises(InputError, match="num_experts=64, but the plan places 4"):
        permute_checkpoint(tmp_path / "bin", tmp_path / "new", ORDERS, num_experts=E)
