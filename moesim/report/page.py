"""A page of our own: one self-contained file, no script, no network, whose every text from outside is escaped."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from moesim.report.words import printable


class Lines(str):
    """A text whose line breaks matter."""


def render_page(template: str, content: dict[str, Any]) -> bytes:
    """The page of a template of this package; its own policy forbids it to load anything."""
    environment = Environment(
        loader=PackageLoader("moesim.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    return environment.get_template(template).render(content).encode("utf-8", "replace")


def _shown(value: Any) -> Any:
    """Texts on one printable line; markup (our own SVG and style) and `Lines` as they are."""
    return printable(value) if isinstance(value, str) and not isinstance(value, (Markup, Lines)) else value
