"""The machine a probe runs on: this process's device, its place among the ranks, and what is recorded about both.

Needs torch and numpy, nothing of moesim.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from calibrate.hardware_names import catalogue_name

_QUERY = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One rank's view: `device` it times on, `rank` of `ranks`, `ranks_per_node` ranks share a host.

    `hardware` is the catalogue's accelerator name (or what the driver says where the catalogue has none); `cache_bytes`
    the size of the cache that rotated buffers must exceed; `environment` what goes into the file, with its `id`.
    """

    device: torch.device
    rank: int
    ranks: int
    ranks_per_node: int
    backend: str | None
    hardware: str
    cache_bytes: int
    environment: dict[str, Any]

    @property
    def nodes(self) -> int:
        """Hosts the ranks lie on."""
        return -(-self.ranks // self.ranks_per_node)

    @property
    def is_gpu(self) -> bool:
        """Whether operations run on a GPU (CUDA or ROCm)."""
        return self.device.type == "cuda"

    @property
    def places(self) -> dict[str, Any]:
        """Parameters every communication measurement carries."""
        return {
            "hardware": self.hardware,
            "library": self.backend,
            "ranks": self.ranks,
            "nodes": self.nodes,
            "ranks_per_node": self.ranks_per_node,
        }

    def synchronize(self) -> None:
        """Wait until the device has done everything it was given."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def free_bytes(self) -> int:
        """Memory of the device not in use, bytes; on a CPU what the system says is available."""
        if self.is_gpu:
            return int(torch.cuda.mem_get_info(self.device)[0])
        return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Elementwise maximum over all ranks."""
        if self.ranks == 1:
            return values
        tensor = torch.from_numpy(values.astype(np.float64)).to(self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return np.asarray(tensor.cpu().numpy())

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` holds on any rank."""
        return bool(self.largest(np.array([float(flag)]))[0] > 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.ranks > 1:
            dist.barrier()


def open_machine(hardware: str | None = None) -> Machine:
    """Join the group torchrun has set up (NCCL on GPUs, gloo on CPUs), or stand alone; describe what is found."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks)))
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", local_rank % torch.cuda.device_count()) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_ranks))
    backend = None
    if ranks > 1:
        backend = "nccl" if gpu else "gloo"
        dist.init_process_group(backend, rank=rank, world_size=ranks)
    name = torch.cuda.get_device_name(device) if gpu else _cpu_name()
    return Machine(
        device=device,
        rank=rank,
        ranks=ranks,
        ranks_per_node=local_ranks,
        backend="rccl" if backend == "nccl" and torch.version.hip else backend,
        hardware=hardware or catalogue_name(name) or name,
        cache_bytes=_cache_bytes(device),
        environment=_environment(name, ranks, local_ranks),
    )


def _environment(name: str, ranks: int, local_ranks: int) -> dict[str, Any]:
    libraries: dict[str, Any] = {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }
    if torch.cuda.is_available():
        libraries["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    fixed = {
        "device": name,
        "ranks": ranks,
        "ranks_per_node": local_ranks,
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": libraries,
    }
    # Clocks change from run to run; a resumed run must find its own measurements, so the id does not depend on them.
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:12]
    return {"id": f"env-{digest}", **fixed, **_driver()}


def _driver() -> dict[str, Any]:
    """Driver version and clocks as the vendor's tool prints them; nothing where there is no such tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    try:
        command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader"]
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [
        dict(zip(_QUERY.split(","), (part.strip() for part in line.split(",")), strict=False))
        for line in text.splitlines()
        if line.strip()
    ]
    return {"driver": rows[0].get("driver_version") if rows else None, "clocks": rows}


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"CPU {line.split(':', 1)[1].strip()}"
    return f"CPU {platform.processor() or platform.machine()}"


def _cache_bytes(device: torch.device) -> int:
    """Last-level cache: the GPU's L2, or the CPU's largest cache; 64 MiB where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    found = [_cache_size(path) for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max(found, default=64 * 2**20)


def _cache_size(path: Path) -> int:
    text = path.read_text(encoding="ascii").strip()
    scale = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text[-1:], 1)
    return int(text.rstrip("KMG")) * scale
