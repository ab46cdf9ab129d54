"""What a study may say, and what is refused before anything is trained."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_study import write_data, write_study

from medseg.bundle import library
from medseg.bundle.overlays import record, refuse_clashes
from medseg.bundle.source import read_source
from medseg.errors import MedsegError
from medseg.studies.executors import CellsError, Done
from medseg.studies.paper_figures import TABLES, printed
from medseg.studies.study import Cell, StudyError, read_study, shipped
from medseg.studies.study_run import run_study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    return tmp_path


def test_cells_are_rows_by_folds_by_seeds(folder: Path) -> None:
    study = read_study(write_study(folder / "s.yaml", seeds=[0, 7], folds=[0, 2]))
    data = study.load()
    names = [cell.name for cell in study.cells(data)]
    assert names[:3] == ["u_net-fold0-seed0", "lfa_u_net-fold0-seed0", "u_net-fold2-seed0"]
    assert len(set(names)) == len(names) == study.number_of_cells() == 8
    everything = read_study(write_study(folder / "s.yaml"))
    assert everything.folds_of(data) == (0, 1, 2)
    assert read_study(write_study(folder / "s.yaml", folds=[])).cells(data)[0].name == "u_net-lists-seed0"
    assert study.classes_of(data) == ("square",)
    assert read_study(write_study(folder / "s.yaml", classes="all")).classes_of(data) == ("background", "square")


def test_a_study_is_read_as_it_was_written_down(folder: Path) -> None:
    """What the processes of the cells read says the same, wherever it lies."""
    rows = [
        {"name": "planned", "plan": "unet", "dimensions": 2},
        {"name": "U-Net", "with": ["unet"], "set": {"seed_": 1}},
    ]
    rows[1]["score_set"] = {"inference#overlap": 0.5}
    study = read_study(write_study(folder / "s.yaml", rows=rows, **{"with": ["small"], "scores": {"distances": {}}}))
    assert study.rows[1].overlays == ("small", "unet")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "s.yaml").write_text(yaml.safe_dump(study.plain()))
    assert read_study(folder / "elsewhere" / "s.yaml") == study


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": []}, "has no key 'row'; did you mean 'rows'?"),
        ({"rows": []}, r"rows is \[\]; give a list"),
        ({"rows": [{"with": "unet"}]}, "a row is .*; give keys, among them name"),
        ({"rows": [{"name": "a"}, {"name": "A "}]}, "two rows are called 'A '"),
        ({"rows": [{"name": "a", "memory": 2}]}, "row a: memory is for a plan"),
        ({"rows": [{"name": "a", "plan": "unet", "with": "unet"}]}, "name a network, and neither bundle nor with"),
        ({"rows": [{"name": "a", "set": {"fold": 1}}]}, "set names fold, which the study itself decides"),
        ({"rows": [{"name": "a", "score_set": {"scored": "x"}}]}, "set names scored, which the study itself decides"),
        ({"rows": [{"name": "a", "bundle": "lfa_unet_drosophyla"}]}, "did you mean lfa_unet_drosophila?"),
        ({"bundle": None}, "row U-Net: names no bundle"),
        ({"minutes": 1}, "minutes and epochs are both given"),
        ({"epochs": 0}, "epochs is 0; give a whole number above 0"),
        ({"epochs": None, "minutes": "long"}, "minutes is 'long'; give a number above 0"),
        ({"seeds": []}, "seeds is empty"),
        ({"seeds": [0, 0]}, r"seeds is \[0, 0\]; give whole numbers from 0, each once"),
        ({"folds": "some"}, "folds is 'some'"),
        ({"scored": "training"}, "scored is 'training'; choose test or validation"),
        ({"show": [1]}, r"show is \[1\]; give a list of texts"),
        ({"scores": ["distances"]}, r"scores is \['distances'\]; give keys with their values"),
    ],
)
def test_faults_are_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MedsegError, match=message):
        read_study(write_study(folder / "s.yaml", **changes))


def test_what_is_not_there(folder: Path) -> None:
    with pytest.raises(
        StudyError, match="there is no study 'lfa_unet_l'; give a YAML file, or a name: did you mean lfa_unet"
    ):
        read_study("lfa_unet_l")
    study = read_study(write_study(folder / "s.yaml", classes=["circle"], data=None))
    with pytest.raises(StudyError, match="names no data; say where they lie with --data DIR"):
        study.load()
    named = read_study(folder / "s.yaml", folder / "data")
    with pytest.raises(StudyError, match="the data have no class 'circle'; there are background, square"):
        named.classes_of(named.load())
    with pytest.raises(MedsegError, match="fold 5 is not in scheme"):
        read_study(write_study(folder / "s.yaml", folds=[5])).cells(named.load())


@pytest.mark.parametrize("name", shipped())
def test_shipped_studies_name_what_there_is(name: str) -> None:
    """Bundles, overlays that agree, the paper's table, its rows and, in it, a figure for each of them."""
    study = read_study(name)
    table = printed(study.paper)
    assert study.title
    for row in study.rows:
        source = read_source(library.find(row.bundle))
        sets = {name: {k: v for k, v in source.overlays[name].items() if k != "about"} for name in row.overlays}
        refuse_clashes({name: record(changes) for name, changes in sets.items()})
        assert set(row.score_with) <= set(source.overlays)
        assert row.paper in table.rows, row.name
        assert all(table.cells(row.paper).values())
    assert {score for score, _ in table.columns} & set(study.show)
    assert {row.paper for row in study.rows} == set(table.rows) or name == "focusnet_pp_2"
    classes = read_source(library.find(study.rows[0].bundle)).description.classes
    assert {of_class for _, of_class in table.columns if of_class} <= set(classes)


def test_every_printed_table_has_its_study() -> None:
    assert {read_study(name).paper for name in shipped()} == set(TABLES)
    with pytest.raises(MedsegError, match="there is no printed table 'x'; choose one of lfa_unet_1"):
        printed("x")


def test_printed_means_are_those_of_their_classes() -> None:
    """The papers' own rows hold together, so that a digit that was mistyped would show."""
    wrong = []
    for name, table in TABLES.items():
        if len(table.columns) < 5 or name == "df_dam_7":
            continue
        for row, figures in table.rows.items():
            mean, *classes = map(float, figures)
            if abs(mean - sum(classes) / len(classes)) > 0.011:
                wrong.append((name, row))
    assert wrong == []


def test_folds_that_divide_groups_want_a_reason(folder: Path, tmp_path: Path) -> None:
    place = folder / "data" / "datalist.json"
    content = json.loads(place.read_text())
    for number, entry in enumerate(content["training"]):
        entry["group"], entry["fold_random"] = f"g{entry['fold']}{number // 4}", number % 2
    place.write_text(json.dumps(content))
    study = read_study(write_study(folder / "s.yaml", fold_key="fold_random"))

    def cells(folder: Path, cells: Sequence[Cell], mixed: bool) -> Iterator[Done]:
        yield Done(cells[0].name, "asked for")

    with pytest.raises(MedsegError, match=r"its folds by fold_random divide \d groups .* say why in divides_groups"):
        run_study(study, tmp_path / "out", executor=cells, tracking=False)
    assert not (tmp_path / "out").exists()
    said = replace(study, divides_groups="the paper's split")
    assert read_study(write_study(tmp_path / "t.yaml", **said.plain())).divides_groups == "the paper's split"
    with pytest.raises(CellsError, match="asked for"):
        run_study(said, tmp_path / "out", executor=cells, tracking=False)
