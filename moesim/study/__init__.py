"""Study: plan, simulate, compare; the only package that knows both the planner and the simulation."""

from moesim.study.comparing import compare
from moesim.study.exporting import Exported, export
from moesim.study.keeping import fastest_plan
from moesim.study.planning import plan, timed_plan
from moesim.study.simulating import simulate

__all__ = ["Exported", "compare", "export", "fastest_plan", "plan", "simulate", "timed_plan"]
