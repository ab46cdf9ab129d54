"""An ensemble of runs is scored as it predicts, on cases that none of them has seen."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from bundle.test_native_scores import CLASSES, write_cases, write_run
from numpy.typing import NDArray
from PIL import Image

from medseg.bundle import workflow
from medseg.bundle.record import read_weights, rewrite
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.prediction.model import load
from medseg.prediction.predict import predict

OPTIONS = {"device": "cpu", "mlflow": False}


def write_pictures(folder: Path) -> None:
    """Write the middle slices of `write_cases` as pictures of odd sizes."""
    write_cases(folder, "RAS")
    content = json.loads((folder / "datalist.json").read_text())
    for part in ("training", "validation", "test"):
        for entry in content[part]:
            for key in ("image", "label"):
                array = np.asarray(nibabel.load(folder / entry[key]).dataobj)[:, :, 7].astype(np.uint8)
                entry[key] = entry[key].replace(".nii.gz", ".png")
                Image.fromarray(array).save(folder / entry[key])
    (folder / "datalist.json").write_text(json.dumps(content))


@pytest.fixture(params=["volumes", "pictures"])
def runs(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    """Two runs of different weights and temperatures, beside ``data`` whose test list has two cases."""
    (tmp_path / "data").mkdir()
    fed: dict[str, Any] = {"intensity": {"scheme": "range", "low": 0, "high": 255}}
    if request.param == "volumes":
        write_cases(tmp_path / "data", "SAL", tilted=True)
        given: dict[str, Any] = {
            "input": {**fed, "spacing": [1.7, 2, 0.8]},
            "inference": {"window": [8, 8, 8], "overlap": 0.5},
        }
    else:
        write_pictures(tmp_path / "data")
        given = {"dims": 2, "input": fed, "inference": {"window": [16, 16], "overlap": 0.5}}
    return [write_run(tmp_path / f"run{seed}", seed=seed, temperature=by, **given) for seed, by in ((0, 0.5), (1, 3.0))]


def read(path: Path) -> NDArray[Any]:
    return np.asarray(Image.open(path) if path.suffix == ".png" else nibabel.load(path).dataobj)


def matrix(runs: list[Path], masks: Path) -> NDArray[np.int64]:
    """Return the confusion matrix of the masks that a prediction of the test cases writes."""
    data, found = runs[0].parent / "data", np.zeros((3, 3), np.int64)
    for entry in json.loads((data / "datalist.json").read_text())["test"]:
        predict(runs, data / entry["image"], masks, overrides={"device": "cpu"})
        truth, mask = read(data / entry["label"]), read(masks / entry["image"])
        np.add.at(found, (truth.astype(int).ravel(), mask.astype(int).ravel()), 1)
    return found


def seen_of(run: Path, image: Path) -> None:
    """Write that a run was trained on a copy of an image."""
    case = {"path": ["/else/where"], "content": [hashlib.sha256(image.read_bytes()).hexdigest()], "group": ["x"]}
    (run / ".place.json").write_text(json.dumps({"datalist": "", "seen": {"training": [case], "validation": []}}))


def test_scores_are_those_of_the_masks_that_it_writes(runs: list[Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    found = workflow.evaluate_together(runs, data=data, output=tmp_path / "both", overrides=OPTIONS)
    wanted = matrix(runs, tmp_path / "masks")
    assert found.scores["overlap"]["confusion_matrix"] == wanted.tolist()
    alone = [matrix([run], tmp_path / f"masks_{run.name}").tolist() for run in runs]
    assert wanted.tolist() not in alone  # it is neither of the two
    for run, each in zip(runs, alone, strict=True):
        one = workflow.evaluate_together([run], data=data, output=tmp_path / f"one_{run.name}", overrides=OPTIONS)
        assert one.scores["overlap"]["confusion_matrix"] == each

    model = load(runs, device="cpu")
    sums = np.zeros(3)
    for entry in json.loads((data / "datalist.json").read_text())["test"]:
        probable = model.predict(data / entry["image"], probabilities=True).probabilities
        assert probable is not None
        sums += probable.reshape(3, -1).astype(np.float64).sum(1)
    rows = found.scores["calibration"]["classes"]
    binned = [(row["classwise"]["pixels"], row["classwise"]["probability"]) for row in rows]
    seen = [sum(n * (p or 0) for n, p in zip(*each, strict=True)) for each in binned]
    np.testing.assert_allclose(seen, sums, rtol=2e-3)  # the mean of tempered probabilities, kept in half precision


def test_what_it_says_of_itself(runs: list[Path], tmp_path: Path) -> None:
    data = tmp_path / "data"
    words = ["evaluate", str(runs[0]), "--ensemble", str(runs[1]), "--data", str(data), "device=cpu", "mlflow=false"]
    assert main([*words, "-o", str(tmp_path / "both")]) == 0
    record = json.loads((tmp_path / "both" / "evaluation.json").read_text())
    alone = workflow.evaluate(runs[1], data=data, overrides=OPTIONS)
    second = json.loads((alone.folder / "evaluation.json").read_text())
    assert record["weights"]["members"][1] == second["weights"]
    assert record["network"] == second["network"]
    assert record["data"]["images"] == 2
    assert [row["name"] for row in json.loads((tmp_path / "both" / "scores.json").read_text())["classes"]] == CLASSES


def changed(run: Path, **described: Any) -> None:
    """Change what weights say of themselves."""
    weights = read_weights(run / "model.pt").description
    assert weights is not None
    rewrite(run / "model.pt", replace(weights, **described))


def audit(masks: Path) -> dict[str, Any]:
    """Return the record of the only run in a folder of masks."""
    (path,) = masks.glob("medseg_run_*.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_postprocessing_is_what_all_members_do(
    runs: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever is named first; the log, evaluation.json and the record of the prediction say so."""
    data, plain = tmp_path / "data", matrix(runs, tmp_path / "plain").tolist()
    changed(runs[0], postprocess={"high": {"largest": True, "min_size": 20}, "low": {"fill_holes": True}})
    changed(runs[1], postprocess={"high": {"min_size": 5}})
    agreed = {"high": {"min_size": 5}}
    found = []
    for number, order in enumerate((runs, runs[::-1])):
        caplog.clear()
        done = workflow.evaluate_together(order, data=data, output=tmp_path / f"both{number}", overrides=OPTIONS)
        warned = [each.getMessage() for each in caplog.records if "models of this ensemble differ" in each.getMessage()]
        assert len(warned) == 1
        assert "(taken: {'min_size': 5})" in warned[0]
        found.append(done.scores["overlap"]["confusion_matrix"])
        assert found[-1] == matrix(order, tmp_path / f"masks{number}").tolist()
        record = json.loads((done.folder / "evaluation.json").read_text())
        assert record["postprocess"] == agreed
        steps = {each["setting"]: (each["members"], each["taken"]) for each in record["members_differ"]}
        assert sorted(steps) == ["postprocess high", "postprocess low"]
        assert steps["postprocess low"][1] is None
        assert record["temperatures"] == [0.5, 3.0][:: 1 if order is runs else -1]
    assert found[0] == found[1] != plain

    given = {**OPTIONS, "postprocess": agreed}
    caplog.clear()
    asked = workflow.evaluate_together(runs, data=data, output=tmp_path / "asked", overrides=given)
    assert asked.scores["overlap"]["confusion_matrix"] == found[0]
    bare = {**given, "postprocess": {}}
    asked = workflow.evaluate_together(runs, data=data, output=tmp_path / "bare", overrides=bare)
    assert asked.scores["overlap"]["confusion_matrix"] == plain
    assert "models of this ensemble differ" not in caplog.text


