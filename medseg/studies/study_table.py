"""The table of a study: mean, interval and spread of each row, by class, and the paired tests between the rows.

Bold stands only where a row is better than every other one and each of those differences holds: by Wilcoxon's
signed-rank test on the groups' means, corrected after Holm for all tests of the table, and on the same side by the
interval of the difference, which draws whole groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg import __version__
from medseg.atomic import atomic_write
from medseg.bundle.evaluation import ALWAYS
from medseg.bundle.metadata import INTENDED_USE
from medseg.errors import counted
from medseg.metrics.intervals import LEAST_GROUPS, LEVEL, MANY_GROUPS, RESAMPLES, ClusterBootstrap, Interval
from medseg.metrics.paired_tests import Pair, compare, holm, least
from medseg.metrics.score_board import ScoreBoard
from medseg.reports.page import Page, Section, Text, write_page
from medseg.reports.score_tables import heading, mean_text
from medseg.reports.tables import Cell, Strong, Table, tables_to_json
from medseg.studies import study_pictures
from medseg.studies.paper_figures import Printed, printed
from medseg.studies.study import Study
from medseg.studies.study_scores import MEAN, Scores

__all__ = ["FILES", "StudyTable"]

FILES = ("table.md", "table.csv", "table.tex", "table.json", "table.html", "tests.csv", "out_of_fold.csv")
"""What `StudyTable.write` writes, beside the pictures that there are of `medseg.studies.study_pictures.PICTURES`."""

_LEFT_OUT = (
    "left out: cases of which one of the two rows has no score (there is no distance of an empty mask, and no Dice of "
    "a class that neither label nor mask has) and the other has one; they do not count, however good or bad it is"
)
_WIDE = 6  # classes up to which each has a column, and tests of its own
_ALWAYS: Mapping[str, Mapping[str, Any]] = {"overlap": {}, **ALWAYS}


@dataclass(frozen=True)
class StudyTable:
    """A study's table.

    Args:
        study: what was asked.
        scores: what came out.
        notes: that cells are mixed, or missing.
        curves: of the trainings, see `medseg.studies.study_pictures.curves_of`.
        replicate: what a case is scored by several of: ``seed``, or ``run``.
        cases_file: name of the file with the scores of each case.
    """

    study: Study
    scores: Scores
    notes: Sequence[str] = ()
    curves: study_pictures.Curves = field(default_factory=dict)
    replicate: str = "seed"
    cases_file: str = "out_of_fold.csv"

    @cached_property
    def pairs(self) -> Mapping[tuple[str, str, str, str], Pair]:
        """The tests, by first row, second row, column and class, corrected for their number."""
        found = {
            (first, second, column, kind): compare(
                self.scores.of_cases(first, column, kind), self.scores.of_cases(second, column, kind),
                self.scores.groups,
            )
            for column in self.scores.columns
            for kind in self._kinds(column)
            for first, second in combinations(self.scores.rows, 2)
        }  # fmt: skip
        corrected = holm([pair.p for pair in found.values()])
        return {key: replace(pair, corrected=p) for (key, pair), p in zip(found.items(), corrected, strict=True)}

    @cached_property
    def printed(self) -> Printed | None:
        """What the paper prints, where the study names its table."""
        return printed(self.study.paper) if self.study.paper else None

    @cached_property
    def _directions(self) -> Mapping[str, int]:
        """1 where more of a column is better, -1 where less is, 0 where neither."""
        board = ScoreBoard(list(self.scores.classes), None, {**_ALWAYS, **self.scores.scored})
        lower = {name for score in board.scores.values() for name in score.lower_is_better}
        signed = {name for score in board.scores.values() for name in score.signed}
        return {name: 0 if name in signed else -1 if name in lower else 1 for name in self.scores.columns}

    @cached_property
    def _intervals(self) -> dict[tuple[str, str, str], Interval | None]:
        return {}

    def interval(self, row: str, column: str, kind: str) -> Interval | None:
        """Return the interval of a mean; it is computed once, for all formats."""
        key = (row, column, kind)
        if key not in self._intervals:
            self._intervals[key] = ClusterBootstrap(self.scores.groups).bca(self.scores.of_cases(*key))
        return self._intervals[key]

    def _kinds(self, column: str, *, all_of_them: bool = False) -> Sequence[str]:
        """Return what of a column is shown: the mean, and each class where there are few; of signed errors classes."""
        classes = self.scores.classes if column in self.scores.by_class else ()
        if self._directions[column] == 0 and len(classes) > 1:  # in whose mean they would cancel
            return classes
        return (MEAN, *(classes if all_of_them or 1 < len(classes) <= _WIDE else ()))

    def stands_out(self, row: str, column: str, kind: str) -> bool:
        """Return whether a row is better than every other, and all these differences hold."""
        sign = self._directions[column]
        others = [other for other in self.scores.rows if other != row]
        for other in others:
            pair = self.pairs.get((other, row, column, kind))
            gain = 1 if pair is not None else -1
            pair = pair or self.pairs[row, other, column, kind]
            if not pair.holds or pair.difference * gain * sign <= 0:
                return False
        return bool(others) and sign != 0

    def main(self) -> Table:
        """Return a row a row, as people read it."""
        return Table.of(
            [self._row(row) for row in self.scores.rows],
            title=self.study.title,
            notes=[*self._said(), *self._uneven(), *self.notes],
        )

    @property
    def _folds(self) -> int:
        return len({case.fold for case in self.scores.cases})

    def _uneven(self) -> list[str]:
        """Say of which columns the rows' means are over different numbers of cases."""
        found = []
        for column in self.scores.columns:
            for kind in self._kinds(column):
                have = {row: (~np.isnan(self.scores.of_cases(row, column, kind))) for row in self.scores.rows}
                if any((first != second).any() for first, second in combinations(have.values(), 2)):
                    numbers = ", ".join(f"{row} {int(there.sum())}" for row, there in have.items())
                    found.append(
                        f"{self._heading(column, kind)} is not of the same cases: of {len(self.scores.cases)} have one "
                        f"{numbers}; a mean leaves out what has none"
                    )
        return found

    def _row(self, row: str) -> dict[str, Cell]:
        line: dict[str, Cell] = {"": row}
        for column in self.scores.columns:
            for kind in self._kinds(column):
                mean = _mean(self.scores.of_cases(row, column, kind))
                text = None if mean is None else mean_text(mean, self.interval(row, column, kind))
                bold = text is not None and self.stands_out(row, column, kind)
                line[self._heading(column, kind)] = Strong(text) if bold else text
                if kind == MEAN:
                    line |= {f"{heading(column)} {name}": value for name, value in self._spread(row, column).items()}
        line |= self._pooled_cells(row)
        if self.printed is not None:
            paper = next((each.paper for each in self.study.rows if each.name == row), "")
            line |= {f"{self.printed.source}: {name}": text for name, text in self.printed.shares(paper).items()}
        return line

    def _heading(self, column: str, kind: str) -> str:
        unit = self.scores.columns[column].removeprefix(column).strip("_")
        return f"{heading(column)}{f' {kind}' if kind else ''}{f', {unit}' if unit else ''}"

    def _spread(self, row: str, column: str) -> dict[str, Cell]:
        """Return the standard deviations over folds and seeds, where there are several."""
        found: dict[str, Cell] = {}
        for name, values in (
            ("SD of folds", self.scores.of_folds(row, column, MEAN)),
            (f"SD of {self.replicate}s", self.scores.of_seeds(row, column, MEAN)),
        ):
            if len(values) > 1:
                found[name] = _deviation(values)
        return found

    def _pooled_cells(self, row: str) -> dict[str, Cell]:
        """Return the scores pooled over all pixels, where the paper's are."""
        if self.printed is None or self.printed.kind != "pooled":
            return {}
        found: dict[str, Cell] = {}
        for column in self.scores.columns:
            for kind in self._kinds(column):
                folds = self.scores.pooled.get((row, column, kind))
                if folds:
                    found[f"pooled {self._heading(column, kind)}"] = math.fsum(folds) / len(folds)
        for column, _ in self.printed.columns:  # what no case has
            folds = self.scores.pooled.get((row, column, MEAN))
            if column not in self.scores.columns and folds:
                found[f"pooled {heading(column)}"] = math.fsum(folds) / len(folds)
        return found

    def tests(self) -> Table:
        """Return a row a pair of rows, column and class, as people read it."""
        rows: list[dict[str, Cell]] = []
        left_out = any(pair.left_out for pair in self.pairs.values())
        for (first, second, column, kind), pair in self.pairs.items():
            text = None if math.isnan(pair.difference) else mean_text(pair.difference, pair.interval)
            line: dict[str, Cell] = {"difference": f"{second} less {first}", "of": self._heading(column, kind)}
            line |= {"mean": Strong(text) if text is not None and pair.holds else text, "cases": pair.cases}
            line |= {"left out": pair.left_out} if left_out else {}
            rows.append(line | {"p": _p(pair.p), "p (Holm)": _p(pair.corrected), "holds": _yes(pair.holds)})
        number = sum(not math.isnan(pair.p) for pair in self.pairs.values())
        groups = ClusterBootstrap(self.scores.groups)
        tested = "cases" if groups.number == len(self.scores.cases) else f"means of {groups.counted()}"
        notes = [
            f"p: Wilcoxon's signed-rank test on the {tested}, two-sided; corrected after Holm for "
            f"{counted(number, 'test')}",
            f"a difference holds where the corrected p is below {1 - LEVEL:.2f} and its interval, which draws whole "
            "groups, is on the same side of 0; of another training neither says anything",
            *([_LEFT_OUT] if left_out else []),
        ]
        smallest = least(groups.number)
        if groups.number and smallest * number >= 1 - LEVEL:
            notes.append(
                f"of {groups.counted()} no p is below {smallest:.3g}, so that none of {counted(number, 'test')} can "
                "hold, whatever the networks do: test fewer differences, or more groups"
            )
        return Table.of(rows, title="differences between the rows", notes=notes)

    def long(self) -> Table:
        """Return a line a row, column and class, with all digits."""
        rows: list[dict[str, Cell]] = []
        for row in self.scores.rows:
            paper = next((each.paper for each in self.study.rows if each.name == row), "")
            for column in self.scores.columns:
                for kind in self._kinds(column, all_of_them=True):
                    rows.append(self._long_line(row, column, kind, paper))
        return Table.of(rows, title=self.study.title, notes=[*self._said(), *self._uneven(), *self.notes])

    def _long_line(self, row: str, column: str, kind: str, paper: str) -> dict[str, Cell]:
        values = self.scores.of_cases(row, column, kind)
        low, high = self.interval(row, column, kind) or (None, None)
        line: dict[str, Cell] = {"row": row, "score": self.scores.columns[column], "class": kind or "(mean)"}
        line |= {"cases": int((~np.isnan(values)).sum()), "mean": _mean(values), "low": low, "high": high}
        line |= {"sd_folds": _deviation(self.scores.of_folds(row, column, kind))}
        line |= {f"sd_{self.replicate}s": _deviation(self.scores.of_seeds(row, column, kind))}
        folds = np.array(self.scores.pooled.get((row, column, kind), []))
        line |= {"pooled": _mean(folds), "pooled_sd_folds": _deviation(folds)}
        if self.printed is not None:
            line |= {"paper": self.printed.source, "printed": self.printed.share(paper, column, kind)}
        return line

    def long_tests(self) -> Table:
        """Return a line a test, with all digits."""
        rows: list[dict[str, Cell]] = []
        for (first, second, column, kind), pair in self.pairs.items():
            low, high = pair.interval or (None, None)
            line: dict[str, Cell] = {"first": first, "second": second, "score": self.scores.columns[column]}
            line |= {"class": kind or "(mean)", "cases": pair.cases, "left_out": pair.left_out}
            line |= {"difference": pair.difference}
            line |= {"low": low, "high": high, "p": pair.p, "p_holm": pair.corrected, "holds": _yes(pair.holds)}
            rows.append(line)
        return Table.of(rows, title="differences between the rows", notes=self.tests().notes)

    def out_of_fold(self) -> Table:
        """Return a line a case, row, seed (or run) and class: what each case scored where it was held out."""
        rows: list[dict[str, Cell]] = []
        for row in self.scores.rows:
            for number, seed in enumerate(self.scores.seeds):
                for place, case in enumerate(self.scores.cases):
                    start: dict[str, Cell] = {"row": row, self.replicate: seed, "fold": case.fold, "case": case.name}
                    start |= {"group": case.group}
                    for kind in (MEAN, *self.scores.classes):
                        held = {
                            unit: self.scores.values[row, column, kind][number, place]
                            for column, unit in self.scores.columns.items()
                            if (row, column, kind) in self.scores.values
                            and (kind != MEAN or MEAN in self._kinds(column))
                        }
                        rows.append({**start, "class": kind or "(mean)", **{k: float(v) for k, v in held.items()}})
        return Table.of(rows)

    def _said(self) -> list[str]:
        """Return what a reader must know of the numbers."""
        scores, groups = self.scores, ClusterBootstrap(self.scores.groups)
        over = f"mean over {counted(len(scores.cases), 'case')} of {scores.labelled}"
        seeds = (
            f"; a case's score is its mean over {len(scores.seeds)} {self.replicate}s" if len(scores.seeds) > 1 else ""
        )
        held_out = "each scored once, in the fold that held it out"
        if scores.cases and scores.cases[0].fold is None:
            held_out = f"those of the {self.study.scored} list"
        if self.study.scored == "validation":
            held_out += " (which picked the weights, and so flatters them)"
        few = "; of so few it is narrower than it says, see docs/how-to/scores.md" * (groups.number < MANY_GROUPS)
        interval = (
            f"[95 % interval: BCa bootstrap, {RESAMPLES:,} draws of {groups.counted()}{few}]"
            if groups.number >= LEAST_GROUPS
            else f"(no intervals: {groups.counted()}, {LEAST_GROUPS} are the least)"
        )
        lines = [f"{over}, {held_out}{seeds} {interval}", f"classes that count: {', '.join(scores.classes)}"]
        if scores.torn:
            why = self.study.divides_groups
            lines.append(
                f"{counted(len(scores.torn), 'group')} of {self.study.fold_key} lie in several folds, such as "
                f"{scores.torn[0]}: networks saw cases of the groups that they are scored on, which flatters them"
                + (f" (why: {why})" if why else "")
            )
        for row, said in scores.unlearned.items():
            trainings = f"{len(said)} of its {counted(len(scores.seeds) * self._folds, 'training')}"
            lines.append(f"{row} has learned nothing in {trainings}, so that its scores say little of it: {said[0]}")
        if len(scores.rows) > 1:
            lines.append("bold (in plain text *): better than every other row, and each of these differences holds")
        if self.printed is not None:
            lines += [each for each in (self.printed.other_data(scores.data),) if each]
            lines.append(
                f"{self.printed.source}: printed {self.printed.note}{self.printed.unit and '; here shares of 1'}"
            )
            if self.printed.kind == "pooled":
                lines.append("pooled: over all pixels of a fold, mean over folds and seeds, as the paper's figures are")
        return lines

    def write(self, folder: Path) -> list[Path]:
        """Write the table in every format, and the scores of each case; returns the files.

        Args:
            folder: of the study.
        """
        main, tests = self.main(), self.tests()
        both = [main, tests] if self.pairs else [main]
        texts = {
            "table.md": "\n".join(table.to_markdown() for table in both),
            "table.csv": self.long().to_csv(),
            "table.tex": "\n".join(table.to_latex() for table in both),
            "table.json": tables_to_json([self.long(), self.long_tests()]),
            "tests.csv": self.long_tests().to_csv(),
            self.cases_file: self.out_of_fold().to_csv(),
        }
        for name, text in texts.items():
            with atomic_write(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        items: list[Any] = [Text(self.study.about)] if self.study.about else []
        sections = [Section("rows", "Rows", [*items, main])]
        if self.pairs:
            sections.append(Section("differences", "Differences", [tests]))
        means = {column: self._heading(column, MEAN) for column in self.scores.columns if MEAN in self._kinds(column)}
        drawn = study_pictures.pictures(self.scores, self.pairs, means, self.curves)
        study_pictures.write(drawn, folder)
        sections.append(Section("pictures", "Cases and trainings", study_pictures.items(drawn, self.pairs)))
        use = f"{INTENDED_USE}."
        page = Page(
            self.study.title, f"{len(self.scores.rows)} rows", use, sections, f"Written by medseg {__version__}."
        )
        write_page(page, folder / "table.html")
        return [folder / name for name in (*texts, "table.html", *drawn)]


def _mean(values: NDArray[np.float64]) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def _deviation(values: NDArray[np.float64]) -> float | None:
    """Return the standard deviation of a sample; ``None`` of fewer than two."""
    there = values[~np.isnan(values)]
    return float(there.std(ddof=1)) if len(there) > 1 else None


def _p(value: float) -> str | None:
    if math.isnan(value):
        return None
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
