"""Compare networks over folds and seeds: train every cell of a study, and put them into one table."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli._arguments import (
    add_output,
    add_outputs,
    end_with_input,
    number_above_zero,
    own_process,
    same_again,
    say,
)
from medseg.cli._executors import add_executor, executor_of, sharing_of
from medseg.errors import shown

if TYPE_CHECKING:
    from medseg.studies.study_table import StudyTable

__all__ = ["add_arguments", "run"]

_MIXED = "let cells of different code, data or budgets stand in one table, which says so"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    from medseg.reports.tables import FORMATS

    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    run_ = actions.add_parser("run", help="make the cells that are missing, and the table")
    run_.add_argument("study", metavar="STUDY", help="YAML file, or a name of medseg study list")
    add_output(run_, "folder of the study, new or begun", required=True)
    run_.add_argument("--data", type=Path, metavar="DIR", help="folder of the datalist (default: what the study names)")
    run_.set_defaults(goes_on=same_again)
    table = actions.add_parser("table", help="make the table from the cells that are there")
    table.add_argument("folder", type=Path, metavar="DIR", help="folder of a study")
    table.add_argument("--incomplete", action="store_true", help="though cells are missing; the table says which")
    test = actions.add_parser("test", help="score the cells and the ensembles of their folds on the test list")
    test.add_argument("folder", type=Path, metavar="DIR", help="folder of a study, whose record says each test")
    test.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="to test (default: all)")
    predict = actions.add_parser("predict", help="write each case's mask by the network that has not seen it")
    predict.add_argument("folder", type=Path, metavar="DIR", help="folder of a study, whose cells are complete")
    add_output(predict, "folder for a folder of masks a row and seed", required=True)
    predict.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="to predict by (default: all)")
    predict.add_argument("--overwrite", action="store_true", help="also masks that are there, whatever made them")
    add_outputs(predict)
    for each, what in ((run_, "cells"), (test, "ensembles and runs")):
        add_executor(each, what)
        each.add_argument("--no-mlflow", action="store_true", help="keep the record in the folder alone")
        each.add_argument("--tracking-uri", metavar="URI", help="of MLflow (default: a database in the folder)")
    cell = actions.add_parser("cell", help="make one cell in this process, for a batch system")
    cell.add_argument("folder", type=Path, metavar="DIR", help="folder of a study")
    cell.add_argument("name", metavar="CELL", help="name of the cell")
    cell.add_argument(
        "--patience", type=number_above_zero, metavar="S", help="seconds to wait for another process in the cell (60)"
    )
    part = actions.add_parser("part", help="score one part of a test that is at work, in this process")
    part.add_argument("folder", type=Path, metavar="DIR", help="folder of a study")
    part.add_argument("look", metavar="TEST", help="id of the test in tested.json")
    part.add_argument("name", metavar="PART", help="such as single_runs/CELL")
    for each in (cell, part):
        each.add_argument("--tied", action="store_true", help="end at once when standard input closes")
    for each in (run_, table, test, cell):
        each.add_argument("--mixed", action="store_true", help=_MIXED)
    listed = actions.add_parser("list", help="say what the studies have that come with medseg, or one of yours")
    listed.add_argument(
        "studies", nargs="*", metavar="STUDY", help="names or files (default: all that come with medseg)"
    )
    listed.add_argument("--data", type=Path, metavar="DIR", help="folder of the datalist, to count images and folds")
    listed.add_argument("--measure", action="store_true", help="measure a step of each row here, to tell the hours")
    listed.add_argument("--format", choices=FORMATS, default="text", help="of the table")
    listed.set_defaults(goes_on=lambda options, error: list(options.typed))


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    actions = {
        "run": _run, "table": _table, "test": _test, "predict": _predict, "cell": _cell, "part": _part, "list": _list,
    }  # fmt: skip
    return actions[options.action](options)


def _run(options: argparse.Namespace) -> int:
    from medseg.studies.study import read_study

    study = read_study(options.study, options.data)
    executor = executor_of(options)
    own_process()
    from medseg.studies.executors import cells_by
    from medseg.studies.study_run import run_study

    table = run_study(
        study,
        options.output,
        executor=cells_by(executor),
        sharing=lambda settings: sharing_of(options, settings),
        mixed=options.mixed,
        tracking=not options.no_mlflow,
        tracking_uri=options.tracking_uri,
        say=say,
    )
    _print(table)
    say(f"table: {shown(options.output / 'table.html')}")
    return 0


def _table(options: argparse.Namespace) -> int:
    from medseg.studies.study_run import make_table

    table = make_table(options.folder, mixed=options.mixed, incomplete=options.incomplete)
    _print(table)
    return 0


def _test(options: argparse.Namespace) -> int:
    executor = executor_of(options)
    own_process()
    from medseg.studies.testing import score_test_list

    folder, tables = score_test_list(
        options.folder,
        rows=options.rows,
        executor=executor,
        mixed=options.mixed,
        tracking=not options.no_mlflow,
        tracking_uri=options.tracking_uri,
        say=say,
    )
    for name, table in tables.items():
        _print(table)
        say(f"table: {shown(folder / name / 'table.html')}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    own_process()
    from medseg.studies.held_out import predict_held_out

    asked = {"rows": options.rows, "outputs": options.outputs or (), "overwrite": options.overwrite}
    for masks in predict_held_out(options.folder, options.output, **asked, say=say):
        sys.stdout.write(f"{shown(masks)}\n")
    return 0


def _print(table: StudyTable) -> None:
    tables = [table.main(), *([table.tests()] if table.pairs else [])]
    sys.stdout.write("\n".join(each.to("text") for each in tables))


def _cell(options: argparse.Namespace) -> int:
    own_process()
    if options.tied:
        end_with_input()
    from medseg.studies.study_cell import PATIENCE, run_cell

    patience = options.patience or PATIENCE
    folder = run_cell(options.folder, options.name, mixed=options.mixed, patience=patience)
    sys.stdout.write(f"{shown(folder)}\n")
    return 0


def _part(options: argparse.Namespace) -> int:
    own_process()
    if options.tied:
        end_with_input()
    from medseg.studies.testing import score_part

    sys.stdout.write(f"{shown(score_part(options.folder, options.look, options.name))}\n")
    return 0


def _list(options: argparse.Namespace) -> int:
    from medseg.studies.study_list import list_studies

    table = list_studies(options.studies, data=options.data, measured=options.measure, say=say)
    sys.stdout.write(table.to(options.format))
    return 0
