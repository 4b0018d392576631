"""Slurm: the file of SLURM_HOSTFILE, one line per task, and the srun line that goes with it."""

from moesim.exporters.export import Export, ExportRequest
from moesim.exporters.hosts import rank_checks, rank_table


def export(request: ExportRequest) -> Export:
    """Task i runs on line i; option hosts=n[01-04] names the nodes."""
    table = rank_table(request)
    content = "".join(f"{place.host}\n" for place in table.places)
    path = str(request.out) if "/" in str(request.out) else f"./{request.out}"
    line = f"SLURM_HOSTFILE={path} srun --ntasks={table.num_ranks} --distribution=arbitrary"
    script = (
        "#!/bin/sh\n"
        "# Task i starts on line i of the host file; do not pass --nodes or a node list. Inside a host tasks take the\n"
        "# devices in the order of their SLURM_LOCALID.\n"
        f'{line} "$@"\n'
    )
    read_back = list(enumerate(content.split()))
    return Export(
        files={request.out.name: content.encode(), request.beside(".srun.sh"): script.encode()},
        launch_flags=(f"SLURM_HOSTFILE={path}", f"--ntasks={table.num_ranks}", "--distribution=arbitrary"),
        checks=rank_checks(read_back, table),
        notes=("srun ignores SLURM_HOSTFILE where a node list is given, and refuses --nodes beside it",),
    )
