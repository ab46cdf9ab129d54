"""What the papers' networks cost, for `results_reproduction.py`: printed beside counted, and a step on a GPU.

Printed figures are those of `medseg.studies.paper_figures`, counted ones those of `medseg complexity`, times those of
`benchmarks.gpu`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from medseg.studies.complexity import measure
from medseg.studies.complexity_table import FLOPS
from medseg.studies.paper_figures import ROWS, Row

RECORD = "gpu_networks"
FORMATS = ("fp32", "bf16", "bf16 channels-last")
NOT_RUN, UNKNOWN = "not run", "why is not known"
_AT = "the paper's crop and batch"
_PRINTED = ("parameters", "macs")
_HEADS = {"parameters": "parameters, 10^6", "macs": "multiply-adds, 10^9"}
_SCALES = {"parameters": 1e6, "macs": 1e9}


def sources() -> list[str]:
    """Return the tables and figures that print what networks cost."""
    return list(dict.fromkeys(row.source for row in ROWS if row.paper_parameters or row.paper_macs))


def costs(paper: Mapping[str, Any], results: Path, notes: Sequence[Mapping[str, Any]]) -> str:
    """Return the section of a paper: its tables of costs, then what was timed.

    Args:
        paper: of reproduction_notes.yaml.
        results: folder of the records.
        notes: why a count is not the paper's.
    """
    parts = [_source(source, remark, notes) for source, remark in paper.get("costs", {}).items()]
    return "\n\n".join([f"### {paper['studies']}costs", *parts, _timed(paper, results)])


def summary(papers: Sequence[Mapping[str, Any]], results: Path) -> Iterator[tuple[str, str, int, int, str]]:
    """Return the lines of the first table: what, its section, rows, of which run, how.

    Args:
        papers: of reproduction_notes.yaml.
        results: folder of the records.
    """
    record = _record(results)
    for paper in papers:
        section = f"{paper['studies']}costs"
        for source in paper.get("costs", {}):
            rows = len(_counted(source))
            yield f"What networks cost ({source})", section, rows, rows, "counted"
        done = [name for name in paper["measured"] if name in record.get("rows", {})]
        how = f"{_device(record)}, a step" if done else NOT_RUN
        what = f"A training step on a GPU ({paper['title'].split(':')[0]})"
        yield what, section, len(paper["measured"]), len(done), how


def refuse_unplaced(papers: Sequence[Mapping[str, Any]], notes: Mapping[str, Any], results: Path) -> None:
    """Refuse a network that was timed and is of no paper, a printed table that is missing, and a note of nothing.

    Args:
        papers: of reproduction_notes.yaml.
        notes: the whole file.
        results: folder of the records.
    """
    placed = {name for paper in papers for name in paper["measured"]} | set(notes["measured_elsewhere"])
    lost = [name for name in _record(results).get("rows", {}) if name not in placed]
    if lost:
        raise SystemExit(f"{RECORD}.json: no paper of reproduction_notes.yaml has {lost[0]!r} under measured; add it")
    held = {source for paper in papers for source in paper.get("costs", {})}
    if held != set(sources()):
        wrong = sorted(held ^ set(sources()))[0]
        raise SystemExit(f"reproduction_notes.yaml: costs of the papers and paper_figures.py disagree on {wrong!r}")
    rows = {(row.source, row.name) for row in ROWS}
    for note in notes["costs"]:
        for name in note["rows"]:
            if (note["source"], name) not in rows:
                raise SystemExit(f"reproduction_notes.yaml: {note['source']} has no row {name!r}, which a note names")


@cache
def _counted(source: str) -> Sequence[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = measure([row for row in ROWS if row.source == source])["rows"]
    for row in rows:
        if row["errors"]:
            raise SystemExit(f"{row['target']} cannot be counted: {row['errors']}")
    return rows


def _source(source: str, remark: str, notes: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the paper's: each row's figures, printed and counted, and why they differ."""
    rows, asked = _counted(source), {row.name: row for row in ROWS if row.source == source}
    kinds = [kind for kind in _PRINTED if any(getattr(row, f"paper_{kind}") for row in asked.values())]
    flops = any(row.paper_flops for row in asked.values())
    heads = ["row", *(f"{_HEADS[kind]}: {who}" for kind in kinds for who in ("the paper", "here", "less, %"))]
    heads += ['the paper\'s "FLOPs", 10^6'] if flops else []
    lines = [f"| {' | '.join([*heads, 'why'])} |", "| --- |" + " ---: |" * (len(heads) - 1) + " --- |"]
    reasons: dict[str, int] = {}
    for counted in rows:
        row, cells, apart = asked[counted["name"]], [], False
        for kind in kinds:
            told, less = _beside(getattr(row, f"paper_{kind}"), counted[kind] / _SCALES[kind])
            cells += told
            apart |= less
        cells += [row.paper_flops or "-"] if flops else []
        known = [
            f"({reasons.setdefault(_said(note), len(reasons) + 1)})"
            for note in notes
            if apart and note["source"] == source and row.name in note["rows"]
        ]
        cells.append((", ".join(known) or UNKNOWN) if apart else "")
        lines.append(f"| {' | '.join([row.name, *cells])} |")
    about = _about(next(iter(asked.values())), remark, flops=flops)
    return "\n\n".join([about, "\n".join(lines), *(f"({number}) {said}" for said, number in reasons.items())])


