"""Fit: a CalibrationProfile of the emulated cluster from its probes, through moesim's own model of a collective.

1. links: the fractions of the nominal rates that TCP's payload reaches on rank links and uplinks, beside a fixed cost
   and one per peer, from plain exchanges. At most 1448 of the 1514 bytes of a full frame are payload.
2. kernels: by kernel and operation a fixed cost; by kernel a factor on both fractions, for the rows it gathers before and
   adds up after the network.
3. experts: launch and rate of the CPU, one rank at work.

Fitted are the 10th percentiles of the repeats: what disturbs a run on a shared machine only makes it longer.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from calibrate.measurement import Measurement
from calibrate.testbed.cases import LayerShape, drawn_routing
from calibrate.testbed.predict import KERNEL_OF, Predictor
from calibrate.testbed.probes import EXPERTS, TOP_K, load_of, matrix_of
from calibrate.testbed.topology import CPU_RANK
from calibrate.testbed.wiring import Wiring
from moesim.calibration import CalibrationProfile, KernelProfile, LinkProfile, OperationProfile
from moesim.calibration import ComputeProfile as Compute
from moesim.calibration_curves import Curve, Figure
from moesim.collective.schedule import CollectiveBuilder
from moesim.network.simulate import simulate_flows
from moesim.traffic import TrafficCounts, count_traffic

Floats = NDArray[np.float64]
_SOURCE = "fitted by calibrate/testbed/fit.py to the probes of calibrate.testbed"
_LEAST_S = 1e-5  # residuals are relative to the time measured, or to this
_PAYLOAD = 1448 / 1514  # of a full frame; the links cannot reach more
_LEAST_EFFICIENCY = 0.3


def fit_profile(measurements: Sequence[Measurement], wiring: Wiring, shape: LayerShape) -> CalibrationProfile:
    """The profile that `measurements` of this wiring and layer shape support; raises ValueError where a probe is missing."""
    by_operation = {name: [row for row in measurements if row.operation == name] for name in _NEEDED}
    absent = [name for name, rows in by_operation.items() if not rows]
    if absent:
        raise ValueError(f"no measurements of {', '.join(absent)}; run the probes first")
    plain = Predictor(wiring=wiring, shape=shape, profile=nominal_profile(wiring), experts=EXPERTS, top_k=TOP_K)
    exchanges = [row for row in by_operation["all_to_all"] if row.params["call"] == "grouped"]
    exchanges += by_operation["point_to_point"]
    nic, scale_up = _fit_links(plain, exchanges)
    profile = plain.profile.model_copy(
        update={
            "links": LinkProfile(nic=_figure(nic), scale_up=_figure(scale_up)),
            "compute": _fit_compute(plain, by_operation["expert_mlp"]),
            "name": "testbed",
            "basis": "fitted to probes of an emulated cluster",
            "accelerator": CPU_RANK.name,
        }
    )
    kernels = {
        KERNEL_OF[algorithm]: _fit_kernel(
            dataclasses.replace(plain, profile=profile),
            algorithm,
            [row for row in by_operation["dispatch"] + by_operation["combine"] if row.params["algorithm"] == algorithm],
        )
        for algorithm in KERNEL_OF
    }
    return profile.model_copy(update={"kernels": kernels})


_NEEDED = ("all_to_all", "point_to_point", "expert_mlp", "dispatch", "combine")


def nominal_profile(wiring: Wiring) -> CalibrationProfile:
    """The wiring's rates taken in full and nothing on top: the bound that the fit starts from."""
    one = Figure(value=1.0, kind="assumed", source="nominal rate of tc tbf or of the CPU taken in full")
    free = OperationProfile(fixed_s=_curve(wiring, 0.0, "assumed", "nothing on top of the bytes"))
    nothing = Figure(value=0.0, kind="assumed", source="legs overlap wholly")
    return CalibrationProfile(
        format_version=1,
        name="testbed-nominal",
        basis="nominal rates of the emulated cluster",
        compute=Compute(
            flops_fraction=one,
            memory_fraction=one,
            tile_tokens=Figure(value=1.0, kind="assumed", source="a CPU matrix product has no tiles of tokens"),
            launch_s=nothing,
        ),
        links=LinkProfile(nic=one, scale_up=one),
        kernels={
            name: KernelProfile(algorithm=algorithm, chunk_tokens=nothing, dispatch=free, combine=free)
            for algorithm, name in KERNEL_OF.items()
        },
    )


def _fit_links(plain: Predictor, rows: Sequence[Measurement]) -> tuple[float, float]:
    """Fractions reached of the uplinks' and the rank links' rates, beside a fixed cost and one per peer."""
    builder = dataclasses.replace(plain.builder("direct"), bytes_per_copy={"dispatch": 1, "combine": 1})
    counts = [_plain_counts(matrix_of(plain.wiring, dict(row.params))) for row in rows]
    measured = np.array([_undisturbed_s(row) for row in rows])
    peers = np.array([int((one.per_expert_DD > 0).sum(axis=1).max()) for one in counts])

    def residuals(guess: Floats) -> Floats:
        times = [_network_s(builder, one, "dispatch", guess[0], guess[1]) for one in counts]
        relative: Floats = np.log((np.array(times) + guess[2] + guess[3] * peers) / measured)
        return relative

    low = [_LEAST_EFFICIENCY, _LEAST_EFFICIENCY, _LEAST_S, 0.0]
    nic, scale_up, *_ = _solve(residuals, [0.9, 0.9, 3e-3, 5e-4], low, [_PAYLOAD, _PAYLOAD, 0.1, 0.02])
    return nic, scale_up


