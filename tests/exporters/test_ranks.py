"""Rank-to-host files read back as launchers read them."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.exporters import ExportRequest, export_plan
from moesim.exporters.export import Site
from moesim.exporters.hosts import expand_hosts
from moesim.parallelism import ParallelDims
from moesim.topology import load_topology
from tests.exporters.test_serving import IDENTITY
from tests.strategies.plan import plan_of

PLAN = plan_of((IDENTITY, IDENTITY), 16)


def site(topology="dgx-h100-superpod", ep=16, **parameters):
    cluster = load_topology(topology, **(parameters or {"nodes": 2}))
    return Site(
        cluster=cluster,
        dims=ParallelDims.for_world(cluster.num_devices, ep=ep),
        traffic=lambda _: None,
        replay=lambda: None,
    )


def ranks(target, out, where=None, **options):
    request = ExportRequest(plan=PLAN, target=target, out=Path(out), site=where or site(), options=options)
    export = export_plan(request)
    assert all(check.ok for check in export.checks)
    return export


EXPECTED = ["h08"] * 8 + ["h09"] * 8


def test_line_i_of_the_slurm_hostfile_is_the_host_of_task_i():
    """One line per rank; the script sets what the flags say, with ./ where the path has no slash."""
    export = ranks("slurm", "hosts.txt", hosts="h[08-09]")
    assert EXPECTED == export.files["hosts.txt"].decode().split()
    assert "SLURM_HOSTFILE=./hosts.txt" in export.launch_flags
    script = export.files["hosts.srun.sh"].decode()
    assert "SLURM_HOSTFILE=./hosts.txt srun --ntasks=16 --distribution=arbitrary" in script
    assert "--nodes=" not in script


def test_the_rankfile_names_every_rank_once_and_no_core_twice():
    """Ranks 0..15; with four cores a rank the cores of one host do not overlap; the hostfile has the slots."""
    export = ranks("openmpi", "ranks.txt", hosts="h[08-09]", cores_per_rank="4")
    found = re.findall(r"^rank (\d+)=(\S+) slot=(\d+)-(\d+)$", export.files["ranks.txt"].decode(), re.M)
    assert list(zip(map(str, range(16)), EXPECTED, strict=True)) == [(rank, host) for rank, host, _, _ in found]
    cores = [(host, core) for _, host, low, high in found for core in range(int(low), int(high) + 1)]
    assert 64 == len(set(cores)) == len(cores)
    assert "h08 slots=8\nh09 slots=8\n" == export.files["ranks.hosts"].decode()


@pytest.mark.parametrize(("host", "node"), [("h08", "0"), ("h09", "1")])
def test_the_torchrun_script_run_on_a_host_starts_its_node_rank(tmp_path, host, node):
    """A stand-in torchrun prints what it was started with."""
    script = tmp_path / "run.sh"
    script.write_bytes(ranks("torchrun", "run.sh", hosts="h[08-09]").files["run.sh"])
    stand_in = tmp_path / "torchrun"
    stand_in.write_text('#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" "$@"\n')
    stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOST": host}
    out = subprocess.run(["sh", script, "train.py"], env=environment, capture_output=True, text=True, check=True).stdout
    assert f"0,1,2,3,4,5,6,7 --nnodes=2 --nproc-per-node=8 --node-rank={node} --master-addr=h08" in out
    assert out.endswith("--master-port=29500 train.py\n")
    lost = subprocess.run(["sh", script], env={**environment, "HOST": "h10"}, capture_output=True, text=True)
    assert (1, "this host is not in the plan\n") == (lost.returncode, lost.stderr)


def fake_device(**values):
    return types.SimpleNamespace(**values)


def load_mesh_script(export, tmp_path, monkeypatch):
    """make_mesh of the exported script, with a Mesh that keeps its arguments."""
    for name, content in export.files.items():
        (tmp_path / name).write_bytes(content)
    mesh = types.SimpleNamespace(Mesh=lambda array, names: (array, names))
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(sharding=mesh))
    scope = {}
    exec((tmp_path / "order_mesh.py").read_text(), scope)
    return scope["make_mesh"]


def test_the_jax_mesh_has_chips_in_the_order_of_the_plan(tmp_path, monkeypatch):
    """Whatever order JAX lists a torus in; a chip that is not there is refused."""
    where = site("tpu-v4-pod", shape="4x4x4", ep=16)
    make_mesh = load_mesh_script(ranks("jax", "order.json", where), tmp_path, monkeypatch)
    points = where.cluster.layout.coordinate_DA.tolist()
    devices = [fake_device(coords=tuple(point), slice_index=0, index=i) for i, point in enumerate(points)]
    array, names = make_mesh(tmp_path / "order.json", devices[::-1])
    assert (1, 4, 16, 1) == array.shape
    assert ["stage", "expert_data", "expert", "expert_tensor"] == names
    assert list(range(64)) == [device.index for device in array.ravel()]
    with pytest.raises(ValueError, match="no device at"):
        make_mesh(tmp_path / "order.json", devices[1:])


def test_the_jax_order_of_gpus_is_by_process_and_local_id(tmp_path, monkeypatch):
    """(process_index, local_hardware_id) of the first rank of node 1 is (1, 0)."""
    export = ranks("jax", "order.json")
    assert [1, 0] == json.loads(export.files["order.json"])["devices"][8]
    make_mesh = load_mesh_script(export, tmp_path, monkeypatch)
    devices = [fake_device(process_index=i // 8, local_hardware_id=i % 8, index=i) for i in range(16)]
    array, _ = make_mesh(tmp_path / "order.json", devices[::-1])
    assert list(range(16)) == [device.index for device in array.ravel()]


def test_kubernetes_manifests_have_a_pod_for_every_node_pinned_where_hosts_are_known():
    """Job i of the JobSet selects host i and reads its rank from the global job index."""
    export = ranks("kubernetes", "job.yaml", hosts="h[08-09]", domain="rack")
    jobset = yaml.safe_load(export.files["job.yaml"])
    jobs = [job["template"]["spec"]["template"]["spec"] for job in jobset["spec"]["replicatedJobs"]]
    assert ["h08", "h09"] == [pod["nodeSelector"]["kubernetes.io/hostname"] for pod in jobs]
    assert {"nvidia.com/gpu": 8} == jobs[0]["containers"][0]["resources"]["limits"]
    assert "job-global-index" in jobs[0]["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"]
    topology, job = yaml.safe_load_all(export.files["job.kueue.yaml"])
    assert ["rack", "kubernetes.io/hostname"] == [level["nodeLabel"] for level in topology["spec"]["levels"]]
    assert (2, 2, "Indexed") == tuple(job["spec"][key] for key in ("completions", "parallelism", "completionMode"))
    assert 2 == yaml.safe_load(export.files["job.lws.yaml"])["spec"]["leaderWorkerTemplate"]["size"]


def test_without_hosts_the_jobset_keeps_its_pods_in_one_domain():
    """One indexed job of two pods under the exclusive-topology annotation."""
    jobset = yaml.safe_load(ranks("kubernetes", "job.yaml").files["job.yaml"])
    assert ["alpha.jobset.sigs.k8s.io/exclusive-topology"] == list(jobset["metadata"]["annotations"])
    assert 2 == jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"]


@settings(max_examples=30)
@given(names=st.lists(st.from_regex(r"\A[a-z][a-z0-9-]{0,6}[a-z0-9]\Z"), min_size=1, max_size=6, unique=True))
def test_a_plain_list_of_hosts_is_itself(names):
    """Comma separated names come back in order."""
    assert tuple(names) == expand_hosts(",".join(names))


@settings(max_examples=30)
@given(low=st.integers(0, 120), count=st.integers(1, 30), width=st.integers(1, 4))
def test_a_bracket_is_every_number_of_its_range(low, count, width):
    """n[low-high] has count names, zero-padded as the low end is written."""
    text = f"{low:0{width}d}"
    found = expand_hosts(f"n[{text}-{low + count - 1}].pod")
    assert [f"n{i:0{len(text)}d}.pod" for i in range(low, low + count)] == list(found)


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ("a,b,c", "names 3 hosts; the cluster has 2 nodes"),
        ("a,a", "named twice"),
        ("a b,c", "not a host name"),
        ("n[1-999999999],x", "not a list such as"),
        ("n[2-1]", "names 0 hosts"),
        ("$(reboot),b", "not a host name"),
        ("n[x-y],b", "not a host name"),
    ],
)
def test_bad_host_lists_are_told_in_one_sentence(hosts, words):
    """Nothing of a shell gets into a script."""
    with pytest.raises(InputError, match=re.escape(words)):
        ranks("slurm", "x", hosts=hosts)


def test_without_a_cluster_there_are_no_ranks():
    """A plan that does not know its cluster asks for the scenario."""
    with pytest.raises(InputError, match="give --scenario"):
        export_plan(ExportRequest(plan=PLAN, target="slurm", out=Path("x")))


def test_a_torus_is_listed_host_by_host():
    """Four chips a host: 64 ranks on 16 hosts, four in a row."""
    where = site("tpu-v4-pod", shape="4x4x4", ep=16)
    lines = ranks("slurm", "x", where).files["x"].decode().split()
    assert np.repeat([f"node{i}" for i in range(16)], 4).tolist() == lines
