"""Training dynamics named in text, `collapse:rate=0.2+dropout:chance=0.1`, as changes of a gate along the steps."""

import inspect

from moesim.errors import InputError, unknown_name
from moesim.registry import Registry
from moesim.trace.gate import Evolution

DYNAMICS = Registry("moesim.trace.dynamics", kind="dynamics", attribute="evolve")
_GIVEN = ("num_experts", "seed")


def parse_dynamics(text: str, *, num_experts: int, seed: int) -> tuple[tuple[Evolution, ...], bool]:
    """The changes that `text` names, in order, and whether one of them needs the gate's balancing bias.

    Parts are joined by +; each is a name, or name:key=number,key=number. Raises InputError for anything else.
    """
    evolutions, balanced = [], False
    for part in text.split("+") if text.strip() else []:
        name, _, numbers = part.strip().partition(":")
        make = DYNAMICS.get(name)
        parameters = inspect.signature(make).parameters
        known = [key for key in parameters if key not in _GIVEN]
        given = {}
        for pair in numbers.split(",") if numbers.strip() else []:
            key, _, number = pair.strip().partition("=")
            if key not in known:
                raise unknown_name(f"parameter of dynamics {name}", key, known)
            given[key] = _number(name, key, number, whole=parameters[key].annotation is int)
        evolutions.append(make(num_experts=num_experts, seed=seed, **given))
        balanced = balanced or name == "balance_loss"
    return tuple(evolutions), balanced


def _number(name: str, key: str, text: str, *, whole: bool) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        kind = "whole number" if whole else "number"
        raise InputError(f"dynamics {name}: {key}={text[:40]!r} is not a {kind}; write {name}:{key}=1") from None
