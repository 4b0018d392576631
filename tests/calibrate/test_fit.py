"""Fits find again what made the numbers, flag what physics forbids, and the profile they write simulates and validates."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrate.fit import fit, fit_files, write_profile
from calibrate.fit.communication import fit_kernel
from calibrate.fit.errors import digest, fit_error, weighted_ridge
from calibrate.fit.expert_mlp import Rates, expert_rows, fit_expert_curve, predicted
from calibrate.fit.transfers import predict
from calibrate.measurement import Measurement, write_measurements
from moesim.calibration import KernelProfile, load_profile
from moesim.calibration_curves import Curve, ExpertCurve, FitError, Surface
from moesim.errors import InputError
from moesim.topology.accelerators import load_accelerator

TOKENS = (1, 8, 64, 256, 1024, 4096)


def measurement(operation, time_s, **params):
    params = {"hardware": "h100-sxm", **params}
    return Measurement(
        probe=operation, operation=operation, params=params, time_s=time_s, environment="here", source="synthetic rows"
    )


def kernel(fixed_s, nic, scale_up):
    """A low-latency kernel with these costs and nothing else."""
    figure = {"kind": "assumed", "source": "made up"}
    fixed = {"against": "ranks", "at": [8, 16], "value": [fixed_s, fixed_s], **figure}
    return KernelProfile.model_validate(
        {
            "algorithm": "direct",
            "chunk_tokens": {"value": 0.0, **figure},
            "dispatch": {"fixed_s": fixed},
            "combine": {"fixed_s": fixed},
            "nic": {"value": nic, **figure},
            "scale_up": {"value": scale_up, **figure},
        }
    )


def transfers(made, noise=0.0, seed=0):
    """Dispatches of 8 and 16 ranks timed by a kernel's own profile, with relative noise."""
    profile = load_profile().model_copy(update={"kernels": {"deepep-ll": made}})
    random, rows = np.random.default_rng(seed), []
    for ranks, nodes in ((8, 1), (16, 2)):
        for tokens in TOKENS:
            params = {"library": "deepep-ll", "ranks": ranks, "nodes": nodes, "tokens_per_rank": tokens}
            params |= {"hidden": 7168, "top_k": 8, "experts": 256, "dtype": "fp8"}
            exact = predict(profile, "deepep-ll", measurement("dispatch", 1.0, **params))
            rows.append(measurement("dispatch", exact * (1.0 + noise * random.standard_normal()), **params))
    return rows


@settings(max_examples=4, deadline=None)
@given(st.floats(1e-5, 5e-5), st.floats(0.5, 0.95), st.floats(0.4, 0.9))
def test_a_fit_finds_the_costs_that_made_the_times(fixed_s, nic, scale_up):
    """Fixed cost and both link fractions come back within 3 % from exact times."""
    found, _ = fit_kernel(transfers(kernel(fixed_s, nic, scale_up)), "deepep-ll", "synthetic")
    fitted = (found.dispatch.fixed_s.value[0], found.nic.value, found.scale_up.value)
    assert (fixed_s, nic, scale_up) == pytest.approx(fitted, rel=0.03)


def test_one_wild_row_does_not_move_a_fit():
    """A row ten times too slow among eleven good ones leaves the NIC fraction within 5 %."""
    rows = transfers(kernel(2e-5, 0.8, 0.6), noise=0.01)
    rows[3] = measurement("dispatch", rows[3].time_s * 10.0, **rows[3].params)
    found, _ = fit_kernel(rows, "deepep-ll", "synthetic")
    assert pytest.approx(found.nic.value, rel=0.05) == 0.8


def test_rows_faster_than_their_links_are_counted_and_not_fitted():
    """Half of the rows at a millionth of their time change nothing but the count of what was left out."""
    rows = transfers(kernel(2e-5, 0.8, 0.6))
    wild = [measurement("dispatch", 1e-9, **{**m.params, "hidden": 4096}) for m in rows if m.params["nodes"] == 1]
    report = fit(rows + wild, "h100-sxm")
    assert len(wild) == report.left_out["faster than its links"]
    assert fit(rows, "h100-sxm").profile.kernels == report.profile.kernels