def test_the_record_of_a_prediction_says_in_what_members_differ(runs: list[Path], tmp_path: Path) -> None:
    image = tmp_path / "data" / "image0.nii.gz"
    image = image if image.exists() else image.with_name("image0.png")
    changed(runs[0], postprocess={"high": {"largest": True}})
    words = ["predict", str(runs[0]), str(image)]
    assert main([*words, str(tmp_path / "a"), "device=cpu", "--ensemble", str(runs[1])]) == 0
    options = audit(tmp_path / "a")["options"]
    assert options["postprocess"] == {}
    wanted = {"setting": "postprocess high", "members": [{"largest": True}, None], "taken": None}
    assert options["members_differ"] == [wanted]
    steps = 'postprocess={"high": {"largest": true}}'
    assert main([*words, str(tmp_path / "b"), "device=cpu", steps, "--ensemble", str(runs[1])]) == 0
    options = audit(tmp_path / "b")["options"]
    assert (options["postprocess"], options["members_differ"]) == ({"high": {"largest": True}}, [])


def test_masks_of_other_postprocessing_are_no_masks_of_the_model(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were skipped, as if the model had made them."""
    image = tmp_path / "data" / "image0.nii.gz"
    image = image if image.exists() else image.with_name("image0.png")
    words = ["predict", str(runs[0]), str(image), str(tmp_path / "out"), "device=cpu"]
    assert main(words) == 0
    changed(runs[0], postprocess={"high": {"largest": True}})
    assert main(words) == 2
    assert "other" in capsys.readouterr().err
    assert main([*words, "postprocess={}"]) == 0
    assert "1 skipped" in capsys.readouterr().out


def test_what_is_refused_of_postprocessing(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    for words, said in (
        (["postprocess={liver: {largest: true}}"], "postprocess names the class 'liver'; the classes are nothing, low"),
        (["postprocess=3"], "postprocess is 3; give steps by class"),
        (["--choose-postprocessing", "postprocess={}"], "but the run's own validation cases choose; leave it out"),
    ):
        assert main(["evaluate", str(runs[0]), "--data", str(data), "device=cpu", *words]) == 2
        assert said in capsys.readouterr().err
    words = ["predict", str(runs[0]), str(data), str(tmp_path / "out"), "device=cpu"]
    assert main([*words, "postprocess={liver: {largest: true}}"]) == 2
    assert "postprocess names the class 'liver'" in capsys.readouterr().err
    assert main([*words, "--ensemble", str(runs[0])]) == 2
    assert "run0/model.pt is named twice, and would count twice in the ensemble" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_refused(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, first, second = tmp_path / "data", str(runs[0]), str(runs[1])
    given: dict[str, Any] = {"data": data, "output": tmp_path / "out", "overrides": OPTIONS}
    with pytest.raises(MedsegError, match=r"run0 is named twice, and would count twice in the ensemble"):
        workflow.evaluate_together([first, first], **given)
    with pytest.raises(MedsegError, match="evaluate has no option 'fold'"):
        workflow.evaluate_together(runs, **{**given, "overrides": {**OPTIONS, "fold": 1}})
    other = write_run(tmp_path / "other", input={"intensity": {"scheme": "zscore"}})
    with pytest.raises(MedsegError, match=r"other.model\.pt and .*run0.model\.pt are no ensemble: .*input intensity"):
        workflow.evaluate_together([runs[0], other], **given)
    for words, said in (
        (["--ensemble", second], "an ensemble has no folder of its own; say where its scores go: --output DIR"),
        (["--ensemble", second, "--calibrate"], "each run has validation cases of its own; leave --ensemble out"),
    ):
        assert main(["evaluate", first, "--data", str(data), *words]) == 2
        assert said in capsys.readouterr().err
    content = json.loads((data / "datalist.json").read_text())
    (data / "empty.json").write_text(json.dumps({**content, "test": []}))
    seen_of(runs[1], data / content["test"][1]["image"])  # by its bytes: it lay elsewhere, and had another group
    with pytest.raises(MedsegError, match=r"run1 was trained on 1 of the 2 images to score.*the same bytes as /else"):
        workflow.evaluate_together(runs, **given)
    allowed = workflow.evaluate_together(runs, **{**given, "output": tmp_path / "allowed"}, allow_seen=True)
    record = json.loads((allowed.folder / "evaluation.json").read_text())["data"]["seen"]
    assert record == {"training": 1, "validation": 0, "runs_that_do_not_say": 1}
    with pytest.raises(MedsegError, match="its test part is empty, so that nothing can be scored"):
        workflow.evaluate_together(runs, **{**given, "data": data / "empty.json"})
    assert not (tmp_path / "out").exists()
