"""The tutorials, from top to bottom, on small real data: what they say is typed, and what they show comes out."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from dicom_predictions import weights
from docs.tutorial_runner import TUTORIALS, Walk, walking
from tiny_study import in_this_process

from medseg.studies import executors

HIPPOCAMPUS = {"value": "5366008", "scheme": "SCT", "meaning": "Hippocampus"}


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the cells of studies be made in this process: each of its own would import everything anew."""
    monkeypatch.setattr(executors, "cells_by", lambda _executor: in_this_process)


def test_each_is_followed() -> None:
    followed = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {page.stem for page in TUTORIALS} <= followed


def real(folder: Path, name: str) -> Path:
    if not (folder / name).is_dir():
        pytest.skip(f"no {name} in {folder}")
    return folder / name


@pytest.mark.usefixtures("here", "undrawn")
def test_a_table_back(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = real(real_data, "drosophila_vnc")
    changes = {
        "medseg data drosophila -o": f"medseg data drosophila --source {stack} --allow-partial -o",  # not downloaded
        "[8, 16, 32, 64]": "[2, 4], iterations: 2, device: cpu",
        "epochs: 4": "epochs: 1",
    }
    with walking(monkeypatch, tmp_path):
        walk = Walk("a_table_back", changes, capsys)
        walk.run()
        assert walk.compared > 6
        assert (tmp_path / "studies" / "table1" / "boxes.png").is_file()


def test_own_data(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release = real(real_data, "msd_hippocampus")
    for image in sorted((release / "imagesTr").glob("hippocampus_*.nii.gz"))[:10]:
        for source, folder in ((image, "images"), (release / "labelsTr" / image.name, "labels")):
            target = tmp_path / "scans" / folder / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    changes = {"--minutes 5 ": "--minutes 0.1 device=cpu mlflow=false "}  # a few steps of the smallest network
    with walking(monkeypatch, tmp_path):
        walk = Walk("own_data", changes, capsys)
        walk.run()
        assert walk.compared == 6
        assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 10
        assert (tmp_path / "runs" / "first" / "run" / "report.html").is_file()


def test_ten_thousand_studies(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("highdicom", reason="DICOM segmentations are written by highdicom: pip install 'medseg[dicom]'")
    series = real(real_data, "dicom_mr_hippocrop")
    for name in ("study1", "study2"):
        shutil.copytree(series / name, tmp_path / "studies" / name)
    codes: dict[str, Any] = {"1": HIPPOCAMPUS, "2": HIPPOCAMPUS}
    (tmp_path / "runs" / "first").mkdir(parents=True)
    names = ("background", "anterior", "posterior")
    weights(tmp_path / "runs" / "first" / "model.pt", names, codes=codes)  # untrained: every class is somewhere
    with walking(monkeypatch, tmp_path):
        walk = Walk("ten_thousand_studies", {}, capsys)
        walk.run()
        assert walk.compared == 3
        assert len(list((tmp_path / "results").glob("*.seg.dcm"))) == 2
