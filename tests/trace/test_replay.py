"""Which layer of a trace is replayed at which MoE layer of a model, and which traces a model refuses."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing import TraceInfo
from moesim.trace.layer_rule import relabel_layers, rows_to_replay


@dataclass(frozen=True)
class Model:
    """Seven layers, six of them MoE, 8 experts, top-2."""

    name: str = "tiny"
    num_layers: int = 7
    moe_layer_indices: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    num_experts: int = 8
    top_k: int = 2
    has_heads_merged: bool = False


INFO = TraceInfo(level="token", model="tiny", num_experts=8, top_k=2, layers=(1, 2, 3, 4, 5, 6), num_tokens=5)


@given(st.integers(1, 9), st.integers(1, 20))
def test_layers_are_repeated_in_order(num_trace: int, num_model: int) -> None:
    """MoE ordinal m replays layer m mod the trace's number."""
    rows = relabel_layers(tuple(range(num_trace)), tuple(range(num_model)))
    assert [ordinal % num_trace for ordinal in range(num_model)] == rows.tolist()


def test_a_models_own_trace_replays_layer_by_layer() -> None:
    """Every MoE layer its own row."""
    assert [0, 1, 2, 3, 4, 5] == rows_to_replay(INFO, Model(), "t.parquet", routing_only=False).tolist()


def test_routing_only_replays_another_models_trace() -> None:
    """With the same experts and top-k, whatever the name and layers."""
    other = INFO.model_copy(update={"model": "other", "layers": (0, 9)})
    assert [0, 1, 0, 1, 0, 1] == rows_to_replay(other, Model(), "t.parquet", routing_only=True).tolist()


@pytest.mark.parametrize(
    ("change", "routing_only", "sentence"),
    [
        ({"model": "other"}, False, "is a trace of other, not of tiny; routing_only: true"),
        ({"layers": (1, 2)}, False, "has 2 of the 6 MoE layers of tiny; routing_only: true"),
        ({"layers": (0, 1)}, False, r"has layers \[0\], which are not MoE layers"),
        ({"num_experts": 16}, False, "has experts 16, but tiny has 8"),
        ({"num_experts": 16}, True, "has experts 16, but tiny has 8"),
        ({"top_k": 4}, True, "has top-k 4, but tiny has 2"),
    ],
)
def test_traces_of_other_models_are_refused(change: dict[str, object], routing_only: bool, sentence: str) -> None:
    """Naming what differs and, where there is one, the key that allows it."""
    with pytest.raises(InputError, match=sentence):
        rows_to_replay(INFO.model_copy(update=change), Model(), "t.parquet", routing_only=routing_only)
