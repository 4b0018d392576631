"""Benchmark of planning: the topology strategy against EPLB on steps it has not seen, by `fluid`, cell by cell.

Run: python benchmarks/planning.py [--smoke] [--traces FILE...] [--nodes 2 4 8] [--layers 3] [--minutes 35] [--write].
A cell is a trace, a kind of step, nodes, extra slots per device and a batch size. Steps that are at least 85 % full are
halved: strategies plan on (the last 24 of) the first half and are judged on the first of the second. *Headroom* is the
better EPLB mode's step time over the oracle's (topology planned on the judged steps), *captured* the part of its
logarithm that topology gets, *gap* what `moesim plan` says of the plan: predicted time over the proven bound. `--write`
puts the table into docs/PLANNING.md. FILE is a Parquet trace or an .npz that `moesim trace convert` reads, with
`=MODEL` behind it where the model is not found by experts and top-k. `--layers` of it, evenly spaced, stand for all.
Cells are taken in an order drawn by lot until `--minutes` of processor time are spent; `--keep FOLDER` keeps the
outcome of each, so that a table goes on where it was cut off.
"""

import argparse
import dataclasses
import itertools
import json
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _page import table, write_part
from _short_models import short_model, short_trace

from moesim.errors import MoesimError
from moesim.memory import slot_bytes
from moesim.planner import PlacementAnswer, PlacementProblem, place, replica_policy
from moesim.routing import DealtStep
from moesim.scenario import make_scenario
from moesim.setting import Setting, load_setting
from moesim.step_bound import step_phases
from moesim.step_work import StepWork
from moesim.study.bounding import lower_bound
from moesim.study.planning import DEFAULT_WORK_S
from moesim.study.posing import pose
from moesim.study.simulating import replayed
from moesim.study.work_plan import make_work_plan
from moesim.trace import load_trace
from moesim.trace.convert import convert_trace

