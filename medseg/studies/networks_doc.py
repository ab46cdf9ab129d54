"""``docs/networks.md``: every network with its paper and its cost. Only numbers that are the same on every machine."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from medseg.bundle.discovery import load
from medseg.reports.tables import Code
from medseg.studies.complexity import EDGES, IN_CHANNELS, OUT_CHANNELS, choose_rows, measure
from medseg.studies.complexity_table import FLOPS, MACS, complexity_table
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
    modules = Counter(_module(row) for row in rows)
    parts = [
        f"<!-- Written by `{_REMAKE}`; do not edit. -->\n# Networks\n",
        "What `medseg complexity` measures of every network of `medseg.networks`, and what the papers print.\n",
        f"- {MACS}.\n- `medseg complexity --measure memory throughput` measures the rest on the machine at hand.\n",
        "## Every network as it comes\n",
        f"{IN_CHANNELS} channel in, {OUT_CHANNELS} classes, {EDGES[2]} x {EDGES[2]} pixels, constructor defaults.\n",
        _table(rows),
        "\n".join(_line(row, shared=modules[_module(row)] > 1) for row in rows) + "\n",
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
    table = replace(complexity_table(result), notes=())
    if any(row.table for row in rows):
        given = [", ".join(f"{key}={value!r}" for key, value in row.kwargs.items()) for row in rows]
        lines = [[*line, Code(text) if text else "defaults"] for line, text in zip(table.rows, given, strict=True)]
        table = replace(table, columns=[*table.columns, "arguments"], rows=lines)
    return table.to_markdown()


def _inputs(rows: Sequence[Row]) -> str:
    row = rows[0]
    return f"{row.in_channels} in, {row.out_channels} out, {' x '.join(map(str, row.size))} pixels.\n"


def _module(row: Row) -> str:
    return row.target.rpartition(".")[0]


def _line(row: Row, shared: bool) -> str:
    """Return what a network is, and the first link of its module: the paper, or what stands for it.

    Args:
        row: with the network.
        shared: its module has several: each is described by its own docstring.
    """
    module = _module(row)
    header = _docstring(module)
    link = _LINK.search(header)
    if link is None:
        raise NetworksDocError(f"the header of {module} has no link to its paper")
    address = link.group().rstrip(".:")
    label = "paper" if any(site in address for site in _PAPERS) else "source"
    what = (inspect.getdoc(load(row.target)) or header) if shared else header
    return f"- **{row.name}** (`{module}`, [{label}]({address})): {what.splitlines()[0]}"


def _papers() -> str:
    """Return what the module of the figures says of them, but how to add one."""
    paragraphs = _docstring("medseg.studies.paper_figures").split("\n\n")
    return "\n\n".join(p for p in paragraphs if "`ROWS`" not in p) + f"\n\nHere, {FLOPS}.\n"


def _docstring(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise NetworksDocError(f"there is no module {module}")
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
