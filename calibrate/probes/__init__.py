"""Probes: one file per kind of measurement; the file's name is the probe's name.

A probe module defines
- `unable(machine) -> str | None`: why this machine cannot run it, or None;
- `cases(machine, effort) -> Iterator[tuple[operation, params]]`: what to measure, the same on every rank;
- `prepare(machine, params) -> Operation`: buffers and the call to time; raises when the case cannot be run here.

`effort` is "quick" or "full". Needs torch and numpy, nothing of moesim: see docs/adding/a-probe.md.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

ORDER = (
    "launch",
    "copy",
    "permute",
    "expert_gemm",
    "point_to_point",
    "all_to_all",
    "all_gather",
    "reduce_scatter",
    "all_reduce",
    "overlap",
)


def list_probes() -> list[str]:
    """Names of all probes: the quick single-device ones first, then any that was added, sorted."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [name for name in ORDER if name in found] + [name for name in found if name not in ORDER]


def load_probe(name: str) -> ModuleType:
    """The module of one probe; ValueError names the ones there are."""
    if name not in list_probes():
        raise ValueError(f"no probe is called {name!r}; there are: {', '.join(list_probes())}")
    return import_module(f"calibrate.probes.{name}")
