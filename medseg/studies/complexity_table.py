"""The costs of networks as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medseg.errors import counted
from medseg.reports.tables import Cell, Table


def complexity_table(result: Mapping[str, Any]) -> Table:
    """Return the table of what `medseg.studies.complexity.measure` gave, with what must be known of the numbers.

    Columns that the paper has no figure for are left out.

    Args:
        result: of the measurement.
    """
    measures, rows = result["settings"]["measures"], result["rows"]
    columns: list[tuple[str, list[Cell]]] = [("network", [row["name"] for row in rows])]
    papers = [row["paper"] or {} for row in rows]
    if "parameters" in measures:
        columns.append(("parameters", [row["parameters"] for row in rows]))
        columns.append(("paper's, 10^6", [_number(paper.get("parameters"), ".2f") for paper in papers]))
    if "macs" in measures:
        columns.append(("GMAC", [_number(row["macs"], ",.2f", 1e9) for row in rows]))
        columns.append(("paper's GMAC", [_number(paper.get("macs"), ".2f") for paper in papers]))
        columns.append(('paper\'s "FLOPs", 10^6', [_number(paper.get("flops_as_printed"), ".2f") for paper in papers]))
    if "memory" in measures:
        columns.append(("peak MiB", [_number(row["memory_bytes"], ",.0f", 2**20) for row in rows]))
    measure = "throughput" if "throughput" in measures else "training"  # the former has the latter in it
    if measure in measures:
        for key in ("forward", "training") if measure == "throughput" else ("training",):
            speeds = [(row[measure] or {}).get(key) for row in rows]
            columns.append((f"images/s {key}", [_number(speed, ".3g") for speed in speeds]))
    columns = [c for c in columns if not c[0].startswith("paper's") or any(cell is not None for cell in c[1])]
    headings, values = zip(*columns, strict=True)
    return Table(list(headings), [list(row) for row in zip(*values, strict=True)], notes(result))


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know of the numbers: settings, what is counted, and what failed.

    Args:
        result: of the measurement.
    """
    settings, rows = result["settings"], result["rows"]
    inputs = dict.fromkeys(
        f"{row['in_channels']} in, {row['out_channels']} out, {' x '.join(map(str, row['size']))}" for row in rows
    )
    lines = [f"channels and size: {'; '.join(inputs)}"]
    if "macs" in settings["measures"]:
        lines.append(MACS)
    if "batch_size" in settings:
        device = f"{settings['device']} ({settings['device_name']})" if settings["device_name"] else settings["device"]
        lines.append(
            f"{counted(settings['batch_size'], 'image')} at a time on {device}, "
            f"{counted(settings['threads'], 'thread')}, {settings['precision']}, {settings['memory_format']}"
        )
    if "memory" in settings["measures"]:
        lines.append(MEMORY)
    if {"training", "throughput"} & set(settings["measures"]):
        lines.append(THROUGHPUT)
    if any(row["paper"] and row["paper"]["flops_as_printed"] is not None for row in rows):
        lines.append(FLOPS)
    return lines + [f"{row['name']}: no {name}: {error}" for row in rows for name, error in row["errors"].items()]


MACS = (
    "GMAC: 10^9 multiply-adds of one image's forward pass in evaluation, in convolutions, linear layers, matrix "
    "products and attention; element-wise work, normalisation, pooling and interpolation are not counted"
)
MEMORY = (
    "peak MiB: tensors at the peak of a training step (weights, gradients, Adam's state, feature maps), without what "
    "libraries take for themselves"
)
THROUGHPUT = "images/s: median after warming up; training is forward, backward and a step of Adam"
FLOPS = 'the paper\'s "FLOPs" know no image size (2 per parameter, more or less) and do not compare with GMAC'


def _number(value: float | None, form: str, unit: float = 1) -> Cell:
    """Return a number in so many digits as text, so that each column has its own."""
    if value is None:
        return None
    return format(value if unit == 1 else value / unit, form)
