"""The papers' tables in the shape that a computer without a GPU can train: small networks, few steps, real data.

    python -m benchmarks.reproduction --data DATA --work build/reproduction --json docs/results
    python -m benchmarks.reproduction --work build/reproduction --json docs/results --made

DATA holds a folder a data set, as `medseg data` lays it out: ``drosophila``, ``covid``, ``dsb2018``. Each is the data
of one study of benchmarks/studies; budgets are steps, so that another load changes how long it takes, not what comes
out. What the work folder holds already is not trained again. ``--made`` trains nothing: it writes what is there, and
the record says which cells are missing. Each study becomes ``study_NAME_small.json``, from which
docs/results/reproduction.md is made (`make docs`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import call, training_of
from medseg.errors import MedsegError
from medseg.studies.study import Study, read_study
from medseg.studies.study_cell import STUDY, Places, read_made
from medseg.studies.study_run import make_table

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


def record(folder: Path, command: str, notes: Sequence[str] = (), *, incomplete: bool = False) -> dict[str, Any]:
    """Return what a study found, by what and where, as plain values.

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
    return {
        "benchmark": "reproduction",
        "command": command,
        "study": asked,
        "data": {"name": data.name, "fingerprint": data.fingerprint(), "cases": len(table.scores.cases)},
        "cells_asked": len(study.cells(data)),
        "cells": cells,
        "environment": _environment(folder, study),
        "notes": list(notes),
        "tables": [json.loads(each.to_json()) for each in (table.long(), table.long_tests())],
    }


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
    parser.add_argument("--work", type=Path, default=Path("build/reproduction"))
    parser.add_argument("--json", type=Path, required=True, help="folder of the records")
    parser.add_argument("--note", nargs="*", default=[], help="what a reader must know, such as what else ran")
    options = parser.parse_args(arguments)
    if options.data is None and not options.made:
        parser.error("--data is missing: name the folder of the data sets, or --made to write what is there")
    for name in options.only:
        folder = options.work / name
        if not options.made:
            train(name, options.data / name, folder)
        elif not any(folder.glob("cells/*/cell.json")):
            sys.stderr.write(f"{name}: no cell is complete; not written\n")
            continue
        command = f"medseg study run benchmarks/studies/{file_of(name).name} --data DATA/{name} -o WORK/{name}"
        write(options.json / f"study_{name}_small.json", record(folder, command, options.note, incomplete=options.made))
        sys.stdout.write(f"{options.json / f'study_{name}_small.json'}\n")


if __name__ == "__main__":
    main()
