"""What the report of a run or an evaluation says, in the order in which a clinician asks it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.datalist import Datalist
from medseg.engines.prediction_checks import learned_nothing
from medseg.errors import counted, few
from medseg.reports.drawings import agreement, palette_of, reliability
from medseg.reports.page import Facts, Item, Legend, Picture, Section, Sortable, Text
from medseg.reports.palette import WRONG, Colour, class_palette, mean_dice_name, object_indices
from medseg.reports.score_tables import mean_text, meanings, score_tables
from medseg.reports.slices import FILE, Slices, load_slices
from medseg.reports.summary import scored_folder
from medseg.reports.tables import Table
from medseg.reports.viewer import Viewer, make_viewer
from medseg.runs.report import COMPARED, PER_CASE, read_compared, read_rows
from medseg.runs.run_folder import METRICS, config_of
from medseg.studies.case_scores import CaseScores, all_alike, cases_of, table_of
from medseg.studies.report_data import data_section
from medseg.studies.report_origin import asked, reservations, versions

__all__ = ["Scored", "legend", "sections", "slices_of", "viewer"]

_MOST_BYTES = 2_800_000  # of all pictures of cases
_FIRST = 10  # cases of the ranking
_WHERE = (
    "Uncertainty is the mean entropy of the network's probabilities (0 certain, 1 all classes alike) where the "
    "background has a probability below 0.95, on the grid of the labels, before postprocessing. It needs no truth and "
    "ranks the cases of one model; it is no probability of an error."
)


@dataclass(frozen=True)
class Scored:
    """An evaluation as it lies in a folder.

    Args:
        folder: of the evaluation.
        run: folder of the training; ``None`` where it is not known.
        keep_identifiers: call cases by their names.
    """

    folder: Path
    run: Path | None
    keep_identifiers: bool

    @cached_property
    def scores(self) -> dict[str, Any]:
        """What ``scores.json`` holds."""
        return dict(read_json(self.folder / "scores.json"))

    @cached_property
    def record(self) -> dict[str, Any]:
        """What ``evaluation.json`` holds; nothing where there is none."""
        return read_json(self.folder / "evaluation.json")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration of the training, or else of the evaluation."""
        places = [folder for folder in (self.run, self.folder) if folder is not None]
        return next(filter(None, map(config_of, places)), {})

    @cached_property
    def names(self) -> list[str]:
        """Names of the classes."""
        return [row["name"] for row in self.scores["classes"]]

    @cached_property
    def objects(self) -> list[str]:
        """Names of the classes without the background; all, where there is none."""
        return [self.names[index] for index in object_indices(self.names)]

    @cached_property
    def mean_dice(self) -> str:
        """What the mean Dice of a case is called: it leaves out the background, where there is one."""
        return mean_dice_name(self.names)

    @cached_property
    def palette(self) -> list[Colour | None]:
        """A colour a class."""
        model = self.config.get("model")
        named = model.get("colours") if isinstance(model, Mapping) else None
        return class_palette(self.names, named)

    @cached_property
    def cases(self) -> list[CaseScores]:
        """The cases."""
        path = self.folder / PER_CASE
        rows = read_rows(path) if path.is_file() else []
        further = [key for key in (rows[0] if rows else ()) if key.split("_")[0] in ("hd95", "assd", "nsd")]
        return cases_of(rows, self.objects, further)

    @cached_property
    def called(self) -> list[str]:
        """What each case is called in the report."""
        return [case.name if self.keep_identifiers else f"case {case.number}" for case in self.cases]

    @cached_property
    def compared(self) -> tuple[list[Table], str | None]:
        """The evaluation beside what needs no network, and what is to be warned of."""
        return ([], None) if self.run is None else read_compared(self.run, self.folder)

    @property
    def pictures(self) -> bool:
        """Whether the cases are pictures, whose classes have no volumes: their sizes are in pixels."""
        return bool(self.cases) and all(case.unit == "pixels" for case in self.cases)

    @cached_property
    def split(self) -> str:
        """What was scored, in a word."""
        return str(self.record.get("data", {}).get("split") or "validation")


