"""The page of the papers' tables: all rows and figures, runs beside what is printed, gaps with their reasons."""

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tiny_study import in_this_process, write_data, write_study

from benchmarks import reproduction as benchmark
from medseg.errors import MedsegError
from medseg.studies.executors import Done
from medseg.studies.paper_figures import TABLES
from medseg.studies.study import Cell, read_study, shipped
from medseg.studies.study_run import run_study

ROOT = Path(__file__).parents[2]
# numbers of the figures of each paper, counted in the papers
FIGURES = {"LFA U-Net": 5, "FocusNet++": 4, "Multi-scale": 3, "MFNet": 10, "DF-DAM": 8}
ROWS = [{"name": "U-Net", "with": ["unet"], "paper": "U-net"}, {"name": "LFA U-Net", "paper": "U-net with ours"}]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / ".ci")
        yield importlib.import_module("results_reproduction")


def section(page: str, name: str) -> str:
    """Return the part of the page that is of a study."""
    return re.split(r"\n##+ ", page.split(f"\n### {name}\n")[1])[0]


def row_of(part: str, name: str) -> list[str]:
    """Return the lines of a row: as printed, then by each run."""
    lines = part.splitlines()
    start = next(n for n, line in enumerate(lines) if re.match(rf"\| {re.escape(name)}[ (,]", line))
    more = next(n for n in range(start + 1, len(lines) + 1) if n == len(lines) or not lines[n].startswith("|  |"))
    return lines[start:more]


def test_every_row_of_every_table_is_there(script: ModuleType, tmp_path: Path) -> None:
    page = script.reproduction(tmp_path)  # no record: nothing was run
    used = set()
    for name in shipped():
        study, part = read_study(name), section(page, name)
        used.add(study.paper)
        assert f"medseg study run {name} --data DIR" in part
        for row in study.rows:
            first, second = row_of(part, row.name)
            assert first.endswith(f"| the paper | {' | '.join(TABLES[study.paper].rows[row.paper])} |")
            assert second.startswith("|  | not run |")
        printed = {row.paper for row in study.rows}
        assert name == "focusnet_pp_2" or printed == set(TABLES[study.paper].rows), "a printed row has no command"
    assert used == set(TABLES)


def test_every_figure_is_there(script: ModuleType, tmp_path: Path) -> None:
    page = script.reproduction(tmp_path)
    for paper, last in FIGURES.items():
        (part,) = re.findall(rf"\n## {re.escape(paper)}.*?(?=\n## |\Z)", page, re.DOTALL)
        numbers: set[int] = set()
        for cell in re.findall(r"^\| ([\d, to]+) \|", part.split("| figure | shows |")[1], re.MULTILINE):
            first, *rest = map(int, re.findall(r"\d+", cell))
            numbers |= set(range(first, rest[0] + 1)) if " to " in cell else {first, *rest}
        assert numbers == set(range(1, last + 1)), paper


