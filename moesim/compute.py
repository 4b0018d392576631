"""Compute time of one device, pure: expert MLPs, attention, dense layers, by roofline under a CalibrationProfile.

Array letters: D device, P slot. All times in seconds, all sizes in bytes; every formula is in docs/MODEL.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moesim.calibration import ComputeProfile
from moesim.calibration_curves import ExpertCurve
from moesim.cluster import Device
from moesim.errors import unknown_name
from moesim.expert_time import BalancedGroups, group_time
from moesim.model import MoEModel, dtype_bytes

Floats = NDArray[np.float64]
# Arithmetic in each weight type runs at this type's rate; 4-bit weights are widened in registers before the product.
_ARITHMETIC = {
    "bf16": "bf16",
    "fp16": "bf16",
    "fp32": "bf16",
    "fp8": "fp8",
    "int8": "int8",
    "mxfp4": "bf16",
    "nvfp4": "bf16",
    "fp4": "bf16",
}


def arithmetic_type(weight_dtype: str) -> str:
    """The type whose rate products with such weights reach; raises UnknownName."""
    if weight_dtype not in _ARITHMETIC:
        raise unknown_name("weights.dtype", weight_dtype, _ARITHMETIC)
    return _ARITHMETIC[weight_dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRates:
    """What each device reaches, arrays [D]: FLOP/s by arithmetic type, bytes/s of memory; tile in tokens, launch in s.

    `peak_flops_per_s`, `peak_memory_bytes_per_s` and `speed_D` are what the fitted `experts` curves (by weight type) start
    from; `permute_bytes_per_s` is the rate at which rows of tokens are moved.
    """

    flops_per_s: Mapping[str, Floats]
    memory_bytes_per_s: Floats
    tile_tokens: int
    launch_s: float
    peak_flops_per_s: Mapping[str, Floats]
    peak_memory_bytes_per_s: Floats
    permute_bytes_per_s: Floats
    speed_D: Floats
    experts: Mapping[str, ExpertCurve]

    @classmethod
    def of(cls, devices: tuple[Device, ...], profile: ComputeProfile, *, launches: bool = True) -> "DeviceRates":
        """Rates of `devices` under `profile`; a device's speed scales all of them. `launches` False: a captured graph.

        A device without units of a type computes it in bf16 (the weights are widened), as kernels do.
        """
        speed_D = np.array([device.speed for device in devices])
        flops = {
            dtype: np.array([d.accelerator.flops_per_s.get(dtype, d.accelerator.flops_per_s["bf16"]) for d in devices])
            for dtype in sorted(set(_ARITHMETIC.values()))
        }
        memory = np.array([device.accelerator.memory_bytes_per_s for device in devices])
        return cls(
            flops_per_s={dtype: rate * speed_D * profile.flops_fraction.value for dtype, rate in flops.items()},
            memory_bytes_per_s=memory * speed_D * profile.memory_fraction.value,
            tile_tokens=max(int(profile.tile_tokens.value), 1),
            launch_s=profile.launch_s.value if launches else 0.0,
            peak_flops_per_s=flops,
            peak_memory_bytes_per_s=memory,
            permute_bytes_per_s=memory * speed_D * (profile.permute_fraction or profile.memory_fraction).value,
            speed_D=speed_D,
            experts=profile.experts,
        )

    def flops(self, weight_dtype: str) -> Floats:
        """FLOP/s [D] of products with weights of that type; raises UnknownName."""
        return self.flops_per_s[arithmetic_type(weight_dtype)]


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds per device [D], and which of the two roofs binds there."""

    time_s: Floats
    memory_bound: NDArray[np.bool_]

    def __add__(self, other: "Cost") -> "Cost":
        """One after the other; the longer part says what binds."""
        longer = np.where(self.time_s >= other.time_s, self.memory_bound, other.memory_bound)
        return Cost(self.time_s + other.time_s, longer)