def _about(row: Row, remark: str, *, flops: bool) -> str:
    size = f", {' x '.join(map(str, row.size))} pixels" if row.paper_macs else ""
    about = f"**{row.source}**: {row.in_channels} channels in, {row.out_channels} out{size}; {remark}. "
    about += f"`medseg complexity --table {row.table}` counts."
    return about + (f" {FLOPS[0].upper()}{FLOPS[1:]}." if flops else "")


def _beside(printed: str, counted: float) -> tuple[list[str], bool]:
    """Return a printed figure, the count in its digits, by how much they differ, and whether they do."""
    if not printed:
        return ["-", f"{counted:.2f}", "-"], False
    here = f"{counted:.{len(printed.partition('.')[2])}f}"
    if float(here) == float(printed):
        return [printed, here, "0"], False
    return [printed, here, f"{100 * (counted / float(printed) - 1):+.2f}"], True


def _said(note: Mapping[str, Any]) -> str:
    return f"{note['why']}. Rests on: {note['rests_on']}."


def _record(results: Path) -> Mapping[str, Any]:
    path = results / f"{RECORD}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _device(record: Mapping[str, Any]) -> str:
    return str(record["environment"]["gpus"][0]["name"])


def _timed(paper: Mapping[str, Any], results: Path) -> str:
    """Return how long a training step took, and in how much memory."""
    record = _record(results)
    heads = ["network", "pixels, batch", *(f"step, ms: {form}" for form in FORMATS)]
    heads += [f"peak GiB: {form}" for form in FORMATS[::2]]
    lines = [f"| {' | '.join(heads)} |", "| --- | --- |" + " ---: |" * (len(heads) - 2)]
    for name in paper["measured"]:
        lines.append(f"| {' | '.join([name, *_step(record.get('rows', {}).get(name), len(heads) - 1)])} |")
    if not record:
        return "\n".join(lines)
    environment = record["environment"]
    about = [
        f"A training step (forward, backward, Adam) on a batch that is there already, alone on one {_device(record)}, "
        f"at {paper.get('measured_at', _AT)}; no paper prints such times",
        *_minutes(results, record["command"]),
        f"code {environment['git']['commit'][:7]}",
        f"`{record['command']}`, [{RECORD}.json]({RECORD}.json); more in [on a GPU](gpu.md)",
    ]
    return f"{'; '.join(about)}.\n\n" + "\n".join(lines)


def _step(row: Mapping[str, Any] | None, cells: int) -> list[str]:
    if row is None:
        return [NOT_RUN, *[""] * (cells - 1)]
    if "error" in row:
        return [f"failed: {row['error'].splitlines()[0][:80]}", *[""] * (cells - 1)]
    forms = row["formats"]
    found = [f"{' x '.join(map(str, row['size']))}, {row['batch']}"]
    found += [_number(forms.get(form, {}).get("training_step_seconds"), 1e-3) for form in FORMATS]
    return found + [_number(forms.get(form, {}).get("training_peak_bytes"), 2**30) for form in FORMATS[::2]]


def _number(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.1f}"


def _minutes(results: Path, command: str) -> list[str]:
    """Return how long the calls of the same command took together, trainings included."""
    path = results / "gpu_run.json"
    held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if held.get("command") != command:
        return []
    minutes = sum(held["calls_seconds"]) / 60
    return [f"part of {len(held['calls_seconds'])} calls of {minutes:.0f} minutes together, trainings included"]