def expert_measurements(curve, noise=0.0):
    rates = Rates.of(load_accelerator("h100-sxm")[0], "bf16")
    random, rows = np.random.default_rng(1), []
    for d_model, d_ff in ((2048, 1024), (4096, 1536), (4096, 2048), (6144, 2560), (7168, 2048), (8192, 3072)):
        for groups in (8, 64):
            for tokens in TOKENS:
                params = {"kernel": "made", "groups": groups, "tokens_per_group": tokens, "d_model": d_model}
                params |= {"d_ff": d_ff, "gated": True, "dtype": "bf16", "distribution": "balanced", "experts": groups}
                rows.append(measurement("expert_mlp", 1.0, **params))
    exact = predicted(curve, expert_rows(rows), rates) * (1.0 + noise * random.standard_normal(len(rows)))
    timed = zip(rows, exact.tolist(), strict=True)
    return [measurement("expert_mlp", time_s, **row.params) for row, time_s in timed], rates


def made_curve(**changes):
    values = {
        "launch_s": 2e-5,
        "memory_fraction": 0.8,
        "flops_fraction": 0.6,
        "activation_factor": 2.0,
        "tile_tokens": 16,
    }
    error = FitError(n=1, median=0, mape=0, p90=0, protocol="made up")
    return ExpertCurve(
        kernel="made", valid_range={}, kind="assumed", source="made up", error=error, **(values | changes)
    )


def test_an_expert_fit_predicts_models_it_has_not_seen():
    """From a roofline with 2 % noise, held-out models are predicted within 3 % in the median, and the error says so."""
    rows, rates = expert_measurements(made_curve(), noise=0.02)
    curve = fit_expert_curve(expert_rows(rows), rates, "made", "synthetic")
    assert curve.error.median < 0.03
    assert curve.error.protocol.startswith("held out: models")


def test_few_expert_rows_are_refused():
    """Three rows fit nothing."""
    rows, rates = expert_measurements(made_curve())
    with pytest.raises(ValueError, match="too few"):
        fit_expert_curve(expert_rows(rows[:3]), rates, "made", "synthetic")


def test_a_fitted_profile_reads_back_as_it_was_written(tmp_path):
    """The file of a fit is a profile: same figures, and the same bytes when fitted again."""
    source, out = tmp_path / "m.jsonl", tmp_path / "p.json"
    write_measurements(source, transfers(kernel(2e-5, 0.8, 0.6)))
    answer = fit_files([str(source)], str(out))
    first = out.read_bytes()
    assert load_profile(str(out)).name == "p"
    assert answer["curves"][0]["valid_range"]["ranks"] == (8.0, 16.0)
    fit_files([str(source)], str(out))
    assert first == out.read_bytes()


def test_fitting_nothing_is_refused_in_one_sentence(tmp_path):
    """No rows, rows of two accelerators, rows of no known kernel."""
    source = tmp_path / "m.jsonl"
    write_measurements(source, [measurement("overlap", 1.0)])
    with pytest.raises(InputError, match="none of the 1 measurements"):
        fit_files([str(source)], str(tmp_path / "p.json"))
    write_measurements(source, [measurement("overlap", 1.0), measurement("overlap", 1.0, hardware="b200-sxm")])
    with pytest.raises(InputError, match="--hardware"):
        fit_files([str(source)], str(tmp_path / "p.json"))
    with pytest.raises(InputError, match="cannot read"):
        fit_files([str(tmp_path / "absent.jsonl")], str(tmp_path / "p.json"))


def test_device_rates_come_from_copies_and_launches():
    """128 MiB read and written in 100 us is 2.68 TB/s of the 3.35; a hundred launches in 500 us are 5 us each."""
    rows = [measurement("copy", 1e-4, bytes=2**27), measurement("launch", 5e-4, calls=100, graph=False)]
    compute = fit(rows, "h100-sxm").profile.compute
    assert (2 * 2**27 / 1e-4 / 3.35e12, 5e-6) == pytest.approx((compute.memory_fraction.value, compute.launch_s.value))


def test_ridge_finds_a_plane_despite_outliers():
    """Coefficients 2 and -1 from 200 rows of which a tenth are off by ten."""
    random = np.random.default_rng(0)
    design = random.standard_normal((200, 2))
    target = design @ np.array([2.0, -1.0]) + 10.0 * (np.arange(200) % 10 == 0)
    found = weighted_ridge(design, target, np.zeros(2), 0.03)
    assert [2.0, -1.0] == pytest.approx(found.tolist(), abs=0.05)


def test_an_error_without_rows_is_refused_and_many_ids_become_a_digest():
    """A number over nothing is no error; a set's name does not depend on its order."""
    with pytest.raises(ValueError, match="at least one"):
        fit_error(np.zeros(0), np.zeros(0), "none")
    ids = [f"m{i}" for i in range(100)]
    assert digest(ids) == digest(ids[::-1])
    assert len(digest(ids)) == 1


