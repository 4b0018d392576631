"""The committed measurements of the emulated cluster: what docs/VALIDATION.md claims of them."""

import json
from pathlib import Path

import pytest

from calibrate.measurement import read_measurements
from calibrate.testbed.compare import TARGET_MEDIAN, TARGET_RANK_CORRELATION, Agreement, compare
from calibrate.testbed.fit import fit_profile
from calibrate.testbed.records import predict_records, read_records
from moesim.calibration import load_profile
from moesim.provenance import data_folder

PUBLISHED = data_folder("calibrate/published")
PROFILE = PUBLISHED / "testbed_profile.json"


@pytest.fixture(scope="module")
def agreement() -> Agreement:
    wiring, shape, records = read_records(PUBLISHED / "testbed_cases.jsonl")
    return compare(records, predict_records(wiring, shape, records, load_profile(str(PROFILE))))


def test_the_layer_time_is_predicted_within_the_target(agreement: Agreement) -> None:
    """At least 32 held-out cases: median error at most 8 %."""
    assert agreement.n >= 32
    assert agreement.median_ape <= TARGET_MEDIAN


def test_the_order_of_placements_is_predicted(agreement: Agreement) -> None:
    """Mean rank correlation over windows and algorithms at least 0.9."""
    assert agreement.rank_correlation >= TARGET_RANK_CORRELATION


def test_the_profile_is_what_the_fit_makes_of_the_committed_probes() -> None:
    """Fitting anew gives the committed link fractions and expert rate, so that the profile holds nothing of the cases."""
    wiring, shape, _ = read_records(PUBLISHED / "testbed_cases.jsonl")
    anew = fit_profile(read_measurements(Path(PUBLISHED / "testbed_measurements.jsonl")).measurements, wiring, shape)
    committed = json.loads(PROFILE.read_text(encoding="utf-8"))
    assert committed["links"]["nic"]["value"] == pytest.approx(anew.links.nic.value, rel=1e-3)
    assert committed["links"]["scale_up"]["value"] == pytest.approx(anew.links.scale_up.value, rel=1e-3)
    assert committed["compute"]["flops_fraction"]["value"] == pytest.approx(anew.compute.flops_fraction.value, rel=1e-3)
