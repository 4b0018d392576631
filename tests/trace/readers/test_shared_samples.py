"""Every reader recognises its sample by content and reads what the sample holds; the samples are of one toy model."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from moesim.errors import InputError
from moesim.trace.convert import READERS, recognised_format
from tests.trace.readers.recordings import IDS_LTK, converted

pytestmark = pytest.mark.shared
LOAD_LE = [[2, 2, 2, 2, 1, 0, 1, 2], [5, 3, 1, 0, 2, 0, 1, 0], [2, 5, 2, 1, 0, 2, 0, 0]]
TOKENS = {
    "sglang_routed_experts": "sglang/generate_response_routed_experts.json",
    "vllm_routed_experts": "vllm/completion_with_routed_experts.json",
}
COUNTS = {
    "sglang_stat": ("sglang/expert_distribution_recorder_1700000000.5.pt", [[6, 6, 6, 6, 3, 0, 3, 6]]),
    "sglang_per_pass": ("sglang/per_pass", [[0, 1, 2, 0, 1, 0, 0, 2]]),
    "trtllm_statistic": ("trtllm/expert_statistic", [[5, 5, 5, 5, 3, 1, 3, 5]] * 2),
    "megatron_tokens_per_expert": ("megatron/tokens_per_expert/rank0.jsonl", [[9, 7, 0, 0, 0, 0, 0, 0]]),
    "llamacpp_imatrix": ("llamacpp/imatrix.gguf", LOAD_LE[:1]),
    "vllm_ascend_map": ("vllm_ascend/expert_map.json", [[3, 2, 2, 1, 1, 1, 1, 1]]),
    "omni_infer_activation": (
        "omni_infer/activation_counts_recordstep_50_rank_0.txt",
        [[2, 0, 0, 0, 0, 2, 0, 2]],
    ),
}


def _copy(source: Path, folder: Path) -> Path:
    """A copy whose name says nothing of its format, beside what else lies in its folder."""
    if source.is_dir():
        return Path(shutil.copytree(source, folder / "recording"))
    shutil.copytree(source.parent, folder / "recording")
    return (folder / "recording" / source.name).rename(folder / "recording" / "x")


@pytest.mark.parametrize("name", TOKENS)
def test_answers_of_servers(shared_data: Path, tmp_path: Path, name: str) -> None:
    """Five tokens in three MoE layers, the dense one dropped."""
    path = _copy(shared_data / "formats" / TOKENS[name], tmp_path)
    assert name == recognised_format(path)
    info, experts_LTK = converted(path)
    assert ((1, 2, 3), 5, True) == (info.layers, info.num_tokens, info.has_sequences)
    assert IDS_LTK.tolist() == experts_LTK.tolist()


@pytest.mark.parametrize("name", COUNTS)
def test_counts(shared_data: Path, tmp_path: Path, name: str) -> None:
    """The first MoE layer of every step."""
    source, expected = COUNTS[name]
    path = _copy(shared_data / "formats" / source, tmp_path)
    assert name == recognised_format(path)
    info, load_SLE = converted(path)
    assert ("count", 1, 8) == (info.level, info.layers[0], info.num_experts)
    assert expected == load_SLE[:, 0].tolist()


def test_sglang_per_token(shared_data: Path, tmp_path: Path) -> None:
    """Two passes of six and two tokens, slots undone."""
    path = _copy(shared_data / "formats" / "sglang" / "per_token", tmp_path)
    assert "sglang_per_token" == recognised_format(path)
    info, experts_LTK = converted(path)
    assert (2, 8, (1, 2, 3)) == (info.num_steps, info.num_tokens, info.layers)
    assert [[1, 2], [7, 4], [2, 7], [0, 3], [0, 3]] == experts_LTK[0, :5].tolist()


def test_megatron_router_trace(shared_data: Path, tmp_path: Path) -> None:
    """Two steps of six tokens, ids ascending; the folder beside it is no part of the recording."""
    path = _copy(shared_data / "formats" / "megatron" / "router_trace_rank0.jsonl", tmp_path)
    assert "megatron_router_trace" == recognised_format(path) == recognised_format(shared_data / "formats/megatron")
    info, experts_LTK = converted(path)
    assert (2, 12) == (info.num_steps, info.num_tokens)
    assert np.sort(IDS_LTK, axis=2).tolist() == experts_LTK[:, :5].tolist()


@pytest.mark.parametrize(("folder", "missing"), [("megatron/tokens_per_expert", "1, 2, 3"), ("omni_infer", "1, 2, 3")])
def test_folders_without_all_ranks_are_refused(shared_data: Path, tmp_path: Path, folder: str, missing: str) -> None:
    """The samples hold rank 0 of four."""
    with pytest.raises(InputError, match=f"missing rank {missing}"):
        converted(_copy(shared_data / "formats" / folder, tmp_path))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("vllm/eplb_log.txt", "no expert's; record with --enable-return-routed-experts"),
        ("profiler/kineto_rank0.json", "profiler timeline"),
        ("nccl_tests/alltoall_perf.txt", "measurement of communication.*`moesim calibrate import` reads it"),
        ("nccl_tests/alltoall_perf.json", "measurement of communication"),
        ("rccl_tests/alltoall.csv", "measurement of communication"),
        ("deepep/test_low_latency.log", "measurement of communication"),
        ("topology/nccl_topo.xml", "topology; it has no routing: `moesim topology import` reads it"),
        ("topology/slurm_topology_tree.conf", "topology; it has no routing"),
        ("topology/iblinkinfo.txt", "topology; it has no routing"),
        ("sglang/init_expert_location_redundant4_ep4.json", "placement of experts"),
        ("sglang/init_expert_location_from_counts.json", r"an input of SGLang's --init-expert-location; give the \.pt"),
        ("trtllm/moe_load_balancer.yaml", "placement of experts"),
        ("trtllm/expert_statistic/rank0.safetensors", r"give the folder with meta_info\.json"),
        ("chakra/moe.0.et", "is none of the trace formats"),
        ("launch/mpi_rankfile", "is none of the trace formats"),
    ],
)
def test_files_without_routing_are_told_apart(shared_data: Path, path: str, message: str) -> None:
    """What the file is, where that is known."""
    with pytest.raises(InputError, match=message):
        recognised_format(shared_data / "formats" / path)


def test_a_statistic_without_its_meta_file_is_told_from_nothing(shared_data: Path, tmp_path: Path) -> None:
    """The first file of a folder that no reader knows is looked at too."""
    folder = _copy(shared_data / "formats" / "trtllm" / "expert_statistic", tmp_path)
    (folder / "meta_info.json").unlink()
    with pytest.raises(InputError, match=r"rank0\.safetensors is one file of a TensorRT-LLM expert statistic"):
        recognised_format(folder)


def test_each_sample_is_recognised_by_one_reader_only(shared_data: Path) -> None:
    """No other reader claims it."""
    from moesim.trace.convert import _RECOGNISERS

    for name, (path, _) in COUNTS.items():
        claims = [other for other in READERS.names() if _RECOGNISERS.get(other)(shared_data / "formats" / path)]
        assert [name] == claims
