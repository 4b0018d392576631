"""Fitted sets of knobs by name, each with the recording that it imitates."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from moesim.errors import InputError, unknown_name
from moesim.trace.token_stream import Knobs


@dataclass(frozen=True, slots=True)
class KnobPreset:
    """Knobs, and where the routing they were fitted to comes from."""

    knobs: Mapping[str, float]
    source: str


PRESETS: Mapping[str, KnobPreset] = MappingProxyType(
    {
        "moe-64e-public-domain": KnobPreset(
            MappingProxyType(
                {
                    "structure": 0.0212,
                    "topics": 55,
                    "topic_skew": 2.0,
                    "topic_tokens": 13.0,
                    "focus": 0.485,
                    "common": 0.663,
                    "repeat": 0.228,
                    "phrase_tokens": 3.81,
                    "hot": 0.0187,
                    "width": 12,
                    "tasks": 2,
                    "sequence_tokens": 739,
                }
            ),
            "traces/moe-64e-public-domain.parquet: 64 experts, top-6, held-out text",
        ),
        "gpt-oss-20b-decode": KnobPreset(
            MappingProxyType(
                {
                    "structure": 0.347,
                    "topics": 27,
                    "topic_skew": 1.82,
                    "topic_tokens": 24.8,
                    "focus": 0.65,
                    "common": 0.699,
                    "repeat": 0.48,
                    "phrase_tokens": 3.18,
                    "hot": 0.0,
                    "width": 8,
                    "tasks": 2,
                    "sequence_tokens": 312,
                }
            ),
            "gpt-oss-20b, 32 experts, top-4, decode tokens (AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting @72b368f)",
        ),
        "deepseek-v2-lite": KnobPreset(
            MappingProxyType(
                {
                    "structure": 0.348,
                    "topics": 230,
                    "topic_skew": 2.0,
                    "topic_tokens": 849.0,
                    "focus": 0.414,
                    "common": 0.00821,
                    "repeat": 0.0805,
                    "phrase_tokens": 1.01,
                    "hot": 0.0,
                    "width": 7,
                    "tasks": 2,
                    "sequence_tokens": 98,
                }
            ),
            "DeepSeek-V2-Lite, 64 experts, top-6, prefill of intent and translation (deepseek-ai/ESFT @579a771)",
        ),
    }
)


def knobs_of(preset: Any, given: Mapping[str, Any]) -> Knobs:
    """The knobs of `preset` (None: the defaults) with those `given` in their place; raises InputError."""
    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", str(preset), PRESETS)
    start = {} if preset is None else dict(PRESETS[preset].knobs)
    try:
        return Knobs(**{**start, **given})
    except InputError as error:
        raise InputError(f"knobs of the token stream: {error}") from None
