"""Accelerator files: what one device can compute, hold and read, each number with its source."""

from pathlib import Path
from typing import Literal

from moesim.cluster import Accelerator
from moesim.errors import unknown_name
from moesim.provenance import data_folder
from moesim.topology.facts import BytesFact, CountFact, FlopsFact, Name, RateFact, Section, source_lines
from moesim.yaml_file import read_yaml, validate


class _Flops(Section):
    bf16: FlopsFact
    fp8: FlopsFact | None = None
    fp4: FlopsFact | None = None
    int8: FlopsFact | None = None


class _Achievable(Section):
    bf16_flops_per_s: FlopsFact | None = None
    memory_bytes_per_s: RateFact | None = None
    scale_up_bytes_per_s: RateFact | None = None
    nic_bytes_per_s: RateFact | None = None


class AcceleratorFile(Section):
    """One file of topologies/accelerators/: dense peaks, memory, and published sustained rates where there are any."""

    format_version: Literal[1]
    name: Name
    description: str = ""
    flops: _Flops
    memory: BytesFact
    memory_bandwidth: RateFact
    num_sms: CountFact | None = None
    achievable: _Achievable = _Achievable()


def list_accelerators() -> list[str]:
    """Names of the accelerators in topologies/accelerators/, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_accelerator(name: str) -> tuple[Accelerator, tuple[str, ...]]:
    """The accelerator called `name` and one source line per number; raises UnknownName or InputError."""
    if name not in list_accelerators():
        raise unknown_name("accelerator", name, list_accelerators())
    return read_accelerator(_folder() / f"{name}.yaml")


def read_accelerator(path: Path) -> tuple[Accelerator, tuple[str, ...]]:
    """The accelerator in one file and one source line per number; raises InputError for anything wrong in it."""
    file = validate(AcceleratorFile, read_yaml(path), str(path))
    accelerator = Accelerator(
        name=file.name,
        flops_per_s=_values(file.flops),
        memory_bytes=file.memory.value,
        memory_bytes_per_s=file.memory_bandwidth.value,
        num_sms=file.num_sms.value if file.num_sms else None,
        achievable=_values(file.achievable),
    )
    return accelerator, tuple(source_lines(file, f"{file.name}."))


def _folder() -> Path:
    return data_folder("topologies") / "accelerators"


def _values(section: Section) -> dict[str, float]:
    facts = ((name, getattr(section, name)) for name in type(section).model_fields)
    return {name: float(fact.value) for name, fact in facts if fact is not None}
