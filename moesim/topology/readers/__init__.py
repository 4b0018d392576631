"""Registry of topology readers: a module here defines `recognises` and `read` for files that clusters already have."""

from moesim.registry import Registry

readers = Registry("moesim.topology.readers", kind="topology format", attribute="read")
recognisers = Registry("moesim.topology.readers", kind="topology format", attribute="recognises")
