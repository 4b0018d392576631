"""Training of the small language model on windows of a token stream, and its loss on held-out documents."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from moe_language_model import LanguageModel, LayerRouting, ModelShape
from numpy.typing import NDArray
from torch.nn import functional

Report = Callable[[str], None]
_WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How long and how hard: AdamW, warm-up then cosine to a tenth of the peak rate."""

    steps: int = 1300
    windows_per_step: int = 8
    peak_rate: float = 3e-3
    warm_up_steps: int = 60
    weight_decay: float = 0.1
    balance_weight: float = 0.001
    seed: int = 1

    def rate(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        warm = min(1.0, (step + 1) / self.warm_up_steps)
        return warm * self.peak_rate * (0.55 + 0.45 * math.cos(math.pi * step / self.steps))


def train(
    shape: ModelShape, stream: NDArray[np.int64], training: Training, report: Report
) -> tuple[LanguageModel, float]:
    """The trained model and its mean loss in nats over the last tenth of the steps.

    `stream` is the train documents' tokens one after another.
    """
    torch.manual_seed(training.seed)
    model = LanguageModel(shape)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.peak_rate, betas=(0.9, 0.95), fused=True)
    batches = _batches(torch.from_numpy(stream), shape.context, training)
    losses: list[float] = []
    started = time.perf_counter()
    for step in range(training.steps):
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        loss, routings = _loss(model, next(batches))
        balance = torch.stack([routing.balance_loss for routing in routings]).sum()
        torch.autograd.backward(loss + training.balance_weight * balance)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 25 == 0 or step + 1 == training.steps:
            skew = " ".join(f"{_skew(routing, shape.num_experts):.1f}" for routing in routings)
            elapsed = time.perf_counter() - started
            report(f"step {step + 1}: loss {np.mean(losses[-25:]):.3f} nats, max/mean load {skew}, {elapsed:.0f} s")
    last = losses[-max(1, training.steps // 10) :]
    return model, float(np.mean(last))


@dataclass(frozen=True, slots=True)
class Reading:
    """The model's view of one document: loss of every token in nats [T], experts [L, T, K], heaviest first."""

    losses_T: NDArray[np.float32]
    experts_LTK: NDArray[np.int32]


@torch.no_grad()
def read(model: LanguageModel, documents: Sequence[NDArray[np.int64]], context: int) -> Iterator[Reading]:
    """Reads every document in windows of `context` tokens that do not overlap; a window sees only itself.

    A document of n + 1 tokens (the separator, the text, the separator) gives n inputs and n targets.
    """
    for document in documents:
        num_inputs = len(document) - 1
        num_windows = -(-num_inputs // context)
        # Padding stands after the last token, so causal attention never looks at it.
        padded = np.pad(document, (0, num_windows * context + 1 - len(document)))
        windows = torch.from_numpy(padded).unfold(0, context + 1, context)
        losses, experts = [], []
        for some in torch.split(windows, _WINDOWS_AT_ONCE):
            logits, routings = model(some[:, :-1])
            losses.append(functional.cross_entropy(logits.flatten(0, 1), some[:, 1:].flatten(), reduction="none"))
            experts.append(torch.stack([routing.experts_TK for routing in routings]))
        experts_LTK = torch.cat(experts, dim=1)[:, :num_inputs].to(torch.int32)
        yield Reading(torch.cat(losses)[:num_inputs].numpy(), experts_LTK.numpy())


def _batches(stream: torch.Tensor, context: int, training: Training) -> Iterator[torch.Tensor]:
    """Endless batches of windows; every pass cuts the stream at another phase and shuffles the windows."""
    generator = torch.Generator().manual_seed(training.seed)
    while True:
        phase = int(torch.randint(context, (1,), generator=generator))
        windows = stream[phase:].unfold(0, context + 1, context)
        order = torch.randperm(len(windows), generator=generator)
        for chosen in torch.split(order, training.windows_per_step):
            yield windows[chosen]


def _loss(model: LanguageModel, windows: torch.Tensor) -> tuple[torch.Tensor, list[LayerRouting]]:
    logits, routings = model(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten()), routings


def _skew(routing: LayerRouting, num_experts: int) -> float:
    load = torch.bincount(routing.experts_TK.flatten(), minlength=num_experts).float()
    return float(load.max() / load.mean())
