"""An emulated two-level cluster on one Linux machine: real processes, real TCP, links shaped by the kernel.

`python -m calibrate.testbed` probes it, fits a profile, predicts a mixture-of-experts layer and measures the same layer.
README.md beside this file says how; docs/VALIDATION.md has the figures.
"""
