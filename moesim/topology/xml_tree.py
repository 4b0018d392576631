"""XML of other programs as a plain tree: no entities, no external files, bounded in size, depth and elements.

A document type without an internal subset (as hwloc writes) is allowed, and what it names is never fetched.
"""

import xml.parsers.expat
from collections.abc import Iterator
from dataclasses import dataclass, field

from moesim.errors import InputError

_MOST_ELEMENTS = 2_000_000
_DEEPEST = 300


@dataclass(slots=True)
class Element:
    """A tag, its attributes and the elements in it; text between tags is kept as `text`."""

    tag: str
    attributes: dict[str, str]
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def get(self, name: str, absent: str = "") -> str:
        """The attribute `name`."""
        return self.attributes.get(name, absent)

    def walk(self) -> Iterator["Element"]:
        """This element and all below it, in the order of the file."""
        pending = [self]
        while pending:
            element = pending.pop()
            yield element
            pending.extend(reversed(element.children))


def parse_xml(text: str, where: str) -> Element:
    """The root of `text`; raises InputError for what is not XML, is truncated, or declares entities."""
    root = Element("", {})
    stack, count = [root], 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > _MOST_ELEMENTS or len(stack) > _DEEPEST:
            raise InputError(f"{where} has more than {_MOST_ELEMENTS} elements or is nested deeper than {_DEEPEST}")
        element = Element(tag, attributes)
        stack[-1].children.append(element)
        stack.append(element)

    def doctype(name: str, system: str | None, public: str | None, has_subset: int) -> None:
        if has_subset:
            raise InputError(f"{where} declares a document type of its own (entities), which is not read")

    def data(piece: str) -> None:
        stack[-1].text += piece

    parser = xml.parsers.expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda tag: stack.pop()
    parser.CharacterDataHandler = data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(text.encode("utf-8"), True)
    except xml.parsers.expat.ExpatError as error:
        raise InputError(f"{where} is not whole XML ({error}); it is truncated or damaged") from None
    return root.children[0]
