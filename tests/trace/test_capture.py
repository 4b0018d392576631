"""Capture from running Hugging Face models: what is written is what the routers chose."""

import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import moesim  # noqa: E402
from moesim.errors import InputError  # noqa: E402
from moesim.trace.capture import capture, capture_text  # noqa: E402
from moesim.trace.store import open_trace, read_rows  # noqa: E402
from tests.tiny_moe import COMMON, EXPERTS, TYPES, tiny_model  # noqa: E402

LOGITS_AT = {"llama4_text": ("Llama4Router", 1), "jetmoe": ("JetMoeTopKGating", 4)}
TOKENS = torch.randint(3, 64, (2, 9), generator=torch.Generator().manual_seed(1))


def chosen_by_routers(model, kind):
    """Indices each router module gives out itself, in order of the layers, collected by hooks of the test's own."""
    seen = []

    def note(_module, _inputs, output):
        if kind in LOGITS_AT:
            seen.append(output[LOGITS_AT[kind][1]].reshape(-1, EXPERTS).topk(2).indices.numpy())
            return
        outputs = output if isinstance(output, tuple) else (output,)
        indices = [x for x in outputs if torch.is_tensor(x) and x.dim() == 2 and x.dtype == torch.int64]
        seen.extend(x.numpy() for x in indices)

    handles = []
    for name, module in model.named_modules():
        is_router = name.endswith((".gate", ".router")) and "attention" not in name
        if is_router and (kind not in LOGITS_AT or type(module).__name__ == LOGITS_AT[kind][0]):
            handles.append(module.register_forward_hook(note))
    with torch.no_grad():
        model(TOKENS)
    for handle in handles:
        handle.remove()
    return seen


def chosen_in(path):
    """Layer -> ids [T, K] of a trace file."""
    rows = {}
    for _, batch in read_rows(open_trace(path)):
        for layer in np.unique(batch.layer_W):
            rows.setdefault(int(layer), []).append(batch.experts_WK[batch.layer_W == layer])
    return {layer: np.concatenate(parts) for layer, parts in rows.items()}


@pytest.mark.parametrize("kind", TYPES)
def test_the_trace_holds_what_the_routers_chose(kind, tmp_path):
    """For every family, layer by layer and token by token, the captured experts are the router's own."""
    model = tiny_model(kind)
    expected = chosen_by_routers(model, kind)
    with capture(model) as captured, torch.no_grad():
        model(TOKENS)
    done = captured.write(tmp_path / "t.parquet")
    trace = chosen_in(tmp_path / "t.parquet")
    assert done["tokens"] == TOKENS.numel() and done["rows"] == TOKENS.numel() * len(expected)
    assert len(trace) == len(expected)
    for ids_TK, router_TK in zip(trace.values(), expected, strict=True):
        np.testing.assert_array_equal(np.sort(ids_TK, axis=1), np.sort(router_TK, axis=1))


def test_padding_is_left_out_and_sequences_go_on(tmp_path):
    """Masked tokens are dropped and counted; passes of one token a row continue the rows' sequences."""
    model = tiny_model("qwen3_moe")
    mask = torch.ones_like(TOKENS)
    mask[1, :4] = 0
    with moesim.capture(model, name=None, origin="a test") as captured, torch.no_grad():
        model(TOKENS, attention_mask=mask)
        model(TOKENS[:, :1])
        model(TOKENS[:, :1])
    done = captured.write(tmp_path / "t.parquet")
    assert done["tokens"] == 18 - 4 + 2 + 2
    info = open_trace(tmp_path / "t.parquet").info
    assert any("4 padding tokens" in note for note in info.notes)
    assert info.has_weights and info.has_sequences and info.origin == "a test"
    assert [0, 1] == np.unique(np.concatenate(captured.sequences)).tolist()
    with capture(model) as second, torch.no_grad():
        model(TOKENS)
        model(TOKENS)
    assert [0, 1, 2, 3] == np.unique(np.concatenate(second.sequences)).tolist()


def test_hooks_are_gone_afterwards():
    """After the context the model runs without being watched, also when the run inside it failed."""
    model = tiny_model("mixtral")
    with pytest.raises(ZeroDivisionError), capture(model) as captured:
        raise ZeroDivisionError
    with torch.no_grad():
        model(TOKENS)
    assert not captured.ids and not model._forward_pre_hooks


def test_a_model_without_experts_is_refused(tmp_path):
    """A dense model is refused by its class's name; a capture without a pass says what to do."""
    dense = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model("llama", hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                                          num_attention_heads=2, num_key_value_heads=2, vocab_size=32)
    )  # fmt: skip
    with pytest.raises(InputError, match="LlamaForCausalLM has no module"), capture(dense):
        pass
    with capture(tiny_model("mixtral")) as captured:
        pass
    with pytest.raises(InputError, match="nothing was captured"):
        captured.write(tmp_path / "t.parquet")


