"""Calibration: measure hardware, read what others measured, fit profiles.

`probes/`, `measurement.py` and `python -m calibrate run` need torch and numpy and nothing of moesim, so that a copy of
this folder is enough on a GPU node; `fit`, `importers/` and `testbed/` may import moesim.
"""
