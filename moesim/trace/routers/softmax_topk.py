"""Router of most models: a linear gate, its K largest logits (Mixtral, gpt-oss, DeepSeek-V2-Lite, Qwen)."""

from moesim.trace.gate import RouterLayer, make_gate, top_of
from moesim.trace.token_groups import Route, in_parts
from moesim.trace.token_stream import TokenStream


def build(layer: RouterLayer, stream: TokenStream) -> Route:
    """The K experts of largest logit; softmax keeps their order, so gate weights fall along a row."""
    gate = make_gate(layer, stream)
    return lambda batch: in_parts(batch, layer.num_experts, lambda part: top_of(gate.logits(part), layer.top_k))
