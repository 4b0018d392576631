"""Synthetic routers: one file per law by which tokens choose experts; each defines `route`."""
