"""Synthetic routers: one file per law by which tokens choose experts; each defines `build`.

`build(layer, *, parameters)` makes the router of one layer for tokens without content; `build(layer, stream, *,
parameters)` for tokens of a stream. Either gives a function from a batch of tokens to their experts.
"""
