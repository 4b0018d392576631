"""Benchmark of trace conversion: our own Parquet, and SGLang's per_token dumps, of ten million token-layers each.

Run: python benchmarks/formats.py [--smoke]. Prints CPU seconds, token-layers per CPU second and per second (reading and
writing overlap), and the process's peak memory; targets: 2 M rows/s reading Parquet, 300 k token-layers/s from
per_token dumps, 2 GB.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from moesim.trace.convert import convert_trace
from moesim.trace.store import open_trace, read_rows

LAYERS, DENSE, SLOTS, EXPERTS, TOP_K = 61, 3, 288, 256, 8
WARM = 2  # passes of the conversion that is not timed: it imports torch and compiles the checks


def save_dump(path: Path, passes: int, tokens: int) -> None:
    """A per_token dump of one rank: `passes` passes of `tokens` tokens, every slot of 288 equally likely."""
    rng = np.random.default_rng(0)
    slot_map = np.tile(np.arange(SLOTS) % EXPERTS, (LAYERS, 1))
    records = []
    for number in range(passes):
        first = rng.integers(0, EXPERTS, (LAYERS, tokens, 1))
        ids = ((first + 31 * np.arange(TOP_K)) % EXPERTS).astype(np.int32)
        ids[:DENSE] = -1
        fields = {"forward_pass_id": number, "rank": 0, "gatherer_key": "primary", "misc_objects": []}
        token_fields = {"input_ids": [1] * tokens, "positions": [1] * tokens, "extend_seq_lens": None}
        ids_of_layer = {"topk_ids_of_layer": torch.from_numpy(ids), "forward_mode": 2}
        records.append({**fields, **token_fields, **ids_of_layer})
    torch.save({"records": records, "last_physical_to_logical_map": torch.from_numpy(slot_map)}, path)


def timed(what: str, target: float, work: Callable[[], int]) -> None:
    """Print the CPU seconds that `work` takes and its rate; it answers its number of rows."""
    cpu, wall = time.process_time(), time.perf_counter()
    rows = work()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what}: {rows / 1e6:.2f} M token-layers in {cpu:.2f} s CPU, {rows / cpu / 1e6:.2f} M/s (target {target})")
    print(f"  and in {wall:.2f} s, {rows / wall / 1e6:.2f} M/s, on this machine with what else runs on it")


def converted(source: Path, name: str = "dump.parquet") -> int:
    """Rows of the trace made of `source`."""
    rows: int = convert_trace(source, source.with_name(name))["rows"]
    return rows


def read(path: Path) -> int:
    """Rows of our own trace, all read and checked."""
    return sum(len(batch) for _, batch in read_rows(open_trace(path)))


def main() -> None:
    """Convert dumps of short and long passes, then read what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="a hundredth of the rows")
    total = 100_000 if parser.parse_args().smoke else 10_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_dump(folder / "warm.pt", WARM, 4)
        convert_trace(folder / "warm.pt", folder / "warm.parquet")
        for tokens in (16, 1024):
            passes = max(1, total // (LAYERS - DENSE) // tokens)
            save_dump(folder / "dump.pt", passes, tokens)
            timed(f"SGLang per_token, {tokens} tokens a pass", 0.3, lambda: converted(folder / "dump.pt"))
            (folder / "dump.pt").unlink()
        (folder / "dump.parquet").rename(folder / "trace.parquet")
        timed("reading our Parquet, every row checked", 2.0, lambda: read(folder / "trace.parquet"))
        timed("converting our Parquet to itself", 2.0, lambda: converted(folder / "trace.parquet", "copy.parquet"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak / 1e9:.2f} GB (target 2 GB; writing the dumps and mapped files included)")


if __name__ == "__main__":
    main()
