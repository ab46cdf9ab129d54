"""The report of a comparison of networks: one HTML file for who asked which network is best on these images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medseg import __version__
from medseg.bundle.metadata import INTENDED_USE
from medseg.errors import counted, few
from medseg.reports.page import Facts, Item, Page, Section, Text, write_page
from medseg.reports.summary import HTML
from medseg.reports.tables import Cell, Table
from medseg.runs.privacy import scrub
from medseg.studies.network_result import MODEL, VALIDATION, Compared
from medseg.studies.report_data import data_section
from medseg.studies.report_origin import versions
from medseg.studies.report_run import Scored, legend, slices_of, viewer
from medseg.studies.study import StudyRow

__all__ = ["write_report"]

_SHOWN = 3  # of the worst and of the best cases
_MOST_BYTES = 2_800_000  # of all pictures
_ANEW = (
    "Who went on was trained anew, longer, not continued: the learning rate of a plan falls to zero when its minutes "
    "end, so that a training that has ended has nothing left to go on with, and one that has not is judged too early."
)
_CHOSE = "The rungs chose with cases that are scored again below: that flatters who went on."
_FLATTERS = (
    "The first of several is first by luck, too: its mean flatters it a little. Images that no network of this "
    "comparison has seen say what it is worth."
)


def write_report(found: Compared, *, pictures: bool = True) -> Path:
    """Write the report of a comparison.

    Args:
        found: what came out.
        pictures: whether cases are shown.

    Returns:
        The file.
    """
    cells = found.cells(found.winner)
    held = {fold: Scored(run / found.table.study.scored, run, keep_identifiers=False) for fold, run in cells.items()}
    first = next(iter(held.values()))
    tables = [found.table.main(), *([found.table.tests()] if found.table.pairs else [])]
    cases = f"The worst and the best cases of {found.winner}"
    sections = [
        Section("result", "Which network is best", list(_result(found))),
        Section("asked", "What was asked", [Facts(_asked(found))]),
        data_section(None, found.data, keep_identifiers=False),
        Section("networks", "The networks as they were planned", list(_networks(found))),
        Section("rungs", "The rungs", list(_rungs(found))),
        Section("validation", "Cross-validation", tables),
        Section("pictures", cases, list(_pictures(held)) if pictures else []),
        Section("use", "Use it", list(_use(found))),
        Section("origin", "Versions and hashes", list(versions(first.run, first.folder, first.record))),
    ]  # fmt: skip
    number = counted(len(found.table.scores.cases), "case")
    subtitle = f"{found.data.name}: {number}, {counted(found.asked.minutes, 'minute')}"
    use = f"{INTENDED_USE}. It is no medical device; whoever treats a patient looks at the images."
    made = f"Written by medseg {__version__} on {time.strftime('%Y-%m-%d %H:%M')}. This file loads nothing: it can be "
    foot = f"{made}sent and kept. Cases are numbered, not named."
    return write_page(Page("Which network is best", subtitle, use, sections, foot), found.folder / HTML)


def _result(found: Compared) -> Iterator[Item]:
    yield Text(found.verdict)
    yield found.ranking()
    if found.rungs or len(found.places) > 1:
        yield Text(f"{_CHOSE} {_FLATTERS}" if found.rungs else _FLATTERS, "note")
    doubts = found.record.plans[found.winner]["doubts"]
    yield from (Text(f"{found.winner}: {doubt}", "warning") for doubt in doubts)


def _asked(found: Compared) -> list[tuple[str, str]]:
    asked, record = found.asked, found.record
    took = found.record.took or 0.0
    facts = [
        ("question", "Which network is best on these images in the minutes at hand?"),
        ("minutes", f"{asked.minutes:g} for all of it; it took {took:.1f}"),
        ("networks", ", ".join(asked.networks) if asked.networks else f"medseg's: {', '.join(record.plans)}"),
        ("memory", f"{record.memory / 2**30:.2f} GiB for a training step of each"),
        ("at a time", counted(asked.workers, "training")),
        ("ranked by", "mean Dice of a case over its classes, in the fold that was not trained on"),
    ]
    for number, stage in enumerate(record.stages, 1):
        what = "cross-validation" if stage["final"] else f"rung {number}"
        size = f"{counted(len(stage['networks']), 'network')}, fold {few(stage['folds'], 10)}"
        facts.append((what, f"{size}, {counted(stage['minutes'], 'minute')} each; it took {stage['took']:.1f}"))
    if asked.settings:
        facts.append(("changed", ", ".join(f"{key}={value}" for key, value in asked.settings.items())))
    return [(name, scrub(text)) for name, text in facts]


def _networks(found: Compared) -> Iterator[Item]:
    rows: list[dict[str, Cell]] = []
    for name, plan in found.record.plans.items():
        row: dict[str, Cell] = {"network": name, "patch": _times(plan["patch"]), "batch": plan["batch"]}
        row["channels"] = "its own" if plan["channels"] is None else ", ".join(map(str, plan["channels"]))
        row |= {"GMAC a patch": plan["macs"] / 1e9, "s a step": plan["seconds"], "GiB": plan["gib"]}
        rows.append(row)
    yield Table.of(rows, notes=["each the largest that memory and minutes allow, measured here; see docs/plans.md"])
    out = found.unranked()
    if out:
        yield Table.of([{"network": name, "why it is out": why} for name, why in out])


def _times(edges: Any) -> str:
    return " x ".join(map(str, edges))


def _rungs(found: Compared) -> Iterator[Item]:
    if not found.rungs:
        return
    yield Text(_ANEW)
    for number, (table, stage) in enumerate(zip(found.rungs, found.record.stages, strict=False), 1):
        yield table.main()
        yield Text(f"On from rung {number}: {', '.join(stage['kept'])}.")


def _pictures(held: dict[int, Scored]) -> Iterator[Item]:
    kept = [(fold, case, row) for fold, each in held.items() for case, row in slices_of(each)]
    kept = [each for each in kept if each[2] is not None and not math.isnan(each[2].mean)]
    kept.sort(key=lambda each: 0.0 if each[2] is None else each[2].mean)
    chosen = kept if len(kept) <= 2 * _SHOWN else [*kept[:_SHOWN], *kept[-_SHOWN:]]
    if not chosen:
        return
    yield legend(next(iter(held.values())))
    for fold, case, row in chosen:
        yield viewer(held[fold], case, row, most_bytes=_MOST_BYTES // len(chosen), where=f" of fold {fold}")


def _use(found: Compared) -> Iterator[Item]:
    name, slug = found.folder.name, StudyRow(found.winner).slug
    data = f"{name}/data" if found.data.path.is_relative_to(found.folder) else "DATA"
    number = counted(1 if found.asked.best_fold else len(found.record.folds), "network")
    yield Text(f"{found.winner} lies in {name}/{MODEL}: {number} of the cross-validation, which predict together.")
    yield from found.temperatures()
    commands = [
        ("masks", f"medseg predict {name}/{MODEL} IMAGES MASKS"),
        ("in Python", f'medseg.load("{name}/{MODEL}").predict(IMAGE)'),
        ("its plan", f"medseg train {name}/plans/{slug} --data {data} --fold all --output RUN"),
        ("into MLflow", f"medseg study run {name}/{VALIDATION}/study.yaml -o {name}/{VALIDATION}"),
    ]
    yield Facts(commands, code=True)
    yield Text(
        "Several networks are an ensemble: their probabilities are averaged, and a prediction costs as many times as "
        "much. The plan trains one network on all cases; what that one is worth nothing here has measured."
    )
