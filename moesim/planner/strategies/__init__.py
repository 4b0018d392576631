"""Placement strategies, one a file: each defines `place(problem) -> PlacementAnswer` and `REPLICA_POLICY`."""
