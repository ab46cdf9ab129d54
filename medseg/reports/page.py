"""A report as one HTML file that needs nothing else: no network, no fonts, no library; it can be read and printed.

The page may load nothing (its Content-Security-Policy forbids all but its own pictures, style and script, which are
named by their hashes). Everything that comes from outside is escaped by Jinja or by `Table.to_html`. Without scripts it
reads the same, but for sorting and leafing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.atomic import atomic_write
from medseg.errors import shown
from medseg.reports.palette import Colour
from medseg.reports.tables import Table
from medseg.reports.viewer import Viewer, picture_uri

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL.Image import Image

__all__ = ["Facts", "Item", "Legend", "Page", "Picture", "Section", "Sortable", "Text", "write_page"]

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Text:
    """A paragraph; ``weight`` is ``"plain"``, ``"note"`` or ``"warning"``."""

    text: str
    weight: str = "plain"

    kind = "text"


@dataclass(frozen=True)
class Facts:
    """Names and what they are, a line each; values of ``code`` are in the font for it."""

    rows: Sequence[tuple[str, str]]
    code: bool = False

    kind = "facts"


@dataclass(frozen=True)
class Sortable:
    """A table that sorts by a column when its heading is pressed."""

    table: Table

    kind = "sortable"


@dataclass(frozen=True)
class Legend:
    """Colours and what they mean."""

    entries: Sequence[tuple[str, Colour]]

    kind = "legend"


@dataclass(frozen=True)
class Picture:
    """A drawing, and what it shows for those who do not see it."""

    picture: Image
    alt: str

    kind = "picture"

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return picture_uri(self.picture)


Item = Text | Facts | Table | Sortable | Legend | Picture | Viewer


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        anchor: its name in addresses.
        title: heading.
        items: what it shows, in order.
    """

    anchor: str
    title: str
    items: Sequence[Item]


@dataclass(frozen=True)
class Page:
    """A report.

    Args:
        title: heading.
        subtitle: a line below it.
        use: what it may be used for, shown first.
        sections: parts; those without items are left out.
        foot: last line.
    """

    title: str
    subtitle: str
    use: str
    sections: Sequence[Section]
    foot: str = ""

    def to_html(self) -> str:
        """Return the page."""
        style, script = ((_TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
        template = _environment().get_template("page.html")
        sections = [section for section in self.sections if section.items]
        hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
        return template.render(page=self, sections=sections, style=style, script=script, **hashes)


def write_page(page: Page, path: Path) -> Path:
    """Write a page, atomically.

    Args:
        page: the page.
        path: of the file.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_text(page.to_html(), encoding="utf-8")
    return path


def _hash(text: str) -> str:
    """Return the hash of a style or script, as a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


@lru_cache(maxsize=1)
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["shown"] = _shown
    made.filters["table"] = lambda table: table.to_html()
    made.filters["colour"] = lambda colour: f"#{bytes(colour).hex()}"
    return made


def _shown(value: Any) -> str:
    return shown(str(value))
