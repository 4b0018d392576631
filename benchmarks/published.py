"""Published results beside what the model gives, with the reason for each difference; nothing is fitted to them.

Run: python benchmarks/published.py [--smoke] [--write]. Prints a Markdown table; --write puts it into docs/VALIDATION.md
between its markers. --smoke leaves out what takes long (the training step of DeepSeek-V3: minutes).
Every number that goes in is one the source states as an input (sizes, degrees, rates); the rest is the datasheet.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _page import table, write_part

from moesim.calibration import list_profiles, load_profile
from moesim.cluster import Cluster, TorusLayout
from moesim.collective.link_table import build_link_table
from moesim.compute import DeviceRates, matrix_cost
from moesim.model import load_model
from moesim.network import simulate_flows
from moesim.network.bound import link_load
from moesim.network.paths import path_policies, split_paths
from moesim.provenance import data_folder
from moesim.result import TrainingResult
from moesim.scenario import load_scenario, make_scenario
from moesim.study import simulate
from moesim.topology import load_topology

REPOSITORY = Path(__file__).resolve().parents[1]
STEP = REPOSITORY / "examples" / "deepseek_v3_training_2048_h800.yaml"
PAGE = REPOSITORY / "docs" / "VALIDATION.md"
FITTED = "h800-sxm"  # a profile from measurements, where there is one
HEADERS = ("what", "published", "moesim", "why they differ")
MARKS = ("<!-- published results: begin -->", "<!-- published results: end -->")


class Row(NamedTuple):
    """One line of the table."""

    what: str
    published: str
    model: str
    why: str


def all_to_all_s(cluster: Cluster, bytes_per_pair: float) -> float:
    """Seconds of the busiest link when every chip sends every other so much over all shortest ways alike.

    Where every axis wraps, twisted or not, all chips see the same network: a link carries what the links on the same port
    of all chips carry of one chip's flows.
    """
    layout, num = cluster.layout, cluster.num_devices
    assert isinstance(layout, TorusLayout)
    if all(layout.wraps):
        source_F, target_F = np.zeros(num, dtype=np.int64), np.arange(num)
    else:
        source_F, target_F = (axis.ravel() for axis in np.mgrid[:num, :num])
    split = split_paths("minimal_adaptive", cluster, source_F, target_F)
    load = link_load(split.paths, split.share_P, len(cluster.links))
    if all(layout.wraps):
        for link_D in layout.link_DP.T:
            load[link_D[link_D >= 0]] = load[link_D[link_D >= 0]].sum()
    return float((bytes_per_pair * load / cluster.link_bandwidth).max())


def twisted_tori() -> list[Row]:
    """All-to-all throughput of twisted over plain TPU v4 slices."""
    rows = []
    for shape, twist, published in (
        ("4x4x8", {"x": [0, 0, 4], "y": [0, 0, 4]}, 1.63),
        ("4x8x8", {"x": [0, 4, 4]}, 1.31),
    ):
        plain, twisted = (load_topology("tpu-v4-pod", shape=shape, twist=one) for one in (None, twist))
        gain = all_to_all_s(plain, 1.0) / all_to_all_s(twisted, 1.0)
        ways = " and ".join(f"the {axis} wrap shifts {tuple(shift)}" for axis, shift in twist.items())
        rows.append(
            Row(
                f"TPU v4 {shape}, all-to-all throughput, twisted / plain torus (arXiv 2304.01433, sec. 2.9)",
                f"{published}x",
                f"{gain:.3f}x",
                f"{published / gain:.0%} of the model. Twist: {ways}. The model keeps all links equally busy on shortest "
                "paths; switching, packet headers and uneven routing take the rest. Not tuned.",
            )
        )
    return rows


def gshard_growth() -> list[Row]:
    """GShard's all-to-all from 16 to 2048 cores."""

    def seconds(cores: int, shape: str, wrap: str | None) -> float:
        return all_to_all_s(load_topology("tpu-v3-pod", shape=shape, wrap=wrap), 4 * 8e6 / cores)

    whole = seconds(2048, "32x32", None)
    wrapped, mesh = (whole / seconds(16, "2x4", wrap) for wrap in ("all", "none"))
    return [
        Row(
            "GShard, all-to-all of equal bytes a core, 2048 over 16 TPU v3 cores (arXiv 2006.16668)",
            "about 9x (sqrt of the devices: 11.3x)",
            f"{wrapped:.1f}x if the small slice wraps, {mesh:.1f}x if it is a mesh",
            "The time goes with the longest axis, 32 over 4 chips; a mesh of 2x4 chips (the pod's own rule: an axis wraps "
            "in its full length only) takes twice as long as a torus. Two cores share a chip's links. The paper does not "
            "say which it was; what is between 8x and 9x, link loads do not explain.",
        )
    ]


