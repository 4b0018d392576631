"""Fit a KernelProfile: what one communication library costs, by the model of docs/MODEL.md, robustly in log time.

How complex the costs are is chosen by cross-validation over message sizes, inside the rows given: the same rows, the
same form. Loads of links come from moesim's own collectives, so that the same formula is what a simulation charges.
Array letters: M measurement.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.fit.cost_model import Against, Form, Layout, solve, times
from calibrate.fit.errors import digest, fit_error
from calibrate.fit.loads import Loads, loads_of
from calibrate.fit.transfers import ALGORITHMS
from calibrate.measurement import Measurement
from moesim.calibration import KernelProfile
from moesim.calibration_curves import FitError

Floats = NDArray[np.float64]
_PLAIN = ("nccl", "rccl", "gloo")  # libraries whose cost is counted per message
_COUNTED_BY_RANKS = ("deepep-ll", "pplx", "mori", "trtllm-two-sided", "trtllm-one-sided")
_FOLDS = 5
_EARNED = 0.97  # of the score of a simpler form: what a richer one must get under
_MOST_JUDGED = 1500  # rows that forms are compared on
# (octaves between knots of protocol_s, of reached), simplest first. Libraries that choose a protocol do so by the size of
# a message to one peer, hence no protocol curve against all bytes of a rank.
_PLAIN_CURVES = ((0.0, 0.0), (0.0, 4.0), (4.0, 0.0), (0.0, 2.0), (2.0, 0.0), (4.0, 4.0), (2.0, 2.0))
_KERNEL_CURVES = ((0.0, 0.0), (0.0, 4.0), (0.0, 2.0), (2.0, 2.0))


def forms(library: str, loads: Loads) -> list[Form]:
    """What is tried for a library, simplest first."""
    if library in _PLAIN:
        against: tuple[Against, ...] = ("nodes", "ranks") if len(np.unique(loads.ranks_M)) > 1 else ("nodes",)
        by_message = [
            Form(against=count, size="message_bytes", protocol=protocol, reached=reached, message=True)
            for (protocol, reached), count in product(_PLAIN_CURVES, against)
        ]
        by_rank = [
            Form(against=count, size="rank_bytes", reached=reached, message=True)
            for reached, count in product((4.0, 2.0), against)
        ]
        return by_message + by_rank
    counted: Against = "ranks" if library in _COUNTED_BY_RANKS else "nodes"
    by_ranks = (
        [Form(against=counted, size="ranks", reached=1.0)]
        if counted == "ranks" and len(np.unique(loads.ranks_M)) > 2
        else []
    )
    many = max((len(np.unique(loads.copy_bytes_M[loads.combine_M == side])) for side in (False, True)), default=0) > 1
    return [
        Form(against=counted, size="rank_bytes", protocol=protocol, reached=reached, fill=shapes, expert=shapes)
        for shapes, (protocol, reached) in product((False, True) if many else (False,), _KERNEL_CURVES)
    ] + by_ranks


def fit_kernel(
    measurements: Sequence[Measurement], library: str, source: str, nic: float | None = None
) -> tuple[KernelProfile, FitError]:
    """The profile of one library on one accelerator, and its error at sizes that were not fitted.

    `nic`: the fraction of the NIC rate where these rows cannot tell it (another library's rows can). The error is that of
    the form chosen, in the cross-validation that chose it.
    """
    loads = loads_of(measurements)
    form, error = choose_form(loads, library, nic)
    layout = Layout.of(form, loads, nic)
    theta = solve(loads, layout, nic)
    ids = digest([measurement.id for measurement in measurements])
    return _profile(theta, layout, loads, library, source, nic, error, ids), error


def choose_form(loads: Loads, library: str, nic: float | None) -> tuple[Form, FitError]:
    """The form of least error at sizes that were not fitted; a richer one must earn its place."""
    step = -(-len(loads.time_M) // _MOST_JUDGED)
    thin = loads.part(np.arange(len(loads.time_M)) % step == 0)
    best: tuple[float, Form, FitError] | None = None
    for form in forms(library, loads):
        error = _held_out(thin, form, nic)
        score = error.median + 0.25 * error.p90
        if best is None or score < _EARNED * best[0]:
            best = (score, form, error)
    assert best is not None
    return best[1], best[2]


def _held_out(loads: Loads, form: Form, nic: float | None) -> FitError:
    """Error at sizes that were not fitted; of the points fitted where there are too few sizes."""
    sizes, size_M = np.unique(np.round(np.log2(loads.rank_bytes_M), 3), return_inverse=True)
    folds = min(_FOLDS, len(sizes))
    if folds < 3:
        layout = Layout.of(form, loads, nic)
        fitted, _ = times(solve(loads, layout, nic), layout, loads, nic)
        return fit_error(fitted, loads.time_M, "of the points fitted")
    predicted_M = np.zeros(len(loads.time_M))
    for fold in range(folds):
        out_M = size_M % folds == fold
        layout = Layout.of(form, loads.part(~out_M), nic)
        predicted_M[out_M] = times(solve(loads.part(~out_M), layout, nic), layout, loads.part(out_M), nic)[0]
    return fit_error(predicted_M, loads.time_M, f"held out: sizes not fitted, {folds} folds")


def _profile(
    theta: Floats,
    layout: Layout,
    loads: Loads,
    library: str,
    source: str,
    nic: float | None,
    error: FitError,
    ids: tuple[str, ...],
) -> KernelProfile:
    curve = {"kind": "measured", "source": source, "measurements": ids, "fit_error": error.median}

    def value(name: str) -> float | None:
        index = layout.index(name)
        return None if index is None else float(f"{np.exp(theta[index]):.6g}")

    def figure(number: float | None) -> dict[str, Any] | None:
        return None if number is None else {"value": number, **curve}

    def along(kind: str, side: int, knots: tuple[float, ...]) -> dict[str, Any] | None:
        if not knots:
            return None
        values = [value(f"{kind}{side}.{knot:g}") for knot in knots]
        return {
            "against": layout.form.size,
            "at": [2.0**knot for knot in knots],
            "value": [0.0 if one is None else one for one in values],  # protocol_s starts from nothing
            "beyond": "flat",
            "scale": "log" if kind == "reached" else "linear",
            **curve,
        }

    def operation(side: int) -> dict[str, Any]:
        if not (loads.combine_M == bool(side)).any():
            return {}
        return {
            "fixed_s": {
                "against": layout.form.against,
                "at": layout.counts[side],
                "value": [value(f"fixed{side}.{count:g}") for count in layout.counts[side]],
                **curve,
            },
            "sm_rate_in_node": figure(value(f"sm{side}.in")),
            "sm_rate_across_nodes": figure(value(f"sm{side}.across")),
            "message_s": figure(value("message")),
            "expert_s": figure(value(f"expert{side}")),
            "fill_s_per_byte": figure(value(f"fill{side}")),
            "protocol_s": along("protocol", side, layout.protocol[side]),
            "reached": along("reached", side, layout.reached[side]),
            "error": error.model_dump(),
        }

    dispatch, combine = operation(0), operation(1)
    sms = loads.sms_M[loads.sms_M > 0]
    return KernelProfile.model_validate(
        {
            "algorithm": ALGORITHMS[library],
            "sms": int(sms.max()) if len(sms) else None,
            "chunk_tokens": {
                "value": 0.0,
                "kind": "derived",
                "source": "the fitted fixed cost holds the pipeline's fill",
            },
            "dispatch": dispatch or combine,
            "combine": combine or dispatch,
            "nic": figure(value("nic") if nic is None else nic) if loads.across_M.any() else None,
            "scale_up": figure(value("scale_up")),
        }
    )
