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


PRESETS: Mapping[str, KnobPreset] = MappingProxyType({})


def knobs_of(preset: Any, given: Mapping[str, Any]) -> Knobs:
    """The knobs of `preset` (None: the defaults) with those `given` in their place; raises InputError."""
    if preset is not None and preset not in PRESETS:
        raise unknown_name("preset", str(preset), PRESETS)
    start = {} if preset is None else dict(PRESETS[preset].knobs)
    try:
        return Knobs(**{**start, **given})
    except InputError as error:
        raise InputError(f"knobs of the token stream: {error}") from None
