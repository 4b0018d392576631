"""Training of the PEER model and its dense twin on the same windows, and reading held-out documents with either."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from peer_language_model import PeerLanguageModel, PeerShape
from torch import Tensor, nn
from torch.nn import functional
from training import Training

Report = Callable[[str], None]
EXPERT_RATE = 8.0  # of the experts' tables over that of the matrices: a row is updated only when its expert is chosen
_WINDOWS_AT_ONCE = 16


class RowwiseAdagrad:
    """Adagrad with one accumulator a row: only rows with gradients are read and written, and none is averaged over time."""

    def __init__(self, tables: Sequence[nn.Parameter]) -> None:
        self._tables = list(tables)
        self._squares = [torch.zeros(len(table), device=table.device) for table in tables]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """One update with the tables' sparse gradients, which are dropped."""
        for table, squares_E in zip(self._tables, self._squares, strict=True):
            assert table.grad is not None
            gradient = table.grad.coalesce()
            rows_U, values_UD = gradient.indices()[0], gradient.values()
            squares_U = squares_E[rows_U] + values_UD.square().mean(dim=1)
            squares_E[rows_U] = squares_U
            table.index_add_(0, rows_U, values_UD * (-rate * (squares_U + 1e-20).rsqrt()).unsqueeze(1))
            table.grad = None


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained model, its mean loss in nats over the last tenth of the steps, and the processor time in seconds."""

    model: PeerLanguageModel
    loss: float
    processor_seconds: float


def train(
    shape: PeerShape,
    stream: NDArray[np.int64],
    training: Training,
    report: Report,
    *,
    with_experts: bool,
    device: str = "cpu",
) -> Trained:
    """The model (or its dense twin) trained on windows of `stream`; both see the same windows in the same order."""
    torch.manual_seed(training.seed)
    model = PeerLanguageModel(shape, with_experts=with_experts).to(device)
    matrices = [parameter for parameter in model.dense_parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.dense_parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=training.peak_rate, betas=(0.9, 0.95), fused=True)
    experts = RowwiseAdagrad(model.expert_tables())
    batches = _batches(torch.from_numpy(stream), shape.context, training)
    losses: list[float] = []
    started, started_processor = time.perf_counter(), time.process_time()
    for step in range(training.steps):
        rate = training.rate(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        windows = next(batches).to(device)
        loss = functional.cross_entropy(model(windows[:, :-1])[0].flatten(0, 1), windows[:, 1:].flatten())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.dense_parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        experts.step(EXPERT_RATE * rate)
        losses.append(loss.item())
        if (step + 1) % 25 == 0 or step + 1 == training.steps:
            spent = f"{time.process_time() - started_processor:.0f} s of {time.perf_counter() - started:.0f} s"
            report(f"{'peer' if with_experts else 'dense'} step {step + 1}: {np.mean(losses[-25:]):.3f} nats, {spent}")
    last = losses[-max(1, training.steps // 10) :]
    return Trained(model.eval(), float(np.mean(last)), time.process_time() - started_processor)


@dataclass(frozen=True, slots=True)
class Reading:
    """The model's view of one document: loss of every token in nats [T]; experts and weights [T, K] (K 0: dense twin)."""

    losses_T: NDArray[np.float32]
    experts_TK: NDArray[np.int32]
    weights_TK: NDArray[np.float32]


@torch.no_grad()
def read(model: PeerLanguageModel, documents: Sequence[NDArray[np.int64]], context: int) -> Iterator[Reading]:
    """Reads every document in windows of `context` tokens that do not overlap; a window sees only itself.

    A document of n + 1 tokens (the separator, the text, the separator) gives n inputs and n targets.
    """
    device = model.embedding.weight.device
    for document in documents:
        num_inputs = len(document) - 1
        # Padding stands after the last token, so causal attention never looks at it.
        padded = np.pad(document, (0, -num_inputs % context))
        windows = torch.from_numpy(padded).unfold(0, context + 1, context)
        parts = [_read_windows(model, some.to(device)) for some in torch.split(windows, _WINDOWS_AT_ONCE)]
        losses_T, experts_TK, weights_TK = (torch.cat(part)[:num_inputs].cpu() for part in zip(*parts, strict=True))
        yield Reading(losses_T.numpy(), experts_TK.to(torch.int32).numpy(), weights_TK.numpy())


def _read_windows(model: PeerLanguageModel, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits, chosen = model(windows[:, :-1])
    losses_T = functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    if chosen is None:
        nothing = losses_T.new_empty((len(losses_T), 0))
        return losses_T, nothing, nothing
    return losses_T, chosen.experts_TK, chosen.weights_TK


def _batches(stream: Tensor, context: int, training: Training) -> Iterator[Tensor]:
    """Endless batches of windows; every pass cuts the stream at another phase and shuffles the windows."""
    generator = torch.Generator().manual_seed(training.seed)
    while True:
        phase = int(torch.randint(context, (1,), generator=generator))
        windows = stream[phase:].unfold(0, context + 1, context)
        order = torch.randperm(len(windows), generator=generator)
        for chosen in torch.split(order, training.windows_per_step):
            yield windows[chosen]
