"""The search on a smoothed fan-out: its kernel against a plain one, caps, and sums of bytes that do not overflow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moesim.planner import smooth_fan_out
from moesim.planner.smooth_fan_out import spread_smoothly, vertex_tokens

NODES = 4


def problem_of(seed: int, count: int = 60, vertices: int = 30) -> tuple:
    """Arguments of the search: five vertices a token, a start by number, room for a fifth more than an even share."""
    rng = np.random.default_rng(seed)
    vertex_TK = rng.integers(-1, vertices, (count, 5)) // rng.integers(1, 3, (count, 1))
    tokens, weight_T = vertex_tokens(vertex_TK, vertices), rng.uniform(0.5, 2.0, count)
    load_V = np.bincount(vertex_TK[vertex_TK >= 0], minlength=vertices) + 0.25
    size_V = rng.integers(1, 4, vertices).astype(float)
    most_load_N = np.full(NODES, 1.2 * load_V.sum() / NODES)
    most_size_N = np.full(NODES, 1.5 * size_V.sum() / NODES)
    return np.arange(vertices) % NODES, tokens, weight_T, load_V, size_V, most_load_N, most_size_N


def plain_search(node_V, tokens, weight_T, load_V, size_V, most_load_N, most_size_N, passes):
    """The same search in Python: everything counted anew for every vertex."""
    node_V, order = node_V.copy(), np.argsort(-load_V, kind="stable")
    of_V = [tokens[1][tokens[0][v] : tokens[0][v + 1]] for v in range(node_V.size)]
    scale_T = weight_T * (254 / weight_T.max())
    dither_T = np.arange(weight_T.size) * 0.6180339887498949 % 1.0
    toll_N = smooth_fan_out.TOLL * scale_T[tokens[1]].sum() / load_V.sum() / most_load_N
    for q in smooth_fan_out.STAGES:
        for _ in range(passes):
            before_V = node_V.copy()
            for vertex in order[[of_V[v].size > 0 for v in order]]:
                here, load = node_V[vertex], load_V[vertex]
                count_TN = np.zeros((weight_T.size, most_load_N.size))
                for other, token_J in enumerate(of_V):
                    count_TN[token_J, node_V[other]] += 1
                level_TN = np.floor(scale_T[:, None] * q**count_TN + dither_T[:, None])
                cost_N = level_TN[of_V[vertex]].sum(axis=0)
                load_N = np.bincount(node_V, weights=load_V, minlength=most_load_N.size)
                size_N = np.bincount(node_V, weights=size_V, minlength=most_load_N.size)
                over = load_N[here] > most_load_N[here] or size_N[here] > most_size_N[here]
                cost_N[here] = np.inf if over else cost_N[here] / q
                load_N[here] -= load
                size_N[here] -= size_V[vertex]
                excess_N = np.maximum(0.0, load_N + load / 2 - smooth_fan_out.TOLL_FROM * most_load_N)
                cost_N += load * toll_N * excess_N / (1 - smooth_fan_out.TOLL_FROM)
                fits_N = (load_N + load <= most_load_N) & (size_N + size_V[vertex] <= most_size_N)
                fits_N[here] = True
                best = np.where(fits_N, cost_N, np.inf).min()
                if best < cost_N[here]:
                    node_V[vertex] = np.flatnonzero(fits_N & (cost_N == best))[0]
            if (node_V != before_V).sum() * 500 < sum(tokens_J.size > 0 for tokens_J in of_V):
                break
    return node_V


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_kernel_moves_what_a_plain_search_moves(seed: int) -> None:
    """One pass a stage, compared with counting everything anew for every vertex; loads are sums of quarters, exact."""
    arguments = problem_of(seed)
    assert plain_search(*arguments, passes=1).tolist() == spread_smoothly(*arguments, passes=1).tolist()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_caps_hold_from_any_start_that_keeps_them(seed: int) -> None:
    """A node that starts below both caps ends below both."""
    arguments = problem_of(seed)
    _, _, _, load_V, size_V, most_load_N, most_size_N = arguments
    start_V = arguments[0]
    kept_N = (np.bincount(start_V, weights=load_V) <= most_load_N) & (
        np.bincount(start_V, weights=size_V) <= most_size_N
    )
    node_V = spread_smoothly(*arguments)
    within_N = (np.bincount(node_V, weights=load_V, minlength=NODES) <= most_load_N) & (
        np.bincount(node_V, weights=size_V, minlength=NODES) <= most_size_N
    )
    assert (within_N | ~kept_N).all()


def test_a_crowded_node_is_left() -> None:
    """All vertices on one node, above its cap on load: in the end every node keeps to its cap."""
    arguments = problem_of(3)
    node_V = spread_smoothly(np.zeros(30, dtype=np.int64), *arguments[1:])
    assert (np.bincount(node_V, weights=arguments[3], minlength=NODES) <= arguments[5]).all()


def test_a_toll_on_full_nodes_leaves_fewer_nodes_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight groups of unlike load on four nodes, members with some uses elsewhere: mean over draws, with a toll and without."""
    nodes = {}
    for toll in (0.0, smooth_fan_out.TOLL):
        monkeypatch.setattr(smooth_fan_out, "TOLL", toll)
        found = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            group_T = rng.choice(8, 400, p=np.arange(1, 9) / 36)
            other_TK = rng.integers(0, 120, (400, 8))
            own_TK = group_T[:, None] + 8 * rng.integers(0, 15, (400, 8))
            vertex_TK = np.where(rng.random((400, 8)) < 0.15, other_TK, own_TK)
            load_V = np.bincount(vertex_TK.ravel(), minlength=120).astype(float)
            tokens = vertex_tokens(vertex_TK, 120)
            node_V = spread_smoothly(
                np.arange(120) % NODES, tokens, np.ones(400), load_V, np.ones(120),
                np.full(NODES, 1.12 * load_V.sum() / NODES), np.full(NODES, 60.0),
            )  # fmt: skip
            found.append(np.mean([np.unique(node_V[row]).size for row in vertex_TK]))
        nodes[toll] = float(np.mean(found))
    assert nodes[smooth_fan_out.TOLL] < nodes[0.0]


def test_sums_of_vertices_with_many_tokens_do_not_overflow() -> None:
    """Two vertices on one node and 3,000 tokens each of its own: two bytes do not hold what their levels elsewhere sum to."""
    vertex_TK = np.repeat(np.arange(2), 3000)[:, None]
    arguments = (
        np.zeros(2, dtype=np.int64), vertex_tokens(vertex_TK, 2), np.ones(6000), np.full(2, 3000.0), np.ones(2),
        np.full(2, 3500.0), np.full(2, 2.0),
    )  # fmt: skip
    whole = np.zeros(2, dtype=np.uint32)
    smooth_fan_out._sum_levels(np.full((600, 2), 254, np.uint8), np.arange(600), np.zeros(2, np.uint16), whole)
    assert [600 * 254] * 2 == whole.tolist()
    assert [0, 1] == sorted(spread_smoothly(*arguments).tolist())
