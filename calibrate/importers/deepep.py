"""Importer of DeepEP's test logs: test_intranode, test_internode, test_low_latency, and the elastic tests of V2.

Taken are the best configurations of normal kernels, the averages of low-latency kernels, and dispatch and combine of V2;
tuning steps and send/recv splits are counted. Times of several ranks become their median. `notify` of internode kernels
comes on top of the time and is kept beside it. The logs name neither the accelerator nor, for V1, the ranks.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from calibrate.import_report import ImportOptions, ImportReport
from calibrate.log_file import finite, read_lines
from calibrate.measurement import Measurement
from calibrate.wire_bytes import copy_bytes, distinct_nodes, logical_dispatch_bytes

Params = dict[str, Any]
_SETTING = re.compile(
    r"num_tokens=(\d{1,12}),\s*hidden=(\d{1,12}),(?:\s*num_experts=(\d{1,12}),)?\s*num_topk=(\d{1,12})"
    r"(?:\s*,\s*num_experts=(\d{1,12}))?"
)
_BEST = re.compile(r"\[tuning\] Best (dispatch|combine)(?: \((FP8|BF16)\))?: SMs (\d{1,12})")
_LOW_LATENCY = re.compile(
    r"\[rank (\d{1,12})\].*?Dispatch bandwidth: (\S+) GB/s, avg_t=(\S+) us"
    r" \| Combine bandwidth: (\S+) GB/s, avg_t=(\S+) us"
)
_ELASTIC = re.compile(
    r"([*\-#@+]) EP:\s*(\d{1,12})\s*/\s*(\d{1,12})\s*\|\s*([a-z ]+?):\s*"
    r"(\S+) GB/s \(SO\), (\S+) GB/s \(SU\), (\S+) us"
    r"(?:, \S+ bytes)?(?:\s*\|\s*(?:copy|reduce): \S+ GB/s, (\S+) us)?"
)
_ELASTIC_SETTINGS = (
    (re.compile(r"> Ranks:\s*(\d{1,12}) x (\d{1,12})"), ("nodes", "ranks_per_node")),
    (re.compile(r"> Experts:\s*(\d{1,12})/(\d{1,12})"), ("top_k", "experts")),
    (re.compile(r"> Tokens:\s*\d{1,12} \(max: (\d{1,12})\), hidden:\s*(\d{1,12})"), ("tokens_per_rank", "hidden")),
    (re.compile(r"> #SM:\s*(\d{1,12})"), ("sms",)),
)
_VARIANTS = {"*": None, "@": None, "-": "expanded", "#": "cached", "+": "reduced"}
# What the tests run when started without arguments (deepseek-ai/DeepEP tests/*.py).
_NORMAL_DEFAULTS: Params = {"experts": 256}
_LOW_LATENCY_DEFAULTS: Params = {"tokens_per_rank": 128, "hidden": 7168, "top_k": 8, "experts": 288}
_OWN_BYTES_TOLERANCE = 0.1  # a few of a token's choices are masked in that test


def recognises(source: str, head: bytes) -> bool:
    """Whether lines of one of DeepEP's tests are in the head."""
    text = head.decode("utf-8", "replace")
    return any(
        pattern.search(text)
        for pattern in (
            _BEST,
            _LOW_LATENCY,
            _ELASTIC,
            re.compile(r"\[tuning\] SMs \d+, NVL chunk|\[rank \d+\] Dispatch "),
        )
    )


def read(source: str, options: ImportOptions, report: ImportReport) -> Iterator[Measurement]:
    """All three kinds of lines may be in one file; a line that is cut off is left out."""
    log = _Log(Path(source), options, report)
    for line, ended in read_lines(log.path):
        yield from log.take(line, ended)
    yield from log.flush()


