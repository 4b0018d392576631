"""Expert GEMM: the gated MLP of every resident expert on its tokens, by three kernels, balanced and skewed.

One expert: h = silu(x W1) * (x W3), y = h W2, with W1 | W3 stored side by side as [d_model, 2 d_ff].
Kernels: `loop` (one matmul per expert), `batched` (one batched matmul, equal groups only), `grouped` (torch's grouped
matmul with group ends). In fp8 (e4m3, scale 1, bf16 out) the middle activation is cast between the two GEMMs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from calibrate.machine import Machine
from calibrate.timing import Operation, ProbeFailed, buffer_sets

# (d_model, d_ff): DeepSeek-V3, Mixtral 8x7B, Qwen3-235B-A22B, gpt-oss, DeepSeek-V2-Lite
SHAPES = ((7168, 2048), (4096, 14336), (4096, 1536), (2880, 2880), (2048, 1408))
_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
_GROUPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_SKEWS = (0.8, 1.2)
_MOST_TOKENS = 131072
_CPU_FLOPS = 4e10  # a case beyond this takes seconds on a CPU
_FP8 = torch.float8_e4m3fn
_BYTES = {"bf16": 2, "fp8": 1}
_Mlp = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def unable(machine: Machine) -> str | None:
    """Runs everywhere; what the device lacks is left out case by case."""
    return None


def cases(machine: Machine, effort: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Shapes x groups x tokens x kernels, then power-law group sizes; on a CPU only what ends within a second or so."""
    shapes = SHAPES if effort == "full" else ((512, 256),)
    groups = _GROUPS if effort == "full" else (1, 4)
    tokens = _TOKENS if effort == "full" else (1, 16, 128)
    for d_model, d_ff in shapes:
        for count in groups:
            for dtype in _dtypes(machine):
                for per_group in tokens:
                    if _fits(machine, count * per_group, d_model, d_ff):
                        yield from _kernels(machine, count, per_group, d_model, d_ff, dtype)


