"""Registry of topology shapes: a module here defines `Spec`, `Parameters` and `build`."""

from moesim.registry import Registry

shapes = Registry("moesim.topology.shapes", kind="shape", attribute="build")
specs = Registry("moesim.topology.shapes", kind="shape", attribute="Spec")
parameter_sets = Registry("moesim.topology.shapes", kind="shape", attribute="Parameters")