BUNDLED = "moe-64e-public-domain"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "PLANNING.md"
BEGIN, END = "<!-- cells: python benchmarks/planning.py --write -->", "<!-- end of cells -->"
EPLB = ("eplb_global", "eplb_hierarchical")
BATCHES = {"prefill": (16, 128), "decode": (2, 8)}  # tokens a rank; traces have some 200 sequences to decode at once
RULES = {"uneven slots": 1, "two speeds": 3, "memory limit": 3, "torus": 3}  # what breaks EPLB's: slots more a device
FULL, MOST_PLANNED, MOST_READ = 0.85, 24, 200
STAND_IN = "deepseek-v2-lite"  # under which routing of models without widths is replayed
MODELS = {(32, 4): "gpt-oss-20b", (64, 6): "deepseek-v2-lite"}
HEADERS = ("trace", "step", "cluster", "slots", "tokens a rank", "EPLB", "topology", "oracle", "headroom", "faster", "captured",
           "gap", "copies EPLB", "copies topology")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One line of the table; `rules` names what breaks EPLB's rules here, if anything."""

    trace: str
    model: str
    routing_only: bool
    kind: str
    nodes: int
    extra: int
    tokens_per_rank: int
    rules: str = ""

    def scenario(self) -> dict[str, object]:
        """H100 nodes (or a TPU v4 torus), the generic kernel, eight expert groups so that both EPLB modes differ."""
        cluster: dict[str, object] = {"topology": "dgx-h100-superpod", "nodes": self.nodes}
        dispatch: dict[str, object] = {"kernel": "generic", "dtype": "fp8"}
        if self.rules == "torus":
            cluster, dispatch = {"topology": "tpu-v4-pod", "shape": "4x4x2"}, {"algorithm": "torus", "dtype": "bf16"}
        if self.rules == "two speeds":
            cluster["devices"] = [{"match": "node1.*", "speed": 0.5}]
        placement: dict[str, object] = {"strategy": "contiguous", "groups": 8, "extra_slots_per_device": self.extra}
        return {
            "format_version": 1,
            "model": self.model,
            "cluster": cluster,
            "trace": {"path": self.trace, "tokens_per_rank": self.tokens_per_rank, "routing_only": self.routing_only},
            "placement": placement,
            "dispatch": dispatch,
            "mode": {"kind": self.kind},
            "memory": {"check": "warn"},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Step times in seconds, gap of topology's plan, remote copies a token, processor seconds of planning, its notes."""

    cell: Cell
    devices: int
    slots: int
    eplb_s: float
    topology_s: float
    oracle_s: float
    gap: float
    eplb_copies: float
    topology_copies: float
    plan_s: float
    notes: tuple[str, ...]

    @property
    def headroom(self) -> float:
        """What planning on the judged steps would gain over the better EPLB mode."""
        return self.eplb_s / self.oracle_s - 1.0

    @property
    def faster(self) -> float:
        """What topology gains over it on steps it has not seen."""
        return self.eplb_s / self.topology_s - 1.0

    def row(self) -> list[str]:
        """The line of the table."""
        cell, captured = self.cell, ""
        if self.headroom >= 0.05:
            captured = f"{math.log1p(self.faster) / math.log1p(self.headroom):.0%}"
        where = f"{self.devices} devices" + (f", {cell.rules}" if cell.rules else "")
        times = [f"{seconds * 1e6:.0f} us" for seconds in (self.eplb_s, self.topology_s, self.oracle_s)]
        gains = [f"{self.headroom:+.1%}", f"{self.faster:+.1%}", captured, f"{self.gap:.1%}"]
        copies = [f"{self.eplb_copies:.2f}", f"{self.topology_copies:.2f}"]
        name = Path(cell.trace).stem
        return [name, cell.kind, where, str(self.slots), str(cell.tokens_per_rank), *times, *gains, *copies]


def cells_of(trace: str, model: str, routing_only: bool, nodes: Sequence[int]) -> Iterator[Cell]:
    """Every cell of a trace: kinds, nodes, slots, batches; and those in which EPLB's rules bite."""
    experts = load_setting(make_scenario(_probe(trace, model, routing_only))).model.num_experts
    common = {"trace": trace, "model": model, "routing_only": routing_only}
    fitting = [count for count in nodes if 8 * count <= experts]
    for count, kind, extra, batch in itertools.product(fitting, ("prefill", "decode"), (1, 2, 3), (0, 1)):
        yield Cell(kind=kind, nodes=count, extra=extra, tokens_per_rank=BATCHES[kind][batch], **common)
    for rules, extra in RULES.items():
        for kind in ("prefill", "decode") if fitting else ():
            yield Cell(
                kind=kind, nodes=fitting[:2][-1], extra=extra, tokens_per_rank=BATCHES[kind][1], rules=rules, **common
            )


def judge(cell: Cell, most_judged: int, work_limit: float = 1.0) -> Outcome | None:
    """Plan on one half of the full steps and replay some of the other; None where there are fewer than two of them."""
    setting = load_setting(make_scenario(cell.scenario()))
    if cell.rules == "uneven slots":
        placement = {"extra_slots_per_device": None, "slots": setting.num_slots - setting.dims.ep // 2 + 1}
        setting = load_setting(setting.scenario.changed(placement=placement))
    count = setting.workload.num_steps
    steps = [step for step in setting.workload.steps((0, min(count, MOST_READ))) if step.fill >= FULL]
    if len(steps) < 2:
        return None
    if cell.rules == "memory limit":
        setting = _tight(setting, cell, steps)
    half = len(steps) // 2
    planned, judged = steps[max(0, half - MOST_PLANNED) : half], steps[half : half + most_judged]
    problem = pose(setting, planned, tokens=True, work_limit=work_limit)
    began = time.process_time()
    answer = place("topology", problem)
    plan_s = time.process_time() - began
    eplb = [_judged(setting, name, place(name, problem), judged) for name in EPLB if _accepts(name, problem)]
    topology_s, topology_copies = _judged(setting, "topology", answer, judged)
    oracle = place("topology", pose(setting, judged, tokens=True, work_limit=work_limit))
    oracle_s, _ = _judged(setting, "topology", oracle, judged)
    return Outcome(
        cell=cell,
        devices=setting.dims.ep,
        slots=setting.num_slots,
        eplb_s=min(seconds for seconds, _ in eplb),
        topology_s=topology_s,
        oracle_s=min(oracle_s, topology_s),
        gap=_gap(setting, problem, answer, planned),
        eplb_copies=min(copies for _, copies in eplb),
        topology_copies=topology_copies,
        plan_s=plan_s,
        notes=answer.notes,
    )


def _gap(setting: Setting, problem: PlacementProblem, answer: PlacementAnswer, steps: list[DealtStep]) -> float:
    """Predicted step time of an answer over what no placement can beat, minus one, on the steps it was planned on."""
    assert problem.costs is not None
    work = make_work_plan(setting, answer.placements, replica_policy("topology"))
    bound_s, _ = lower_bound(setting, problem, work, problem.costs, steps)
    return float(np.mean([step_phases(StepWork(plan=work, dealt=step)).step_s for step in steps])) / bound_s - 1.0


def _tight(setting: Setting, cell: Cell, steps: Sequence[DealtStep]) -> Setting:
    """The setting with one device of each node that has room for as many slots as there are experts for each device."""
    experts, devices = setting.model.num_experts, setting.dims.ep
    in_order = place(
        "contiguous", PlacementProblem(np.ones((setting.model.num_moe_layers, experts)), devices, 8, experts)
    )
    work = make_work_plan(setting, in_order.placements, "nearest")
    parts = [StepWork(plan=work, dealt=step).memory_parts() for step in steps]
    beside = max(sum(part.values()) - part["expert_weights"] for part in parts)
    each = slot_bytes(setting.model, setting.weight_dtype) * setting.model.num_moe_layers
    small = {"match": "*.dev0", "memory": int(beside + (experts // devices + 0.5) * each)}
    scenario = cell.scenario()
    scenario["memory"] = {"check": "refuse"}
    scenario["cluster"] = {**setting.scenario.cluster.parameters, "topology": "dgx-h100-superpod", "devices": [small]}
    return load_setting(make_scenario(scenario))


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """Sentences on the targets."""
    plain = [outcome for outcome in outcomes if not outcome.cell.rules]
    lines = []
    if plain:
        worst = min(plain, key=lambda outcome: outcome.faster)
        lines.append(
            f"{len(plain)} cells; the worst is {worst.faster:+.1%} against the better EPLB mode ({_name(worst)})."
        )
    wide = [outcome for outcome in plain if outcome.headroom >= 0.05]
    if wide:
        gained = sum(math.log1p(outcome.faster) for outcome in wide)
        there = sum(math.log1p(outcome.headroom) for outcome in wide)
        lines.append(f"Over the {len(wide)} cells with headroom of 5 % or more: {gained / there:.0%} of it captured.")
    narrow = [outcome for outcome in plain if outcome.headroom < 0.03]
    told = sum(any("not worth it" in note for note in outcome.notes) for outcome in narrow)
    if narrow:
        lines.append(f'{told} of the {len(narrow)} cells with headroom below 3 % are answered "not worth it".')
    if wide:
        wrong = sum(any("not worth it" in note for note in outcome.notes) for outcome in wide)
        lines.append(f"{wrong} of the {len(wide)} cells with headroom of 5 % or more are answered so too.")
        gaps = sorted(outcome.gap for outcome in plain)
        lines.append(f"Gaps to the proven bound: {gaps[0]:.1%} to {gaps[-1]:.1%}, median {gaps[len(gaps) // 2]:.1%}.")
    for rules in RULES:
        ruled = [outcome for outcome in outcomes if outcome.cell.rules == rules]
        if ruled:
            gains = [outcome.faster for outcome in ruled]
            mean = math.expm1(sum(math.log1p(gain) for gain in gains) / len(gains))
            lines.append(f"{rules}: {min(gains):+.1%} to {max(gains):+.1%} faster, geometric mean {mean:+.1%}.")
    far = [outcome for outcome in plain if outcome.cell.nodes == 8]
    if far:
        saved = [1.0 - outcome.topology_copies / outcome.eplb_copies for outcome in far]
        lines.append(
            f"At 8 nodes remote copies a token are {min(saved):.0%} to {max(saved):.0%} fewer than EPLB's fewest."
        )
    return lines


def _accepts(name: str, problem: PlacementProblem) -> bool:
    """Whether a strategy has an answer."""
    try:
        place(name, problem)
    except MoesimError:
        return False
    return True


def _judged(setting: Setting, name: str, answer: PlacementAnswer, steps: Sequence[DealtStep]) -> tuple[float, float]:
    """Step time by `fluid`, seconds, and copies to other nodes a token and layer."""
    work = make_work_plan(setting, answer.placements, replica_policy(name))
    result = replayed(setting, work, name, steps, (), None)
    copies = tokens = 0.0
    for ordinal in range(setting.model.num_moe_layers):
        for traffic in StepWork(plan=work, dealt=steps[0]).layer(ordinal).traffic_G:
            copies_DN = traffic.counts.per_node_DN
            device = np.arange(len(copies_DN))
            copies += float(copies_DN.sum() - copies_DN[device, device // work.builder.devices_per_node].sum())
            tokens += traffic.counts.num_tokens
    return result.step_time_s, copies / max(tokens, 1.0)


def _name(outcome: Outcome) -> str:
    return ", ".join(outcome.row()[:5])


def _probe(trace: str, model: str, routing_only: bool) -> dict[str, object]:
    return Cell(
        trace=trace, model=model, routing_only=routing_only, kind="decode", nodes=1, extra=0, tokens_per_rank=1
    ).scenario()


def _opened(text: str, layers: int, folder: Path) -> tuple[str, str, bool]:
    """A trace in our own format, the model cut to so many layers that it runs under; only its routing is replayed."""
    file, _, named = text.partition("=")
    path = Path(file)
    if path.suffix == ".npz":
        path = folder / f"{path.stem}.parquet"
        convert_trace(short_trace(Path(file), layers, folder), path, model=None)
    if file != BUNDLED:
        info = load_trace(path).info
        named = named or MODELS.get((info.num_experts, info.top_k), STAND_IN)
    return str(path), str(short_model(named or STAND_IN, layers, folder)), True


def _drawn(cells: list[Cell]) -> list[Cell]:
    """The cells in an order drawn with a fixed seed, so that those a time budget reaches are a fair sample."""
    return [cells[i] for i in np.random.default_rng(0).permutation(len(cells))]


def _kept(cell: Cell, arguments: argparse.Namespace) -> Outcome | None:
    """The outcome of a cell, from the folder where it is there."""
    path = _path(cell, arguments)
    if path.is_file():
        data = json.loads(path.read_text(encoding="utf-8"))
        return None if data is None else Outcome(cell=cell, **{**data, "notes": tuple(data["notes"])})
    work_limit = 0.01 if arguments.smoke else arguments.time_limit / DEFAULT_WORK_S
    outcome = judge(cell, 1 if arguments.smoke else arguments.steps, work_limit)
    if arguments.keep is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = None if outcome is None else {**dataclasses.asdict(outcome)}
        if data is not None:
            del data["cell"]
        path.write_text(json.dumps(data), encoding="utf-8")
    return outcome


def _path(cell: Cell, arguments: argparse.Namespace) -> Path:
    """Where an outcome is kept: its name says everything it depends on but for the program."""
    parts = (Path(cell.trace).stem, cell.kind, cell.nodes, cell.extra, cell.tokens_per_rank, cell.rules or "plain")
    how = (
        arguments.layers,
        arguments.steps,
        *([] if arguments.time_limit == DEFAULT_WORK_S else [arguments.time_limit]),
    )
    name = "-".join(str(part) for part in (*parts, *how)).replace(" ", "_")
    return (arguments.keep or Path("nowhere")) / f"{name}.json"


def main() -> None:
    """Print the table; with `--write` put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="one small cell")
    parser.add_argument("--traces", nargs="+", default=[], metavar="FILE[=MODEL]", help="beside the bundled one")
    parser.add_argument("--nodes", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--steps", type=int, default=8, help="judged steps of a cell")
    parser.add_argument("--layers", type=int, default=3, help="MoE layers of each trace and model")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where outcomes of cells are kept and found again")
    parser.add_argument("--minutes", type=float, default=35.0, help="of processor time, after which no cell is begun")
    parser.add_argument("--time-limit", type=float, default=DEFAULT_WORK_S, help="as moesim plan's")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        layers = 1 if arguments.smoke else arguments.layers
        traces = [_opened(text, layers, Path(folder)) for text in (BUNDLED, *arguments.traces)]
        cells = [cell for trace in traces for cell in cells_of(*trace, arguments.nodes)]
        if arguments.smoke:
            cells = [dataclasses.replace(cells[0], kind="decode", nodes=1, tokens_per_rank=2, rules="")]
        found: dict[Cell, Outcome | None] = {}
        for cell in _drawn(cells):
            spent = time.process_time() > 60 * arguments.minutes
            if spent and not _path(cell, arguments).is_file():
                continue
            found[cell] = outcome = _kept(cell, arguments)
            if outcome is not None:
                print(*outcome.row(), f"planned in {outcome.plan_s:.1f} s", sep=" | ", flush=True)
    outcomes = [outcome for cell in cells if (outcome := found.get(cell)) is not None]
    left = len(cells) - len(found)
    lines = summary(outcomes) + (
        [f"{left} of {len(cells)} cells were out of the time budget, drawn by lot."] if left else []
    )
    text = table(HEADERS, (outcome.row() for outcome in outcomes)) + "\n\n" + "\n".join(f"- {line}" for line in lines)
    print("\n" + text)
    if arguments.write:
        write_part(PAGE, BEGIN, END, text)


if __name__ == "__main__":
    main()
