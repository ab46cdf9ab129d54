"""The page of what the papers print beside what was run here, for `make_results.py`.

Rows and printed figures are those of `medseg.studies.papers` and `medseg.studies.paper_figures`, runs those of
`reproduction_runs.py`, costs those of `reproduction_costs.py`; what is known of a gap stands in
reproduction_notes.yaml, with what it rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, NamedTuple

import yaml
from reproduction_costs import NOT_RUN, UNKNOWN, costs, refuse_unplaced
from reproduction_costs import summary as costs_summary
from reproduction_runs import Found, Run, Value, runs_of

from medseg.studies.paper_figures import Printed, printed
from medseg.studies.study import Study, StudyRow, read_study, shipped

NOTES = Path(__file__).with_name("reproduction_notes.yaml")
_NOTE = {"record", "study", "row", "variant", "side", "why", "rests_on"}
_SIDES = (None, "below", "above")


class Gap(NamedTuple):
    """By how much a run is not what the paper prints.

    Args:
        of: heading of the column.
        less: ours less the paper's, in the paper's unit.
        digits: of it to show.
        spread: as it is told.
    """

    of: str
    less: float
    digits: int
    spread: str

    @property
    def side(self) -> str:
        """Where ours lies."""
        return "above" if self.less > 0 else "below"


def reproduction(results: Path) -> str:
    """Return the page without its heading: each table and figure of each paper, run or not.

    Args:
        results: folder of the records.
    """
    notes = yaml.safe_load(NOTES.read_text(encoding="utf-8"))
    studies = [read_study(name) for paper in notes["papers"] for name in shipped() if name.startswith(paper["studies"])]
    runs = list(runs_of(results, studies))
    _refuse_idle(notes, runs)
    refuse_unplaced(notes["papers"], notes, results)
    parts = [_summary(studies, runs, list(costs_summary(notes["papers"], results)))]
    for paper in notes["papers"]:
        parts.append(f"## {paper['title']}\n\n[{paper['link']}]({paper['link']})")
        for study in studies:
            if study.name.startswith(paper["studies"]):
                parts.append(_section(study, [run for run in runs if run.study == study.name], notes["gaps"]))
        parts += [costs(paper, results, notes["costs"]), _figures(paper)]
    return "\n\n".join(parts)


def _refuse_idle(notes: Mapping[str, Any], runs: Sequence[Run]) -> None:
    """Refuse a note that is not understood, or whose record is there but has no row that it speaks of."""
    for note in notes["gaps"]:
        if set(note) - _NOTE or note.get("side") not in _SIDES:
            wrong = sorted(set(note) - _NOTE) or [f"side: {note['side']}"]
            known = f"known: {', '.join(sorted(_NOTE))}"
            raise SystemExit(f"{NOTES.name}: a note of {note['record']} has {wrong[0]}; {known}")
        held = [found for run in runs if run.record == note["record"] for found in run.found]
        if held and not any(_speaks(note, run, f) for run in runs for f in run.found if run.record == note["record"]):
            raise SystemExit(f"{NOTES.name}: nothing in {note['record']} is what a note speaks of: {note['why'][:60]}")


def _summary(studies: Sequence[Study], runs: Sequence[Run], more: Sequence[tuple[str, str, int, int, str]]) -> str:
    """Return how much was run, a line a study, then what networks cost."""
    lines = ["| table | rows | of which run | runs |", "| --- | ---: | ---: | --- |"]
    for study in studies:
        mine = [run for run in runs if run.study == study.name]
        tried = {found.row for run in mine for found in run.found}
        records = "; ".join(dict.fromkeys(run.short for run in mine)) or NOT_RUN
        lines.append(f"| [{study.title}](#{study.name}) | {len(study.rows)} | {len(tried)} | {records} |")
    lines += [f"| [{what}](#{section}) | {rows} | {done} | {how} |" for what, section, rows, done, how in more]
    return "\n".join(lines)


def _section(study: Study, runs: Sequence[Run], notes: Sequence[Mapping[str, Any]]) -> str:
    paper = printed(study.paper)
    bundle = study.rows[0].bundle
    about = [f"### {study.name}", f"**{study.title}**", study.about]
    about.append(
        f"All rows: `medseg study run {study.name} --data DIR -o studies/{study.name}`; one: `medseg train {bundle} "
        f"--data DIR` with the row's `--with`. Printed ({paper.source}): {paper.note}."
    )
    return "\n\n".join(filter(None, [*about, _rows(study, paper, runs), *_told(runs), _gaps(paper, runs, notes)]))


def _rows(study: Study, paper: Printed, runs: Sequence[Run]) -> str:
    """Return the table: each row as printed, then by each run."""
    heads = list(paper.cells(""))
    lines = [f"| {' | '.join(['row', 'by', *heads])} |", "| --- | --- |" + " ---: |" * len(heads)]
    for row in study.rows:
        figures = [figure or "-" for figure in paper.cells(row.paper).values()]
        lines.append(_line(_called(row), "the paper", figures))
        held = [(letter, run, f) for letter, run in _lettered(runs) for f in run.found if f.row == row.name]
        lines += [_line("", _by(letter, found), _cells(paper, run, found)) for letter, run, found in held]
        if not held:
            lines.append(_line("", NOT_RUN, [""] * len(heads)))
    return "\n".join(lines)


def _line(*cells: Any) -> str:
    first, second, rest = cells
    return f"| {' | '.join([first, second, *rest])} |"


def _called(row: StudyRow) -> str:
    words = " ".join(row.overlays)
    scored = f", scored with `{' '.join(row.score_with)}`" if row.score_with else ""
    scored += f" and `{row.score_set}`" if row.score_set else ""
    return f"{row.name}{f' (`--with {words}`)' if words else ''}{scored}"


def _lettered(runs: Sequence[Run]) -> Iterator[tuple[str, Run]]:
    yield from zip(ascii_uppercase, runs, strict=False)


def _by(letter: str, found: Found) -> str:
    return f"{letter}{f', {found.variant}' if found.variant else ''}"


def _cells(paper: Printed, run: Run, found: Found) -> list[str]:
    cells = []
    for column in paper.columns:
        value = found.values.get(column)
        said = "-" if value is None else _text(value, paper.unit)
        fewer = value is not None and not column[1] and run.classes and _kinds(paper) - set(run.classes)
        cells.append(f"{said} (of {len(run.classes)} classes)" if fewer else said)
    return cells


def _kinds(paper: Printed) -> set[str]:
    return {kind for _, kind in paper.columns if kind}


def _text(value: Value, unit: str) -> str:
    scale, digits = (100, 1) if unit else (1, 3)
    text = f"{scale * value.mean:.{digits}f}"
    if value.spread is not None:
        text += f" ± {scale * value.spread:.{digits}f}"
    if value.interval is not None:
        low, high = (f"{scale * end:.{digits}f}" for end in value.interval)
        text += f" \\[{low}, {high}\\]"
    return text


def _told(runs: Sequence[Run]) -> list[str]:
    """Return what each run was: budget, hardware, folds, what its figures are."""
    if not runs:
        return []
    return ["\n".join(f"- **{letter}**: {run.about}" for letter, run in _lettered(runs))]


def _gaps(paper: Printed, runs: Sequence[Run], notes: Sequence[Mapping[str, Any]]) -> str:
    """Return the gaps that are larger than the spread, with what is known of each."""
    lines: list[str] = []
    reasons: dict[str, int] = {}
    for letter, run in _lettered(runs):
        for found in run.found:
            for column in _compared(paper, run):
                gap = _gap(paper, run, found, column)
                if gap is not None:
                    why = [reasons.setdefault(each, len(reasons) + 1) for each in _reasons(notes, run, found, gap)]
                    known = ", ".join(f"({number})" for number in why) or UNKNOWN
                    cells = [found.row, _by(letter, found), gap.of, f"{gap.less:+.{gap.digits}f}", gap.spread, known]
                    lines.append(f"| {' | '.join(cells)} |")
    if not lines:
        return "No gap is larger than the spread." if runs else ""
    heads = "| row | run | of | ours less the paper's | spread | why |"
    said = [f"({number}) {reason}" for reason, number in reasons.items()]
    return "\n\n".join(["\n".join([heads, "| --- | --- | --- | ---: | ---: | --- |", *lines]), *said])


def _compared(paper: Printed, run: Run) -> list[tuple[str, str]]:
    """Return the columns that are the same thing in both: no mean over other classes than the paper's."""
    if _kinds(paper) - set(run.classes) and _kinds(paper):
        return [column for column in paper.columns if column[1] in run.classes and column[1] not in run.other]
    return [column for column in paper.columns if not column[1]]


