"""Sets of one-file parts: a plural folder is a registry, a file in it is a part, the file's name is the part's name."""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from moesim.errors import unknown_name


class Registry:
    """The parts of one package, loaded by name on first use; adding a part is adding a file.

    >>> shapes = Registry("moesim.topology.shapes", kind="shape", attribute="build")
    >>> "rail_fat_tree" in shapes.names()
    True
    """

    def __init__(self, package: str, *, kind: str, attribute: str) -> None:
        """`attribute` is the callable each part's module must define."""
        self.package, self.kind, self.attribute = package, kind, attribute

    @functools.cached_property
    def _names(self) -> tuple[str, ...]:
        package = importlib.import_module(self.package)
        return tuple(sorted(info.name for info in pkgutil.iter_modules(package.__path__) if info.name[0] != "_"))

    def names(self) -> tuple[str, ...]:
        """Names of all parts, sorted."""
        return self._names

    def get(self, name: str) -> Callable[..., Any]:
        """The callable of part `name`; raises UnknownName with the nearest known name."""
        if name not in self._names:
            raise unknown_name(self.kind, name, self._names)
        part: Callable[..., Any] = getattr(importlib.import_module(f"{self.package}.{name}"), self.attribute)
        return part