class _Log:
    """The state between lines: the setting last printed, and the times of ranks not yet combined."""

    def __init__(self, path: Path, options: ImportOptions, report: ImportReport) -> None:
        self.path, self.options, self.report = path, options, report
        self.setting: Params = {}
        self.times: dict[str, tuple[str, Params, list[float]]] = {}

    def take(self, line: str, ended: bool) -> Iterator[Measurement]:
        """What this line completes: a new setting ends the collection of ranks, a best line is a measurement."""
        setting = _setting_of(line)
        if setting and any(self.setting.get(name) != value for name, value in setting.items()):
            yield from self.flush()
            self.setting = {} if line.lstrip().startswith(("[config]", "Config")) else self.setting
            self.setting = {**self.setting, **setting}
        if line.strip().startswith("Config:"):
            yield from self.flush()
            self.setting = {}
        if "Testing with" in line and "use_fp8_dispatch=" in line:
            self.setting["dtype"] = "fp8" if re.search(r"use_fp8_dispatch=(1|True)", line) else "bf16"
        if best := _BEST.search(line):
            yield from self._best(best, line, ended)
        elif found := _LOW_LATENCY.search(line):
            self._low_latency(found)
        elif found := _ELASTIC.search(line):
            self._elastic(found)
        elif "[tuning] SMs" in line:
            self.report.add("tuning steps not taken (only the best of each)")
        elif "send/recv time" in line:
            self.report.add("send/recv splits not taken")
        elif "Dispatch + combine bandwidth" in line:
            self.report.add("sums of dispatch and combine not taken")
        elif "bandwidth:" in line and not ended:
            self.report.add("the last row is cut off, left out")

    def _best(self, best: re.Match[str], line: str, ended: bool) -> Iterator[Measurement]:
        operation, dtype = best.group(1), "bf16" if best.group(1) == "combine" else (best.group(2) or "BF16").lower()
        params = self._params("deepep-normal", _NORMAL_DEFAULTS) | {"dtype": dtype, "sms": int(best.group(3))}
        rdma = _number(r"([\d.]+) GB/s \(RDMA\)", line)
        nvlink = _number(r"([\d.]+) GB/s \(NVL\)", line)
        time_us = _number(r"(?:t: |transmit: |\+ |, )([\d.]+) us", line)
        if not ended and time_us is None:
            self.report.add("the last row is cut off, left out")
            return
        params |= self._group(rdma, time_us, params)
        notify = _number(r"notify: ([\d.]+) us", line) or _number(r"([\d.]+) \+ [\d.]+ us", line)
        if notify is not None:
            params["notify_s"] = notify / 1e6
        yield from self._one(operation, params, time_us, "rdma" if rdma is not None else "nvlink", rdma or nvlink)

    def _one(
        self, operation: str, params: Params, time_us: float | None, fabric: str, rate: float | None
    ) -> Iterator[Measurement]:
        """A measurement from a time, or from a bandwidth where older tests printed nothing else."""
        derived_from = None
        if not time_us:
            logical = None
            if rate and {"ranks", "nodes", "tokens_per_rank"} <= set(params):
                known = {name: params[name] for name in ("hidden", "top_k", "experts", "ranks", "nodes", "dtype")}
                logical = logical_dispatch_bytes(fabric, tokens=params["tokens_per_rank"], **known)
            if logical is None or not rate:
                self.report.add("rows without a time left out (give --nodes to compute it from the bandwidth)")
                return
            time_us = logical / rate / 1e3
            derived_from = f"{logical:.0f} logical bytes of {fabric} / {rate:g} GB/s"
        yield self._measurement(operation, params, [time_us], derived_from)

    def _group(self, rdma: float | None, time_us: float | None, params: Params) -> Params:
        """Ranks and nodes: one node of 8 unless RDMA is spoken of; then as told, else from how many nodes a token reached."""
        nodes = self.options.nodes
        if rdma is None:
            nodes, told = nodes or 1, "the log does not name its ranks: taken as the test's 8 in one node"
        else:
            told = "the log does not name its nodes: found from its RDMA bytes"
            if nodes is None and time_us and "tokens_per_rank" in params:
                copies = rdma * 1e3 * time_us / copy_bytes(params["hidden"], params["dtype"], header=False)
                nodes = _nodes_from(copies / params["tokens_per_rank"])
        if nodes is None:
            self.report.once("the log does not name its nodes: give --nodes")
            return {}
        if self.options.nodes is None and self.options.ranks is None:
            self.report.once(told)
        ranks = self.options.ranks or 8 * nodes
        group = {"ranks": ranks, "nodes": nodes, "ranks_per_node": -(-ranks // nodes), "topk_groups": min(nodes, 4)}
        return group if rdma is not None else {name: value for name, value in group.items() if name != "topk_groups"}

    def _low_latency(self, found: re.Match[str]) -> None:
        rank, rate, dispatch, _, combine = (finite(text) for text in found.groups())
        params = self._params("deepep-ll", _LOW_LATENCY_DEFAULTS)
        stated = "tokens_per_rank" in self.setting or self.options.tokens_per_rank is not None
        own = params["tokens_per_rank"] * params["top_k"] * copy_bytes(params["hidden"], "fp8", header=True)
        if not stated and rate and dispatch and abs(rate * 1e3 * dispatch / own - 1) > _OWN_BYTES_TOLERANCE:
            self.report.once(
                "rows left out: their bytes are not those of the test's default 128 tokens of width 7168; give "
                "--tokens-per-rank, --hidden, --top-k and --experts"
            )
            return
        self._collect("dispatch", params | {"dtype": "fp8"}, dispatch, rank)
        self._collect("combine", params | {"dtype": "bf16"}, combine, rank)

    def _elastic(self, found: re.Match[str]) -> None:
        mark, rank, ranks, what, _, _, time_us, _copy_us = found.groups()
        operation = "combine" if "combine" in what else "dispatch"
        params = self._params("deepep-v2", {}) | {"ranks": int(ranks)}
        if operation == "combine":
            params["dtype"] = "bf16"
        if _VARIANTS[mark] is not None:
            params["variant"] = _VARIANTS[mark]
        self._collect(operation, params, finite(time_us), finite(rank))

    def _collect(self, operation: str, params: Params, time_us: float | None, rank: float | None) -> None:
        if not time_us:
            self.report.add("rows without a time (N/A, nan or 0) left out")
            return
        key = repr((operation, sorted(params.items())))
        self.times.setdefault(key, (operation, params, []))[2].append(time_us)
        self.setting["seen_ranks"] = max(self.setting.get("seen_ranks", 0), int(rank or 0) + 1)

    def flush(self) -> Iterator[Measurement]:
        """One measurement per operation from the ranks collected so far."""
        seen = self.setting.pop("seen_ranks", 0)
        for operation, params, times in self.times.values():
            if params["library"] == "deepep-ll" and "ranks" not in params:
                ranks = self.options.ranks or (seen if seen > 1 else 8)
                if self.options.ranks is None:
                    self.report.once(f"the log does not name its ranks: taken as {ranks} (give --ranks and --nodes)")
                nodes = self.options.nodes or -(-ranks // 8)
                params |= {"ranks": ranks, "nodes": nodes, "ranks_per_node": -(-ranks // nodes)}
            yield self._measurement(operation, params, times, None)
        self.times = {}

    def _measurement(self, operation: str, params: Params, times: list[float], derived_from: str | None) -> Measurement:
        tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else []
        return Measurement(
            probe=operation,
            operation=operation,
            params=params,
            time_s=median(times) / 1e6,
            quantiles={"p10": tenths[0] / 1e6, "p90": tenths[-1] / 1e6} if tenths else None,
            repeats=len(times),
            environment=self.path.name,
            source=self.path.name,
            derived_from=derived_from,
        )

    def _params(self, library: str, defaults: Params) -> Params:
        """Setting of the log, else of the options, else of the test without arguments (told)."""
        options = self.options
        given = {
            "tokens_per_rank": options.tokens_per_rank,
            "hidden": options.hidden,
            "top_k": options.top_k,
            "experts": options.experts,
        }
        known = {name: value for name, value in given.items() if value is not None}
        known |= {name: value for name, value in self.setting.items() if name != "seen_ranks"}
        missing = {name: value for name, value in defaults.items() if name not in known}
        if missing:
            named = ", ".join(f"{name} {value}" for name, value in missing.items())
            self.report.once(f"not in the log, taken from the test's defaults: {named}")
        if options.hardware is None:
            self.report.once("accelerator not stated in the log: give --hardware NAME before fitting")
        hardware = {} if options.hardware is None else {"hardware": options.hardware}
        return {**hardware, "library": options.library or library, **missing, **known}


def _setting_of(line: str) -> Params:
    """tokens, width, experts and top-k where a line prints them, in either form."""
    if found := _SETTING.search(line):
        tokens, hidden, experts_before, top_k, experts_after = found.groups()
        setting = {"tokens_per_rank": int(tokens), "hidden": int(hidden), "top_k": int(top_k)}
        experts = experts_before or experts_after
        return setting if experts is None else {**setting, "experts": int(experts)}
    for pattern, names in _ELASTIC_SETTINGS:
        if found := pattern.search(line):
            return {name: int(text) for name, text in zip(names, found.groups(), strict=True)}
    return {}


def _nodes_from(copies_per_token: float) -> int | None:
    """Nodes whose expected distinct nodes per token is within 3 % of what was sent; 8 and 16 cannot be told apart."""
    close = [n for n in (2, 4, 8) if abs(copies_per_token / (distinct_nodes(n) or 1.0) - 1) < 0.03]
    return close[0] if len(close) == 1 and close[0] < 8 else None


def _number(pattern: str, line: str) -> float | None:
    found = re.search(pattern, line)
    return finite(found.group(1)) if found else None
