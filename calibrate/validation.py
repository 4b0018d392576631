"""Validation sets: predicted against measured at points no fit has seen, and profiles against other people's tables.

Every set names its protocol; a target of None means that the set is shown for comparison. Predictions of transfers run
through moesim's collectives (fit/transfers.py), those of experts through moesim/expert_time.py.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrate.build_profiles import RECIPES, chosen, disagrees, published
from calibrate.expert_load import tokens_per_expert
from calibrate.fit.communication import fit_kernel
from calibrate.fit.expert_mlp import Rates, expert_rows, held_out_times, same_surfaces
from calibrate.fit.transfers import measured_s, predict
from calibrate.measurement import Measurement
from moesim.calibration import CalibrationProfile, load_profile
from moesim.calibration_curves import ExpertCurve
from moesim.compute import expert_activation_bytes
from moesim.expert_time import BalancedGroups, group_time
from moesim.model import dtype_bytes
from moesim.topology.accelerators import load_accelerator

Floats = NDArray[np.float64]
SIZES, EP, SMS, EXPERTS, SKEW = "unseen sizes", "unseen EP", "unseen SMs", "unseen shapes", "power law"
# (median, P90) a set should stay under, as fractions.
TARGETS = {SIZES: (0.06, 0.20), EP: (0.12, None), SMS: (0.10, None), EXPERTS: (0.06, 0.25), SKEW: (0.12, None)}
_LARGEST_FITTED_EP = 16
_FITTED_SMS = (8, 24)
_SIZE_NAMES = ("tokens_per_rank", "bytes_per_rank", "notify_s", "algbw_gb_s", "busbw_gb_s", "repeat")


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSet:
    """Predicted and measured seconds of the rows of one set; `target` is a key of TARGETS, or None."""

    name: str
    target: str | None
    heldout: str
    rows: tuple[Measurement, ...]
    predicted_s: Floats
    measured_s: Floats

    @property
    def errors(self) -> Floats:
        """|predicted / measured - 1| of every row."""
        result: Floats = np.abs(self.predicted_s / self.measured_s - 1.0)
        return result


def sets() -> Iterator[ValidationSet]:
    """All validation sets, one after the other."""
    for library, hardware, release in (
        ("nccl", "h100-sxm", "NCCL 2.29.2"),
        ("nccl", "h100-sxm", "nccl_perf"),
        ("nccl", "h200-sxm", "nccl_perf"),
        ("nccl", "b200-sxm", "nccl_perf"),
        ("nccl", "a100-80-sxm", "nccl_perf"),
        ("nccl", "gb200-nvl72", "nccl_perf"),
        ("deepep-ll", "h100-sxm", "0.5.6.post2"),
        ("deepep-ll", "h200-sxm", "0.5.12"),
        ("deepep-ll", "b200-sxm", "0.5.12"),
        ("deepep-normal", "h100-sxm", "0.5.6.post2"),
        ("deepep-normal", "h200-sxm", "0.5.12"),
        ("deepep-normal", "b200-sxm", "0.5.12"),
        ("trtllm-two-sided", "gb200-nvl72", "trtllm_alltoall"),
        ("rccl", "mi355x", "RCCL"),
        ("mori", "mi300x", "_IntraNode_ep"),
        ("mori", "mi355x", "_IntraNode_ep"),
    ):
        rows = transfers(library, hardware, release)
        yield _split(
            SIZES, library, rows, _odd_sizes(rows), "fitted to every other size of each shape, judged on those between"
        )
    for library, hardware, release, tokens in (
        ("deepep-ll", "h100-sxm", "0.5.6.post2", None),
        ("deepep-ll", "h800-sxm", "LL using NVLink", None),
        ("deepep-ll", "h800-sxm", "initial low-latency", None),
        ("deepep-normal", "h100-sxm", "0.5.6.post2", None),
        ("deepep-normal", "h800-sxm", "initial normal", None),
        ("trtllm-two-sided", "gb200-nvl72", "trtllm_alltoall", None),
        ("pplx", "h100-sxm", "IBGDA", None),
        ("uccl", "mi300x", "UCCL-EP normal", None),
        ("uccl", "mi355x", "UCCL-EP normal", None),
        ("uccl", "h200-sxm", "UCCL-EP LL", None),
        ("uccl", "b200-sxm", "UCCL-EP LL", None),
        ("mori", "mi355x", "README", 4096),
        ("mori", "mi355x", "README", 128),
    ):
        rows = [m for m in transfers(library, hardware, release) if tokens in (None, m.params.get("tokens_per_rank"))]
        large = np.array([m.params["ranks"] > _LARGEST_FITTED_EP for m in rows])
        yield _split(EP, library, rows, large, "fitted to EP <= 16, judged on larger EP")
    for hardware, release in (
        ("h100-sxm", "0.5.6.post2"),
        ("h100-sxm", "0.5.12"),
        ("h200-sxm", "0.5.12"),
        ("b200-sxm", "0.5.12"),
    ):
        rows = [m for m in transfers("deepep-normal", hardware, release) if m.params.get("sms")]
        other = np.array([m.params["sms"] not in _FITTED_SMS for m in rows])
        yield _split(SMS, "deepep-normal", rows, other, "fitted to 8 and 24 SMs, judged on 4, 12, 16 and 20")
    yield from _compared()
    yield from _expert_sets()


def transfers(library: str, hardware: str, release: str) -> list[Measurement]:
    """Unflagged published transfers of one library, accelerator and release (a text its source or release holds)."""
    return [
        m
        for m in published()
        if m.params.get("library") == library
        and m.params["hardware"] == hardware
        and m.operation in ("dispatch", "combine", "all_to_all")
        and not m.params.get("flag")
        and not m.params.get("quant")  # MORI's quantised combine: what crosses the links is not published
        and not disagrees(m)
        and (release in m.source or release in str(m.params.get("release", "")))
    ]


def _split(
    target: str, library: str, rows: Sequence[Measurement], out_M: NDArray[np.bool_], heldout: str
) -> ValidationSet:
    """Fit the rows that are not `out_M`, predict those that are."""
    train = [m for m, out in zip(rows, out_M.tolist(), strict=True) if not out]
    test = [m for m, out in zip(rows, out_M.tolist(), strict=True) if out]
    nic = _nic_of(train) if target == EP and library in ("deepep-normal", "pplx") else None
    kernel, _ = fit_kernel(train, library, "a validation fit", nic)
    profile = load_profile().model_copy(update={"kernels": {library: kernel}})
    release = str(test[0].params.get("release") or _table_of(test[0]))
    name = f"{library} {rows[0].params['hardware']}, {release}: {target}"
    return _judged(name, target, heldout, test, lambda m: predict(profile, library, m))


def _nic_of(train: Sequence[Measurement]) -> float | None:
    """The NIC's fraction from DeepEP's low-latency rows of EP <= 16 on the same hardware; too few of these are bound by it."""
    hardware = train[0].params["hardware"]
    release = "0.5.6.post2" if hardware == "h100-sxm" else "initial low-latency"
    rows = [m for m in transfers("deepep-ll", hardware, release) if m.params["ranks"] <= _LARGEST_FITTED_EP]
    kernel, _ = fit_kernel(rows, "deepep-ll", "a validation fit")
    return None if kernel.nic is None else kernel.nic.value


def _odd_sizes(rows: Sequence[Measurement]) -> NDArray[np.bool_]:
    """Every second size of each shape: rows that agree in all but their size (and the time of `notify`)."""
    odd = np.zeros(len(rows), dtype=bool)
    shapes: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        shape = {name: value for name, value in row.params.items() if name not in _SIZE_NAMES}
        shapes.setdefault(f"{row.operation} {sorted(shape.items())}", []).append(index)
    for members in shapes.values():
        sizes = np.array([rows[i].params.get("tokens_per_rank") or rows[i].params["bytes_per_rank"] for i in members])
        odd[members] = np.unique(sizes, return_inverse=True)[1] % 2 == 1
    return odd


def _compared() -> Iterator[ValidationSet]:
    """Shipped profiles against tables they were not fitted to: other sites, releases and accelerators of one kind."""
    for profile_name, library, hardware, release, what in (
        ("h100-sxm", "nccl", "h100-sxm", "example-cluster", "another log of the same site, older release"),
        ("h100-sxm", "deepep-normal", "h100-sxm", "0.5.12", "another release, one node"),
        ("h100-sxm", "deepep-ll", "h100-sxm", "0.5.12", "another release, one node"),
        ("h800-sxm", "deepep-ll", "h800-sxm", "initial low-latency", "the table of February, pure RDMA"),
        ("h800-sxm", "deepep-normal", "h800-sxm", "experimental-branch", "two months later"),
    ):
        profile = load_profile(profile_name)
        rows = [m for m in transfers(library, hardware, release) if "2.29" not in str(m.params.get("release"))]
        if rows and library in profile.kernels:
            name = f"{library} {hardware}, {rows[0].params.get('release') or release!s}: against the shipped profile"
            yield _judged(name, None, f"not fitted: {what}", rows, _predictor(profile, library))
    anomalous = [m for m in published() if disagrees(m) and not m.params.get("flag") and m.operation == "combine"]
    name = "deepep-normal h100-sxm, EP 64 combine of 0.5.6.post2: against the shipped profile"
    yield _judged(
        name,
        None,
        "not fitted: disagrees with the tables of EP 32 and of the H800",
        anomalous,
        _predictor(load_profile("h100-sxm"), "deepep-normal"),
    )


def _predictor(profile: CalibrationProfile, library: str) -> Callable[[Measurement], float]:
    return lambda measurement: predict(profile, library, measurement)


def _expert_sets() -> Iterator[ValidationSet]:
    for name in ("h100-sxm", "h200-sxm", "b200-sxm", "gb200-nvl72", "a100-sxm"):
        recipe, profile = RECIPES[name], load_profile(name)
        accelerator = load_accelerator(recipe.hardware)[0]
        rows = [m for m in chosen(recipe, published()) if m.operation == "expert_mlp"]
        for dtype, kind in recipe.experts.items():
            if dtype not in profile.compute.experts or dtype in ("mxfp4", "nvfp4"):
                continue
            curve, rates = profile.compute.experts[dtype], Rates.of(accelerator, dtype)
            mine = [m for m in rows if (str(m.params["dtype"]), str(m.params["kernel"])) == kind]
            even = [m for m in mine if m.params["distribution"] == "balanced"]
            uneven = [m for m in mine if m.params["distribution"].startswith("power_law")]
            groups = expert_rows(even)
            predicted_M, what = held_out_times(groups, rates, same_surfaces(curve), kind[1], "a validation fit")
            yield ValidationSet(
                name=f"experts {dtype} {name}, {kind[1]}: {EXPERTS}",
                target=EXPERTS if name in ("h100-sxm", "h200-sxm", "b200-sxm") else None,
                heldout=f"{what} not fitted, 5 folds",
                rows=tuple(even),
                predicted_s=predicted_M,
                measured_s=groups.time_M,
            )
            yield _judged(
                f"experts {dtype} {name}, {kind[1]}: {SKEW}",
                SKEW,
                "fitted on balanced loads only; loads are the expected order statistics of the published generator",
                uneven,
                lambda m, curve=curve, rates=rates: expert_seconds(curve, rates, m),  # type: ignore[misc]
            )


def expert_seconds(curve: ExpertCurve, rates: Rates, measurement: Measurement) -> float:
    """Seconds of an expert MLP with any loads: the mean over active experts of balanced groups of theirs."""
    params = measurement.params
    tokens_A = np.array([load for load in tokens_per_expert(params) if load > 0], dtype=np.float64)
    d_model, d_ff = float(params["d_model"]), float(params["d_ff"])
    many = np.ones(len(tokens_A))
    groups = BalancedGroups(
        tokens_A=tokens_A,
        groups_A=many * len(tokens_A),
        d_model_A=many * d_model,
        d_ff_A=many * d_ff,
        params_A=many * d_model * d_ff * (3 if params.get("gated", True) else 2),
        activation_bytes_A=expert_activation_bytes(d_model, many * d_ff),
        weight_bytes=dtype_bytes(str(params["dtype"]).removesuffix("_block")),
    )
    return float(group_time(curve, groups, many * rates.flops_per_s, many * rates.memory_bytes_per_s)[0].mean())


def _judged(
    name: str, target: str | None, heldout: str, rows: Sequence[Measurement], seconds: Callable[[Measurement], float]
) -> ValidationSet:
    return ValidationSet(
        name=name,
        target=target,
        heldout=heldout,
        rows=tuple(rows),
        predicted_s=np.array([seconds(m) for m in rows]),
        measured_s=np.array([measured_s(m) for m in rows]),
    )


def _table_of(measurement: Measurement) -> str:
    return measurement.source.rsplit("/data/", 1)[-1].removesuffix(".parquet")


def answer(one: ValidationSet) -> dict[str, Any]:
    """One entry of `moesim validate --json`."""
    errors = one.errors
    worst = int(np.argmax(errors))
    shown = {k: v for k, v in one.rows[worst].params.items() if k not in ("hardware", "release", "library")}
    median, p90 = float(np.median(errors)), float(np.quantile(errors, 0.9))
    result: dict[str, Any] = {
        "name": one.name,
        "n": len(errors),
        "median_ape": median,
        "mape": float(errors.mean()),
        "p90_ape": p90,
        "worst": float(errors[worst]),
        "worst_row": f"{one.rows[worst].operation} {shown}",
        "heldout": one.heldout,
        "target": None,
    }
    if one.target is not None:
        most_median, most_p90 = TARGETS[one.target]
        assert most_median is not None
        result["target"] = {"median_ape": most_median, "p90_ape": most_p90}
        result["met"] = median <= most_median and (most_p90 is None or p90 <= most_p90)
    return result
