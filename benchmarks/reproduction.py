"""The papers' tables in the shape that a computer without a GPU can train: small networks, few steps, real data.

    python -m benchmarks.reproduction --data DATA --work build/reproduction --json docs/results
    python -m benchmarks.reproduction --work build/reproduction --json docs/results --made
    python -m benchmarks.reproduction --json docs/results --remake

DATA holds a folder a data set, as `medseg data` lays it out: ``drosophila``, ``covid``, ``dsb2018``. Each is the data
of one study of benchmarks/studies; budgets are steps, so that another load changes how long it takes, not what comes
out. What the work folder holds already is not trained again. ``--made`` trains nothing: it writes what is there, and
the record says which cells are missing. Each study becomes ``study_NAME_small.json``, from which
docs/results/reproduction.md is made (`make docs`), and ``study_NAME_small_scores.json``, the scores of each case, from
which ``--remake`` makes the tables anew, as after another rule of the tests; where there are none it says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import call, training_of
from medseg.errors import MedsegError
from medseg.studies.study import Study, read_study
from medseg.studies.study_cell import STUDY, Places, read_made
from medseg.studies.study_run import make_table
from medseg.studies.study_scores import Case, Scores
from medseg.studies.study_table import StudyTable

STUDIES = Path(__file__).parent / "studies"
NAMES = ("drosophila", "covid", "dsb2018")
_ENVIRONMENT = ("python", "packages", "os", "cpu", "memory_gib", "threads", "gpus")


def file_of(name: str) -> Path:
    """Return the study of a data set."""
    return STUDIES / f"{name}_small.yaml"


def train(name: str, data: Path, folder: Path) -> None:
    """Make the cells of a study that are missing, and its table."""
    words = ["medseg.cli", "study", "run", str(file_of(name)), "--data", str(data), "-o", str(folder), "--no-mlflow"]
    call(words)


def record(
    folder: Path, command: str, notes: Sequence[str] = (), *, incomplete: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a study found, by what and where, and the scores of each case, both as plain values.

    Args:
        folder: of the study.
        command: that made it.
        notes: that a reader must know.
        incomplete: whether cells may be missing; the table then says which.

    Raises:
        MedsegError: if there is no study, no cell, or cells are missing or mixed.
    """
    table = make_table(folder, incomplete=incomplete)
    study = read_study(folder / STUDY)
    data = study.load()
    cells = _cells(folder, study)
    asked = study.plain()
    asked.pop("data")  # where it lay on one machine
    content = {
        "benchmark": "reproduction",
        "command": command,
        "study": asked,
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "cases": len(table.scores.cases)},
        "cells_asked": len(study.cells(data)),
        "cells": cells,
        "environment": _environment(folder, study),
        "notes": list(notes),
        "tables": _tables(table),
    }
    return content, _plain(table)


def _tables(table: StudyTable) -> list[Any]:
    return [json.loads(each.to_json()) for each in (table.long(), table.long_tests())]


_LISTED = ("rows", "seeds", "columns", "classes", "labelled", "scored", "unlearned", "data")


def _plain(table: StudyTable) -> dict[str, Any]:
    """Return what a table is made of; cases and groups by number, since names are the data's; no group stays none."""
    scores = table.scores
    groups = list(dict.fromkeys(scores.groups))
    held: dict[str, Any] = {key: getattr(scores, key) for key in _LISTED}
    held["by_class"] = sorted(scores.by_class)
    held["cases"] = [[case.fold, case.place, groups.index(case.group) if case.group else None] for case in scores.cases]
    held["values"] = [
        [*key, [[None if np.isnan(value) else value for value in seed] for seed in found.tolist()]]
        for key, found in scores.values.items()
    ]
    held["pooled"] = [[*key, list(map(float, found))] for key, found in scores.pooled.items()]
    return held | {"notes": list(table.notes)}