def _kernels(
    machine: Machine, count: int, per_group: int, d_model: int, d_ff: int, dtype: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    common = {
        "hardware": machine.hardware,
        "groups": count,
        "d_model": d_model,
        "d_ff": d_ff,
        "gated": True,
        "dtype": dtype,
    }
    balanced = {**common, "tokens_per_group": per_group, "distribution": "balanced"}
    for kernel in ("loop", "grouped") if dtype == "fp8" else ("loop", "batched", "grouped"):
        yield "expert_mlp", {**balanced, "kernel": f"torch-{kernel}"}
    if count < 8 or per_group < 16:
        return
    for skew in _SKEWS:
        sizes = power_law(count, per_group, skew)
        name = f"power_law:{skew}"
        yield "expert_mlp", {**common, "tokens": sizes, "distribution": name, "kernel": "torch-grouped"}


def _dtypes(machine: Machine) -> tuple[str, ...]:
    """fp8 only where the device multiplies it (Ada and Hopper on); a CPU would only emulate it."""
    if machine.is_gpu and (torch.version.hip or torch.cuda.get_device_capability(machine.device) >= (8, 9)):
        return "bf16", "fp8"
    return ("bf16",)


def _fits(machine: Machine, tokens: int, d_model: int, d_ff: int) -> bool:
    return tokens <= _MOST_TOKENS and (machine.is_gpu or 6.0 * tokens * d_model * d_ff <= _CPU_FLOPS)


def power_law(groups: int, mean_tokens: int, exponent: float) -> list[int]:
    """Group sizes proportional to rank^-exponent that sum to groups x mean_tokens, largest first.

    >>> power_law(4, 10, 1.0)
    [19, 10, 6, 5]
    """
    shares = np.arange(1, groups + 1, dtype=np.float64) ** -exponent
    exact = shares / shares.sum() * groups * mean_tokens
    sizes = np.floor(exact).astype(np.int64)
    left = groups * mean_tokens - int(sizes.sum())
    sizes[np.argsort(sizes - exact, kind="stable")[:left]] += 1
    return [int(size) for size in sizes]


def prepare(machine: Machine, params: dict[str, Any]) -> Operation:
    """Seeded weights and tokens; as many weight sets as exceed the cache, so that weights come from memory."""
    groups, d_model, d_ff = (int(params[key]) for key in ("groups", "d_model", "d_ff"))
    sizes = list(params.get("tokens") or [int(params["tokens_per_group"])] * groups)
    dtype = str(params["dtype"])
    weight_bytes = groups * 3 * d_model * d_ff * _BYTES[dtype]
    count = buffer_sets(machine, weight_bytes)
    # Making random weights takes two bytes an element for a moment; fp8 weights are cast from them.
    needed = count * weight_bytes + sum(sizes) * (d_model + 3 * d_ff) * 4 + groups * 3 * d_model * d_ff * 2
    if needed > 0.9 * machine.free_bytes():
        raise MemoryError(f"{needed} bytes needed, {machine.free_bytes()} free")
    random = torch.Generator(device=machine.device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        values = torch.randn(*shape, generator=random, device=machine.device, dtype=torch.bfloat16)
        return values.div_(float(shape[-2]) ** 0.5)

    first = _copies(_as(normal(groups, d_model, 2 * d_ff), dtype), count)
    second = _copies(_as(normal(groups, d_ff, d_model), dtype), count)
    tokens = _as(normal(sum(sizes), d_model) * sum(sizes) ** 0.5, dtype)
    mlp = _mlp(str(params["kernel"]), dtype, sizes, machine)
    outputs: dict[int, torch.Tensor] = {}

    def run(i: int) -> None:
        outputs[0] = mlp(tokens, first[i % count], second[i % count])
        outputs[1] = first[i % count]
        outputs[2] = second[i % count]

    return Operation(run, lambda: _check(tokens, outputs, sizes, dtype))


def _as(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """In fp8 a weight [groups, in, out] is stored with `in` contiguous, as the hardware's matmul wants it."""
    if dtype == "bf16":
        return values
    if values.dim() == 3:
        return values.transpose(-2, -1).contiguous().to(_FP8).transpose(-2, -1)
    return values.to(_FP8)


def _copies(values: torch.Tensor, count: int) -> list[torch.Tensor]:
    """The same values at `count` places in memory, strides kept."""
    return [values, *(torch.empty_like(values).copy_(values) for _ in range(count - 1))]


def _mlp(kernel: str, dtype: str, sizes: list[int], machine: Machine) -> _Mlp:
    if kernel == "torch-loop":
        return _loop(sizes, dtype)
    if kernel == "torch-batched":
        return _batched(sizes)
    ends = torch.tensor(np.cumsum(sizes), dtype=torch.int32, device=machine.device)
    return _grouped_fp8(ends) if dtype == "fp8" else _grouped(ends)


def _activate(both: torch.Tensor) -> torch.Tensor:
    gate, up = both.chunk(2, dim=-1)
    return functional.silu(gate) * up


def _loop(sizes: list[int], dtype: str) -> _Mlp:
    def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if dtype == "bf16":
            return a @ b
        one = torch.ones((), device=a.device)
        return torch._scaled_mm(a.to(_FP8), b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    def mlp(tokens: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        parts = torch.split(tokens, sizes)
        return torch.cat([matmul(_activate(matmul(part, first[g])), second[g]) for g, part in enumerate(parts)])

    return mlp


def _batched(sizes: list[int]) -> _Mlp:
    def mlp(tokens: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        batch = tokens.view(len(sizes), sizes[0], -1)
        return torch.bmm(_activate(torch.bmm(batch, first)), second).flatten(0, 1)

    return mlp


def _grouped(ends: torch.Tensor) -> _Mlp:
    def mlp(tokens: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return functional.grouped_mm(_activate(functional.grouped_mm(tokens, first, offs=ends)), second, offs=ends)

    return mlp


def _grouped_fp8(ends: torch.Tensor) -> _Mlp:
    def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        rows = torch.ones(a.shape[0], device=a.device)
        columns = torch.ones(b.shape[0], b.shape[2], device=a.device)
        return torch._scaled_grouped_mm(a.to(_FP8), b, rows, columns, offs=ends, out_dtype=torch.bfloat16)

    def mlp(tokens: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return matmul(_activate(matmul(tokens, first)), second)

    return mlp


def _check(tokens: torch.Tensor, outputs: dict[int, torch.Tensor], sizes: list[int], dtype: str) -> None:
    """One token of the first, middle and last group against the same MLP in double precision."""
    ends = np.cumsum(sizes)
    tolerance = 0.05 if dtype == "bf16" else 0.3
    for group in sorted({0, len(sizes) // 2, len(sizes) - 1}):
        if not sizes[group]:
            continue
        row = int(ends[group]) - 1
        expected = _activate(tokens[row].double() @ outputs[1][group].double()) @ outputs[2][group].double()
        error = float((outputs[0][row].double() - expected).norm() / expected.norm())
        if not error < tolerance:
            raise ProbeFailed(f"group {group}: output differs from double precision by {error:.3g} (relative norm)")
