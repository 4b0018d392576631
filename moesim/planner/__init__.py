"""Choosing where experts go: a PlacementProblem in, one placement per MoE layer out."""

import importlib

from moesim.planner.problem import PlacementAnswer, PlacementProblem
from moesim.registry import Registry

__all__ = ["STRATEGIES", "PlacementAnswer", "PlacementProblem", "place", "reads_tokens", "replica_policy"]

STRATEGIES = Registry("moesim.planner.strategies", kind="strategy", attribute="place")


def place(name: str, problem: PlacementProblem) -> PlacementAnswer:
    """The answer of strategy `name`; raises UnknownName, or Declined where the strategy does not apply."""
    answer: PlacementAnswer = STRATEGIES.get(name)(problem)
    return answer


def replica_policy(name: str) -> str:
    """The replica policy that strategy `name` makes its placements for: even, nearest or split."""
    STRATEGIES.get(name)  # refuses an unknown name
    policy: str = importlib.import_module(f"{STRATEGIES.package}.{name}").REPLICA_POLICY
    return policy


def reads_tokens(name: str) -> bool:
    """Whether strategy `name` looks at tokens and costs, which take time to gather, and not at loads alone."""
    splits = replica_policy(name) == "split"  # refuses an unknown name
    return bool(getattr(importlib.import_module(f"{STRATEGIES.package}.{name}"), "READS_TOKENS", splits))