def remade(content: Mapping[str, Any], held: Mapping[str, Any]) -> list[Any]:
    """Return the tables of a record by the rules of today.

    Args:
        content: the record.
        held: the scores of its cases, as `record` returns them.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.yaml"
        file.write_text(json.dumps(content["study"]), encoding="utf-8")
        study = read_study(file)
    values = {(row, column, kind): np.array(found, dtype=np.float64) for row, column, kind, found in held["values"]}
    scores = Scores(
        **{key: held[key] for key in _LISTED},
        cases=[
            Case(fold, place, f"case {n}", "" if group is None else f"group {group}")
            for n, (fold, place, group) in enumerate(held["cases"])
        ],
        values=values,
        pooled={(row, column, kind): found for row, column, kind, found in held["pooled"]},
        by_class=frozenset(held["by_class"]),
    )
    return _tables(StudyTable(study, scores, held["notes"]))


def remake(path: Path) -> str:
    """Make the tables of a record anew, and return what there is to say.

    Args:
        path: of the record.
    """
    scores = _scores_of(path)
    if not scores.is_file():
        return f"{path.name}: the scores of its cases are not kept; its tables are as they were made"
    content = json.loads(path.read_text(encoding="utf-8"))
    write(path, content | {"tables": remade(content, json.loads(scores.read_text(encoding="utf-8")))})
    return str(path)


def _scores_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}_scores.json")


def _cells(folder: Path, study: Study) -> list[dict[str, Any]]:
    """Return a row a complete cell: what was trained, how long, and by which code."""
    rows = []
    for made in _made(folder, study):
        took = training_of(made.folder)
        row = {"row": made.cell.row.name, "fold": made.cell.fold, "seed": made.cell.seed, "steps": took["steps"]}
        rows.append(row | {"minutes": round(took["seconds"] / 60, 2), "code": made.record["code"]})
    return rows


def _made(folder: Path, study: Study) -> Sequence[Any]:
    found = (read_made(Places(folder), study, cell) for cell in study.cells(study.load()))
    return [made for made in found if made is not None]


def _environment(folder: Path, study: Study) -> Mapping[str, Any]:
    """Return where the first cell was trained; the others must have been trained there too.

    Raises:
        MedsegError: if one was not.
    """
    found: dict[str, Any] = {}
    for made in _made(folder, study):
        held = json.loads((made.folder / "environment.json").read_text(encoding="utf-8"))
        here = {key: held[key] for key in _ENVIRONMENT if key in held}
        if found and (here["cpu"], here["threads"]) != (found["cpu"], found["threads"]):
            raise MedsegError(
                f"{made.folder.name}: was trained on {here['cpu']['model']} with {here['threads']} threads, others on "
                f"{found['cpu']['model']} with {found['threads']}; remove the cell's folder and run the study again"
            )
        found = found or here
    return found


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="holds a folder a data set")
    parser.add_argument("--only", choices=NAMES, nargs="+", default=NAMES, help="data sets (default: all)")
    parser.add_argument("--made", action="store_true", help="train nothing, write what is there")
    parser.add_argument("--remake", action="store_true", help="train nothing, make the tables of the records anew")
    parser.add_argument("--work", type=Path, default=Path("build/reproduction"))
    parser.add_argument("--json", type=Path, required=True, help="folder of the records")
    parser.add_argument("--note", nargs="*", default=[], help="what a reader must know, such as what else ran")
    options = parser.parse_args(arguments)
    if options.data is None and not options.made and not options.remake:
        parser.error("--data is missing: name the folder of the data sets, or --made to write what is there")
    for name in options.only:
        path = options.json / f"study_{name}_small.json"
        if options.remake:
            sys.stdout.write(f"{remake(path)}\n")
            continue
        folder = options.work / name
        if not options.made:
            train(name, options.data / name, folder)
        elif not any(folder.glob("cells/*/cell.json")):
            sys.stderr.write(f"{name}: no cell is complete; not written\n")
            continue
        command = f"medseg study run benchmarks/studies/{file_of(name).name} --data DATA/{name} -o WORK/{name}"
        content, scores = record(folder, command, options.note, incomplete=options.made)
        write(path, content)
        _scores_of(path).write_text(json.dumps(scores, separators=(",", ":")) + "\n", encoding="utf-8")
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
