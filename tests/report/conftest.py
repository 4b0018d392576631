"""The page that several tests look at; drawing it takes seconds, so it is drawn once."""

import pytest

from moesim.report.formats.html import render
from tests.strategies.result import make_comparison


@pytest.fixture(scope="session")
def full() -> str:
    """The page of seven strategies on 32 devices and 26 layers."""
    return render(make_comparison())["report.html"].decode()
