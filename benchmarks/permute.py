"""Benchmark of permuting a checkpoint: 20 GB of bf16 experts in shards, half of them stacked, half one tensor each.

Run: python benchmarks/permute.py [--smoke] [--gigabytes N] [--folder DIR]. Needs twice that much disk below DIR (default:
the system's temporary folder). Prints wall and CPU seconds, GB/s and the peak memory of the process that permutes;
target: 20 GB in less than 4 GB. A tensor of the new checkpoint is compared with the old one, expert by expert.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from moesim.checkpoint import permute_checkpoint
from moesim.checkpoint.shard import TensorEntry, header_bytes, read_shard

EXPERTS, HIDDEN, BYTES = 64, 2048, 2  # bf16
SHARD_LAYERS = 2  # one with stacked experts, one with a tensor for each


def shard_tensors(first_layer: int, width: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of one shard's tensors; `width` is that of an expert's inner layer."""
    stacked, numbered = (f"model.layers.{first_layer + offset}.mlp" for offset in range(SHARD_LAYERS))
    tensors: list[tuple[str, tuple[int, ...]]] = [
        (f"{layer}.gate.weight", (EXPERTS, HIDDEN)) for layer in (stacked, numbered)
    ]
    tensors.append((f"{stacked}.experts.gate_up_proj", (EXPERTS, 2 * width, HIDDEN)))
    return tensors + [(f"{numbered}.experts.{expert}.up_proj.weight", (2 * width, HIDDEN)) for expert in range(EXPERTS)]


def write_checkpoint(folder: Path, shards: int, width: int) -> None:
    """Shards of random bytes, one block of which is written again and again with its place in front."""
    folder.mkdir()
    block = np.random.default_rng(0).integers(0, 256, HIDDEN * BYTES, dtype=np.uint8)
    for shard in range(shards):
        entries, place = [], 0
        for name, shape in shard_tensors(SHARD_LAYERS * shard, width):
            size = int(np.prod(shape)) * BYTES
            entries.append(TensorEntry(name, "BF16", shape, place, place + size))
            place += size
        with open(folder / f"model-{shard + 1:05d}-of-{shards:05d}.safetensors", "wb") as stream:
            stream.write(header_bytes(entries, {}))
            for entry in entries:
                rows = np.tile(block, (entry.num_bytes // block.size, 1))
                rows[:, :8] = np.arange(entry.start, entry.start + len(rows), dtype=np.int64)[:, None].view(np.uint8)
                stream.write(rows.tobytes())
    (folder / "config.json").write_text(json.dumps({"num_experts": EXPERTS}))


def permute(source: Path, out: Path, layers: int, answer: "multiprocessing.Queue[tuple[float, float, int]]") -> None:
    """In a process of its own, so that peak memory is this alone: wall seconds, CPU seconds, peak bytes."""
    random = np.random.default_rng(1)
    orders = {layer: random.permutation(EXPERTS) for layer in range(layers)}
    began, used = time.perf_counter(), time.process_time()
    permute_checkpoint(source, out, orders, num_experts=EXPERTS)
    seconds = time.perf_counter() - began, time.process_time() - used
    answer.put((*seconds, peak_bytes()))


def peak_bytes() -> int:
    """This process's own peak; on Linux getrusage's also counts the parent's, from before the program was started."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(source: Path, out: Path, order: np.ndarray) -> None:
    """The stacked experts of the first layer stand in their new order; raises AssertionError otherwise."""
    old, new = (next(iter(sorted(folder.glob("*.safetensors")))) for folder in (source, out))
    before, after = (
        next((shard, entry) for entry in shard.tensors if entry.name.endswith("layers.0.mlp.experts.gate_up_proj"))
        for shard in map(read_shard, (old, new))
    )
    row = before[1].num_bytes // EXPERTS
    with open(old, "rb") as one, open(new, "rb") as two:
        for position, expert in enumerate(order.tolist()):
            one.seek(before[0].data_start + before[1].start + expert * row)
            two.seek(after[0].data_start + after[1].start + position * row)
            assert one.read(4096) == two.read(4096), position


def main() -> None:
    """Write a checkpoint, permute it, compare, remove both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one small shard")
    parser.add_argument("--gigabytes", type=float, default=20.0)
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    width = 8 if asked.smoke else 1024
    each = sum(int(np.prod(shape)) * BYTES for _, shape in shard_tensors(0, width))
    shards = 1 if asked.smoke else max(1, round(asked.gigabytes * 1e9 / each))
    free = shutil.disk_usage(asked.folder or tempfile.gettempdir()).free
    if 2.1 * shards * each > free:
        raise SystemExit(f"{2 * shards * each / 1e9:.0f} GB of disk are needed, {free / 1e9:.0f} GB are free")
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        source, out = Path(name) / "old", Path(name) / "new"
        write_checkpoint(source, shards, width)
        context = multiprocessing.get_context("spawn")
        answer = context.Queue()
        worker = context.Process(target=permute, args=(source, out, SHARD_LAYERS * shards, answer))
        worker.start()
        wall_s, cpu_s, peak = answer.get()
        worker.join()
        check(source, out, np.random.default_rng(1).permutation(EXPERTS))
    size = shards * each
    print(f"permuted {size / 1e9:.2f} GB in {shards} shards of {SHARD_LAYERS} layers, {EXPERTS} experts each")
    print(f"{wall_s:.1f} s ({size / wall_s / 1e9:.2f} GB/s), {cpu_s:.1f} s CPU ({size / cpu_s / 1e9:.2f} GB/s)")
    print(f"peak memory {peak / 1e9:.2f} GB (target 4 GB)")


if __name__ == "__main__":
    main()