def _roofline(flops: Floats, flops_per_s: Floats, moved_bytes: Floats, rates: DeviceRates, launch_s: float) -> Cost:
    compute_s, memory_s = flops / flops_per_s, moved_bytes / rates.memory_bytes_per_s
    return Cost(launch_s + np.maximum(compute_s, memory_s), memory_s > compute_s)


def expert_cost(
    load_P: NDArray[np.int64],
    device_of_slot_P: NDArray[np.int32],
    rates: DeviceRates,
    model: MoEModel,
    weight_dtype: str,
    expert_of_slot_P: NDArray[np.integer[Any]] | None = None,
) -> Cost:
    """The routed experts of one layer on every device; `expert_of_slot_P` tells pools of unlike experts apart.

    Where the profile has a fitted curve for the weight type, see `fitted_expert_cost`; else the roofline:
    t = launch + max( sum over active slots of weight bytes / HBM rate,  sum over slots of flops(tiles(n)) / rate )
        + activation bytes / permute rate,   with tiles(n) = n rounded up to whole tiles, active = n > 0,
    activations = n x (payload in + payload out) + n x d_ff x (written + read), in bf16 (2 bytes). A device whose experts
    get no token costs nothing, not even a launch.
    """
    if weight_dtype in rates.experts:
        return fitted_expert_cost(load_P, device_of_slot_P, rates, model, weight_dtype, expert_of_slot_P)
    num_devices = len(rates.memory_bytes_per_s)
    active_A = np.flatnonzero(load_P > 0)  # of millions of slots few may have a token
    load_A, device_A = load_P[active_A], device_of_slot_P[active_A]
    tiles_A = -(-load_A // rates.tile_tokens) * rates.tile_tokens
    params_A, d_ff_A = _expert_sizes(model, None if expert_of_slot_P is None else expert_of_slot_P[active_A])
    activation_bytes_A = expert_activation_bytes(model.payload_width, d_ff_A)

    def per_device(values_A: NDArray[np.floating[Any]]) -> Floats:
        total: Floats = np.bincount(device_A, weights=values_A, minlength=num_devices).astype(np.float64)
        return total

    weight_bytes_D = per_device((load_A > 0) * params_A * dtype_bytes(weight_dtype))
    flops_D = per_device(tiles_A * (2.0 * params_A))
    tokens_D = per_device(load_A.astype(np.float64))
    cost = _roofline(flops_D, rates.flops(weight_dtype), weight_bytes_D, rates, rates.launch_s)
    time_s = cost.time_s + per_device(load_A * activation_bytes_A) / rates.permute_bytes_per_s
    return Cost(np.where(tokens_D > 0, time_s, 0.0), cost.memory_bound)


def expert_activation_bytes(d_model: float, d_ff: Floats) -> Floats:
    """Bytes one token moves through one expert: its rows in and out and its hidden row written and read, in bf16."""
    return 2.0 * (2 * d_model + 2 * d_ff)


def fitted_expert_cost(
    load_P: NDArray[np.int64],
    device_of_slot_P: NDArray[np.int32],
    rates: DeviceRates,
    model: MoEModel,
    weight_dtype: str,
    expert_of_slot_P: NDArray[np.integer[Any]] | None = None,
) -> Cost:
    """As `expert_cost`, by the profile's curve of that weight type.

    A device with G active slots takes the mean over them of the time of a balanced group of G experts with that slot's
    tokens; what is not the launch goes slower with the device's speed.
    """
    curve, num_devices = rates.experts[weight_dtype], len(rates.speed_D)
    params_P, d_ff_P = _expert_sizes(model, expert_of_slot_P)
    active_A = np.flatnonzero(load_P > 0)
    device_A = device_of_slot_P[active_A]
    groups_D = np.bincount(device_A, minlength=num_devices).astype(np.float64)
    d_ff_A = np.broadcast_to(d_ff_P, load_P.shape)[active_A]
    groups = BalancedGroups(
        tokens_A=load_P[active_A].astype(np.float64),
        groups_A=groups_D[device_A],
        d_model_A=np.full(len(active_A), float(model.payload_width)),
        d_ff_A=d_ff_A,
        params_A=np.broadcast_to(params_P, load_P.shape)[active_A],
        activation_bytes_A=expert_activation_bytes(model.payload_width, d_ff_A),
        weight_bytes=dtype_bytes(weight_dtype),
    )
    peak_D = rates.peak_flops_per_s[arithmetic_type(weight_dtype)]
    time_A, bound_A = group_time(curve, groups, peak_D[device_A], rates.peak_memory_bytes_per_s[device_A])
    mean_D = np.bincount(device_A, weights=time_A, minlength=num_devices) / np.maximum(groups_D, 1.0)
    launch_D = np.minimum(curve.launch_s, mean_D)
    bound_D = np.bincount(device_A, weights=time_A * bound_A, minlength=num_devices) / np.maximum(groups_D, 1.0)
    return Cost(launch_D + (mean_D - launch_D) / rates.speed_D, bound_D > mean_D / 2)


def expert_sentences(rates: DeviceRates, model: MoEModel, weight_dtype: str) -> list[str]:
    """What the routed experts' time rests on, and where it is read outside what was measured; nothing for a roofline alone."""
    if not rates.experts:
        return []
    curve = rates.experts.get(weight_dtype)
    if curve is None:
        return [f"experts: no curve for {weight_dtype} weights (fitted: {', '.join(sorted(rates.experts))}); roofline"]
    sentences = [
        f"experts: curve of {curve.kernel} for {weight_dtype} weights, median error {curve.error.median:.1%} "
        f"({curve.error.protocol})"
    ]
    outside = curve.outside(d_model=float(model.payload_width), d_ff=float(model.expert_d_ff))
    return sentences + ([f"experts: extrapolated to {', '.join(outside)}"] if outside else [])


def _expert_sizes(model: MoEModel, expert_of_slot_P: NDArray[np.integer[Any]] | None) -> tuple[Floats, Floats]:
    """Weights and hidden width of the expert in each slot; of the mean expert where nothing tells them apart."""
    if expert_of_slot_P is None or not model.moe.pools:
        return np.array([float(model.expert_params)]), np.array([float(model.expert_d_ff)])
    counts, widths = zip(*model.expert_widths(), strict=True)
    d_ff_P = np.repeat(np.array(widths, dtype=np.float64), counts)[expert_of_slot_P]
    return d_ff_P * (model.expert_params / model.expert_d_ff), d_ff_P


def matrix_cost(tokens_D: Floats, num_params: float, rates: DeviceRates, weight_dtype: str) -> Cost:
    """Tokens through dense matrices of `num_params` parameters: 2 FLOP a parameter and token, each parameter read once.

    A device without tokens costs nothing.
    """
    moved = np.full_like(tokens_D, num_params * dtype_bytes(weight_dtype))
    cost = _roofline(2.0 * num_params * tokens_D, rates.flops(weight_dtype), moved, rates, rates.launch_s)
    return Cost(np.where((tokens_D > 0) & (num_params > 0), cost.time_s, 0.0), cost.memory_bound)


def score_cost(
    tokens_D: Floats, context_length: int, rates: DeviceRates, model: MoEModel, layer: int, *, decode: bool
) -> Cost:
    """Attention scores and values of model layer `layer`, each token seeing `context_length` earlier ones, in bf16.

    Decode reads every running sequence's keys and values (or its state) once and works on the latent itself where there
    is one; prefill reads and writes its own tokens' keys and values only.
    """
    flops = tokens_D * float(model.score_flops_per_token(context_length, layer, absorbed=decode))
    per_token = model.cache_read_bytes(context_length, layer) if decode else model.kv_bytes_per_token("bf16", layer)
    moved = tokens_D * per_token
    cost = _roofline(flops, rates.flops("bf16"), moved, rates, 0.0)
    return Cost(np.where(tokens_D > 0, cost.time_s, 0.0), cost.memory_bound)
