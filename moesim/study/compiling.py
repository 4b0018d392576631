"""Kernels of the planner compiled in processes of their own, beside what is simulated meanwhile: the first run's wait.

Run as `python -m moesim.study.compiling PART SCENARIO STRATEGY` by `compile_beside`.
"""

import subprocess
import sys
from pathlib import Path

from moesim.planner import place
from moesim.planner.held_out import time_of
from moesim.planner.local_search import improve
from moesim.scenario import load_scenario
from moesim.setting import load_setting
from moesim.study.placing import compile_strategy
from moesim.study.posing import pose

PARTS = ("strategy", "objective")  # about half of the work each


def compile_beside(scenario: Path, strategy: str) -> list[subprocess.Popen[bytes]]:
    """Begin to compile what `strategy` runs on a scenario, unless the search's kernels are kept from an earlier run.

    Nobody need wait for it: who wants a kernel before it is there compiles it too, and either is kept.
    """
    if any(Path(str(improve.stats.cache_path)).glob("local_search.improve-*.nbi")):
        return []
    command = [sys.executable, "-m", "moesim.study.compiling"]
    quiet = subprocess.DEVNULL
    return [
        subprocess.Popen([*command, part, str(scenario), strategy], stdin=quiet, stdout=quiet, stderr=quiet)
        for part in PARTS
    ]


def main(part: str, scenario: str, strategy: str) -> None:
    """Place a few tokens of the scenario's first step, or see what that would cost."""
    setting = load_setting(load_scenario(Path(scenario)))
    problem = pose(setting, list(setting.steps((0, 1))), tokens=True)
    if part == PARTS[0]:
        compile_strategy(strategy, problem)
    elif problem.sketch is not None:
        time_of(problem, problem.sketch, 0, place("contiguous", problem).placements[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
