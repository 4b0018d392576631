"""Time of balanced groups of experts under an ExpertCurve, pure: the form that is fitted and the form that is simulated.

Array letters: A active expert. All times in seconds, all sizes in bytes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moesim.calibration_curves import ExpertCurve

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancedGroups:
    """For every active expert A the balanced group it is judged by: `groups_A` experts with `tokens_A` tokens each.

    `params_A`: weights of one expert; `activation_bytes_A`: bytes a token moves; `weight_bytes`: bytes of one weight.
    """

    tokens_A: Floats
    groups_A: Floats
    d_model_A: Floats
    d_ff_A: Floats
    params_A: Floats
    activation_bytes_A: Floats
    weight_bytes: float

    def log2(self, tile_tokens: int) -> dict[str, Floats]:
        """log2 of every quantity a surface may be read at [A]; FLOP are those of whole tiles."""
        weight_A = self.groups_A * self.params_A * self.weight_bytes
        return {
            "tokens": np.log2(self.tokens_A),
            "groups": np.log2(self.groups_A),
            "d_model": np.log2(self.d_model_A),
            "d_ff": np.log2(self.d_ff_A),
            "weight_bytes": np.log2(weight_A),
            "flops": np.log2(self.flops(tile_tokens)),
        }

    def flops(self, tile_tokens: int) -> Floats:
        """Floating-point operations of a group in whole tiles [A]."""
        tiles_A = np.ceil(self.tokens_A / tile_tokens) * tile_tokens
        flops: Floats = 2.0 * self.params_A * tiles_A * self.groups_A
        return flops


def roofline_terms(
    curve: ExpertCurve, groups: BalancedGroups, flops_per_s: Floats, memory_bytes_per_s: Floats
) -> tuple[Floats, Floats, Floats]:
    """Seconds of weights, of arithmetic and of activations of every group [A], before corrections."""
    weight_A = groups.groups_A * groups.params_A * groups.weight_bytes
    moved_A = groups.groups_A * groups.tokens_A * groups.activation_bytes_A
    return (
        weight_A / (curve.memory_fraction * memory_bytes_per_s),
        groups.flops(curve.tile_tokens) / (curve.flops_fraction * flops_per_s),
        moved_A * curve.activation_factor / memory_bytes_per_s,
    )


def group_time(
    curve: ExpertCurve, groups: BalancedGroups, flops_per_s: Floats, memory_bytes_per_s: Floats
) -> tuple[Floats, NDArray[np.bool_]]:
    """Seconds of every group [A], and whether reading its weights binds; rates are the device's peaks, one a group."""
    weights_s, arithmetic_s, moved_s = roofline_terms(curve, groups, flops_per_s, memory_bytes_per_s)
    base_A = curve.launch_s + np.maximum(weights_s, arithmetic_s) + moved_s
    log2_of = groups.log2(curve.tile_tokens)
    log_factor_A = np.zeros(len(base_A))
    for surface in curve.surfaces:
        log_factor_A += surface.log_factor(log2_of)
    return base_A * np.exp(log_factor_A), weights_s > arithmetic_s
