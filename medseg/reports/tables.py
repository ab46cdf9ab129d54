"""One table for every writer: text, Markdown, CSV, LaTeX, HTML and JSON.

What comes from outside (names of files, classes, runs) is safe in each of them: control characters, line breaks and
lone surrogates are written as escapes, the signs of Markdown, LaTeX and HTML are escaped, and a cell of a CSV that a
spreadsheet would run as a formula is defused with an apostrophe.
"""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.errors import MedsegError, shown

UNDEFINED = "-"
_ESCAPE = "'"  # before a text that a spreadsheet would run, or that begins with one itself

Cell = str | int | float | None

_MARKDOWN = re.compile(r"([\\`*_\[\]|<>~])")
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
}  # fmt: skip


class Code(str):
    """A cell that is code: in Markdown between backticks, in LaTeX and HTML in their fonts for it."""

    __slots__ = ()


class Strong(str):
    """A cell that stands out: bold in Markdown, LaTeX and HTML, with an asterisk in plain text, a CSV and JSON."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """Rows under headings, and what a reader must know of them.

    Args:
        columns: headings.
        rows: cells: text, whole numbers, other numbers, ``None`` (as NaN) for what is undefined.
        notes: sentences below it.
        title: above it.
        summary: how many of the last rows sum up the others: they stand below a rule, in bold type.
        digits: of numbers after the decimal point; CSV and JSON have all of them.

    Raises:
        MedsegError: if a row has another number of cells than there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    title: str = ""
    summary: int = 0
    digits: int = 3

    kind = "table"

    def __post_init__(self) -> None:
        """Check the rows."""
        for row in self.rows:
            if len(row) != len(self.columns):
                raise MedsegError(f"a row of {len(row)} cells in a table of {len(self.columns)} columns: {list(row)}")

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Cell]], **options: Any) -> Table:
        """Build a table of mappings; columns come in the order in which they first appear.

        Args:
            rows: cells by column.
            **options: further arguments of the table.
        """
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return cls(columns, [[row.get(name) for name in columns] for row in rows], **options)

    def to_text(self) -> str:
        """Lay the table out for the terminal."""
        lines = [[shown(name) for name in self.columns], *([self._show(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        left = self._left()

        def join(line: Sequence[str]) -> str:
            cells = zip(line, widths, left, strict=True)
            return "  ".join(c.ljust(width) if first else c.rjust(width) for c, width, first in cells).rstrip()

        rule = "  ".join("-" * width for width in widths)
        body = [join(line) for line in lines]
        body.insert(1, rule)
        if 0 < self.summary < len(self.rows):
            body.insert(len(body) - self.summary, rule)
        return "\n".join([*self._title(), *body, *map(shown, self.notes)])

    def to_markdown(self) -> str:
        """Write the table in GitHub's Markdown."""
        lines = ["| " + " | ".join(map(_markdown, self.columns)) + " |"]
        lines.append("| " + " | ".join("---" if left else "---:" for left in self._left()) + " |")
        start = len(self.rows) - self.summary
        for number, row in enumerate(self.rows):
            cells = [self._markdown(cell) for cell in row]
            if number >= start:
                cells = [f"**{cell}**" if cell else "" for cell in cells]
            lines.append("| " + " | ".join(cells) + " |")
        title = [f"**{_markdown(self.title)}**", ""] if self.title else []
        return "\n".join([*title, *lines, *(f"\n{_markdown(note)}" for note in self.notes)]) + "\n"

    def to_csv(self) -> str:
        """Write columns and rows as CSV with all digits; what is undefined is empty."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([csv_cell(name) for name in self.columns])
        writer.writerows([csv_cell(cell) for cell in row] for row in self.rows)
        return file.getvalue()

    def to_latex(self) -> str:
        """Write the table for LaTeX with the package ``booktabs``."""
        layout = "".join("l" if left else "r" for left in self._left())
        lines = [f"\\begin{{tabular}}{{{layout}}}", "\\toprule", self._latex(self.columns), "\\midrule"]
        rows = [self._latex(row) for row in self.rows]
        if 0 < self.summary < len(rows):
            rows.insert(len(rows) - self.summary, "\\midrule")
        title = [f"% {shown(self.title)}"] if self.title else []
        return "\n".join([*title, *lines, *rows, "\\bottomrule", "\\end{tabular}", *self._latex_notes()]) + "\n"

    def to_html(self) -> str:
        """Write the table as an HTML element; numbers have the class ``n``, rows that sum up are its foot."""
        caption = [f"<caption>{_html(self.title)}</caption>"] if self.title else []
        kinds = ["" if left else ' class="n"' for left in self._left()]

        def row(cells: Sequence[str], tag: str) -> str:
            pairs = zip(cells, kinds, strict=True)
            return "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in pairs) + "</tr>"

        head = row([_html(name) for name in self.columns], "th")
        start = len(self.rows) - self.summary
        cells = [[self._html(cell) for cell in each] for each in self.rows]
        body = ["<table>", *caption, f"<thead>{head}</thead>", "<tbody>", *(row(each, "td") for each in cells[:start])]
        foot = ["<tfoot>", *(row(each, "th") for each in cells[start:]), "</tfoot>"] if self.summary else []
        notes = (f'<p class="note">{_html(note)}</p>' for note in self.notes)
        return "\n".join([*body, "</tbody>", *foot, "</table>", *notes]) + "\n"

    def to_json(self) -> str:
        """Write the rows as mappings, with title and notes, as JSON; what is undefined is ``null``."""
        rows = [dict(zip(self.columns, map(_number_or_text, row), strict=True)) for row in self.rows]
        held = {"title": self.title, "rows": rows, "notes": list(self.notes)}
        text = json.dumps(held, indent=2, allow_nan=False, ensure_ascii=False)
        # JSON can escape a lone surrogate, UTF-8 cannot hold it
        return re.sub("[\ud800-\udfff]", lambda found: f"\\u{ord(found.group()):04x}", text) + "\n"

    def to(self, kind: str) -> str:
        """Write the table in the format of a name: ``text``, ``markdown``, ``csv``, ``latex``, ``html`` or ``json``.

        Args:
            kind: the name.

        Raises:
            MedsegError: if there is no such format.
        """
        if kind not in FORMATS:
            raise MedsegError(f"there is no table format {kind!r}; choose among {', '.join(FORMATS)}")
        text: str = getattr(self, f"to_{kind}")()
        return text if text.endswith("\n") else text + "\n"

    def _title(self) -> list[str]:
        return [shown(self.title)] if self.title else []

    def _left(self) -> list[bool]:
        """Return which columns stand on the left: the first, and those that hold text."""
        columns = list(zip(*self.rows, strict=True)) or [() for _ in self.columns]
        return [not n or not all(_is_number_like(cell) for cell in column) for n, column in enumerate(columns)]

    def _show(self, cell: Cell) -> str:
        if isinstance(cell, str):
            return shown(plain(cell))
        if _is_undefined(cell):
            return UNDEFINED
        # z: what rounds to nothing has no sign
        return f"{cell:,}" if isinstance(cell, int) else f"{cell:z.{self.digits}f}"

    def _markdown(self, cell: Cell) -> str:
        if isinstance(cell, Code):
            text = shown(cell).replace("|", "\\|")
            fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"
        if isinstance(cell, Strong):
            return f"**{_markdown(str(cell))}**"
        return _markdown(cell) if isinstance(cell, str) else self._show(cell)

    def _html(self, cell: Cell) -> str:
        if isinstance(cell, Strong):
            return f"<strong>{_html(str(cell))}</strong>"
        text = _html(self._show(cell))
        return f"<code>{text}</code>" if isinstance(cell, Code) else text

    def _latex(self, cells: Sequence[Cell]) -> str:
        return " & ".join(map(self._latex_cell, cells)) + " \\\\"

    def _latex_cell(self, cell: Cell) -> str:
        if isinstance(cell, Strong):
            return f"\\textbf{{{_latex(shown(cell))}}}"
        text = _latex(self._show(cell))
        return f"\\texttt{{{text}}}" if isinstance(cell, Code) else text

    def _latex_notes(self) -> list[str]:
        return [f"\\par {_latex(shown(note))}" for note in self.notes]


def tables_to_json(tables: Sequence[Table]) -> str:
    """Write tables into one text, see `tables_of_json`; undefined cells are ``null``, titles and notes come along."""
    return "[\n" + ",\n".join(table.to_json().rstrip("\n") for table in tables) + "\n]\n"


def tables_of_json(text: str) -> list[Table]:
    """Read what `tables_to_json` wrote.

    Raises:
        MedsegError: if it is something else.
    """
    try:
        return [Table.of(each["rows"], notes=each["notes"], title=each["title"]) for each in json.loads(text)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MedsegError(f"these are no tables ({type(error).__name__}); make them anew") from error


FORMATS = ("text", "markdown", "csv", "latex", "html", "json")


def csv_cell(cell: Cell) -> str:
    """Return a cell as CSV holds it: numbers with all digits, text that no spreadsheet runs as a formula.

    Args:
        cell: the cell; what is undefined is empty.
    """
    if isinstance(cell, str):
        cell = plain(cell)
        if not cell:
            return ""
        # before the escaping: a tab or a carriage return at the start is skipped by spreadsheets
        formula = cell[0] in f"=+-@\t\r\n{_ESCAPE}" and not _is_number(cell)
        return _ESCAPE * formula + shown(cell)
    return "" if _is_undefined(cell) else repr(cell) if isinstance(cell, int) else repr(float(cell or 0))


def csv_text(cell: str) -> str:
    """Return the text that `csv_cell` wrote as a cell, as `shown` shows it.

    Args:
        cell: as it stands in the file.
    """
    return cell.removeprefix(_ESCAPE)


def plain(cell: str) -> str:
    """Return a cell of text as it stands where there is no bold type.

    Args:
        cell: the cell.
    """
    return f"{cell} *" if isinstance(cell, Strong) else cell


def _is_undefined(cell: Cell) -> bool:
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None


def _is_number_like(cell: Cell) -> bool:
    return not isinstance(cell, str) or cell in ("", UNDEFINED, "absent") or _is_number(cell.replace(",", ""))


def _number_or_text(cell: Cell) -> Cell:
    if isinstance(cell, Strong):
        return plain(cell)
    return None if _is_undefined(cell) or (isinstance(cell, float) and math.isinf(cell)) else cell


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", shown(text)).replace("&", "&amp;")


def _html(text: str) -> str:
    return html.escape(shown(text))


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
