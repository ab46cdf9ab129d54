"""The page of the papers' tables: all rows and figures, runs beside what is printed, gaps with their reasons."""

import importlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tiny_study import in_this_process, write_data, write_study

from benchmarks import reproduction as benchmark
from medseg.errors import MedsegError
from medseg.studies.executors import Done
from medseg.studies.paper_figures import ROWS as ROWS_IN_PRINT
from medseg.studies.paper_figures import TABLES
from medseg.studies.study import Cell, read_study, shipped
from medseg.studies.study_run import run_study
from medseg.studies.study_scores import MEAN, Case, Scores
from medseg.studies.study_table import StudyTable

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
    scores = tmp_path / "study_drosophila_small_scores.json"
    assert {path, scores} == {*tmp_path.iterdir()}  # nothing of what was not run
    assert str(made) not in scores.read_text()
    tables = record["tables"]
    path.write_text(json.dumps({**record, "tables": []}))
    benchmark.main(["--remake", "--only", "drosophila", "--json", str(tmp_path)])
    assert json.loads(path.read_text())["tables"] == tables
    scores.unlink()
    assert "the scores of its cases are not kept" in benchmark.remake(path)
    assert json.loads(path.read_text()) == record
    assert record["cells_asked"] == 4
    assert [(cell["row"], cell["fold"], cell["steps"]) for cell in record["cells"]] == [
        ("U-Net", 0, 6),
        ("LFA U-Net", 0, 6),
    ]
    assert str(made) not in path.read_text()
    part = section(script.reproduction(tmp_path), "lfa_unet_1_sections")
    assert "**2 trainings of 4 not run**" in part
    assert "6 steps each" in part
    assert "(Wilcoxon, Holm): " in part
    scores = json.loads((work / "drosophila" / "cells" / "u_net-fold0-seed0" / "test" / "scores.json").read_text())
    assert row_of(part, "U-Net")[1].startswith(f"|  | A | {100 * scores['mean_iou']:.1f} (of 2 classes) | - |")
    assert row_of(part, "SA-UNet")[1].startswith("|  | not run |")
    assert "ours less" not in part  # two classes are not the paper's five: no means are compared


