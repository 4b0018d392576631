from pathlib import Path

import numpy as np
import pytest

from calibrate.testbed.cases import STRATEGIES, Case, LayerShape, Window, cases
from calibrate.testbed.compare import compare
from calibrate.testbed.fit import nominal_profile
from calibrate.testbed.predict import Predictor
from calibrate.testbed.records import predict_records, read_records, record_case, write_records
from calibrate.testbed.routes import count_hops, count_pairs
from calibrate.testbed.wiring import Wiring

WIRING = Wiring(nodes=2, ranks_per_node=2)
SHAPE = LayerShape(tokens_per_rank=32)


def _cases() -> list[Case]:
    rng = np.random.default_rng(3)
    weight_E = rng.dirichlet(np.full(8, 0.7))
    experts_TK = np.array([rng.choice(8, size=2, replace=False, p=weight_E) for _ in range(128)], dtype=np.int32)
    source_T = np.repeat(np.arange(4, dtype=np.int32), 32)
    return list(cases([Window("drawn", source_T, experts_TK, np.rint(weight_E * 1000).astype(np.int64))], WIRING))


CASES = _cases()
PREDICTOR = Predictor(wiring=WIRING, shape=SHAPE, profile=nominal_profile(WIRING), experts=8, top_k=2)
TIMES = [PREDICTOR.predict(case.traffic, case.algorithm, case.placement.device_of_slot_P) for case in CASES]
RECORDS = [
    record_case(case, [[one.dispatch_s, one.experts_s, one.layer_s]] * 3)
    for case, one in zip(CASES, TIMES, strict=True)
]


def test_cases_are_every_strategy_by_both_algorithms() -> None:
    """One window gives 8 cases in 2 groups; every expert has a slot, and one more slot on each rank."""
    assert 2 * len(STRATEGIES) == len({case.name for case in CASES})
    assert 2 == len({case.group for case in CASES})
    assert {12} == {case.placement.num_slots for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_sent_is_what_moesim_counts(case: Case) -> None:
    """The messages of the real layer have the sizes that the prediction is made from, replicas included."""
    counts = case.traffic.counts
    to_nodes_CDN, to_ranks_CDD = count_hops(case.routing, 8)
    assert counts.per_expert_DD.tolist() == count_pairs(case.routing).tolist()
    assert counts.per_device_DD.tolist() == to_ranks_CDD.sum(axis=0).tolist()
    assert counts.per_node_DN.tolist() == to_nodes_CDN.sum(axis=0).tolist()


def test_records_come_back_as_written_and_predict_the_same(tmp_path: Path) -> None:
    """A file of records holds all that a prediction needs: times are those of the cases themselves."""
    path = tmp_path / "cases.jsonl"
    write_records(path, WIRING, SHAPE, RECORDS)
    wiring, shape, records = read_records(path)
    assert (WIRING, SHAPE, RECORDS) == (wiring, shape, records)
    predicted = predict_records(wiring, shape, records, nominal_profile(wiring))
    assert [one.layer_s for one in TIMES] == predicted


def test_a_perfect_prediction_has_no_error_and_the_right_order() -> None:
    """Predictions equal to what was measured: zero errors, rank correlation 1; twice as long: 100 %, still 1."""
    exact = compare(RECORDS, [record.time_s for record in RECORDS])
    assert (0.0, 0.0) == (exact.worst, exact.repeat_spread)
    assert exact.rank_correlation == pytest.approx(1.0)
    double = compare(RECORDS, [2 * record.time_s for record in RECORDS])
    assert double.median_ape == pytest.approx(1.0)
    assert double.rank_correlation == pytest.approx(1.0)


@pytest.mark.parametrize("text", ["", "{}\n", '{"format_version": 2}\n', "no json\n"])
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    """Empty, of another version, or no JSON: one sentence with the file and line."""
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"other\.jsonl line 1"):
        read_records(path)
