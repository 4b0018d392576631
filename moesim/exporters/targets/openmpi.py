"""Open MPI: the rankfile, and the hostfile with the slots of every host."""

import re

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.hosts import rank_checks, rank_table

_LINE = re.compile(r"^rank ([0-9]+)=(\S+) slot=[0-9-]+$")


def export(request: ExportRequest) -> Export:
    """Options: hosts=n[01-04]; cores_per_rank=N cores for each rank, counted through the host (default 1)."""
    table = rank_table(request)
    cores = request.number("cores_per_rank", 1, least=1)
    lines = [f"rank {p.rank}={p.host} slot={_cores(p.local_index, cores)}" for p in table.places]
    hosts = [f"{host} slots={table.devices_per_host}" for host in table.hosts]
    hostfile = request.beside(".hosts")
    found = [_LINE.match(line) for line in lines]
    return Export(
        files={request.out.name: _text(lines), hostfile: _text(hosts)},
        launch_flags=(
            f"--hostfile {request.out.with_name(hostfile)}",
            f"--map-by rankfile:FILE={request.out}",
            f"-np {table.num_ranks}",
        ),
        checks=rank_checks([(int(match[1]), match[2]) for match in found if match], table),
        notes=(f"Open MPI 4 takes -rf {request.out} in place of --map-by",),
    )


def _cores(local_index: int, cores: int) -> str:
    first = local_index * cores
    return str(first) if cores == 1 else f"{first}-{first + cores - 1}"


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
