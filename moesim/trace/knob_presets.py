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
                    "structure": 0.0317,
                    "topics": 85,
                    "topic_skew": 1.43,
                    "topic_tokens": 3.11,
                    "focus": 0.518,
                    "common": 0.769,
                    "repeat": 0.318,
                    "phrase_tokens": 2.11,
                    "hot": 0.0,
                    "width": 11,
                    "tasks": 2,
                    "sequence_tokens": 739,
                }
            ),
            "traces/moe-64e-public-domain.parquet: 64 experts, top-6, held-out text",
        ),
        "gpt-oss-20b-decode": KnobPreset(
            MappingProxyType(
                {
                    "structure": 0.614,
                    "topics": 11,
                    "topic_skew": 1.81,
                    "topic_tokens": 4.28,
                    "focus": 0.742,
                    "common": 0.905,
                    "repeat": 0.177,
                    "phrase_tokens": 9.93,
                    "hot": 0.0524,
                    "width": 11,
                    "tasks": 2,
                    "sequence_tokens": 312,
                }
            ),
            "gpt-oss-20b, 32 experts, top-4, decode tokens (AmanPriyanshu/GPT-OSS-MoE-ExpertFingerprinting @72b368f)",
        ),
        "deepseek-v2-lite": KnobPreset(
            MappingProxyType(
                {
                    "structure": 0.359,
                    "topics": 35,
                    "topic_skew": 1.94,
                    "topic_tokens": 216.0,
                    "focus": 0.703,
                    "common": 0.116,
                    "repeat": 0.328,
                    "phrase_tokens": 1.0,
                    "hot": 0.22,
                    "width": 8,
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
