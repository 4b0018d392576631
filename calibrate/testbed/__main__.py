"""`python -m calibrate.testbed`: probe the emulated cluster, fit, predict, measure held-out cases, compare.

Needs root and iproute2; says what is missing otherwise (exit status 2).
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrate.measurement import write_measurements
from calibrate.testbed.cases import LayerShape
from calibrate.testbed.cluster import CannotEmulateError, missing
from calibrate.testbed.compare import compare
from calibrate.testbed.fit import fit_profile, nominal_profile
from calibrate.testbed.probes import environment, probe
from calibrate.testbed.records import predict_records, write_records
from calibrate.testbed.run import measure_cases
from calibrate.testbed.session import Session
from calibrate.testbed.wiring import Wiring
from moesim.errors import MoesimError
from moesim.provenance import data_folder
from moesim.units import parse_quantity

_PUBLISHED = Path(__file__).resolve().parents[1] / "published"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the procedure; returns the exit status."""
    options = _parser().parse_args(arguments)
    lack = missing()
    if lack is not None:
        print(f"not run: {lack}", file=sys.stderr)
        return 2
    try:
        wiring = Wiring(
            nodes=options.nodes,
            ranks_per_node=options.ranks_per_node,
            rank_bytes_per_s=parse_quantity(options.rank_rate, "rate"),
            uplink_bytes_per_s=parse_quantity(options.uplink_rate, "rate"),
        )
        summary = run(wiring, LayerShape(), options)
    except (CannotEmulateError, MoesimError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary["set"], indent=1))
    return 0


def run(wiring: Wiring, shape: LayerShape, options: argparse.Namespace) -> dict[str, Any]:
    """All steps on one cluster; writes the files beside `options.out` and returns what is in it."""
    traces = options.traces or [data_folder("traces") / "moe-64e-public-domain.parquet"]
    with Session(wiring) as session:
        measurements = probe(session, shape, options.repeats, _tell)
        records = measure_cases(session, traces, shape, options.passes, _tell)
    profile = fit_profile(measurements, wiring, shape)
    agreement = compare(records, predicted := predict_records(wiring, shape, records, profile))
    in_turn = compare(records, predict_records(wiring, shape, records, profile, in_turn=True))
    nominal = compare(records, predict_records(wiring, shape, records, nominal_profile(wiring)))
    rows = [
        {
            "window": record.window,
            "algorithm": record.algorithm,
            "strategy": record.strategy,
            "measured_s": record.time_s,
            "predicted_s": time_s,
        }
        for record, time_s in zip(records, predicted, strict=True)
    ]
    answer = {
        "format_version": 1,
        "environment": environment(wiring),
        "set": agreement.summary(),
        "phases_in_turn": in_turn.summary(),
        "without_calibration": nominal.summary(),
        "cases": rows,
    }
    folder, stem = (_PUBLISHED, "testbed") if options.publish else (options.out.parent, options.out.stem)
    write_measurements(folder / f"{stem}_measurements.jsonl", measurements, [environment(wiring)])
    write_records(folder / f"{stem}_cases.jsonl", wiring, shape, records)
    (folder / f"{stem}_profile.json").write_text(profile.model_dump_json(indent=1, exclude_none=True) + "\n", "utf-8")
    options.out.write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")
    return answer


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calibrate.testbed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--ranks-per-node", type=int, default=4)
    parser.add_argument("--rank-rate", default="25 Mbit/s", help="of each rank's link, each direction")
    parser.add_argument("--uplink-rate", default="50 Mbit/s", help="of each node's uplink, each direction")
    parser.add_argument("--repeats", type=int, default=5, help="of each probe")
    parser.add_argument("--passes", type=int, default=5, help="over all cases; a case's time is its fastest pass")
    parser.add_argument("--traces", type=Path, nargs="+", default=[], help="routing traces; default: the bundled one")
    parser.add_argument(
        "--out", type=Path, default=Path("results.json"), help="the comparison; other files go beside it"
    )
    parser.add_argument("--publish", action="store_true", help="write the other files to calibrate/published instead")
    return parser


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