def sections(folder: Path, data: Datalist | Path | None, *, keep_identifiers: bool) -> tuple[str, str, list[Section]]:
    """Return title, subtitle and sections of the report.

    Args:
        folder: of a run or an evaluation.
        data: see `medseg.studies.report.make_report`.
        keep_identifiers: likewise.

    Raises:
        MedsegError: if there are no scores.
    """
    place = scored_folder(folder)
    run = next((each for each in (folder, place.parent) if (each / METRICS).is_file()), None)
    held = Scored(place, run, keep_identifiers)
    title = f"Segmentation of {', '.join(held.objects)}"
    name = held.record.get("data", {}).get("name")
    subtitle = f"{name or 'a data set'}: {counted(len(held.cases), 'case')} ({held.split})"
    return title, subtitle, [
        Section("summary", "In short", list(_summary(held))),
        Section("asked", "What was asked", [Facts(asked(held.run, held.record, held.config, held.objects))]),
        data_section(
            held.run, data, scored=held.record.get("data", {}).get("fingerprint"), keep_identifiers=keep_identifiers
        ),
        Section("training", "Training", list(_training(held))),
        Section("scores", "Scores by class", list(_scores(held))),
        Section("cases", "Every case", list(_every_case(held))),
        Section("pictures", "The worst and the best cases", list(_pictures(held))),
        Section("volumes", "Sizes" if held.pictures else "Volumes", list(_volumes(held))),
        Section("look", "What to look at first", list(_ranking(held))),
        Section("calibration", "Calibration", list(_calibration(held))),
        Section("origin", "Versions and hashes", list(versions(held.run, held.folder, held.record))),
    ]  # fmt: skip


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file holds; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _summary(held: Scored) -> Iterator[Item]:
    per_case = held.scores.get("per_case", {})
    rows = [row for row in per_case.get("classes", ()) if row["name"] in held.objects]
    facts = []
    for row in rows:
        if row.get("dice") is not None:
            facts.append((f"Dice, {row['name']}", _worded(mean_text(row["dice"], row["interval"].get("dice"), 2))))
    there = [case for case in held.cases if not math.isnan(case.mean)]
    if there:
        worst = min(there, key=lambda case: case.mean)
        facts.append(("lowest case", f"{held.called[worst.number - 1]}, {held.mean_dice} {worst.mean:.2f}"))
    missed = sum(row.get("missed", 0) for row in rows)
    invented = sum(row.get("invented", 0) for row in rows)
    facts.append(("not found at all", f"{counted(missed, 'structure')} that the truth has"))
    facts.append(("found where none is", f"{counted(invented, 'structure')}"))
    yield Facts(facts)
    yield Text(
        "Dice is the overlap of what was found with the truth: 1 is the same, 0 is nothing in common. It is given as "
        "the mean over the cases with its 95 % interval, which says how far the mean may be off for want of cases, not "
        "how far a single case may be.",
        "note",
    )
    if (nothing := learned_nothing(held.scores)) is not None:
        yield Text(f"{nothing[0].upper()}{nothing[1:]}.", "warning")
    if (verdict := held.compared[1]) is not None:
        yield Text(f"{verdict[0].upper()}{verdict[1:]}.", "warning")
    yield from (Text(line, "warning") for line in reservations(held.run, held.record, held.split))
    if per_case.get("cases", 0) and not any(row["interval"].get("dice") for row in rows):
        yield Text("There are too few cases for intervals: the means may be far off.", "warning")


def _worded(text: str) -> str:
    return text.replace("[", "(95 % interval ").replace(", ", " to ").replace("]", ")")


