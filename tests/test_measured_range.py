"""What a result says when its sizes lie outside those a profile was measured at."""

from pathlib import Path

import pytest

from moesim.calibration import load_profile
from moesim.scenario import make_scenario
from moesim.study import simulate
from tests.strategies.scenario import tiny_scenario


@pytest.mark.parametrize(("high", "told"), [(1e9, False), (1.0, True)])
def test_tokens_beyond_the_measured_ones_are_told(high: float, told: bool, tmp_path: Path) -> None:
    """A kernel measured at one token a rank is extrapolated by any step, one measured at a thousand million by none."""
    profile = load_profile("h100-sxm")
    sizes = {"tokens_per_rank": (0.0, high), "hidden": (0.0, 1e9), "sms": (0.0, 1e9)}
    kernel = profile.kernels["deepep-ll"].model_copy(update={"valid_range": sizes})
    path = tmp_path / "p.json"
    narrow = profile.model_copy(update={"kernels": {"deepep-ll": kernel}})
    path.write_text(narrow.model_dump_json(exclude_none=True), encoding="utf-8")
    values = tiny_scenario(tmp_path, dispatch={"kernel": "deepep-ll"}, network={"fidelity": "bound"})
    values["profile"] = str(path)
    sentences = [text for text in simulate(make_scenario(values)).assumptions if text.startswith("kernel deepep-ll")]
    assert told == any("tokens_per_rank" in text and "measured: 0 to 1)" in text for text in sentences)