def gshard_share() -> list[Row]:
    """Dispatch and combine as a share of the time of GShard's layers."""

    def share(model_name: str, shape: str, wrap: str | None) -> float:
        model, cluster = load_model(model_name), load_topology("tpu-v3-pod", shape=shape, wrap=wrap)
        tokens = 4096.0  # of a chip: 4 million on 2048 cores
        rates = DeviceRates.of(cluster.devices[:1], load_profile().compute, launches=False)

        def compute_s(params: float, times: float = 1.0) -> float:
            return float(matrix_cost(np.array([times * tokens]), params, rates, "bf16").time_s[0])

        sent = model.top_k * tokens * model.d_model * 4.0  # float32 activations; capacity 2 tokens / experts
        moving_s = 2 * all_to_all_s(cluster, sent / cluster.num_devices)
        attention_s = compute_s(model.attention_weight_params(0))
        expert_s = compute_s(model.expert_params, model.top_k)
        return moving_s / (moving_s + 2 * attention_s + compute_s(model.dense_params) + expert_s)

    low, low_mesh = (share("gshard-128e-36l", "8x8", wrap) for wrap in ("all", "none"))
    high = share("gshard-2048e-36l", "32x32", None)
    return [
        Row(
            "GShard, dispatch and combine in the forward time of a dense and a MoE layer, 128 -> 2048 cores "
            "(arXiv 2006.16668)",
            "16 % -> 36 %",
            f"{low:.0%} (torus) or {low_mesh:.0%} (mesh) -> {high:.0%}",
            "Matrices at the peak rate of the chip make the rest of the layer too fast, so communication weighs more than "
            "it did; attention scores, norms and the gating einsums are left out here. Activations in float32.",
        )
    ]


def nccl_ceiling() -> list[Row]:
    """Bus bandwidth of an all-to-all over 10 nodes of 8 H100."""
    cluster = load_topology("dgx-h100-superpod", nodes=10)
    num, buffer = cluster.num_devices, 8e9  # of one rank, its own block included
    source_F, target_F = (axis.ravel() for axis in np.mgrid[:num, :num])
    apart = source_F != target_F
    source_F, target_F = source_F[apart], target_F[apart]
    paths = path_policies.get("pxn")(cluster, source_F, target_F)
    links = build_link_table(cluster, load_profile().links, load_profile().kernel("generic"), None)
    times = simulate_flows(links.bandwidth, paths.offsets, paths.links, np.full(len(source_F), buffer / num))
    busbw = buffer / times.completion_s * (num - 1) / num / 1e9
    return [
        Row(
            "NCCL all-to-all, 10 nodes of 8 H100 with 400 Gbit/s a GPU, bus bandwidth",
            "50.1 GB/s measured; ceiling NIC x (n-1)/n / remote share = 54.9",
            f"{busbw:.1f} GB/s",
            f"The fluid model is at the ceiling: {50.1 / busbw:.0%} of it is reached. InfiniBand headers and congestion "
            "are in no datasheet; a fitted `nic` fraction would hold them.",
        )
    ]


