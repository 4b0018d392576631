"""Our files against samples of their formats: the same keys and types, and our parsers read the samples."""

import json

import numpy as np
import pytest
import yaml

import moesim
from moesim.exporters.chakra_wire import COMP, decode_trace
from tests.exporters.test_ranks import ranks
from tests.exporters.test_serving import IDENTITY, MODEL
from tests.strategies.plan import exported, plan_of
from tests.strategies.scenario import tiny_scenario

pytestmark = pytest.mark.shared
REPLICAS = (*IDENTITY[:4], 4, *IDENTITY[4:8], 8, *IDENTITY[8:12], 12, *IDENTITY[12:], 0)
PLAN = plan_of((REPLICAS, REPLICAS), 4)


def shape(value):
    """Keys and types all the way down; of a list the first item."""
    if isinstance(value, dict):
        return {key if isinstance(key, str) else "int": shape(item) for key, item in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


@pytest.mark.parametrize(
    ("sample", "target", "file"),
    [
        ("sglang/init_expert_location_redundant4_ep4.json", "sglang", "x.json"),
        ("vllm_ascend/expert_map.json", "vllm-ascend", "x.json"),
        ("vllm/UNRELEASED_pr49572_initial_expert_map.json", "vllm", "x.json"),
    ],
)
def test_json_files_have_the_samples_structure(shared_data, sample, target, file):
    """Same keys, nesting and types."""
    options = {"map_file": "true"} if target == "vllm" else {}
    content = exported(PLAN, target, file, MODEL, **options).files[file]
    assert shape(json.loads((shared_data / "formats" / sample).read_text())) == shape(json.loads(content))


def test_deepspeed_descriptors_have_the_samples_structure(shared_data):
    """A plan with all layers alike is the descriptor itself."""
    content = exported(plan_of((IDENTITY, IDENTITY), 4), "deepspeed", "d.json", MODEL).files["d.json"]
    sample = (shared_data / "formats/deepspeed/autoep_expert_placement.json").read_text()
    assert shape(json.loads(sample)) == shape(json.loads(content))


@pytest.mark.parametrize(
    ("sample", "target", "out", "file"),
    [
        ("trtllm/moe_load_balancer.yaml", "tensorrt-llm", "b.yaml", "b.yaml"),
        ("trtllm/extra_llm_api_options.yaml", "tensorrt-llm", "b.yaml", "b.llm_options.yaml"),
        ("omni_infer/config.yaml", "omni-infer", "p.npy", "p.yaml"),
    ],
)
def test_yaml_files_have_the_samples_structure(shared_data, sample, target, out, file):
    """Same keys and types; layers are integers."""
    content = exported(PLAN, target, out, MODEL).files[file]
    assert shape(yaml.safe_load((shared_data / "formats" / sample).read_text())) == shape(yaml.safe_load(content))


def test_the_omni_infer_pattern_has_the_samples_type(shared_data):
    """int32, three axes, experts last."""
    import io

    sample = np.load(shared_data / "formats/omni_infer/placement_pattern.npy", allow_pickle=False)
    ours = np.load(io.BytesIO(exported(PLAN, "omni-infer", "p.npy", MODEL).files["p.npy"]), allow_pickle=False)
    assert (sample.dtype, sample.ndim) == (ours.dtype, ours.ndim)


def test_launch_files_look_like_the_samples(shared_data):
    """Lines of rankfile, hostfile and SLURM_HOSTFILE have the samples' pattern; manifests their kinds and versions."""
    launch = shared_data / "formats/launch"
    mpi, slurm = ranks("openmpi", "mpi_rankfile", cores_per_rank="4"), ranks("slurm", "slurm_hostfile")
    first = mpi.files["mpi_rankfile"].decode().split("\n")[0]
    assert first.split("=")[0] == (launch / "mpi_rankfile").read_text().split("=")[0]
    assert "slots=" in (launch / "mpi_hostfile").read_text() and "slots=" in mpi.files["mpi_rankfile.hosts"].decode()
    assert 1 == len(slurm.files["slurm_hostfile"].split(b"\n")[0].split())
    manifests = ranks("kubernetes", "k.yaml").files
    for sample, file in (("jobset.yaml", "k.yaml"), ("lws.yaml", "k.lws.yaml"), ("kueue_job.yaml", "k.kueue.yaml")):
        theirs, ours = yaml.safe_load_all((launch / sample).read_text()), yaml.safe_load_all(manifests[file])
        assert [(d["apiVersion"], d["kind"]) for d in theirs] == [(d["apiVersion"], d["kind"]) for d in ours]


def test_the_chakra_sample_decodes(shared_data):
    """A compute node with its attributes, then a collective that waits for it."""
    version, nodes = decode_trace((shared_data / "formats/chakra/moe.0.et").read_bytes())
    assert ("0.0.4", ["expert ffn", "combine"]) == (version, [node.name for node in nodes])
    assert (COMP, 50, 1_000_000_000) == (nodes[0].kind, nodes[0].duration_us, nodes[0].attributes["num_ops"])
    assert ((1,), 1 << 20) == (nodes[1].deps, nodes[1].attributes["comm_size"])


def test_the_network_and_the_matrix_look_like_the_samples(shared_data, tmp_path):
    """Four lists of numbers and names; lines of integers, square."""
    plan = moesim.plan(tiny_scenario(tmp_path), "contiguous")
    moesim.export(plan, "astra-sim", tmp_path / "n.yml")
    sample = yaml.safe_load((shared_data / "formats/topology/astra_network.yml").read_text())
    assert shape(sample) == shape(yaml.safe_load((tmp_path / "n.yml").read_text()))
    moesim.export(plan, "nccl-alltoallv", tmp_path / "m.txt")
    for path in (tmp_path / "m.txt", shared_data / "formats/nccl_tests/alltoallv_matrix.txt"):
        matrix = np.loadtxt(path, dtype=np.int64)
        assert matrix.shape[0] == matrix.shape[1] and (matrix % 16 == 0).all()
