"""What every router of the registry keeps.

Array letters: T token, K top-k, L layer.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moesim.errors import UnknownName
from moesim.trace.rows import first_bad_row
from moesim.trace.synthetic import ROUTERS, SyntheticRouter, make_router, route_step, router_parameters
from moesim.trace.token_batches import TokenDeal

every_router = pytest.mark.parametrize("name", ROUTERS.names())
NEEDS: dict[str, dict[str, Any]] = {
    "base_assignment": {"top_k": 1},
    "gshard_top2": {"top_k": 2},
    "product_key": {"parameters": {"heads": 2}},
    "switch_top1": {"top_k": 1},
}
BY_TURN = ("group_limited", "uniform", "zipf")  # these draw block by block
IN_GROUPS = ("base_assignment", "expert_choice", "gshard_top2", "switch_top1")


def _made(name: str, **changes: Any) -> SyntheticRouter:
    return make_router(
        name, **({"num_layers": 2, "num_experts": 16, "top_k": 4, "seed": 7} | NEEDS.get(name, {}) | changes)
    )


def _deal(num_tokens: int = 200, num_steps: int = 2, num_ranks: int = 3, **changes: Any) -> TokenDeal:
    sizes = {"num_tokens": num_tokens, "num_steps": num_steps, "num_ranks": num_ranks, "sequence_tokens": 32}
    return TokenDeal(**(sizes | changes))


def test_the_registry_holds_the_files_of_the_folder() -> None:
    """A router is a file, and its builder is called build."""
    folder = Path(__file__).resolve().parents[2] / "moesim" / "trace" / "routers"
    assert sorted(file.stem for file in folder.glob("[!_]*.py")) == list(ROUTERS.names())
    with pytest.raises(UnknownName, match="did you mean 'expert_choice'"):
        make_router("expert_choise", num_layers=1, num_experts=4, top_k=1)


@every_router
def test_rows_hold_distinct_experts_of_the_layer(name: str) -> None:
    """int32 ids in range, none twice, -1 only at the end; both layers differ."""
    router, deal = _made(name), _deal()
    rows_LTK = np.stack([route_step(router, layer, deal, 0) for layer in range(2)])
    assert (2, 100, NEEDS.get(name, {}).get("top_k", 4)) == rows_LTK.shape
    assert np.int32 == rows_LTK.dtype
    assert (-1, 0) == first_bad_row(rows_LTK.reshape(200, -1), 16)
    assert rows_LTK.max() >= 0
    assert rows_LTK[0].tolist() != rows_LTK[1].tolist()


@every_router
def test_the_seed_decides_everything(name: str) -> None:
    """Made again it routes the same, in any order of steps; another seed and another step route otherwise."""
    deal, router, again = _deal(), _made(name), _made(name)
    last, first = route_step(again, 1, deal, 1), route_step(again, 1, deal, 0)
    assert route_step(router, 1, deal, 0).tolist() == first.tolist()
    assert route_step(router, 1, deal, 1).tolist() == last.tolist()
    assert first.tolist() != last.tolist()
    assert first.tolist() != route_step(_made(name, seed=8), 1, deal, 0).tolist()


@every_router
def test_batches_do_not_change_the_result(name: str) -> None:
    """Routers that see one token at a time give it the same experts in a batch of one as in one of all."""
    if name in BY_TURN or name in IN_GROUPS:
        pytest.skip("tokens are drawn or routed together, block by block of fixed size")
    route, deal = _made(name).routes[0], _deal()
    whole = route(deal.batch(1, 0, 100))
    cut = [0, 1, 2, 40, 41, 99, 100]
    parts = [route(deal.batch(1, *span)) for span in pairwise(cut)]
    assert whole.tolist() == np.concatenate(parts).tolist()


@every_router
def test_one_expert_and_one_token_are_ordinary_cases(name: str) -> None:
    """The one token goes to the one expert, or where a router may refuse, nowhere."""
    own = {"parameters": {"pools": 1}} if name == "modality" else {"parameters": {}}
    if name == "gshard_top2":
        pytest.skip("needs two experts")
    router = _made(name, num_experts=1, top_k=1, num_layers=1, **own)
    (row,) = route_step(router, 0, _deal(1, 1, 1), 0).tolist()
    assert row in ([0], [-1])


@every_router
def test_the_docstring_names_every_parameter(name: str) -> None:
    """A parameter of its own is explained where it is defined."""
    build = ROUTERS.get(name)
    own = [key for key in router_parameters(name) if key in build.__kwdefaults__] if build.__kwdefaults__ else []
    for parameter in own:
        assert parameter in str(build.__doc__), parameter
