"""Every sample, damaged in every way that files are: refused in a sentence, or read as a trace; never anything else."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.trace.convert import READERS, convert_trace
from tests.trace.readers.damage import damaged, outcome
from tests.trace.readers.recordings import TOY

pytestmark = pytest.mark.shared
SAMPLES = {
    "hf_router_logits": "",  # has no sample: written by the user, see test_other_recorders
    "llamacpp_imatrix": "llamacpp/imatrix.gguf",
    "megatron_router_trace": "megatron/router_trace_rank0.jsonl",
    "megatron_tokens_per_expert": "megatron/tokens_per_expert/rank0.jsonl",
    "omni_infer_activation": "omni_infer/activation_counts_recordstep_50_rank_0.txt",
    "sglang_per_pass": "sglang/per_pass/expert_distribution_recorder_1700000002.0_0.pt",
    "sglang_per_token": "sglang/per_token/expert_distribution_recorder_1700000001.25_0.pt",
    "sglang_routed_experts": "sglang/generate_response_routed_experts.json",
    "sglang_stat": "sglang/expert_distribution_recorder_1700000000.5.pt",
    "trtllm_statistic": "trtllm/expert_statistic/rank0.safetensors",
    "vllm_ascend_map": "vllm_ascend/expert_map.json",
    "vllm_routed_experts": "vllm/completion_with_routed_experts.json",
}


def _variants(sample: Path, folder: Path, count: int) -> list[Path]:
    """`count` copies of the sample, each damaged in its own place; the folder's other files beside those that need them."""
    content, paths = sample.read_bytes(), []
    for number, bad in enumerate(damaged(content, count)):
        if sample.name == "rank0.safetensors":
            paths.append(folder / str(number))
            shutil.copytree(sample.parent, paths[-1])
            (paths[-1] / sample.name).write_bytes(bad)
        else:
            paths.append(folder / f"{number}{sample.suffix}")
            paths[-1].write_bytes(bad)
    return paths


@pytest.mark.parametrize("name", [name for name, path in SAMPLES.items() if path])
def test_damage_is_refused_in_a_sentence(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Asked for by its format or recognised, with a model or without."""
    out = tmp_path / "out.parquet"
    refused = 0
    for number, path in enumerate(_variants(shared_data / "formats" / SAMPLES[name], tmp_path, 24)):
        format, model = (name, "auto")[number % 2], (TOY, None)[number // 2 % 2]
        refused += outcome(partial(convert_trace, path, out, format=format, model=model))
    assert refused >= 8


def test_every_reader_has_a_sample_or_writes_its_own() -> None:
    """A new reader comes with one."""
    assert {*SAMPLES, "parquet", "npz_topk", "npz_counts"} == set(READERS.names())


@pytest.mark.parametrize("name", [name for name, path in SAMPLES.items() if path])
def test_samples_of_another_format_are_refused_by_every_reader(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The wrong --format: no reader takes another one's file for its own, or fails without a sentence."""
    path = shared_data / "formats" / SAMPLES[name]
    for other in READERS.names():
        if other != name:
            with pytest.raises(InputError, match=r".{20}"):
                convert_trace(path, tmp_path / "out.parquet", format=other, model=TOY)


def test_damage_is_deterministic() -> None:
    """The same variants in every run."""
    content = bytes(np.arange(100, dtype=np.uint8))
    assert list(damaged(content, 24)) == list(damaged(content, 24))
    assert 24 == len(set(damaged(content, 24)))
