"""What a report of a run must not keep to itself: cases that were seen, weights that changed, what is ignored."""

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from bundle.test_native_scores import write_cases, write_run
from PIL import Image

from medseg.bundle import record, workflow
from medseg.bundle.record import read_weights
from medseg.runs.run_folder import METRICS
from medseg.studies import report_run
from medseg.studies.report import make_report
from medseg.studies.report_origin import reservations
from medseg.studies.report_run import Scored, slices_of, viewer

IGNORED = 255


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, scored on images whose upper half counts for nothing."""
    folder = tmp_path_factory.mktemp("origin")
    (folder / "data").mkdir()
    write_cases(folder / "data", "RAS")
    for path in (folder / "data").glob("label*.nii.gz"):
        label = nibabel.load(path)
        values = np.asarray(label.dataobj).copy()
        values[:, :, 7:] = IGNORED
        nibabel.save(nibabel.Nifti1Image(values, label.affine), path)
    listed = folder / "data" / "datalist.json"
    listed.write_text(json.dumps({**json.loads(listed.read_text()), "ignore_index": IGNORED}))
    fed = {"intensity": {"scheme": "range"}}
    run = write_run(folder / "run", input=fed, inference={"window": [8, 8, 8], "overlap": 0.5})
    (run / METRICS).write_text('{"epoch": 1, "steps": 1, "time": 0}\n')
    workflow.evaluate(run, data=folder / "data", output=run / "test", overrides={"device": "cpu", "mlflow": False})
    return folder


def _reported(run: Path, **data: Any) -> str:
    """Return the report of a run whose evaluation says these things of its data."""
    path = run / "test" / "evaluation.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "data": {**held["data"], **data}}))
    return make_report(run, run / "report.html").read_text()


def test_cases_that_were_seen_are_told_of(evaluated: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(evaluated / "run", tmp_path / "run"))
    unseen = {"training": 0, "validation": 0, "runs_that_do_not_say": 0}
    assert "no test" not in _reported(run, seen=unseen)
    text = _reported(run, seen={**unseen, "training": 2, "validation": 1}, tested_before=3)
    assert "2 of the 2 images that were scored are no test: the model was trained on them" in text
    assert "1 of the 2 images that were scored are no test: the model was picked by them" in text
    assert "3 times: who looks often chooses by it" in text
    text = _reported(run, seen={**unseen, "runs_that_do_not_say": 1})
    assert "1 model did not say which cases it was trained on" in text


def test_weights_that_changed_since_are_told_of(evaluated: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(evaluated / "run", tmp_path / "run"))
    told = "The run&#39;s weights are not those that were scored"
    assert told not in _reported(run)
    described = read_weights(run / "model.pt").description
    assert described is not None
    record.rewrite(run / "model.pt", type(described).of({**described.to_dict(), "temperature": 2.0}))
    assert told in _reported(run)


def test_an_ensemble_is_called_one(evaluated: Path) -> None:
    held = json.loads((evaluated / "run" / "test" / "evaluation.json").read_text())
    weights = {"members": [held["weights"], {**held["weights"], "sha256": "0"}]}
    facts = dict(report_run.asked(None, {**held, "weights": weights}, {}, ["low"]))
    assert facts["model"].startswith("the mean of 2 models, the first: UNet,")
    assert not [line for line in reservations(evaluated / "run", {**held, "weights": weights}, "test") if "run" in line]


def test_what_is_ignored_is_no_error(evaluated: Path) -> None:
    held = Scored(evaluated / "run" / "test", None, False)
    case, row = slices_of(held)[0]
    assert (case.truth == IGNORED).any()
    layers = {each.name: each.uri for each in viewer(held, case, row, most_bytes=10**6).layers}
    picture = Image.open(io.BytesIO(base64.b64decode(layers["wrong"].partition(",")[2])))
    height, width = case.truth.shape[1:]
    wrong = np.asarray(picture).reshape(len(case.truth), picture.height // len(case.truth), picture.width)
    wrong = wrong[:, :: wrong.shape[1] // height, :: wrong.shape[2] // width] == 1
    np.testing.assert_array_equal(wrong, (case.truth != case.prediction) & (case.truth != IGNORED))
