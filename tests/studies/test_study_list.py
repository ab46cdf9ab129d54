"""What a study will take: rows, cells and data from its file, hours from a step that is said to have been measured."""

from pathlib import Path
from typing import Any

import pytest
from tiny_study import write_data, write_study

from medseg.cli import main
from medseg.errors import MedsegError
from medseg.reports.tables import Table
from medseg.studies import paces
from medseg.studies.measures import StepSettings
from medseg.studies.paces import Pace
from medseg.studies.study import read_study, shipped
from medseg.studies.study_list import list_studies, recipe


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Let every training step take a tenth of a second an image; returns what was measured."""
    asked: list[Any] = []

    def measure(_function: Any, row: Any, batch: int, step: StepSettings) -> tuple[Pace | None, str]:
        asked.append((row, batch, step))
        return (Pace(10.0, min(batch, 2)), "") if max(row.size) < 512 else (None, "it does not fit")

    monkeypatch.setattr(paces, "isolated", measure)
    monkeypatch.setenv("MEDSEG_CACHE", str(tmp_path / "cache"))
    return asked


def hours(table: Table) -> Any:
    return dict(zip(table.columns, table.rows[0], strict=True))["hours"]


def test_rows_compute_what_their_overlays_say() -> None:
    by_name = {(name, row.name): (read_study(name), row) for name in shipped() for row in read_study(name).rows}
    found = {key: recipe(*value) for key, value in by_name.items()}
    one = found["lfa_unet_3", "range 11"]
    assert one is not None
    assert (one.row.kwargs, one.row.target) == ({"window_size": 11}, "medseg.networks.lfa_unet.LFAUNet")
    assert (one.row.size, one.row.in_channels, one.row.out_channels) == ((256, 256), 1, 4)
    assert (one.batch, one.epochs, one.iterations) == (8, 250, None)
    other = found["focusnet_pp_3", "U-Net"]
    assert other is not None
    assert other.row.kwargs == {"channels": [16, 32, 64, 128, 256]}  # the bundle's configuration is not U-Net's
    assert other.row.in_channels == 3
    scene = found["df_dam_1", "ResNet-101, sum"]
    assert scene is not None
    assert scene.row.kwargs == {"encoder": "resnet101.tv_in1k", "fusion": "sum"}  # and random weights
    assert scene.row.size == (512, 512)


def test_hours_by_hand(measured: list[Any], tmp_path: Path) -> None:
    """Three of nine images are trained on, one batch of two an epoch: 0.2 s x 3,600 epochs x 6 cells is 1.2 hours."""
    write_data(tmp_path / "data")
    small = {"network_def#channels": [4, 8], "batch_size": 2}
    path = write_study(tmp_path / "s.yaml", epochs=3600, set=small)
    table = list_studies([str(path)], measured=True)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["hours"] == pytest.approx(1.2)
    assert (row["rows"], row["cells"], row["data"], row["budget"]) == (2, 6, "squares", "3600 epochs")
    assert [(each.kwargs, batch) for each, batch, _ in measured] == [({"channels": [4, 8]}, 2)] * 2
    ten = write_study(tmp_path / "s.yaml", epochs=3600, set={**small, "iterations": 10})
    assert hours(list_studies([str(ten)], measured=True)) == pytest.approx(12)
    assert hours(list_studies([str(ten)])) is None
    minutes = write_study(tmp_path / "s.yaml", epochs=None, minutes=30)
    assert hours(list_studies([str(minutes)])) == 3


def test_rows_that_compute_the_same_are_measured_once_and_kept(measured: list[Any]) -> None:
    """Of 81 rows in 19 studies; asked again, only what could not be measured is measured."""
    said: list[str] = []
    table = list_studies([], measured=True, say=said.append)
    keys = [
        (row.target, row.in_channels, row.out_channels, row.size, str(row.kwargs), batch) for row, batch, *_ in measured
    ]
    assert len(set(keys)) == len(keys) == len(said) - 1
    rows = sum(len(read_study(name).rows) for name in shipped())
    total = int(said[0].split()[0])  # of a study with a row that fails the others are not measured
    assert len(keys) < total < 0.7 * rows
    assert f"{total} steps are to be measured here, 0 are known" in said[0]
    assert said[-1].startswith(f"measuring {len(keys)} of {total}: ")
    failed = sum(max(row.size) >= 512 for row, *_ in measured)
    measured.clear()
    said.clear()
    again = list_studies([], measured=True, say=said.append)
    assert (again.columns, again.rows, again.notes) == (table.columns, table.rows, table.notes)
    assert len(measured) == failed < len(keys)
    assert f"{total - len(keys) + failed} steps are to be measured here, {len(keys) - failed} are known" in said[0]


def test_rows_whose_steps_differ_are_measured_each(measured: list[Any], tmp_path: Path) -> None:
    write_data(tmp_path / "data")
    small: dict[str, Any] = {"network_def#channels": [4, 8], "batch_size": 2}
    sets = [small, {**small, "learning_rate": 0.1}, {**small, "precision": "bf16"}, {**small, "accumulation_steps": 3}]
    rows = [{"name": f"row {number}", "set": each} for number, each in enumerate(sets)]
    list_studies([str(write_study(tmp_path / "s.yaml", epochs=3600, rows=rows))], measured=True)
    assert [step for _, _, step in measured] == [
        StepSettings("auto"),
        StepSettings("bf16"),
    ]


def test_a_step_of_fewer_images_is_told(measured: list[Any]) -> None:
    (note,) = [each for each in list_studies(["lfa_unet_3"], measured=True).notes if "of a batch's images" in each]
    assert "a step of 2 of a batch's images was measured and taken times the batch" in note


def test_why_there_are_no_hours(measured: list[Any], tmp_path: Path) -> None:
    table = list_studies(["df_dam_2"], measured=True)
    assert hours(table) is None
    assert "df_dam_2, sum: it does not fit" in table.notes
    unknown = write_study(tmp_path / "s.yaml", data=None)
    assert "how many images there are is not known" in list_studies([str(unknown)], measured=True).notes[0]
    planned = write_study(tmp_path / "s.yaml", data=None, images=4, rows=[{"name": "a", "plan": "unet"}])
    assert "row a is planned when the study begins" in list_studies([str(planned)], measured=True).notes[0]


def test_a_file_as_overlay_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("max_epochs: 2\n")
    path = write_study(tmp_path / "s.yaml", rows=[{"name": "a", "with": str(tmp_path / "own.yaml")}])
    study = read_study(path)
    with pytest.raises(MedsegError, match=r"overlay .*own.yaml is a file of its own"):
        recipe(study, study.rows[0])


def test_the_command_lists_all_that_come_with_medseg(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in shipped())
    assert "1500 epochs, the bundle's" in said
    assert main(["study", "list", "nothing"]) == 2
    assert "there is no study 'nothing'" in capsys.readouterr().err
