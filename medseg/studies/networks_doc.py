"""``docs/networks.md``: every network with its paper and its cost. Only numbers that are the same on every machine."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from medseg.studies.complexity import EDGES, IN_CHANNELS, OUT_CHANNELS, choose_rows, measure
from medseg.studies.complexity_table import FLOPS, MACS, cells, to_markdown
from medseg.studies.paper_figures import ROWS, Row

_LINK = re.compile(r"https://[^\s,;)\]]+")
_PAPERS = ("arxiv.org", "doi.org", "openaccess.thecvf.com")
_REMAKE = "python .ci/make_networks_doc.py"


class NetworksDocError(RuntimeError):
    """A network that the page cannot show."""


def networks_doc() -> str:
    """Return the page as Markdown.

    Raises:
        NetworksDocError: if a network cannot be measured, or its module names no paper.
    """
    rows = choose_rows()
    parts = [
        f"<!-- Written by `{_REMAKE}`; do not edit. -->\n# Networks\n",
        "What `medseg complexity` measures of every network of `medseg.networks`, and what the papers print.\n",
        f"- {MACS}.\n- `medseg complexity --measure memory throughput` measures the rest on the machine at hand.\n",
        "## Every network as it comes\n",
        f"{IN_CHANNELS} channel in, {OUT_CHANNELS} classes, {EDGES[2]} x {EDGES[2]} pixels, constructor defaults.\n",
        _table(rows),
        "\n".join(_line(row) for row in rows) + "\n",
        "## Beside the papers\n",
        _papers(),
    ]
    for source, group in groupby(ROWS, key=lambda row: row.source):
        parts += [f"### {source}\n", _inputs(of_table := list(group)), _table(of_table)]
    return "\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    result = measure(rows)
    for row in result["rows"]:
        if row["errors"]:
            raise NetworksDocError(f"{row['target']} cannot be measured: {row['errors']}")
    headings, lines = cells(result)
    if any(row.table for row in rows):
        headings.append("arguments")
        for line, row in zip(lines, rows, strict=True):
            line.append(", ".join(f"`{key}={value!r}`" for key, value in row.kwargs.items()) or "defaults")
    return to_markdown(headings, lines)


def _inputs(rows: Sequence[Row]) -> str:
    row = rows[0]
    return f"{row.in_channels} in, {row.out_channels} out, {' x '.join(map(str, row.size))} pixels.\n"


def _line(row: Row) -> str:
    """Return module, the first line of its docstring, and its first link: the paper, or what stands for it."""
    module = row.target.rpartition(".")[0]
    header = _docstring(module)
    link = _LINK.search(header)
    if link is None:
        raise NetworksDocError(f"the header of {module} has no link to its paper")
    address = link.group().rstrip(".:")
    label = "paper" if any(site in address for site in _PAPERS) else "source"
    return f"- **{row.name}** (`{module}`, [{label}]({address})): {header.splitlines()[0]}"


def _papers() -> str:
    """Return what the module of the figures says of them, but how to add one."""
    paragraphs = _docstring("medseg.studies.paper_figures").split("\n\n")
    return "\n\n".join(p for p in paragraphs if "`ROWS`" not in p) + f"\n\nHere, {FLOPS}.\n"


def _docstring(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise NetworksDocError(f"there is no module {module}")
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
