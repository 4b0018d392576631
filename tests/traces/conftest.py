"""Lets the tests import the programs of `traces/` the way `python traces/PROGRAM.py` does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "traces"))
