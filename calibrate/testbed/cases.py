"""Cases: which real routing, under which placement, by which algorithm, the layer is predicted and measured for.

Load-aware strategies plan on an earlier window of the same trace and layer; what is judged was never seen by them.
Array letters: T token, K top-k, E expert, P slot.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibrate.testbed.routes import Routing
from calibrate.testbed.wiring import Wiring
from moesim.placement import ExpertPlacement
from moesim.planner import PlacementProblem, place, replica_policy
from moesim.replica import choose_replicas
from moesim.routing import DealtStep, RoutingTrace
from moesim.trace import load_trace
from moesim.trace.dealing import deal
from moesim.traffic import PlacedTraffic, count_placed

STRATEGIES = ("contiguous", "random", "eplb_global", "longest_first")
ALGORITHMS = ("direct", "node_dedup")
_PLANNED_SHARE = 1 / 4  # of a trace's steps, its first full ones: what strategies plan on


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """The layer that is run: channels of a token and of an expert's hidden row, tokens per rank, tokens of a chunk."""

    width: int = 512
    hidden: int = 32
    tokens_per_rank: int = 256
    chunk_tokens: int = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """One held-out run: `window` names its trace, model layer and step."""

    window: str
    strategy: str
    algorithm: str
    routing: Routing
    placement: ExpertPlacement
    traffic: PlacedTraffic

    @property
    def group(self) -> str:
        """Cases of one group differ only in placement."""
        return f"{self.window} {self.algorithm}"

    @property
    def name(self) -> str:
        """Unique among the cases of a run."""
        return f"{self.group} {self.strategy}"


@dataclass(frozen=True, slots=True)
class Window:
    """One layer of one dealt step of a trace, and the loads [E] of the steps before it that strategies plan on."""

    name: str
    source_T: np.ndarray
    experts_TK: np.ndarray
    load_E: np.ndarray


def windows(paths: Sequence[Path], wiring: Wiring, shape: LayerShape) -> list[Window]:
    """Four windows of one trace (two layers, two steps), or two of each of several (first and last layer).

    Only steps in which every rank has all its tokens. Raises ValueError for a trace with fewer than three such steps.
    """
    chosen: list[Window] = []
    for path in paths:
        trace = load_trace(path)
        full = [step.step for step in deal(trace, **_dealing(wiring, shape)) if step.fill == 1.0]
        steps = len(full)
        if steps < 3 or full != list(range(steps)):
            raise ValueError(f"{path} deals {steps} full steps of {shape.tokens_per_rank} tokens a rank; 3 are needed")
        planned = max(int(steps * _PLANNED_SHARE), 1)
        last = trace.info.num_layers - 1
        middle, late = planned + (steps - planned) // 3, planned + 2 * (steps - planned) // 3
        pairs = (
            [(0, middle), (0, late), (last, middle), (last, late)] if len(paths) == 1 else [(0, middle), (last, late)]
        )
        chosen += [_window(trace, path.stem, layer, step, planned, wiring, shape) for layer, step in pairs]
    return chosen


def cases(chosen: Sequence[Window], wiring: Wiring, seed: int = 0) -> Iterator[Case]:
    """Every window under every strategy by every algorithm; strategies have one slot more than experts on each rank."""
    for window in chosen:
        for strategy in STRATEGIES:
            problem = PlacementProblem(
                load_LE=window.load_E[None].astype(float),
                num_devices=wiring.ranks,
                devices_per_node=wiring.ranks_per_node,
                num_slots=-(-len(window.load_E) // wiring.ranks) * wiring.ranks + wiring.ranks,
                seed=seed,
            )
            placement = place(strategy, problem).placements[0]
            choice = (placement, replica_policy(strategy), wiring.ranks_per_node, seed)
            slots_TK = choose_replicas(window.experts_TK, window.source_T, *choice)
            routing = Routing(
                window.source_T.astype(np.int64),
                slots_TK.astype(np.int64),
                placement.device_of_slot_P.astype(np.int64),
                wiring.ranks,
                wiring.ranks_per_node,
            )
            traffic = count_placed(window.experts_TK, window.source_T, *choice)
            for algorithm in ALGORITHMS:
                yield Case(
                    window=window.name,
                    strategy=strategy,
                    algorithm=algorithm,
                    routing=routing,
                    placement=placement,
                    traffic=traffic,
                )


def drawn_routing(
    wiring: Wiring, tokens_per_rank: int, experts: int, top_k: int, seed: int, skew: float = 0.0
) -> Routing:
    """Synthetic routing for probes: every token draws distinct experts; experts contiguous, one slot each.

    Rank r's experts are drawn in proportion to (1 + r) ** skew: 0 is uniform.
    """
    rng = np.random.default_rng(seed)
    source_T = np.repeat(np.arange(wiring.ranks), tokens_per_rank)
    popular_E = skew * np.log1p(np.sort(np.arange(experts) % wiring.ranks))
    slots_TK = np.argsort(-popular_E - rng.gumbel(size=(len(source_T), experts)), axis=1)[:, :top_k]
    device_P = np.sort(np.arange(experts) % wiring.ranks)
    return Routing(source_T, slots_TK, device_P, wiring.ranks, wiring.ranks_per_node)


def _dealing(wiring: Wiring, shape: LayerShape) -> dict:  # type: ignore[type-arg]  # keywords of deal
    return {"num_ranks": wiring.ranks, "mode": "prefill", "tokens_per_rank": shape.tokens_per_rank}


def _window(
    trace: RoutingTrace, name: str, layer: int, step: int, planned: int, wiring: Wiring, shape: LayerShape
) -> Window:
    (judged,) = deal(trace, steps=(step, step + 1), **_dealing(wiring, shape))
    load_E = np.zeros(trace.info.num_experts, dtype=np.int64)
    earlier: Iterator[DealtStep] = deal(trace, steps=(0, planned), **_dealing(wiring, shape))
    for dealt in earlier:
        experts_TK = dealt.experts_LTK[layer]
        load_E += np.bincount(experts_TK[experts_TK >= 0], minlength=len(load_E))
    title = f"{name} layer {trace.info.layers[layer]} step {step}"
    return Window(title, judged.rank_T, np.ascontiguousarray(judged.experts_LTK[layer]), load_E)