def test_counts_of_experts_stand_in_a_part_of_the_config(tmp_path):
    """DBRX names them in its ffn_config; what it hands its experts is the top-k of its router's logits."""
    parts = {"ffn_config": {"ffn_hidden_size": 32, "hidden_size": 32, "moe_num_experts": EXPERTS, "moe_top_k": 2,
                            "ffn_act_fn": {"name": "silu"}},
             "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4}}  # fmt: skip
    sizes = {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "vocab_size": 64}
    torch.manual_seed(0)
    model = transformers.DbrxForCausalLM(transformers.DbrxConfig(**sizes, **parts)).eval()
    seen = []
    for name, module in model.named_modules():
        if name.endswith(".router"):
            module.register_forward_hook(lambda _module, _inputs, logits: seen.append(logits.topk(2).indices.numpy()))
    with capture(model) as captured, torch.no_grad():
        model(TOKENS)
    captured.write(tmp_path / "t.parquet")
    for ids_TK, router_TK in zip(chosen_in(tmp_path / "t.parquet").values(), seen, strict=True):
        np.testing.assert_array_equal(ids_TK, router_TK)


def test_layers_that_hash_tokens_are_captured(tmp_path):
    """DeepSeek-V4's first layers look experts up by token id."""
    sizes = {"n_routed_experts": EXPERTS, "moe_intermediate_size": 16, "q_lora_rank": 16, "o_lora_rank": 8}
    config = transformers.AutoConfig.for_model("deepseek_v4", **{**COMMON, **sizes, "qk_rope_head_dim": 4})
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    table = torch.stack([torch.arange(64) % EXPERTS, (torch.arange(64) + 3) % EXPERTS], dim=1)
    hashed = [module.tid2eid.copy_(table) for module in model.modules() if hasattr(module, "tid2eid")]
    with capture(model) as captured, torch.no_grad():
        model(TOKENS)
    captured.write(tmp_path / "t.parquet")
    assert hashed
    np.testing.assert_array_equal(table[TOKENS.flatten()].numpy(), chosen_in(tmp_path / "t.parquet")[0])


def test_encoders_with_decoders_are_refused():
    """Their layers of one number run on different tokens."""
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_layers": 2, "num_heads": 2, "num_experts": 2, "vocab_size": 32}
    model = transformers.SwitchTransformersForConditionalGeneration(transformers.SwitchTransformersConfig(**sizes))
    with pytest.raises(InputError, match="has an encoder and a decoder, which run on different tokens"), capture(model):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model with a tokenizer of sixty words, as a user would have one."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    place = tmp_path_factory.mktemp("hf")
    words = {f"w{i}": i for i in range(60)} | {"[UNK]": 60}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(place)
    tiny_model("olmoe").save_pretrained(place)
    return place


def test_a_text_is_run_through_a_saved_model(folder, tmp_path, capsys, monkeypatch):
    """`trace capture` cuts the text into sequences, takes no more tokens than asked, and writes a readable trace."""
    from moesim.cli import main

    (tmp_path / "text.txt").write_text(" ".join(f"w{i % 50}" for i in range(100)))
    options = ["--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / "t.parquet"), "--tokens", "50"]
    command = ["moesim", "trace", "capture", "--hf", str(folder), *options, "--sequence-length", "20", "--json"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code in (0, None), capsys.readouterr().err
    info = open_trace(tmp_path / "t.parquet").info
    assert (50, EXPERTS, 2, (0, 1)) == (info.num_tokens, info.num_experts, info.top_k, info.layers)
    sequences = [batch.sequence_W for _, batch in read_rows(open_trace(tmp_path / "t.parquet"))]
    assert [20, 20, 10] * 2 == [int(n) for n in np.unique(np.concatenate(sequences), return_counts=True)[1] // 2] * 2


@pytest.mark.parametrize("broken", ["none", "no weights", "damaged", "text"])
def test_what_cannot_be_run_is_refused(folder, tmp_path, broken):
    """No folder, a folder without weights, no text: one sentence each."""
    text = tmp_path / "text.txt"
    place = folder
    if broken == "none":
        place = tmp_path / "nothing"
    elif broken == "no weights":
        place = tmp_path / "empty"
        place.mkdir()
        (place / "config.json").write_text('{"model_type": "olmoe"}')
    elif broken == "damaged":
        place = Path(shutil.copytree(folder, tmp_path / "copy"))
        (place / "model.safetensors").write_bytes(b"x")
    if broken != "text":
        text.write_text("w1 w2")
    part = {
        "none": "no config.json",
        "no weights": "cannot load the model",
        "damaged": "header too small",
        "text": "must be a text file",
    }[broken]
    with pytest.raises(InputError, match=part):
        capture_text(place, text, tmp_path / "t.parquet", most_tokens=10, length=5)
    assert not (tmp_path / "t.parquet").exists()
