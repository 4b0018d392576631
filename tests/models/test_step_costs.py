"""Every file of models/ gives the costs that a step is made of: finite, never negative, and zero without tokens."""

import numpy as np
import pytest

from moesim.calibration import load_profile
from moesim.cluster import Accelerator, Device
from moesim.compute import Cost, DeviceRates, expert_cost, matrix_cost, score_cost
from moesim.memory import cache_bytes, other_weight_bytes, slot_bytes
from moesim.model import MoEModel, list_models, load_model

EVERY_MODEL = pytest.mark.parametrize("name", list_models())
ACCELERATOR = Accelerator("toy", {"bf16": 100e12, "fp8": 200e12}, 80e9, 1e12)
DEVICES = tuple(Device(f"node0.dev{i}", i, 0, i, ACCELERATOR) for i in range(2))
RATES = DeviceRates.of(DEVICES, load_profile().compute)
TOKENS_D = np.array([0.0, 300.0])
DEVICE_P = np.array([0, 0, 1, 1], dtype=np.int32)


def seconds(cost: Cost) -> float:
    """The busy device's time, after checking that the one without tokens spends none."""
    idle, busy = cost.time_s.tolist()
    assert 0.0 == idle and np.isfinite(busy) and busy >= 0.0
    return float(busy)


def layer_seconds(model: MoEModel, layer: int, *, decode: bool) -> float:
    projections = matrix_cost(TOKENS_D, model.attention_weight_params(layer), RATES, model.dense_dtype)
    scores = score_cost(TOKENS_D, 4096, RATES, model, layer, decode=decode)
    return seconds(projections + scores)


@EVERY_MODEL
@pytest.mark.parametrize("decode", [True, False])
def test_every_layer_has_a_cost(name: str, decode: bool) -> None:
    """A layer that mixes tokens takes time, one that does not takes none."""
    model = load_model(name)
    for layer in range(model.num_layers):
        assert (layer_seconds(model, layer, decode=decode) > 0.0) == (model.mixer(layer) is not None)


@EVERY_MODEL
def test_moe_and_dense_parts_have_a_cost(name: str) -> None:
    """Routed experts and router always take time; shared experts, dense MLPs and head where there are any."""
    model = load_model(name)
    last = model.num_experts - 1
    experts = expert_cost(
        np.array([0, 0, 5, 400]), DEVICE_P, RATES, model, model.weight_dtype, np.array([0, last // 2, 1, last])
    )
    assert seconds(experts) > 0.0
    head = (model.vocab_size or 0) * model.d_model
    for params in (model.router_params, model.shared_params, model.dense_params, head):
        assert (seconds(matrix_cost(TOKENS_D, params, RATES, model.dense_dtype)) > 0.0) == (params > 0)
    assert model.router_params > 0


@EVERY_MODEL
def test_every_part_of_memory_is_counted(name: str) -> None:
    """Slots of all experts and one copy of the rest weigh what the model does; a longer context never needs less."""
    model = load_model(name)
    slots = model.num_experts * model.num_moe_layers
    held = slots * slot_bytes(model, model.weight_dtype) + other_weight_bytes(model, model.weight_dtype)
    assert held == pytest.approx(model.weight_bytes(), rel=1e-9)
    short, long = (cache_bytes(model, 10.0, context, decode=True) for context in (1000, 2000))
    assert 0.0 <= short <= long and np.isfinite(long)
    assert 0.0 <= cache_bytes(model, 10.0, 1000, decode=False) <= cache_bytes(model, 10.0, 1000, decode=True)


def test_pools_cost_what_their_experts_do() -> None:
    """Tokens on wide text experts take longer than on narrow vision ones; half of each is the mean when bound by reads."""
    model = load_model("ernie45-vl-28b-a3b")
    rates = DeviceRates.of(DEVICES, load_profile().compute, launches=False)

    def time_s(experts: list[int] | None) -> float:
        ids = None if experts is None else np.array(experts)
        return float(expert_cost(np.array([1, 1, 0, 0]), DEVICE_P, rates, model, "bf16", ids).time_s[0])

    text, vision, both = time_s([0, 63, 1, 2]), time_s([64, 127, 65, 66]), time_s([0, 127, 1, 2])
    assert 1536 / 512 == pytest.approx(text / vision, rel=0.01)
    assert (text + vision) / 2 == pytest.approx(both) == pytest.approx(time_s(None))
