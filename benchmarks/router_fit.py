"""How near synthetic traces come to recorded ones: statistics of both, before and after fitting the stream's knobs.

    python benchmarks/router_fit.py [--smoke] [--shared FOLDER]

Recordings: the bundled trace, and of FOLDER (../shared/data beside the checkout) gpt_oss_20b_decode and deepseek_v2_lite_*.
Six layers of each and the first 16,384 tokens stand for the whole; 8,192 tokens are generated. Distance = root mean square
of five errors: ln(synthetic / recorded) of max/mean, Gini, adjacent overlap and co-activation lift, and the difference of
the task shift (1 - correlation of loads between two kinds of sequences); each statistic is the mean over layers. Fitted by
random search, then ever smaller steps around the best, on seeds 0 to 3; judged on seeds 4 to 7.

Array letters: L layer, T token, K top-k, E expert.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moesim.trace import load_trace
from moesim.trace.knob_presets import PRESETS
from moesim.trace.routing_statistics import RoutingFigures, figures_of, load_correlation
from moesim.trace.rows import TokenRows
from moesim.trace.store import read_rows
from moesim.trace.synthetic import make_router, route_step
from moesim.trace.token_batches import TokenDeal

ROOT = Path(__file__).resolve().parents[1]
RANGES = {  # name: (low, high, is searched by its logarithm)
    "structure": (0.02, 0.98, False),
    "topics": (2, 256, True),
    "topic_skew": (0.0, 2.0, False),
    "topic_tokens": (2.0, 1000.0, True),
    "focus": (0.0, 1.0, False),
    "common": (0.0, 1.0, False),
    "repeat": (0.0, 0.98, False),
    "phrase_tokens": (1.0, 30.0, True),
    "hot": (0.0, 1.5, False),
    "width": (4, 64, True),
}
FIT_SEEDS, JUDGE_SEEDS = (0, 1, 2, 3), (4, 5, 6, 7)
TOKENS = 8192
WHOLE = ("topics", "width")


@dataclass(frozen=True, slots=True)
class Recorded:
    """The part of a recording that is imitated; `other` is a second kind of sequences of it."""

    name: str
    num_experts: int
    top_k: int
    sequence_tokens: int
    num_tokens: int
    num_layers: int
    figures: RoutingFigures


def recorded(
    name: str, topk_LTK: NDArray[np.int32], lengths: NDArray[np.int64], kind_S: NDArray[np.int64], experts: int
) -> Recorded:
    """Figures of the first 16,384 tokens, six layers; the task shift between the two most frequent kinds."""
    layers = np.linspace(0, len(topk_LTK) - 1, min(6, len(topk_LTK))).round().astype(int)
    sequence_T = np.repeat(np.arange(len(lengths)), lengths)
    kind_T = np.repeat(kind_S, lengths)
    kept = slice(0, 2 * TOKENS)
    figures = figures_of(topk_LTK[layers][:, kept], sequence_T[kept], experts)
    one, two = np.bincount(kind_S).argsort()[::-1][:2]
    halves = [topk_LTK[layers][:, kind_T == kind] for kind in (one, two)]
    shift = 1.0 - load_correlation(halves[0], halves[1], experts)
    figures = RoutingFigures(figures.max_over_mean, figures.gini, figures.overlap, figures.lift, shift)
    tokens = min(TOKENS, topk_LTK.shape[1])
    return Recorded(name, experts, topk_LTK.shape[2], max(1, int(np.mean(lengths))), tokens, len(layers), figures)


def synthetic(like: Recorded, knobs: dict[str, float], seed: int) -> RoutingFigures:
    """The same figures of softmax_topk routing with these knobs, two tasks, each of them alone for the shift."""
    parameters = {**knobs, "tasks": 2, "sequence_tokens": like.sequence_tokens}
    deal = TokenDeal(num_tokens=like.num_tokens, num_steps=1, num_ranks=1, sequence_tokens=like.sequence_tokens)
    rows = {}
    for task in (-1, 0, 1):
        size = (
            deal
            if task < 0
            else TokenDeal(
                num_tokens=like.num_tokens // 2, num_steps=1, num_ranks=1, sequence_tokens=like.sequence_tokens
            )
        )
        router = make_router(
            "softmax_topk",
            num_layers=like.num_layers,
            num_experts=like.num_experts,
            top_k=like.top_k,
            seed=seed,
            parameters={**parameters, "task": task},
        )
        rows[task] = np.stack([route_step(router, layer, size, 0) for layer in range(like.num_layers)])
    figures = figures_of(rows[-1], deal.batch(0, 0, like.num_tokens).sequence_T, like.num_experts)
    shift = 1.0 - load_correlation(rows[0], rows[1], like.num_experts)
    return RoutingFigures(figures.max_over_mean, figures.gini, figures.overlap, figures.lift, shift)


def distance(one: RoutingFigures, other: RoutingFigures) -> float:
    """Root mean square of ln(one / other), of the task shift one - other."""
    errors = [math.log(a / b) for a, b in zip(one.as_tuple()[:4], other.as_tuple()[:4], strict=True)]
    errors.append(one.shift - other.shift)
    return math.sqrt(sum(error * error for error in errors) / len(errors))


def judged(like: Recorded, knobs: dict[str, float], seeds: tuple[int, ...]) -> tuple[RoutingFigures, float]:
    """Mean figures over seeds, and the mean of their distances."""
    found = [synthetic(like, knobs, seed) for seed in seeds]
    mean = RoutingFigures(*(float(np.mean(column)) for column in zip(*(one.as_tuple() for one in found), strict=True)))
    return mean, float(np.mean([distance(one, like.figures) for one in found]))


def fit(like: Recorded, tries: int, rounds: int) -> dict[str, float]:
    """Knobs of least mean distance on the seeds fitted to."""
    rng = np.random.default_rng(0)
    best_u, best = None, math.inf
    for number in range(tries + rounds):
        if number < tries or best_u is None:
            u = rng.random(len(RANGES))
        else:
            width = 0.3 * 0.5 ** (4 * (number - tries) / rounds)
            moved = rng.random(len(RANGES)) < 0.4
            u = np.clip(best_u + moved * width * rng.standard_normal(len(RANGES)), 0.0, 1.0)
        found = judged(like, knobs_at(u), FIT_SEEDS)[1]
        if found < best:
            best_u, best = u, found
    assert best_u is not None
    return knobs_at(best_u)


def knobs_at(u: NDArray[np.float64]) -> dict[str, float]:
    """Knobs at a point of the unit cube, to three figures."""
    knobs = {}
    for place, (name, (low, high, by_log)) in zip(u.tolist(), RANGES.items(), strict=True):
        value = low * (high / low) ** place if by_log else low + (high - low) * place
        knobs[name] = round(value) if name in WHOLE else float(f"{value:.3g}")
    return knobs


def bundled() -> Recorded:
    """The bundled trace; kinds of sequences are its three texts, told apart by thirds of the sequence numbers."""
    trace = load_trace(ROOT / "traces" / "moe-64e-public-domain.parquet")
    info, ids, sequences = trace.info, [], []
    for _, rows in read_rows(trace):
        assert isinstance(rows, TokenRows) and rows.sequence_W is not None
        ids.append(rows.experts_WK)
        sequences.append(rows.sequence_W)
    topk_LTK = np.concatenate(ids).reshape(info.num_layers, info.num_tokens, info.top_k)
    sequence_T = np.concatenate(sequences)[: info.num_tokens]
    lengths = np.bincount(sequence_T)
    order = np.argsort(sequence_T, kind="stable")
    num = len(lengths)
    kind_S = np.where(np.arange(num) < 42, 0, np.where(np.arange(num) < 52, 1, 2))
    mixed = np.random.default_rng(0).permutation(num)  # the kinds follow each other in the file; mix them
    start = np.cumsum(lengths) - lengths
    take = np.concatenate([order[start[s] : start[s] + lengths[s]] for s in mixed])
    return recorded("moe-64e-public-domain", topk_LTK[:, take], lengths[mixed], kind_S[mixed], info.num_experts)


def shared(folder: Path) -> list[Recorded]:
    """gpt-oss decode (kinds: data sets) and DeepSeek-V2-Lite (kinds: intent, translation), where they are at hand."""
    traces = folder / "traces"
    if not traces.is_dir():
        return []
    with np.load(traces / "gpt_oss_20b_decode.npz", allow_pickle=False) as file:
        _, kind_S = np.unique(file["dataset"], return_inverse=True)
        topk, lengths = file["topk_ids"].astype(np.int32), file["seq_len"].astype(np.int64)
    mixed = np.random.default_rng(0).permutation(len(lengths))
    start = np.cumsum(lengths) - lengths
    take = np.concatenate([np.arange(start[s], start[s] + lengths[s]) for s in mixed])
    found = [recorded("gpt_oss_20b_decode", topk[:, take], lengths[mixed], kind_S[mixed], 32)]
    parts, sizes, kinds = [], [], []
    for kind, task in enumerate(("intent", "translation")):
        with np.load(traces / f"deepseek_v2_lite_{task}.npz", allow_pickle=False) as file:
            parts.append(file["topk_ids"].astype(np.int32))
            sizes.append(file["seq_len"].astype(np.int64))
            kinds.append(np.full(len(sizes[-1]), kind))
    both = np.concatenate(parts, axis=1)
    return [*found, recorded("deepseek_v2_lite", both, np.concatenate(sizes), np.concatenate(kinds), 64)]


def fitted_knobs(name: str) -> dict[str, float]:
    """The knobs of the shipped preset of a recording, without those that are the recording's own."""
    own = ("tasks", "sequence_tokens")
    return {key: value for key, value in PRESETS[name.replace("_", "-")].knobs.items() if key not in own}


def main() -> None:
    """Print one line for each recording, the default knobs, the shipped preset and, unless --smoke, a fresh fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="the bundled trace only, no fit")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--tries", type=int, default=60)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    print("| routing | max/mean | Gini | adjacent overlap | co-activation lift | task shift | distance |")
    for like in [bundled(), *([] if options.smoke else shared(options.shared))]:
        if options.only not in like.name:
            continue
        _line(f"{like.name}, recorded", like.figures, None)
        for name, knobs in {"default knobs": {}, "shipped preset": fitted_knobs(like.name)}.items():
            _line(name, *judged(like, knobs, JUDGE_SEEDS))
        if not options.smoke:
            knobs = fit(like, options.tries, options.tries)
            _line(f"fitted {knobs}", *judged(like, knobs, JUDGE_SEEDS))


def _line(name: str, figures: RoutingFigures, found: float | None) -> None:
    cells = [f"{value:.3f}" for value in figures.as_tuple()]
    print("|", name, "|", " | ".join(cells), "|", "" if found is None else f"{found:.3f}", "|", flush=True)


if __name__ == "__main__":
    main()
