"""After the last backward pass: closed forms of the gradient reduction, the groups that reduce, the optimizer's bytes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.calibration import load_profile
from moesim.collective.link_table import build_link_table
from moesim.parallelism import ParallelDims
from moesim.topology import load_topology
from moesim.training_after import Reductions, copies_of_stage, held_by_stage, optimizer_s
from moesim.training_memory import HeldWeights, optimizer_types

GB = 1e9


def reductions(nodes, zero, *, algorithm="ring", optimizer="adam"):
    cluster = load_topology("dgx-h100-superpod", nodes=nodes)
    profile = load_profile()
    return Reductions(
        cluster=cluster,
        links=build_link_table(cluster, profile.links, profile.kernel("generic"), None),
        path_policy=cluster.default_path_policy,
        detours=None,
        algorithm=algorithm,
        zero=zero,
        optimizer=optimizer_types(optimizer),
        expert_dtype="bf16",
        dense_dtype="bf16",
        fidelity="bound",
        tolerance=0.0,
    )


def nic_rate(made):
    return next(link.bandwidth_bytes_per_s for link in made.cluster.links if link.tier == "nic")


@pytest.mark.parametrize("nodes", [2, 4])
def test_dense_gradients_take_two_n_minus_one_over_n(nodes):
    """Ring all-reduce over all devices, one ring a rail: each NIC carries 2 (n - 1) / n of an eighth of the bytes."""
    made, n = reductions(nodes, 0), 8 * nodes
    held = HeldWeights(experts=0.0, shared=0.0, dense=10 * GB)
    expected = 2 * (n - 1) / n * 40 * GB / 8 / nic_rate(made)
    assert expected == pytest.approx(made.gradient_s(held, [np.arange(n)], []), rel=2e-3)


def test_zero_reduces_gradients_and_gathers_weights():
    """Stage 1 and 2: half an all-reduce of float32 and half one of bf16; stage 3 gathers before passes instead."""
    held = HeldWeights(experts=2 * GB, shared=0.0, dense=10 * GB)
    seconds = [reductions(2, zero).gradient_s(held, [np.arange(16)], [np.array([0, 8])]) for zero in range(4)]
    assert seconds[1] == seconds[2]
    assert seconds[0] * (0.5 + 0.25) == pytest.approx(seconds[1], rel=1e-3)
    assert seconds[0] * 0.5 == pytest.approx(seconds[3], rel=1e-3)


def test_one_copy_has_nothing_to_reduce():
    """Groups of one device take no time."""
    held = HeldWeights(experts=GB, shared=GB, dense=GB)
    assert 0.0 == reductions(1, 1).gradient_s(held, [np.array([0])], [np.array([1])])


@given(
    tp=st.sampled_from([1, 2, 4]),
    ep=st.sampled_from([1, 2, 4, 8]),
    etp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 2, 4]),
)
def test_groups_part_the_devices_of_a_stage(tp, ep, etp, pp):
    """Every device is in one group of dp and one of edp; with a partner stage, so are the partner's."""
    dims = ParallelDims.for_world(64, tp=tp, ep=ep, etp=etp, pp=pp)
    for stage in range(pp):
        mine = list(range(stage * dims.stage_size, (stage + 1) * dims.stage_size))
        dense, experts = copies_of_stage(dims, stage, stage)
        assert (tp, ep * etp) == (len(dense), len(experts))
        assert {dims.dp} == {len(group) for group in dense}
        assert {dims.edp} == {len(group) for group in experts}
        assert mine == sorted(np.concatenate(dense).tolist()) == sorted(np.concatenate(experts).tolist())
        with_partner, _ = copies_of_stage(dims, stage, pp - 1 - stage)
        assert {dims.dp * (1 if pp - 1 - stage == stage else 2)} == {len(group) for group in with_partner}


@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    ep=st.sampled_from([1, 2, 4, 8]),
    etp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 2]),
)
def test_pipelines_part_the_world(tp, ep, etp, pp):
    """Every device is one rank of one stage of one pipeline; groups inside it are whole and consecutive where they say so."""
    dims = ParallelDims.for_world(64, tp=tp, ep=ep, etp=etp, pp=pp)
    ranks = [dims.stage_ranks(stage, pipeline) for stage in range(pp) for pipeline in range(dims.num_pipelines)]
    assert list(range(64)) == sorted(np.concatenate(ranks).tolist())
    for group in dims.tensor_groups(0, 0):
        assert tp == len(group)
        assert (np.diff(group) == 1).all()
    first = ranks[0][:ep]
    assert (np.diff(first) == etp).all()
    together = dims.expert_tensor_groups(0, 0)
    assert all(len({int(device) for device in group} & set(first.tolist())) == 1 for group in together[:ep])


def test_the_optimizer_reads_and_writes_its_state_once():
    """Adam in float32: gradient 4, state 12 read and written, bf16 weight 2 written: 30 bytes a weight."""
    dims = ParallelDims.for_world(8, ep=4)
    held = HeldWeights(experts=GB, shared=GB, dense=GB)
    rate = np.array([1e12, 2e12])
    assert 3 * GB * 30 / 1e12 == pytest.approx(optimizer_s(held, dims, 1, reductions(1, 0), rate))
    cut = (GB / 2 + 2 * GB / 8) * 30 / 1e12
    assert cut == pytest.approx(optimizer_s(held, dims, 1, reductions(1, 1), rate))


def test_a_stage_holds_its_parts_together():
    """Stage 0 of dualpipe holds the first and the last part."""
    parts = [HeldWeights(experts=1.0, shared=2.0, dense=3.0), HeldWeights(experts=10.0, shared=20.0, dense=30.0)]
    assert [HeldWeights(experts=11.0, shared=22.0, dense=33.0)] * 2 == held_by_stage(parts, [(0, 1), (0, 1)])
