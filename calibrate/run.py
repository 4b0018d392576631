"""`python -m calibrate run`: run probes on this machine and append what they measure to a JSON Lines file.

Needs torch and numpy, nothing of moesim. Start it under torchrun for more than one rank. A run that was killed is
resumed by the same command: what the file already holds is not measured again.
"""

import argparse
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

from calibrate.machine import Machine, open_machine
from calibrate.measurement import (
    Measurement,
    Skipped,
    append_lines,
    environment_line,
    measurement_id,
    measurement_line,
    read_measurements,
    skipped_line,
)
from calibrate.probes import list_probes, load_probe
from calibrate.timing import Operation, time_operation, wrong


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `run`."""
    parser.add_argument("--out", required=True, type=Path, help="JSON Lines file to append to")
    parser.add_argument("--probes", default=",".join(list_probes()), help="names, separated by commas")
    parser.add_argument("--effort", choices=("quick", "full"), default="full", help="quick: a minute, to try it out")
    parser.add_argument("--budget", type=float, default=0.5, help="seconds per case (at least 7 repeats)")
    parser.add_argument("--hardware", help="the catalogue's name of the accelerator, where the driver's is not known")


def main(arguments: argparse.Namespace) -> int:
    """Measure; return 0, or 2 with one sentence where the input cannot be used."""
    try:
        probes = {name: load_probe(name) for name in arguments.probes.split(",") if name}
        if not probes:
            raise ValueError(f"--probes names none; there are: {', '.join(list_probes())}")
        if not 0 < arguments.budget <= 3600:
            raise ValueError(f"--budget must be above 0 and at most 3600 seconds, got {arguments.budget}")
        if not arguments.out.parent.is_dir():
            raise ValueError(f"the folder of --out, {arguments.out.parent}, does not exist")
        known = _known(arguments.out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    # Names that newer torch versions will drop; the new ones do not exist in older versions, which users have.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    machine = open_machine(arguments.hardware)
    recorder = _Recorder(machine, arguments.out, known)
    try:
        for name, probe in probes.items():
            _run_probe(name, probe, machine, recorder, arguments)
    finally:
        if machine.ranks > 1:
            dist.destroy_process_group()
    recorder.say(f"{recorder.written} measurements written to {arguments.out}, {recorder.kept} were there already")
    return 0


def _known(path: Path) -> set[str]:
    """Ids of what the file holds: environments, measurements, skipped probes by name."""
    if not path.exists():
        return set()
    file = read_measurements(path)
    ids = {measurement.id for measurement in file.measurements} | set(file.environments)
    return ids | {f"{skipped.probe}: {skipped.reason}" for skipped in file.skipped}


class _Recorder:
    """Rank 0 writes, one case at a time, and every rank learns from it whether a case is already there."""

    def __init__(self, machine: Machine, path: Path, known: set[str]) -> None:
        self.machine, self.path, self.known = machine, path, known
        self.written = self.kept = 0
        if machine.rank == 0 and machine.environment["id"] not in known:
            append_lines(path, [environment_line(machine.environment)])

    def has(self, probe: str, params: dict[str, Any]) -> bool:
        """Whether rank 0's file holds this case."""
        name = measurement_id(probe, params, self.machine.environment["id"])
        mine = self.machine.rank == 0 and name in self.known
        found = self.machine.any_rank(mine)
        self.kept += found
        return found

    def write(self, measurement: Measurement) -> None:
        """Append one measurement and say it."""
        self.written += 1
        if self.machine.rank == 0:
            append_lines(self.path, [measurement_line(measurement)])

    def skip(self, probe: str, reason: str) -> None:
        """Append why something was not measured, once."""
        if self.machine.rank == 0 and f"{probe}: {reason}" not in self.known:
            append_lines(self.path, [skipped_line(Skipped(probe, reason))])
            self.known.add(f"{probe}: {reason}")
        self.say(f"{probe}: not measured: {reason}")

    def say(self, text: str) -> None:
        """Talk to the person at the terminal, once for all ranks."""
        if self.machine.rank == 0:
            print(text, file=sys.stderr, flush=True)


def _run_probe(
    name: str, probe: ModuleType, machine: Machine, recorder: _Recorder, arguments: argparse.Namespace
) -> None:
    reason = probe.unable(machine)
    if reason is not None:
        recorder.skip(name, reason)
        return
    before = recorder.written
    for operation, params in probe.cases(machine, arguments.effort):
        if not recorder.has(name, params):
            _run_case(name, probe, operation, params, machine, recorder, arguments.budget)
    recorder.say(f"{name}: {recorder.written - before} measured")


def _run_case(
    name: str,
    probe: ModuleType,
    operation: str,
    params: dict[str, Any],
    machine: Machine,
    recorder: _Recorder,
    budget_s: float,
) -> None:
    prepared, reason = _prepare(probe, machine, params)
    if machine.any_rank(prepared is None):
        # All ranks must agree, or those that can would wait for those that cannot.
        recorder.skip(name, f"{_short(params)}: {reason or 'another rank could not prepare it'}")
        return
    assert prepared is not None
    try:
        times = time_operation(machine, prepared, budget_s)
        reason = wrong(prepared)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if machine.ranks > 1:
            raise  # the other ranks wait inside the operation; only ending the run frees them
        times, reason = None, _first_line(error)
    if times is None or machine.any_rank(bool(reason)):
        recorder.skip(name, f"{_short(params)}: {reason or 'another rank got a wrong output'}")
        return
    trips = int(params.get("trips", 1))
    recorder.write(
        Measurement(
            probe=name,
            operation=operation,
            params=params,
            time_s=times.median_s / trips,
            quantiles={"p10": times.p10_s / trips, "p90": times.p90_s / trips},
            repeats=times.repeats,
            environment=machine.environment["id"],
            source=f"calibrate run on {machine.environment['device']}",
        )
    )


def _prepare(probe: ModuleType, machine: Machine, params: dict[str, Any]) -> tuple[Operation | None, str]:
    try:
        return probe.prepare(machine, params), ""
    except (RuntimeError, NotImplementedError, ValueError, MemoryError, torch.OutOfMemoryError) as error:
        return None, _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _short(params: dict[str, Any]) -> str:
    names = (
        "kernel",
        "groups",
        "tokens_per_group",
        "distribution",
        "d_model",
        "d_ff",
        "dtype",
        "bytes_per_rank",
        "bytes",
    )
    return " ".join(f"{name}={params[name]}" for name in names if name in params)
