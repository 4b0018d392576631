"""Predicted against measured on the shipped tables: held-out bands, one's own table, the table in the docs."""

import json

import numpy as np
import pytest

from calibrate import emulated
from calibrate.build_profiles import RECIPES
from calibrate.validation import EP, SIZES, TARGETS, _odd_sizes, _split, answer, expert_seconds, transfers
from moesim import validate as room
from moesim.calibration import list_profiles, load_profile
from moesim.errors import InputError, UnknownName

HEADER = (
    "tier,source,date,library,hardware,nodes,gpus_per_node,ep_size,tokens_per_rank,hidden,topk,num_experts,"
    "dtype_dispatch,dtype_combine,op,bytes_per_rank,time_us,algbw_gb_s,busbw_gb_s,notes\n"
)
ROWS = """\
A,mine,2026,NCCL 2.29.2,h100-sxm,10.0,8,80,,,,,half,,alltoall,8589934592,157000,,,
A,mine,2026,DeepEP low-latency,h100-sxm,2.0,8,16,128,7168,8,256,fp8,bf16,dispatch,,120,,,
A,mine,2026,NCCL 2.29.2,a toaster,10.0,8,80,,,,,half,,alltoall,8589934592,157000,,,
A,mine,2026,SHMEM,h100-sxm,1.0,8,8,,,,,half,,alltoall,1024,10,,,
"""
OWN = HEADER + ROWS


def test_every_profile_of_the_interface_ships_and_has_its_recipe():
    """Each named profile is there, fitted to something, and says how well."""
    assert set(RECIPES) | {"datasheet"} == set(list_profiles())
    for name in RECIPES:
        profile = load_profile(name)
        assert profile.basis.startswith("fitted to")
        assert profile.sources


def test_unseen_ep_of_low_latency_kernels_stays_in_its_band():
    """DeepEP low latency on the H800: fitted to EP 8 and 16, EP 32 and 64 within the target."""
    rows = transfers("deepep-ll", "h800-sxm", "LL using NVLink")
    large = np.array([m.params["ranks"] > 16 for m in rows])
    found = answer(_split(EP, "deepep-ll", rows, large, "fitted to EP <= 16"))
    assert found["median_ape"] <= TARGETS[EP][0]
    assert found["met"]


@pytest.mark.parametrize("name", ["h100-sxm", "h200-sxm", "b200-sxm"])
def test_shipped_expert_curves_say_their_held_out_error(name):
    """bf16 and fp8 experts of unseen models: median at most 6 %, P90 at most 25 %."""
    for dtype in ("bf16", "fp8"):
        error = load_profile(name).compute.experts[dtype].error
        assert error.protocol.startswith("held out")
        assert (error.median <= 0.06, error.p90 <= 0.25) == (True, True)


def test_ones_own_table_is_compared_and_what_cannot_be_read_is_named(tmp_path):
    """Two rows are predicted; an unknown device and an unknown library are counted with their reason."""
    path = tmp_path / "mine.csv"
    path.write_text(OWN)
    found = room.validate_file(path, "h100-sxm")
    assert ["deepep-ll dispatch under h100-sxm", "nccl all_to_all under h100-sxm"] == [s["name"] for s in found["sets"]]
    assert all(s["median_ape"] < 0.3 for s in found["sets"])
    assert 2 == sum(found["left_out"].values())
    assert any("toaster" in reason for reason in found["left_out"])
    json.dumps(found)


def test_a_table_that_compares_with_nothing_is_refused(tmp_path):
    """No file, an unknown profile, a table without one usable row."""
    with pytest.raises(InputError, match="no such file"):
        room.validate_file(tmp_path / "absent.csv", "h100-sxm")
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(OWN.splitlines()[i] for i in (0, 3)) + "\n")
    with pytest.raises(InputError, match="toaster"):
        room.validate_file(path, "h100-sxm")
    with pytest.raises(UnknownName):
        room.validate_file(path, "h100")


def test_the_table_goes_between_the_markers_of_the_docs(tmp_path):
    """What stands around the markers stays; a page without them is refused."""
    page = tmp_path / "V.md"
    page.write_text(f"before\n{room.BEGIN}\nold\n{room.END}\nafter\n")
    one = {"name": "a set", "n": 2, "median_ape": 0.05, "mape": 0.06, "p90_ape": 0.1, "worst": 0.2, "heldout": "sizes"}
    room.write_docs({"sets": [{**one, "target": {"median_ape": 0.06, "p90_ape": 0.2}, "met": True}]}, page)
    assert "| a set | 2 | 5.0% | 6.0% | 10.0% | 20.0% | 6%, P90 20% | yes | sizes |" in page.read_text()
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    page.write_text("nothing")
    with pytest.raises(InputError, match="markers"):
        room.write_docs({"sets": []}, page)


def test_an_even_load_is_its_own_mean():
    """The mean over experts of balanced groups is the balanced group's time when all loads are equal."""
    from calibrate.fit.expert_mlp import Rates, expert_rows, predicted
    from calibrate.measurement import Measurement
    from moesim.topology.accelerators import load_accelerator

    params = {
        "hardware": "h100-sxm",
        "groups": 64,
        "tokens_per_group": 100,
        "d_model": 4096,
        "d_ff": 1536,
        "dtype": "bf16",
    }
    row = Measurement(
        probe="e", operation="expert_mlp", params=params, time_s=1.0, environment="here", source="made up"
    )
    rates = Rates.of(load_accelerator("h100-sxm")[0], "bf16")
    curve = load_profile("h100-sxm").compute.experts["bf16"]
    assert pytest.approx(predicted(curve, expert_rows([row]), rates)[0]) == expert_seconds(curve, rates, row)


def test_unseen_sizes_of_kernels_inside_a_node_stay_in_their_band():
    """MORI on the MI355X: fitted to every other size of EP 2, 4 and 8, the sizes between within the target."""
    rows = transfers("mori", "mi355x", "_IntraNode_ep")
    assert answer(_split(SIZES, "mori", rows, _odd_sizes(rows), "every other size"))["met"]


def test_the_emulated_cluster_is_predicted_from_its_published_records():
    """The 32 published cases, predicted anew: both targets are met, and both are named."""
    found = emulated.answer()
    assert found["n"] == 32
    assert found["median_ape"] <= found["target"]["median_ape"]
    assert found["rank_correlation"] >= found["target"]["rank_correlation"]
    assert "rank correlation" in room.lines({"sets": [found]})[0]
