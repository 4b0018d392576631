"""Session: an emulated cluster at work: jobs go in one after the other, times of all ranks come out."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calibrate.testbed.cluster import EmulatedCluster
from calibrate.testbed.jobs import STOP, read_answer, write_job
from calibrate.testbed.routes import Routing
from calibrate.testbed.wiring import Wiring

_LONGEST_JOB_S = 300.0
_POLL_S = 0.02
_PREFIX = "moesim-testbed-"  # then the process that owns the folder
_ROOT = Path(__file__).resolve().parents[2]  # what `calibrate` is imported from


class Session:
    """Life: made for a wiring; on entry the cluster comes up; jobs run while it is open; on exit nothing is left of it."""

    def __init__(self, wiring: Wiring) -> None:
        """Nothing happens before entry."""
        self.wiring = wiring
        self._folder = Path()
        self._number = 0

    def __enter__(self) -> Self:
        remove_orphans()
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        command = [sys.executable, "-c", _BOOT, str(_ROOT), str(self._folder), str(self.wiring.ranks)]
        self._cluster = EmulatedCluster(self.wiring, command, self._folder / "log")
        try:
            self._cluster.__enter__()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            write_job(self._folder, self._number, {"kind": STOP}, {})
        self._cluster.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def exchange_s(self, bytes_DD: NDArray[np.int64], repeats: int, *, library: bool = False) -> NDArray[np.float64]:
        """Seconds of an all-to-allv until the last rank has all, by repeat. Raises RuntimeError for wrong bytes."""
        answers = self.run({"kind": "exchange", "repeats": repeats, "library": library}, {"bytes_DD": bytes_DD})
        if not all(answer["right"] for answer in answers):
            raise RuntimeError("an all-to-allv delivered other bytes than were sent")
        slowest: NDArray[np.float64] = np.max([answer["end_s"] for answer in answers], axis=0)
        return slowest

    def experts_s(self, load_DS: NDArray[np.int64], width: int, hidden: int, repeats: int) -> NDArray[np.float64]:
        """Seconds of the experts on each rank [repeats, D], all ranks at once; loads in tokens by rank and slot."""
        header = {"kind": "experts", "repeats": repeats, "width": width, "hidden": hidden}
        return np.array([answer["end_s"] for answer in self.run(header, {"load_DS": load_DS})]).T

    def layer(
        self, routing: Routing, expert_of_slot_P: NDArray[np.int64], header: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Answers of all ranks to one layer job (worker.run_layer); checked: every pair was computed exactly once."""
        arrays = {
            "source_T": routing.source_T,
            "slots_TK": routing.slots_TK,
            "device_of_slot_P": routing.device_of_slot_P,
            "expert_of_slot_P": expert_of_slot_P,
        }
        answers = self.run({"kind": "layer", "per_node": routing.ranks_per_node, **header}, arrays)
        pairs, routed = sum(answer["pairs"] for answer in answers), int((routing.slots_TK >= 0).sum())
        if pairs != routed:
            raise RuntimeError(f"{pairs} (token, expert) pairs were computed of {routed} routed")
        return answers

    def run(self, header: Mapping[str, Any], arrays: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Run one job on all ranks; returns their answers. Raises RuntimeError when a rank ends or none answers."""
        number, deadline = self._number, time.monotonic() + _LONGEST_JOB_S
        write_job(self._folder, number, header, arrays)
        self._number += 1
        answers: dict[int, dict[str, Any]] = {}
        while len(answers) < self.wiring.ranks:
            for rank in range(self.wiring.ranks):
                answer = None if rank in answers else read_answer(self._folder, number, rank)
                if answer is not None:
                    answers[rank] = answer
            self._cluster.check_alive()
            if time.monotonic() > deadline:
                raise RuntimeError(f"no answer to a {header['kind']} job within {_LONGEST_JOB_S:g} s")
            time.sleep(_POLL_S)
        return [answers[rank] for rank in range(self.wiring.ranks)]


def remove_orphans() -> None:
    """Remove the folders of sessions whose program was killed; their processes and namespaces ended with it."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*")):
        owner = folder.name.removeprefix(_PREFIX).split("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


# The ranks find this package wherever they are started.
_BOOT = (
    "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); "
    "from calibrate.testbed.worker import main; main(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))"
)
