"""Fixtures every test may use, and the rule that tests on outside data skip when it is absent."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Deadlines measure the machine, not the code: compilation and a busy core would fail honest tests.
settings.register_profile("moesim", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.load_profile("moesim")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `shared` where the reference data is not beside the checkout."""
    if SHARED.is_dir():
        return
    for item in items:
        if "shared" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="reference data is not beside this checkout"))


@pytest.fixture
def shared_data() -> Path:
    """Folder of reference data outside the repository (traces, measurements, reference answers)."""
    return SHARED
