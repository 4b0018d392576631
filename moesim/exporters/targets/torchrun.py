"""torchrun: a script that every host runs, which finds its node rank and its order of devices by the host's name."""

import re

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.hosts import RankTable, rank_checks, rank_table

_CASE = re.compile(r"^  (\S+)\) node_rank=([0-9]+); devices=([0-9,]+) ;;$", re.MULTILINE)


def export(request: ExportRequest) -> Export:
    """Global rank = devices per host x node rank + local rank, under static rendezvous; options hosts, port."""
    table = rank_table(request)
    port = request.number("port", 29500, least=1)
    script = _script(table, port)
    return Export(
        files={request.out.name: script.encode()},
        launch_flags=(
            f"--nnodes={len(table.hosts)}",
            f"--nproc-per-node={table.devices_per_host}",
            "--node-rank=<line of the host>",
            f"--master-addr={table.hosts[0]}",
            f"--master-port={port}",
        ),
        checks=rank_checks(_read_back(script, table), table),
        notes=("dynamic rendezvous (--rdzv-backend=c10d) deals node ranks anew: keep it off",),
    )


def _script(table: RankTable, port: int) -> str:
    cases = []
    for node, host in enumerate(table.hosts):
        places = table.places[node * table.devices_per_host : (node + 1) * table.devices_per_host]
        devices = ",".join(str(place.local_index) for place in places)
        cases.append(f"  {host}) node_rank={node}; devices={devices} ;;\n")
    return (
        "#!/bin/sh\n"
        "# Run on every host with the training command as arguments; HOST overrides the host's own name.\n"
        'case "${HOST:-$(hostname -s)}" in\n'
        + "".join(cases)
        + '  *) echo "this host is not in the plan" >&2; exit 1 ;;\n'
        "esac\n"
        'CUDA_VISIBLE_DEVICES="$devices" exec torchrun '
        f"--nnodes={len(table.hosts)} --nproc-per-node={table.devices_per_host} "
        f'--node-rank="$node_rank" --master-addr={table.hosts[0]} --master-port={port} "$@"\n'
    )


def _read_back(script: str, table: RankTable) -> list[tuple[int, str]]:
    """(global rank, host) as torchrun would number them."""
    return [
        (int(node) * table.devices_per_host + local, host)
        for host, node, devices in _CASE.findall(script)
        for local in range(len(devices.split(",")))
    ]