def test_surfaces_are_multilinear_and_flat_outside():
    """Halfway between the knots of a corner table the value is the mean of the corners."""
    surface = Surface(against=("tokens", "d_ff"), knots=((0.0, 2.0), (10.0, 11.0)), value=(0.0, 1.0, 2.0, 3.0))
    at = {"tokens": np.array([1.0, -5.0, 9.0]), "d_ff": np.array([10.5, 10.0, 11.0])}
    assert [1.5, 0.0, 3.0] == surface.log_factor(at).tolist()


@pytest.mark.parametrize("change", [{"knots": ((0.0,),)}, {"value": (1.0,)}, {"value": (50.0, 0.0)}])
def test_a_surface_that_is_none_is_refused(change):
    """One knot, missing corners, absurd factors."""
    with pytest.raises(ValueError, match="surface"):
        Surface(**({"against": ("tokens",), "knots": ((0.0, 1.0),), "value": (0.0, 0.0)} | change))


def test_a_curve_on_a_log_scale_is_a_power_law():
    """From 1 at 1 to 16 at 16, halfway in log2 stands the geometric mean; flat curves stay at their ends."""
    curve = Curve(
        against="ranks", at=(1, 16), value=(1, 16), kind="assumed", source="made up", scale="log", beyond="flat"
    )
    assert [4.0, 16.0] == pytest.approx([curve.read(4), curve.read(1000)])


def test_profiles_with_nan_or_unknown_keys_are_refused(tmp_path):
    """No number that is none, no key that nothing reads."""
    path = tmp_path / "p.json"
    write_profile(load_profile(), path)
    data = json.loads(path.read_text())
    for damage in ({"compute": {**data["compute"], "wings": 2}}, {"kernels": {"nccl": {"algorithm": "magic"}}}):
        path.write_text(json.dumps({**data, **damage}))
        with pytest.raises(InputError, match=r"p\.json"):
            load_profile(str(path))
    path.write_text(json.dumps(data).replace("1.0", "NaN", 1))
    with pytest.raises(InputError, match=r"p\.json"):
        load_profile(str(path))


def test_a_transfer_across_nodes_that_beats_its_network_is_not_fitted():
    """A dispatch of 16 ranks in a thousandth of its time is left out with its reason; so are weights of an unknown type."""
    rows = transfers(kernel(2e-5, 0.8, 0.6))
    wild = measurement("dispatch", 1e-8, **{**rows[-1].params, "tokens_per_rank": 2048})
    strange = measurement("expert_mlp", 1e-4, dtype="int4", groups=8, tokens_per_group=4, d_model=64, d_ff=64)
    left_out = fit([*rows, wild, strange], "h100-sxm").left_out
    assert left_out == {"experts of weights in int4": 1, "faster than its links": 1}


def test_links_that_few_peers_do_not_fill_are_found_by_ranks():
    """Times at a rate that grows with ranks: the curve of `reached` is read at ranks, and predicts within 3 %."""
    figure = {"kind": "assumed", "source": "made up"}
    reached = {
        "against": "ranks",
        "at": [2, 4, 8],
        "value": [0.3, 0.6, 1.0],
        "beyond": "flat",
        "scale": "log",
        **figure,
    }
    made = kernel(1e-5, 1.0, 0.8)
    costs = made.dispatch.model_copy(update={"reached": Curve.model_validate(reached)})
    made = made.model_copy(update={"algorithm": "per_device", "dispatch": costs, "combine": costs, "nic": None})
    profile = load_profile().model_copy(update={"kernels": {"trtllm-two-sided": made}})
    rows = []
    for ranks, tokens in product((2, 4, 8), (64, 512, 4096, 16384)):
        params = {"hardware": "gb200-nvl72", "library": "trtllm-two-sided", "ranks": ranks, "nodes": 1, "dtype": "bf16"}
        params |= {"tokens_per_rank": tokens, "hidden": 7168, "top_k": 8, "experts": 256}
        exact = predict(profile, "trtllm-two-sided", measurement("dispatch", 1.0, **params))
        rows.append(measurement("dispatch", exact, **params))
    found, error = fit_kernel(rows, "trtllm-two-sided", "synthetic")
    assert found.dispatch.reached.against == "ranks"
    assert error.median < 0.03