def _training(held: Scored) -> Iterator[Item]:
    path = None if held.run is None else held.run / METRICS
    if path is None or not path.is_file():
        return
    from medseg.errors import MedsegError
    from medseg.reports.curves import curves_picture

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    kept = [{key: value for key, value in row.items() if isinstance(value, int | float)} for row in rows]
    try:
        picture = curves_picture(kept, colours=palette_of(held.names, held.palette))
    except MedsegError:  # epochs without anything to draw
        return
    yield Picture(picture, "Loss, learning rate and validation scores over the epochs of the training")
    yield Text("A loss that still falls at the end says that the training was short.", "note")


def _scores(held: Scored) -> Iterator[Item]:
    tables = score_tables(held.scores)
    yield from (*tables[1:], tables[0]) if "per_case" in held.scores else tables
    yield from (Text(line, "note") for line in meanings(held.scores))
    compared, _ = held.compared
    if compared:
        yield Text("Beside what needs no network, on the same images:")
        yield from compared
    elif held.run is not None and (held.run / COMPARED).is_file():
        yield Text("What needs no network was set beside the scores that the training ended with, not these.", "note")


def _every_case(held: Scored) -> Iterator[Item]:
    if not held.cases:
        return
    over = "" if held.objects == held.names else f" The mean Dice of a case is over {few(held.objects)}."
    yield Text(
        f"The lowest first; press a heading to sort.{over}"
        + ("" if held.keep_identifiers else f" Case n is the nth case of {PER_CASE}, beside the run.")
    )
    yield Sortable(table_of(held.cases, held.objects, held.called, held.mean_dice))


