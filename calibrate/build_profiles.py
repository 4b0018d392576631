"""Make the shipped profiles from calibrate/published: `python -m calibrate.build_profiles [NAME...]`; same tables, same bytes.

Which rows a profile rests on is chosen here, by source: rows of one release on one machine, so that no two sites' timers
are mixed. What is not chosen is what `moesim validate` compares against.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from calibrate.fit import FitReport, answer_lines, fit, write_profile
from calibrate.import_report import ImportOptions, ImportReport
from calibrate.importers.table import read
from calibrate.measurement import Measurement
from moesim.provenance import data_folder

FOLDER = Path(__file__).resolve().parent / "profiles"
TABLES = ("alltoall.csv", "silicon/dispatch.csv", "silicon/nccl.csv", "silicon/expert_mlp.csv")
_TRTLLM = "trtllm_moe_torch_flow_cutlass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What one profile is fitted to: for every library a text its source or release holds, for every weight type a kernel."""

    hardware: str
    libraries: dict[str, str] = field(default_factory=dict)
    experts: dict[str, tuple[str, str]] = field(default_factory=dict)


_HOPPER_EXPERTS = {"fp8": ("fp8_block", _TRTLLM), "bf16": ("bf16", _TRTLLM)}
_BLACKWELL_EXPERTS = {
    "fp8": ("fp8", _TRTLLM),
    "bf16": ("bf16", _TRTLLM),
    "nvfp4": ("nvfp4", "sglang_flashinfer_trtllm_moe"),
    "mxfp4": ("mxfp4", "sglang_flashinfer_trtllm_moe"),
}
_ONE_NODE = {"nccl": "nccl_perf", "deepep-ll": "0.5.12", "deepep-normal": "0.5.12"}
RECIPES = {
    "a100-sxm": Recipe(
        hardware="a100-80-sxm",
        libraries={"nccl": "nccl_perf"},
        experts={"bf16": ("bf16", "sglang_fused_moe_triton")},
    ),
    "h100-sxm": Recipe(
        hardware="h100-sxm",
        libraries={
            "nccl": "NCCL 2.29.2",
            "deepep-ll": "0.5.6.post2",
            "deepep-normal": "0.5.6.post2",
            "pplx": "IBGDA",
        },
        experts={**_HOPPER_EXPERTS, "mxfp4": ("mxfp4", "sglang_fused_moe_triton")},
    ),
    "h200-sxm": Recipe(
        hardware="h200-sxm",
        libraries=_ONE_NODE,
        experts={**_HOPPER_EXPERTS, "mxfp4": ("mxfp4", "sglang_fused_moe_triton")},
    ),
    "h800-sxm": Recipe(
        hardware="h800-sxm",
        libraries={"deepep-ll": "LL using NVLink", "deepep-normal": "initial normal"},
    ),
    "b200-sxm": Recipe(hardware="b200-sxm", libraries=_ONE_NODE, experts=_BLACKWELL_EXPERTS),
    "gb200-nvl72": Recipe(
        hardware="gb200-nvl72",
        libraries={"nccl": "nccl_perf", "trtllm-two-sided": "trtllm_alltoall"},
        experts=_BLACKWELL_EXPERTS,
    ),
    "mi300x": Recipe(hardware="mi300x", libraries={"uccl": "UCCL-EP normal"}),
    "mi355x": Recipe(hardware="mi355x", libraries={"uccl": "UCCL-EP normal", "rccl": "RCCL"}),
}


@cache
def published() -> tuple[Measurement, ...]:
    """Every measurement of the published tables."""
    report = ImportReport()
    folder = data_folder("calibrate/published")
    return tuple(m for table in TABLES for m in read(str(folder / table), ImportOptions(), report))


def chosen(recipe: Recipe, measurements: Sequence[Measurement]) -> list[Measurement]:
    """The measurements that recipe names."""
    return [m for m in measurements if m.params.get("hardware") == recipe.hardware and _is_chosen(recipe, m)]


def _is_chosen(recipe: Recipe, measurement: Measurement) -> bool:
    if measurement.operation == "expert_mlp":
        kind = (str(measurement.params["dtype"]), str(measurement.params.get("kernel")))
        return kind in recipe.experts.values()
    text = recipe.libraries.get(str(measurement.params.get("library")))
    if disagrees(measurement):
        return False
    return text is not None and (text in measurement.source or text in str(measurement.params.get("release", "")))


def disagrees(measurement: Measurement) -> bool:
    """Whether another table of the same kernels says otherwise: shown by `moesim validate`, fitted by no profile.

    Combine of DeepEP's normal kernels on 8 nodes in 0.5.6.post2 runs at half the NIC rate that the same kernels reach on 4
    nodes and that DeepEP's own tables give for 8 (its dispatch rows carry a flag for not changing with the SMs).
    """
    params = measurement.params
    return "0.5.6.post2" in measurement.source and params.get("library") == "deepep-normal" and params["nodes"] == 8


def build(name: str) -> FitReport:
    """The profile of that name, fitted anew."""
    recipe = RECIPES[name]
    return fit(chosen(recipe, published()), recipe.hardware, name=name, expert_kernels=recipe.experts)


def main(names: Sequence[str]) -> int:
    """Build and write the named profiles, or all."""
    for name in names or sorted(RECIPES):
        path = FOLDER / f"{name}.json"
        report = build(name)
        write_profile(report.profile, path)
        print("\n".join(answer_lines(report.answer(f"calibrate/profiles/{path.name}"))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