@pytest.fixture
def made(tmp_path_factory: pytest.TempPathFactory, undrawn: None) -> Path:
    """A study of which one fold of two was run."""
    folder = tmp_path_factory.mktemp("reproduction")
    write_data(folder / "data")
    changes: dict[str, Any] = {"folds": [0, 2], "epochs": 1, "rows": ROWS, "paper": "lfa_unet_1", "show": ["iou"]}
    study = read_study(write_study(folder / "squares.yaml", classes="all", **changes))

    def first_fold(place: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
        yield from in_this_process(place, [cell for cell in cells if cell.fold == 0], mixed)
        yield from (Done(cell.name, "not now") for cell in cells if cell.fold != 0)

    with pytest.raises(MedsegError):
        run_study(study, folder / "work" / "drosophila", executor=first_fold, tracking=False)
    return folder


def test_a_study_stands_beside_the_paper(made: Path, script: ModuleType, tmp_path: Path) -> None:
    work = made / "work"
    with pytest.raises(MedsegError, match="fold2"):
        benchmark.record(work / "drosophila", "python")
    benchmark.main(["--made", "--work", str(work), "--json", str(tmp_path)])
    path = tmp_path / "study_drosophila_small.json"
    record = json.loads(path.read_text())
    assert [path.name] == [each.name for each in tmp_path.iterdir()]  # nothing of what was not run
    assert record["cells_asked"] == 4
    assert [(cell["row"], cell["fold"], cell["steps"]) for cell in record["cells"]] == [
        ("U-Net", 0, 6),
        ("LFA U-Net", 0, 6),
    ]
    assert str(made) not in path.read_text()
    part = section(script.reproduction(tmp_path), "lfa_unet_1_sections")
    assert "**2 trainings of 4 not run**" in part
    assert "6 steps each" in part
    scores = json.loads((work / "drosophila" / "cells" / "u_net-fold0-seed0" / "test" / "scores.json").read_text())
    assert row_of(part, "U-Net")[1].startswith(f"|  | A | {100 * scores['mean_iou']:.1f} (of 2 classes) | - |")
    assert row_of(part, "SA-UNet")[1].startswith("|  | not run |")
    assert "ours less" not in part  # two classes are not the paper's five: no means are compared


def lines_of(name: str, mean: float, spread: float | None) -> list[dict[str, Any]]:
    """Return what a table says of a row: its figures, pooled."""
    figures = {"pooled": mean, "pooled_sd_folds": spread, "mean": 0.1, "low": 0.0, "high": 0.2}
    kinds = ("(mean)", "membrane", "mitochondria", "synapse", "extracellular", "intracellular")
    return [
        {"row": name, "score": "iou", "class": kind, **figures, "sd_folds": 0.5, "sd_seeds": None} for kind in kinds
    ]


def test_a_gap_has_a_reason_or_says_that_none_is_known(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [{"row": row["name"], "fold": 0, "seed": 0, "steps": 9, "minutes": 1.0} for row in ROWS]
    test = {"first": "U-Net", "second": "LFA U-Net", "score": "iou", "class": "(mean)", "holds": "yes"}
    content = {
        "command": "python", "study": {"paper": "lfa_unet_1", "fold_key": "fold", "folds": [0], "rows": ROWS},
        "data": {"name": "d", "cases": 3}, "cells_asked": 2,
        "cells": [{**cell, "code": {"commit": "0123456789"}} for cell in cells],
        "environment": {"cpu": {"model": "a CPU"}, "threads": 1},
        "tables": [
            {"rows": lines_of("U-Net", 0.7, 0.02) + lines_of("LFA U-Net", 0.5, 0.02)},
            {"rows": [{**test, "difference": -0.2, "low": -0.3, "high": -0.1}]},
        ],
    }  # fmt: skip
    (tmp_path / "study_drosophila_small.json").write_text(json.dumps(content))
    part = section(script.reproduction(tmp_path), "lfa_unet_1_sections")
    assert row_of(part, "U-Net")[1].startswith("|  | A | 70.0 ± 2.0 | 70.0 ± 2.0 |")
    assert "| LFA U-Net | A | IoU, % | -22.8 | 2.0 | (1) |" in part  # 50.0 less 72.80
    assert "| U-Net | A |" not in part  # 1.34 is within the spread
    assert "(1) an eighth of the width" in part
    assert "1 of 1 difference hold: LFA U-Net less U-Net iou -0.200 [-0.300, -0.100]" in part
    notes = script.NOTES.read_text()
    monkeypatch.setattr(script, "NOTES", tmp_path / "notes.yaml")
    script.NOTES.write_text(notes.replace("study_drosophila_small\n", "study_other_small\n"))
    part = section(script.reproduction(tmp_path), "lfa_unet_1_sections")
    assert "| LFA U-Net | A | IoU, % | -22.8 | 2.0 | why is not known |" in part
    script.NOTES.write_text(notes.replace("study_drosophila_small\n", "study_drosophila_small\n  row: R2U-Net\n"))
    with pytest.raises(SystemExit, match="nothing in study_drosophila_small"):
        script.reproduction(tmp_path)
