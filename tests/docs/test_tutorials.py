"""The tutorials, from top to bottom, on small real data: what they say is typed, and what they show comes out."""

import os
import shlex
import shutil
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from costs import Device
from dicom_predictions import weights
from dicomweb_server import PASSWORD, USER, serving
from docs.tutorial_runner import TUTORIALS, Walk, walking
from node_parts import Archive, send, wait_for
from PIL import Image
from tiny_study import in_this_process

from medseg.bundle import workflow
from medseg.cli import main
from medseg.node import child
from medseg.node.config import read_config
from medseg.node.models import load_models
from medseg.node.status import read_status
from medseg.studies import complexity, executors, study_cell

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


@pytest.mark.usefixtures("here", "undrawn", "copied_stores")  # MLflow takes the study down, too
def test_a_table_back(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = real(real_data, "drosophila_vnc")
    changes = {
        "medseg data drosophila -o": f"medseg data drosophila --source {stack} --allow-partial -o",  # not downloaded
        "[8, 16, 32, 64]": "[2, 4], iterations: 2, device: cpu",
        "epochs: 4": "epochs: 1",
    }
    begun: list[Any] = []
    with walking(monkeypatch, tmp_path) as patch:
        handlers = {
            "medseg data drosophila": lambda line: made_smaller(line, capsys),
            "medseg study run": lambda line: after_an_interruption(line, patch, capsys, begun),
        }
        walk = Walk("a_table_back", changes, capsys, handlers)
        walk.run()
        assert len(begun) == 4  # no training twice
        assert walk.compared > 6
        assert (tmp_path / "studies" / "table1" / "boxes.png").is_file()


def made_smaller(line: str, capture: pytest.CaptureFixture[str]) -> str:
    """Cut the crops, and let each have a quarter of its length and width: most of the time is the scores of pixels."""
    assert main(shlex.split(line)[1:]) == 0
    for crop in Path("data", "drosophila").glob("*/*_*_*.png"):
        with Image.open(crop) as picture:
            picture.resize((picture.width // 4, picture.height // 4), Image.Resampling.NEAREST).save(crop)
    return "".join(capture.readouterr())


def after_an_interruption(
    line: str, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str], begun: list[Any]
) -> str:
    """Press Ctrl-C where the second training has ended and its scores have not begun, and type the same again."""
    train, evaluate = workflow.train, workflow.evaluate
    scored: list[Any] = []

    def counted(*given: Any, **options: Any) -> Any:
        begun.append(given)
        return train(*given, **options)

    def interrupted(*given: Any, **options: Any) -> Any:
        if len(scored) == 1:
            raise KeyboardInterrupt
        scored.append(given)
        return evaluate(*given, **options)

    words = shlex.split(line)[1:]
    patch.setattr(workflow, "train", counted)
    if not begun:
        with patch.context() as first:
            first.setattr(workflow, "evaluate", interrupted)
            assert main(words) == 130
        assert len(list(Path("studies", "table1", "cells").iterdir())) == 1
    assert main(words) == 0
    patch.setattr(workflow, "train", train)
    return "".join(capture.readouterr())


@pytest.mark.usefixtures("here", "undrawn")
def test_own_data(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    release = real(real_data, "msd_hippocampus")
    for image in sorted((release / "imagesTr").glob("hippocampus_*.nii.gz"))[:10]:
        for source, folder in ((image, "images"), (release / "labelsTr" / image.name, "labels")):
            target = tmp_path / "scans" / folder / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    monkeypatch.setattr(complexity, "measure", Device().measure)  # a device whose costs are known: none is measured
    small = "device=cpu network_def#channels=[2,4,4,4]"
    changes = {
        "--minutes 5 ": f"--minutes 0.1 mlflow=false {small} iterations=2 max_epochs=1 ",
        "--minutes 480": f"--minutes 480 --networks unet attention_unet --folds 2 --no-pictures {small}",
    }
    overrides = study_cell._overrides
    few = {"max_epochs": 1, "iterations": 2, "max_minutes": None}
    monkeypatch.setattr(study_cell, "_overrides", lambda *given: {**overrides(*given), **few})
    with walking(monkeypatch, tmp_path):
        walk = Walk("own_data", changes, capsys)
        walk.run()
        assert walk.compared == 8
        assert len(list((tmp_path / "comparisons" / "mine" / "model").glob("*.zip"))) == 2
        assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 10
        assert (tmp_path / "runs" / "first" / "run" / "report.html").is_file()


class LoadedHere:
    """The models of a node in this process: one of their own would import everything anew."""

    def __init__(self, load: Any, _seconds: float) -> None:
        self.routes = load_models(*load.args)

    def __enter__(self) -> "LoadedHere":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def node_runs(line: str) -> str:
    """Run a node, as an archive would that sends it a study, until the study is done."""
    config = read_config(Path(line.split()[-1]))
    files, queue = sorted(Path("studies", "study1").iterdir()), config.folder / "queue.sqlite"
    came: list[Any] = []

    def outside() -> None:
        try:
            wait_for(lambda: send(config.port, files, title="PACS", called=config.title) == [0] * len(files), 100)
            came.append(wait_for(lambda: read_status(queue, running=True).states == {"done": 1}, 100))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=outside)
    thread.start()
    assert main(line.split()[1:]) == 0
    thread.join()
    assert came
    return ""


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # pynetdicom's, where nobody listens
def test_ten_thousand_studies(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("highdicom", "pynetdicom"):
        pytest.importorskip(package, reason=f"DICOM objects and a node need {package}: pip install 'medseg[dicom]'")
    series = real(real_data, "dicom_mr_hippocrop")
    for name in ("study1", "study2"):
        shutil.copytree(series / name, tmp_path / "studies" / name)
    codes: dict[str, Any] = {"1": HIPPOCAMPUS, "2": HIPPOCAMPUS}
    (tmp_path / "runs" / "first").mkdir(parents=True)
    names = ("background", "anterior", "posterior")
    weights(tmp_path / "runs" / "first" / "model.pt", names, codes=codes)  # untrained: every class is somewhere
    monkeypatch.setattr(child, "PredictingProcess", LoadedHere)
    archive = Archive()
    archive.ae.require_called_aet = False
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    try:
        with serving() as pacs, walking(monkeypatch, tmp_path) as patch:
            for path in sorted((tmp_path / "studies" / "study1").iterdir()):
                pacs.add(path.read_bytes())
            (study,) = {str(dataset.StudyInstanceUID) for dataset, *_ in pacs.held.values()}
            patch.setenv("MEDSEG_DICOMWEB_USER", USER)
            patch.setenv("MEDSEG_DICOMWEB_PASSWORD", PASSWORD)
            changes = {
                "dicomweb://pacs.example/dicom-web": f"dicomweb+{pacs.url}",
                "--study 1.2.3": f"--study {study}",
                "port: 11112": f"port: {port}",
                "port: 104": f"port: {archive.port}",
                "status_port: 8042 ": "still_seconds: 0.3\ndisk_gib: 0.1\ndevice: cpu  ",
            }
            walk = Walk("ten_thousand_studies", changes, capsys, {"medseg node run": node_runs})
            walk.run()
            assert [dataset.Modality for dataset, *_ in pacs.held.values()].count("SEG") == 1
    finally:
        archive.down()
    assert walk.compared == 13
    assert len(list((tmp_path / "results").glob("*.seg.dcm"))) == 2
    assert len(archive.objects) == 1
