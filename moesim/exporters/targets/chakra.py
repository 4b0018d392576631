"""Chakra: one execution trace per NPU; the skewed all-to-alls are pairs of sends and receives.

Array letters: D rank (device).
"""

from collections import Counter

import numpy as np

from moesim.errors import InputError
from moesim.exporters.astra import npu_of_device
from moesim.exporters.chakra_wire import COMP, RECV, SEND, ChakraNode, decode_trace, encode_trace
from moesim.exporters.export import Check, Export, ExportRequest, LayerTraffic
from moesim.model import MoEModel

_MOST_TRANSFERS = 500_000


def export(request: ExportRequest) -> Export:
    """Files PREFIX.<npu>.et, PREFIX being `out` without .et; option layers=A:B takes some MoE ordinals, half open."""
    site, model = request.need_site(), request.need_model()
    prefix = request.out.name.removesuffix(".et")
    ordinals = _ordinals(request)
    writers = [_Rank() for _ in range(site.cluster.num_devices)]
    npu_D = npu_of_device(site.cluster).tolist()
    transfers = 0
    for ordinal in ordinals:
        traffic = site.traffic(ordinal)
        transfers += int(np.count_nonzero(traffic.dispatch_DD)) + int(np.count_nonzero(traffic.combine_DD))
        if transfers > _MOST_TRANSFERS:
            raise InputError(
                f"chakra: more than {_MOST_TRANSFERS} transfers up to MoE ordinal {ordinal}; take fewer layers by option "
                f"layers={ordinals[0]}:{max(ordinal, ordinals[0] + 1)}"
            )
        _add_layer(writers, traffic, model, ordinal, npu_D)
    names = [f"{prefix}.{npu}.et" for npu in npu_D]
    files = {name: encode_trace(writer.nodes) for name, writer in zip(names, writers, strict=True)}
    notes = (
        "sizes are means over the scenario's steps; relays of a two-leg all-to-all start with its first leg here",
        "dense layers and the output head are left out; compute nodes carry closed-form durations",
    )
    return Export(
        files=files,
        launch_flags=(f"--workload-configuration={request.out.with_name(prefix)}", f"NPUs {len(files)}"),
        checks=_checks([decode_trace(content)[1] for content in files.values()], npu_D),
        notes=notes,
    )


class _Rank:
    """Nodes of one NPU so far; `last` are the ids that the next layer waits for."""

    def __init__(self) -> None:
        self.nodes: list[ChakraNode] = []
        self.last: tuple[int, ...] = ()

    def add(self, name: str, kind: int, deps: tuple[int, ...], duration_s: float = 0.0, **attributes: int) -> int:
        node = ChakraNode(
            id=len(self.nodes) + 1,
            name=name,
            kind=kind,
            deps=deps,
            duration_us=max(round(duration_s * 1e6), 1) if kind == COMP else 0,
            attributes=attributes,
        )
        self.nodes.append(node)
        return node.id


def _ordinals(request: ExportRequest) -> range:
    count = len(request.plan.layers)
    text = request.option("layers", f"0:{count}")
    low, _, high = text.partition(":")
    if not (low.isdecimal() and high.isdecimal() and int(low) < int(high) <= count):
        raise InputError(f"chakra: option layers={text[:40]!r} is no window A:B of MoE ordinals in 0:{count}")
    return range(int(low), int(high))


def _add_layer(writers: list[_Rank], traffic: LayerTraffic, model: MoEModel, ordinal: int, npu_D: list[int]) -> None:
    """Attention, dispatch, experts, combine; a rank goes on when it has all it waits for."""
    layer = model.moe_layer_indices[ordinal]
    params = model.attention_weight_params(layer) + model.router_params
    attention = [
        writer.add(f"attention L{layer}", COMP, writer.last, seconds, **_work(params, tokens, params))
        for writer, seconds, tokens in zip(
            writers, traffic.attention_s_D.tolist(), traffic.tokens_D.tolist(), strict=True
        )
    ]
    arrived = _transfer(writers, traffic.dispatch_DD, f"dispatch L{layer}", 2 * ordinal, attention, npu_D)
    computed = []
    for device, writer in enumerate(writers):
        work = _work(model.expert_params, float(traffic.load_D[device]), model.expert_params)
        deps = (attention[device], *arrived[device])
        computed.append(writer.add(f"experts L{layer}", COMP, deps, float(traffic.experts_s_D[device]), **work))
    back = _transfer(writers, traffic.combine_DD, f"combine L{layer}", 2 * ordinal + 1, computed, npu_D)
    for device, writer in enumerate(writers):
        writer.last = (computed[device], *back[device])


def _work(params: int, rows: float, held: int) -> dict[str, int]:
    """Operations of `rows` rows through `params` weights, and the bytes of `held` weights of two bytes each."""
    return {"num_ops": max(round(2 * params * rows), 1), "tensor_size": max(2 * held, 1)}


def _transfer(
    writers: list[_Rank], bytes_DD: np.ndarray, name: str, tag: int, after: list[int], npu_D: list[int]
) -> list[list[int]]:
    """A send and a receive for every pair with bytes; the ids of the receives of each rank."""
    received: list[list[int]] = [[] for _ in writers]
    for source, target in np.argwhere(bytes_DD > 0).tolist():
        if source == target:
            continue
        ends = {
            "comm_src": npu_D[source],
            "comm_dst": npu_D[target],
            "comm_tag": tag,
            "comm_size": int(np.ceil(bytes_DD[source, target])),
        }
        writers[source].add(name, SEND, (after[source],), **ends)
        received[target].append(writers[target].add(name, RECV, (after[target],), **ends))
    return received


def _checks(traces: list[list[ChakraNode]], npu_D: list[int]) -> tuple[Check, ...]:
    ids_unique = all(len({node.id for node in nodes}) == len(nodes) for nodes in traces)
    acyclic = all(dep < node.id for nodes in traces for node in nodes for dep in node.deps)
    sent, received = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()
    at_home = True
    for npu, nodes in zip(npu_D, traces, strict=True):
        for node in nodes:
            if node.kind in (SEND, RECV):
                ends = tuple(node.attributes[key] for key in ("comm_src", "comm_dst", "comm_tag", "comm_size"))
                (sent if node.kind == SEND else received)[ends] += 1
                at_home = at_home and ends[node.kind == RECV] == npu
    return (
        Check("node ids are unique in every trace", ids_unique),
        Check("dependencies are acyclic", acyclic),
        Check("every send has its receive (source, target, tag, size)", sent == received),
        Check("no transfer is there twice", max(sent.values(), default=1) == 1),
        Check("sends lie with their source, receives with their target", at_home),
        Check("one trace per NPU", sorted(npu_D) == list(range(len(traces)))),
    )