def test_tables_are_remade_from_the_scores_alone(tmp_path: Path) -> None:
    """Of several seeds, missing values, groups and cases whose group nobody knows, each of which is its own."""
    study = read_study(write_study(tmp_path / "squares.yaml", data=None, seeds=[0, 1], folds=[0, 1], show=["iou"]))
    random = np.random.default_rng(0)
    groups = [f"patient {n // 2}" if n < 20 else "" for n in range(40)]
    cases = [Case(n // 2 % 2, n // 4 * 2 + n % 2, f"/home/x/{n}.png", group) for n, group in enumerate(groups)]
    kinds = (MEAN, "square", "ring")
    values = {(row, "iou", kind): random.random((2, 40)) for row in ("U-Net", "LFA U-Net") for kind in kinds}
    for found in values.values():
        found[random.random((2, 40)) < 0.1] = np.nan
    pooled = {key: list(random.random(2)) for key in values}
    unlearned = {"U-Net": ["u_net-fold0-seed0: it tells nothing apart"]}
    scores = Scores(
        ["U-Net", "LFA U-Net"], (0, 1), {"iou": "iou"}, kinds[1:], cases, 44, values, pooled, frozenset({"iou"}),
        unlearned=unlearned, data="squares",
    )  # fmt: skip
    table = StudyTable(study, scores, ["cells of different code stand in this table"])
    held = json.dumps(benchmark._plain(table))
    assert "/home" not in held
    assert "patient" not in held
    asked = {key: value for key, value in study.plain().items() if key != "data"}
    assert benchmark.remade({"study": asked}, json.loads(held)) == benchmark._tables(table)


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
    content: dict[str, Any] = {
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
    for on in ("the cases", "the means of 2 groups"):
        content["tables"][1]["notes"] = [f"p: Wilcoxon's signed-rank test on {on}, two-sided"]
        (tmp_path / "study_drosophila_small.json").write_text(json.dumps(content))
        again = section(script.reproduction(tmp_path), "lfa_unet_1_sections")
        assert f"paired tests on {on} (Wilcoxon, Holm): 1 of 1" in again
    notes = script.NOTES.read_text()
    monkeypatch.setattr(script, "NOTES", tmp_path / "notes.yaml")
    script.NOTES.write_text(notes.replace("study_drosophila_small\n", "study_other_small\n"))
    part = section(script.reproduction(tmp_path), "lfa_unet_1_sections")
    assert "| LFA U-Net | A | IoU, % | -22.8 | 2.0 | why is not known |" in part
    script.NOTES.write_text(notes.replace("study_drosophila_small\n", "study_drosophila_small\n  row: R2U-Net\n"))
    with pytest.raises(SystemExit, match="nothing in study_drosophila_small"):
        script.reproduction(tmp_path)


def test_what_a_network_costs_stands_as_printed_beside_a_count(script: ModuleType, tmp_path: Path) -> None:
    page = script.reproduction(tmp_path)
    told = [row for row in ROWS_IN_PRINT if row.paper_parameters or row.paper_macs]
    for row in told:
        (part,) = re.findall(rf"\n\*\*{re.escape(row.source)}\*\*.*?(?=\n\*\*|\n###? |\Z)", page, re.DOTALL)
        line = next(each for each in part.splitlines() if each.startswith(f"| {row.name} | "))
        cells = line.split(" | ")  # of each kind: as printed, counted, by how much they differ
        printed = [each for each in (row.paper_parameters, row.paper_macs) if each]
        assert cells[1 : 3 * len(printed) + 1 : 3] == printed, row.name
        assert not row.paper_flops or cells[4] == row.paper_flops, row.name
    part = section(page, "mfnet_costs")
    # 34,657,621 parameters of 34.65 in print, which is no other network: the paper cuts
    assert "| EMANet | 34.65 | 34.66 | +0.02 | (1) |" in part
    assert "(1) no difference of networks, the paper cuts digits" in part
    assert "| U-Net | 1.89 | 1.94 | +2.78 | 3.62 | (1) |" in section(page, "focusnet_pp_costs").split("table 3**")[1]
    assert script.UNKNOWN not in section(page, "focusnet_pp_costs")


def test_a_step_is_shown_where_it_was_timed(script: ModuleType, tmp_path: Path) -> None:
    assert "| MFNet | not run |" in section(script.reproduction(tmp_path), "mfnet_costs")
    form = {"training_step_seconds": 0.0125, "training_peak_bytes": 3 * 2**29}
    timed: dict[str, Any] = {"size": [513, 513], "batch": 4, "formats": {"fp32": form}}
    record = {
        "command": "python",
        "rows": {"MFNet": timed, "EMANet": {"error": "out of memory\nat length"}},
        "environment": {"gpus": [{"name": "a GPU"}], "git": {"commit": "0123456789"}},
    }
    path = tmp_path / "gpu_networks.json"
    path.write_text(json.dumps(record))
    part = section(script.reproduction(tmp_path), "mfnet_costs")
    assert "| MFNet | 513 x 513, 4 | 12.5 | - | - | 1.5 | - |" in part
    assert "| EMANet | failed: out of memory |" in part
    assert "| DeepLabv3+ | not run |" in part
    record["rows"] = {"a network of nobody's": timed}
    path.write_text(json.dumps(record))
    with pytest.raises(SystemExit, match=r"no paper of reproduction_notes\.yaml has \"a network of nobody's\""):
        script.reproduction(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  rows: [MFNet, EMANet]", "  rows: [MFNet, EMANets]", "MFNet, figure 6 has no row 'EMANets'"),
        ('    "MFNet, figure 6": on', '    "MFNet, figure 7": on', "disagree on 'MFNet, figure 6'"),
        ("  side: below\n", "  side: under\n", "a note of gpu_drosophila has side: under"),
        ("  study: lfa_unet_1\n", "  studies: lfa_unet_1\n", "a note of gpu_drosophila has studies"),
    ],
)
def test_a_note_that_speaks_of_nothing_is_refused(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    notes = script.NOTES.read_text()
    assert old in notes
    monkeypatch.setattr(script, "NOTES", tmp_path / "reproduction_notes.yaml")
    script.NOTES.write_text(notes.replace(old, new, 1))
    with pytest.raises(SystemExit, match=re.escape(message)):
        script.reproduction(tmp_path)


def test_a_recipe_says_its_budget_and_what_it_took(script: ModuleType, tmp_path: Path) -> None:
    """What makes a score worse does not explain one that is better."""
    row = {"mean IoU": 0.5, "IoU background": 0.9, "IoU lesion": 0.1, "precision": 0.1, "recall": 0.99, "Dice": 0.2}
    taken = {"method": "train", "minutes": 9.06, "epochs": 38}
    data = {"fold": None, "images": 4, "split": "test", "name": "isic"}
    result = {"bundle": "focusnet_pp_isic2018", "minutes": 9.0, "seed": 0, "rows": [{**row, **taken}], "data": data}
    environment = {"cpu": {"model": "a CPU"}, "threads": 2, "git": {"commit": "0123456789"}}
    content = {"command": "python", "result": result, "environment": environment}
    notes = script.NOTES.read_text()
    (tmp_path / "notes").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "NOTES", tmp_path / "notes" / "notes.yaml")
        script.NOTES.write_text(re.sub(r"(?m)^- record: recipes_isic2018_cpu\n  variant(\n|.)*?(?=^- )", "", notes))
        (tmp_path / "recipes_isic2018_cpu.json").write_text(json.dumps(content))
        part = section(script.reproduction(tmp_path), "focusnet_pp_1")
    assert "a budget of 9 minutes a training, whose last validation is estimated; " in part
    assert "; minutes taken: train 9.1 (38 epochs); one division" in part
    assert "pooled over all pixels where the paper's are most likely means over the images" in part
    reasons = {line.split(" | ")[2]: line.split(" | ")[-1] for line in part.splitlines() if " | A, recipe" in line}
    assert reasons["recall"] == "why is not known |"
    assert reasons["precision"] == "(1) |"


def test_committed_tables_are_by_the_rules_of_today() -> None:
    """Made anew from the scores of the cases, which stand beside."""
    records = sorted((ROOT / "docs" / "results").glob("study_*_small.json"))
    assert {path.name for path in records} == {f"study_{name}_small.json" for name in benchmark.NAMES}
    for path in records:
        record, scores = json.loads(path.read_text()), path.with_name(f"{path.stem}_scores.json")
        for table, kept in zip(benchmark.remade(record, json.loads(scores.read_text())), record["tables"], strict=True):
            for row, known in zip(table["rows"], kept["rows"], strict=True):
                assert row == pytest.approx(known, abs=2e-3), path.name  # other versions of SciPy draw otherwise
