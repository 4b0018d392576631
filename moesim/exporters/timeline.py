"""Timeline: the simulated spans that an exporter draws, and what the user must know of them."""

from moesim.errors import InputError
from moesim.exporters.export import ExportRequest
from moesim.result import Tables

MOST_SPANS = 5_000_000


def simulated_spans(request: ExportRequest) -> tuple[Tables, list[int], tuple[str, ...]]:
    """The tables of the scenario's steps under the plan, the model layer index of every MoE ordinal, and remarks.

    Raises InputError where there are no spans, or more than files of text can hold.
    """
    result = request.need_site().replay()
    if result.tables is None or result.tables.spans.rank.size > MOST_SPANS:
        raise InputError(
            f"{request.target}: a timeline has at most {MOST_SPANS} spans; give --scenario with fewer steps"
        )
    notes = ["times are simulated, from the first step's begin on"]
    if result.training is not None:
        notes.append(
            "of a training step it is the first micro-batch's forward pass on one pipeline, ranks by their place in a stage"
        )
    return result.tables, [layer.layer for layer in result.layers], tuple(notes)
