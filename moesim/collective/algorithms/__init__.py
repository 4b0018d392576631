"""All-to-all algorithms, one file each: which copies of tokens travel between which devices, in which legs."""

from moesim.registry import Registry

algorithms = Registry("moesim.collective.algorithms", kind="dispatch algorithm", attribute="legs")
