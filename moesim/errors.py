"""The families of errors a user can meet, and the exit status each one maps to.

Anything else that escapes the package is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class MoesimError(Exception):
    """An expected failure: the message is one sentence a user can act on."""

    exit_status = 2


class InputError(MoesimError):
    """A file, name or number the user gave cannot be used."""


class UnknownName(InputError):
    """A name (model, topology, strategy, key, ...) that nothing answers to."""


class MissingMeasurement(InputError):
    """A profile has no curve for what was asked, and inventing one is refused."""


class Declined(MoesimError):
    """A strategy does not apply to this problem; the message says why."""


class NoFeasiblePlan(MoesimError):
    """A valid problem has no solution; the message names the constraints."""

    exit_status = 3


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for `name`, with the nearest known names as the next step.

    >>> str(unknown_name("model", "mixtral-8x7", ["mixtral-8x7b", "gpt-oss-20b"]))
    "unknown model 'mixtral-8x7'; did you mean 'mixtral-8x7b'? known: gpt-oss-20b, mixtral-8x7b"
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return UnknownName(f"unknown {kind} {_clip(name)}; {hint}known: {shown}")


def _clip(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:77] + "..."