def _fit_kernel(plain: Predictor, algorithm: str, rows: Sequence[Measurement]) -> KernelProfile:
    """A factor on the links' fractions for the kernel, and a fixed cost for each of its operations."""
    links, builder = plain.profile.links, plain.builder(algorithm)
    wiring = plain.wiring
    nominal = dataclasses.replace(builder, links=dataclasses.replace(builder.links, bandwidth=_nominal(builder)))
    counts = [_drawn_counts(wiring, row.params["tokens_per_rank"], row.params["skew"]) for row in rows]
    measured = np.array([_undisturbed_s(row) for row in rows])
    back = np.array([row.operation == "combine" for row in rows])

    def residuals(guess: Floats) -> Floats:
        nic, scale_up = guess[0] * links.nic.value, guess[0] * links.scale_up.value
        times = [_network_s(nominal, one, row.operation, nic, scale_up) for one, row in zip(counts, rows, strict=True)]
        relative: Floats = np.log((np.array(times) + np.where(back, guess[2], guess[1])) / measured)
        return relative

    factor, dispatch_s, combine_s = _solve(residuals, [0.95, 5e-3, 5e-3], [0.5, _LEAST_S, _LEAST_S], [1.0, 0.2, 0.2])
    error = float(np.median(np.abs(np.expm1(residuals(np.array([factor, dispatch_s, combine_s]))))))
    ids = tuple(row.id for row in rows)
    return KernelProfile(
        algorithm=algorithm,
        chunk_tokens=Figure(value=0.0, kind="assumed", source="the lag of one chunk is part of the fitted fixed cost"),
        dispatch=OperationProfile(fixed_s=_curve(wiring, dispatch_s, "measured", _SOURCE, ids, error)),
        combine=OperationProfile(fixed_s=_curve(wiring, combine_s, "measured", _SOURCE, ids, error)),
        nic=_figure(factor * links.nic.value, ids, error),
        scale_up=_figure(factor * links.scale_up.value, ids, error),
    )


def _fit_compute(plain: Predictor, rows: Sequence[Measurement]) -> Compute:
    """Launch cost and share of the nominal FLOP rate: time = launch + tokens x 2 x weights / rate, errors relative."""
    loads = [load_of(plain.wiring, dict(row.params))[0] for row in rows]
    weights = 2.0 * float(plain.model().expert_params)
    design = np.array([[1.0, float(load.sum()) * weights] for load in loads])
    measured = np.array([_undisturbed_s(row) for row in rows])
    (launch_s, s_per_flop), _ = nnls(design / measured[:, None], np.ones(len(rows)))
    if s_per_flop <= 0:
        raise ValueError("the expert probes take no longer with more tokens: too noisy to fit")
    predicted = design @ [launch_s, s_per_flop]
    error = float(np.median(np.abs(predicted / measured - 1)))
    ids = tuple(row.id for row in rows)
    rate = CPU_RANK.flops_per_s["bf16"]
    return plain.profile.compute.model_copy(
        update={
            "launch_s": _figure(float(launch_s), ids, error),
            "flops_fraction": _figure(1.0 / float(s_per_flop) / rate, ids, error),
        }
    )


def _undisturbed_s(row: Measurement) -> float:
    return row.time_s if row.quantiles is None else row.quantiles["p10"]


def _network_s(builder: CollectiveBuilder, counts: TrafficCounts, operation: str, nic: float, scale_up: float) -> float:
    """Completion of one collective's flows on the fluid network, with these fractions of the nominal rates."""
    flows = builder.build((counts,), operation).flows  # type: ignore[arg-type]
    tiers = np.array(builder.links.tiers)
    bandwidth = builder.links.bandwidth * np.where(tiers == "nic", nic, scale_up)
    times = simulate_flows(bandwidth, flows.paths.offsets, flows.paths.links, flows.bytes_F, weight=flows.weight_F)
    return times.completion_s


def _nominal(builder: CollectiveBuilder) -> Floats:
    return np.array([link.bandwidth_bytes_per_s for link in builder.cluster.links])


def _drawn_counts(wiring: Wiring, tokens_per_rank: int, skew: float) -> TrafficCounts:
    routing = drawn_routing(wiring, tokens_per_rank, EXPERTS, TOP_K, seed=tokens_per_rank, skew=skew)
    return count_traffic(
        routing.slots_TK.astype(np.int32),
        routing.source_T.astype(np.int32),
        routing.device_of_slot_P.astype(np.int32),
        wiring.ranks,
        wiring.ranks_per_node,
    )


def _plain_counts(bytes_DD: NDArray[np.int64]) -> TrafficCounts:
    """A byte matrix as copies of one byte."""
    return TrafficCounts(
        per_expert_DD=bytes_DD,
        per_device_DD=bytes_DD,
        per_node_DN=bytes_DD[:, :1],
        load_D=bytes_DD.sum(axis=0),
        tokens_D=bytes_DD.sum(axis=1),
        fanout_nodes_count=np.zeros(1, dtype=np.int64),
        fanout_devices=0.0,
        fanout_nodes=0.0,
    )


def _solve(
    residuals: Callable[[Floats], Floats],
    start: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> list[float]:
    scale = np.maximum(np.abs(start), 1e-6)
    found = least_squares(
        residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.05, x_scale=scale, diff_step=1e-3
    )
    result: list[float] = found.x.tolist()
    return result


def _figure(value: float, ids: tuple[str, ...] = (), error: float | None = None) -> Figure:
    return Figure(value=value, kind="measured", source=_SOURCE, measurements=ids, fit_error=error)


def _curve(
    wiring: Wiring, value: float, kind: str, source: str, ids: tuple[str, ...] = (), error: float | None = None
) -> Curve:
    return Curve(
        against="ranks",
        at=(float(wiring.ranks),),
        value=(value,),
        kind=kind,
        source=source,
        measurements=ids,
        fit_error=error,
    )