def _gap(paper: Printed, run: Run, found: Found, column: tuple[str, str]) -> Gap | None:
    """Return a gap; ``None`` where there is none to speak of."""
    ours, theirs = found.values.get(column), paper.value(found.paper, *column)
    if ours is None or theirs is None:
        return None
    scale, digits = (100, 1) if paper.unit else (1, 3)
    less, spread = scale * ours.mean - float(theirs), ours.spread if ours.spread is not None else run.repeat(column)
    if spread is not None and abs(less) <= scale * spread:
        return None
    told = "none: one training" if spread is None else f"{scale * spread:.{digits}f}"
    heading = list(paper.cells(""))[list(paper.columns).index(column)]
    return Gap(heading, less, digits, told)


def _speaks(note: Mapping[str, Any], run: Run, found: Found) -> bool:
    """Return whether a note is of this row: of its record, study, network and variant, as far as it names them."""
    asked = {"study": run.study, "variant": found.variant, "row": found.row}
    return note["record"] == run.record and all(value == note.get(key, value) for key, value in asked.items())


def _reasons(notes: Sequence[Mapping[str, Any]], run: Run, found: Found, gap: Gap) -> list[str]:
    mine = (note for note in notes if _speaks(note, run, found) and note.get("side", gap.side) == gap.side)
    return [f"{note['why']}. Rests on: {note['rests_on']}." for note in mine]


def _figures(paper: Mapping[str, Any]) -> str:
    """Return the paper's figures, and how each is made here."""
    lines = ["| figure | shows | here |", "| --- | --- | --- |"]
    lines += [f"| {each['number']} | {each['shows']} | {each['here']} |" for each in paper["figures"]]
    return "\n".join(lines)
