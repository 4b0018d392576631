"""Models and traces cut to a few MoE layers, so that a table of many cells costs minutes; what a layer costs stays."""

from pathlib import Path

import numpy as np
import yaml

from moesim import load_model

MODELS = Path(__file__).resolve().parents[1] / "models"


def short_model(name: str, layers: int, folder: Path) -> Path:
    """A model file with so many layers, all MoE, and the share of its output head that they have of all MoE layers."""
    data = yaml.safe_load((MODELS / f"{name}.yaml").read_text(encoding="utf-8"))
    data["layers"] = {"count": layers}
    data["vocab_size"] = max(1, round(data["vocab_size"] * layers / load_model(name).num_moe_layers))
    for key in ("published", "dense_d_ff", "dense_gated"):
        data.pop(key, None)
    data["sources"] = {"*": data["sources"]["*"]}
    path = folder / f"{name}-{layers}-layers.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def short_trace(source: Path, layers: int, folder: Path) -> Path:
    """An .npz of token ids with so many of the layers of `source`, evenly spaced."""
    with np.load(source, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    depth = len(arrays["topk_ids"])
    chosen = np.unique(np.linspace(0, depth - 1, min(layers, depth)).round().astype(int))
    cut = {name: array[chosen] if name.startswith("topk_") else array for name, array in arrays.items()}
    path = folder / source.name
    np.savez(path, **{**cut, "layers": chosen})
    return path
