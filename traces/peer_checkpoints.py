"""Trained models kept in a folder, so that routing can be recorded again without training."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peer_language_model import PeerLanguageModel, PeerShape
from peer_training import Report, Trained, train
from record_public_domain import OtherTrainingError
from training import Training

from moesim.trace.appearing_file import appearing_file


def trained_model(
    shape: PeerShape,
    training: Training,
    stream: NDArray[np.int64],
    say: Report,
    *,
    with_experts: bool,
    checkpoints: Path | None = None,
    device: str = "cpu",
) -> Trained:
    """The model, or its dense twin, from `checkpoints` where it is in that folder, else trained (and put there).

    Raises OtherTrainingError where the file is of another training or shape.
    """
    if checkpoints is None:
        return train(shape, stream, training, say, with_experts=with_experts, device=device)
    path = checkpoints / ("peer.pt" if with_experts else "twin.pt")
    asked = {"training": asdict(training), "shape": asdict(shape)}
    if not path.exists():
        trained = train(shape, stream, training, say, with_experts=with_experts, device=device)
        state = {"model": trained.model.state_dict(), "loss": trained.loss, "seconds": trained.processor_seconds}
        checkpoints.mkdir(parents=True, exist_ok=True)
        with appearing_file(path) as file:
            torch.save(state | asked, file)
        return trained
    state = torch.load(path, weights_only=True, map_location=device)
    # Another seed splits the text elsewhere: "held-out" documents would be ones the model was trained on.
    if {name: state[name] for name in asked} != asked:
        raise OtherTrainingError(
            f"{path} was trained with {state['training']} and {state['shape']}, not {asked}: give the options it had"
        )
    model = PeerLanguageModel(shape, with_experts=with_experts).to(device)
    model.load_state_dict(state["model"])
    return Trained(model.eval(), float(state["loss"]), float(state["seconds"]))
