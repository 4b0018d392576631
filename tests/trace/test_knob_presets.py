"""The shipped presets: routing generated with them resembles the recordings they were fitted to, in five figures."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from moesim.trace.knob_presets import PRESETS, knobs_of

ROOT = Path(__file__).resolve().parents[2]
SEEDS = (4,)
NEAR = {"moe-64e-public-domain": 0.15, "gpt-oss-20b-decode": 0.3, "deepseek-v2-lite": 0.3}  # most, of one seed


@pytest.fixture(scope="module")
def router_fit() -> ModuleType:
    """The benchmark that fitted them."""
    spec = importlib.util.spec_from_file_location("router_fit", ROOT / "benchmarks" / "router_fit.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _distances(router_fit: ModuleType, like: object, name: str) -> tuple[float, float]:
    """Before (default knobs) and after."""
    before, after = (router_fit.judged(like, dict(knobs), SEEDS)[1] for knobs in ((), router_fit.fitted_knobs(name)))
    return before, after


def test_every_preset_is_a_set_of_knobs() -> None:
    """In range, of two kinds of sequences, with the recording's name as its own."""
    assert sorted(NEAR) == sorted(PRESETS)
    for name in PRESETS:
        assert 2 == knobs_of(name, {}).tasks
        assert 0.9 == knobs_of(name, {"structure": 0.9}).structure


def test_the_bundled_trace_is_resembled(router_fit: ModuleType) -> None:
    """Nearer than with the default knobs, on tokens the knobs were not fitted on."""
    before, after = _distances(router_fit, router_fit.bundled(), "moe-64e-public-domain")
    assert after < 0.5 * before
    assert after < NEAR["moe-64e-public-domain"]


@pytest.mark.shared
@pytest.mark.parametrize(("place", "name"), [(0, "gpt-oss-20b-decode"), (1, "deepseek-v2-lite")])
def test_recordings_of_large_models_are_resembled(
    router_fit: ModuleType, shared_data: Path, place: int, name: str
) -> None:
    """gpt-oss decode and DeepSeek-V2-Lite: load skew, adjacent overlap, co-activation and task shift in one distance."""
    before, after = _distances(router_fit, router_fit.shared(shared_data)[place], name)
    assert after < before
    assert after < NEAR[name]
