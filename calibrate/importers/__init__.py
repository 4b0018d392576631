"""Importers: one file per source of measurements; each defines `recognises(source, head)` and `read(source, options, report)`.

`source` is a path, or for installed packages a name such as aiconfigurator:h200_sxm; `head` is the first 64 KiB of the
file (empty for a package). `read` yields Measurements and counts in the report what it left out and why.
"""
