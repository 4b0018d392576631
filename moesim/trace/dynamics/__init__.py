"""Training dynamics: one file per way in which a gate changes from step to step; each defines `evolve`."""
