"""Walk-throughs tell the truth: their commands run in order, on recordings of the kind they ask for, with their flags."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.checkpoint.test_permute import write
from tests.cli.test_commands import moesim

PAGES = Path(__file__).resolve().parents[2] / "docs" / "walkthroughs"


def sglang_dumps(folder):
    """16 ranks of DeepSeek-V2-Lite, four passes of three tokens."""
    torch = pytest.importorskip("torch")
    folder.mkdir()
    slot_map = torch.arange(64).repeat(27, 1)
    for rank in range(16):
        random, records = np.random.default_rng(rank), []
        for number in range(4):
            ids = np.full((27, 3, 8), -1, np.int32)
            ids[1:, :, :6] = np.argsort(random.random((26, 3, 64)) * np.linspace(0.3, 1.0, 64), axis=2)[:, :, :6]
            fields = {"forward_pass_id": number, "rank": rank, "gatherer_key": "primary", "misc_objects": []}
            tokens = {"input_ids": [1] * 3, "positions": [1] * 3, "extend_seq_lens": None, "forward_mode": 2}
            records.append({**fields, **tokens, "topk_ids_of_layer": torch.from_numpy(ids)})
        path = folder / f"expert_distribution_recorder_1700000000.5_{rank}.pt"
        torch.save({"records": records, "last_physical_to_logical_map": slot_map}, path)


def router_trace(folder):
    """Eight ranks of OLMoE, four steps of 16 tokens."""
    folder.mkdir()
    for rank in range(8):
        random = np.random.default_rng(rank)
        with open(folder / f"router_trace_rank{rank}.jsonl", "w") as stream:
            for step in range(4):
                for layer in range(16):
                    scores = random.random((16, 64)) * np.linspace(0.4, 1.0, 64)
                    ids = np.sort(np.argsort(scores, axis=1)[:, :8], axis=1).tolist()
                    head = {"step": step, "stage": "pre_dispatch", "block": "decoder", "layer": layer, "rank": rank}
                    stream.write(json.dumps({**head, "num_tokens": 16, "topk": 8, "top_indices": ids}) + "\n")


def checkpoint(folder):
    """A checkpoint of OLMoE's layers and experts in Megatron's names, three numbers wide."""
    folder.mkdir()
    tensors, random = {}, np.random.default_rng(0)
    for layer in range(16):
        for name in ("router.weight", "experts.experts.linear_fc1.weight", "experts.experts.linear_fc2.weight"):
            tensors[f"decoder.layers.{layer}.mlp.{name}"] = random.random((64, 3)).astype(np.float32)
    write(folder / "model.safetensors", tensors)


def blocks(page, kind):
    """Fenced blocks of one kind, in order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (PAGES / f"{page}.md").read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == kind]


def walk(page, folder):
    """Run the `moesim` lines of a page in a folder with its scenario; what each printed, by its words."""
    for block in blocks(page, "yaml"):
        name = re.match(r"# (\S+)\n", block)[1]
        (folder / name).write_text(block)
    printed = {}
    for line in "".join(blocks(page, "")).splitlines():
        words = shlex.split(line)
        assert "moesim" == words[0]
        if "inspect" in words:
            continue  # tests of the command itself run it
        done = moesim(*words[1:], cwd=folder)
        assert 0 == done.returncode, (line, done.stderr)
        printed[" ".join(words[1:5])] = done.stdout
    return printed


def flags_shown(page, printed):
    """Flags of a page's launch block that a command did not print, placeholders apart."""
    shown = re.findall(r"(--[a-z-]+)[ =](\w[\w./-]*)", blocks(page, "sh")[-1 if page != "sglang" else 1])
    return [(flag, value) for flag, value in shown if f"{flag} {value}" not in printed and not value.isupper()]


def test_sglang(tmp_path):
    """Record, plan, export, launch: the flags of the launch are those that the export prints."""
    sglang_dumps(tmp_path / "sglang_dumps")
    printed = walk("sglang", tmp_path)
    server = {("--model-path", "deepseek-ai/DeepSeek-V2-Lite"), ("--tp", "16"), ("--dp", "16")}
    assert server >= set(flags_shown("sglang", printed["export plan.json --to sglang"]))
    rows = json.loads((tmp_path / "location.json").read_text())["physical_to_logical_map"]
    assert [27, 80] == [len(rows), len(rows[0])]
    assert ["gpu01"] * 8 + ["gpu02"] * 8 == (tmp_path / "hosts.txt").read_text().split()
    assert 16 == len(list((tmp_path / "hta").glob("*.json")))


def test_megatron(tmp_path):
    """Capacity factors of every layer, one flag; the permuted checkpoint is written."""
    router_trace(tmp_path / "router_trace")
    checkpoint(tmp_path / "checkpoint")
    printed = walk("megatron", tmp_path)
    assert [("--nproc-per-node", "8"), ("--load", "permuted")] == flags_shown(
        "megatron", printed["export plan.json --to megatron"]
    )
    factors = json.loads((tmp_path / "plan.json").read_text())["capacity_factors"]
    assert 16 == len(factors)
    assert f"--moe-expert-capacity-factor {max(factors):g}" in printed["export plan.json --to megatron"]
    assert (tmp_path / "permuted" / "model.safetensors").is_file()


def test_tpu(tmp_path):
    """64 chips, each once; MaxText's settings are those shown."""
    printed = walk("tpu", tmp_path)
    order = json.loads((tmp_path / "order.json").read_text())
    assert 64 == len({tuple(place) for place in order["devices"]})
    for setting in blocks("tpu", "sh")[0].replace("\\\n", "").split():
        assert setting in printed["export plan.json --to maxtext"]
    for block in blocks("tpu", "python"):
        compile(block, "tpu.md", "exec")