def _pictures(held: Scored) -> Iterator[Item]:
    if not (held.folder / FILE).is_file():
        yield Text("The evaluation kept no pictures; score the run again: medseg evaluate RUN", "note")
        return
    kept = sorted(slices_of(held), key=lambda pair: math.inf if pair[1] is None else pair[1].mean)
    yield legend(held)
    for case, row in kept:
        yield viewer(held, case, row, most_bytes=_MOST_BYTES // len(kept))


def legend(held: Scored) -> Legend:
    """Return the colours of the classes, and of what is wrong."""
    entries = [(name, colour) for name, colour in zip(held.names, held.palette, strict=True) if colour is not None]
    return Legend([*entries, ("wrong, in the picture of the error", WRONG)])


def viewer(held: Scored, case: Slices, row: CaseScores | None, *, most_bytes: int, where: str = "") -> Viewer:
    """Return a case to leaf through.

    Args:
        held: its evaluation.
        case: its slices.
        row: its scores, where they are known.
        most_bytes: that its pictures may take.
        where: what is said behind its name.
    """
    ignored = held.scores.get("ignore_index")
    called = "a case" if row is None else held.called[row.number - 1]
    dice = "" if row is None else "".join(f", {name} {value:.2f}" for name, value in row.dice.items())
    return make_viewer(
        case, held.palette, title=f"{called}{where}{f': Dice{dice[1:]}' if dice else ''}",
        ignore_index=ignored if isinstance(ignored, int) else None, most_bytes=most_bytes,
    )  # fmt: skip


def slices_of(held: Scored) -> list[tuple[Slices, CaseScores | None]]:
    """Return the cases whose slices an evaluation kept, its worst and best, with their scores; none where it has none.

    Args:
        held: the evaluation.
    """
    known = {case.name: case for case in held.cases}
    kept = load_slices(held.folder / FILE) if (held.folder / FILE).is_file() else []
    return [(case, known.get(case.name)) for case in kept]


def _volumes(held: Scored) -> Iterator[Item]:
    pairs = {
        name: [case.volumes[name] for case in held.cases if any(case.volumes.get(name, ()))] for name in held.objects
    }
    pairs = {name: each for name, each in pairs.items() if each}
    if not pairs:
        return
    unit = held.cases[0].unit
    if len({case.unit for case in held.cases}) > 1:
        yield Text("Of some cases the size of a voxel is not known: volumes cannot be compared.", "note")
        return
    digits = 0 if unit == "pixels" else 3
    yield Table(
        [
            "class",
            "cases",
            f"true, mean ({unit})",
            f"found, mean ({unit})",
            f"found less true, mean ({unit})",
            f"95 % of differences ({unit})",
        ],
        [[name, len(each), *_volume_row(np.array(each), digits)] for name, each in pairs.items()],
        notes=[
            "95 % of differences: mean difference and 1.96 standard deviations to both sides (Bland and Altman 1986)."
        ],
        digits=digits,
    )
    colours, what = palette_of(held.names, held.palette), "size" if held.pictures else "volume"
    yield Picture(agreement(pairs, unit, colours), f"Found against true {what}, and their difference, a point a case")


def _volume_row(pairs: np.ndarray[Any, Any], digits: int) -> list[Any]:
    difference = pairs[:, 1] - pairs[:, 0]
    limits: str | None = None
    if len(pairs) > 2:
        reach = 1.96 * float(difference.std(ddof=1))
        limits = f"{difference.mean() - reach:+.{digits}f} to {difference.mean() + reach:+.{digits}f}"
    return [float(pairs[:, 0].mean()), float(pairs[:, 1].mean()), float(difference.mean()), limits]


def _ranking(held: Scored) -> Iterator[Item]:
    known = [case for case in held.cases if not math.isnan(case.uncertainty)]
    if not known:
        yield Text("No uncertainty was computed; score the run again: medseg evaluate RUN", "note")
        return
    if (alike := all_alike([case.uncertainty for case in known])) is not None:
        yield Text(alike)
        return
    first = sorted(known, key=lambda case: -case.uncertainty)[:_FIRST]
    rows = [
        {
            "place": n,
            "case": held.called[case.number - 1],
            "uncertainty": case.uncertainty,
            held.mean_dice: None if math.isnan(case.mean) else case.mean,
        }
        for n, case in enumerate(first, 1)
    ]
    yield Table.of(rows, notes=[_WHERE])
    yield from _rank_says(known, held.mean_dice)


def _rank_says(cases: Sequence[CaseScores], mean_dice: str) -> Iterator[Item]:
    from scipy.stats import spearmanr

    pairs = [(case.uncertainty, case.mean) for case in cases if not math.isnan(case.mean)]
    unsure, dice = (set(column) for column in zip(*pairs, strict=True)) if pairs else (set(), set())
    if len(pairs) < 10 or len(unsure) < 2 or len(dice) < 2:
        return
    found = spearmanr(*zip(*pairs, strict=True))
    weak = "finds few of the bad cases" if found.statistic < -0.2 else "does not find the bad cases"
    said = "finds the bad cases" if found.statistic < -0.5 else weak
    yield Text(
        f"On these {len(pairs)} cases the ranking {said}: rank correlation of uncertainty and {mean_dice} "
        f"{found.statistic:.2f} (-1: the most unsure case is the worst; 0: it says nothing)."
    )


def _calibration(held: Scored) -> Iterator[Item]:
    details = held.scores.get("calibration")
    if not details or "classwise_error" not in details:
        yield Text("How sure the model is was not scored in full; score the run again: medseg evaluate RUN", "note")
        return
    rows = []
    for row in details["classes"]:
        total = sum(row["pixels"])
        sure, right = (
            sum(n * (p or 0) for n, p in zip(row["pixels"], row[key], strict=True)) / total if total else None
            for key in ("probability", "right")
        )
        rows.append([row["name"], total, sure, right, row["error"], row["classwise"]["error"]])
    yield Table(
        ["class found", "pixels", "mean probability", "share that is right", "calibration error", "class-wise error"],
        rows,
        notes=[
            "Where the probability is above the share that is right, the model is surer than it should be. The "
            f"calibration error is the mean distance of the two in {details['bins']} bins, weighted by their pixels "
            "(expected calibration error); over all pixels it is "
            f"{details['error']:.4f}. The class-wise error is that of the class's probability in every pixel, found "
            f"there or not; its mean over the classes is {details['classwise_error']:.4f}."
        ],
    )
    colours = palette_of(held.names, held.palette)
    yield Picture(
        reliability(details, held.objects, colours),
        "Share that is right against the probability, and pixels of each bin",
    )