def planes_against_rails() -> list[Row]:
    """The same traffic on DeepSeek's multi-plane tree and on a multi-rail tree of the same parts."""
    text = (data_folder("topologies") / "deepseek-h800-mpft.yaml").read_text(encoding="utf-8")
    one_network = text.replace("planes: true", "planes: false").replace("per_rail: true", "per_rail: false")
    one_network = one_network.replace("units: {value: 64,", "units: {value: 8,")  # 64-port spines, eight leaves a unit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deepseek-h800-mrft.yaml"
        path.write_text(one_network, encoding="utf-8")
        for accelerator in data_folder("topologies").glob("accelerators/h800-sxm.yaml"):
            (Path(folder) / "accelerators").mkdir()
            (Path(folder) / "accelerators" / accelerator.name).write_text(accelerator.read_text("utf-8"), "utf-8")
        seconds = [_nccl_s(load_topology(name, nodes=64)) for name in ("deepseek-h800-mpft", path)]
    return [
        Row(
            "multi-plane against multi-rail fat tree, H800 (arXiv 2505.09343, fig. 5 and table 4)",
            "all-to-all the same; a training step 19.926 s against 19.946 s (0.1 %)",
            f"all-to-all of 512 GPUs {seconds[0] / seconds[1] - 1:+.2%}",
            "With relays over NVLink (PXN) no flow changes its rail, and neither tree is oversubscribed: the same links "
            "carry the same bytes.",
        )
    ]


def _nccl_s(cluster: Cluster) -> float:
    """Link-load bound of an all-to-all of 1 MB a pair with relays."""
    num = cluster.num_devices
    source_F, target_F = (axis.ravel() for axis in np.mgrid[:num, :num])
    paths = path_policies.get("pxn")(cluster, source_F, target_F)
    return float((link_load(paths, np.full(num * num, 1e6), len(cluster.links)) / cluster.link_bandwidth).max())


def deepseek_step() -> list[Row]:
    """The training step of DeepSeek-V3 on 2048 H800s."""
    scenario = load_scenario(STEP)
    result = simulate(scenario)
    training = result.training
    assert training is not None  # the example trains
    fitted = ""
    if FITTED in list_profiles():
        measured = make_scenario({**scenario.record(), "profile": FITTED}, folder=scenario.folder)
        fitted = f"; {simulate(measured).step_time_s:.2f} s with the profile {FITTED}"
    return [
        Row(
            "DeepSeek-V3 training step, 2048 H800 (arXiv 2505.09343, table 4)",
            "19.926 s = 1F 1.13 + bubble 2.06 + 1B 1.99 + 1W 0.48 + 1F1B 13.95 + optimizer 0.29",
            f"{result.step_time_s:.2f} s = {_phases(training)}{fitted}",
            "The roofline has GEMMs at the peak rate of their type, FP8 for the experts. The paper states 385 TFLOP/s a GPU "
            f"(39 % of the BF16 peak); in the model's step that is {385 * 19.926 / result.step_time_s:.0f}. Its phases "
            "are those of the stage that ends last; its optimizer is what memory takes, gradients are reduced beside it.",
        )
    ]


def _phases(training: TrainingResult) -> str:
    parts = {
        "1F": training.forward_s,
        "bubble": training.bubble_s,
        "1B": training.backward_s,
        "1W": training.weight_gradient_s,
        "1F1B": training.overlapped_s,
        "gradients": training.gradient_reduction_s,
        "optimizer": training.optimizer_s,
    }
    return " + ".join(f"{name} {seconds:.2f}" for name, seconds in parts.items())


def main() -> None:
    """Print the table, and write it when asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="without what takes minutes")
    parser.add_argument("--write", action="store_true", help="put the table into docs/VALIDATION.md")
    arguments = parser.parse_args()
    parts: list[Callable[[], list[Row]]] = [
        twisted_tori,
        gshard_growth,
        gshard_share,
        nccl_ceiling,
        planes_against_rails,
    ]
    if not arguments.smoke:
        parts.append(deepseek_step)
    text = table(HEADERS, [row for part in parts for row in part()])
    print(text)
    if arguments.write and not arguments.smoke:
        write_part(PAGE, *MARKS, text)


if __name__ == "__main__":
    main()
