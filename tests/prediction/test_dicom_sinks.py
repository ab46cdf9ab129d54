"""DICOM objects as outputs of a prediction: of a series each of them, of anything else a reason."""

import json
import logging

import numpy as np
import pydicom
import pytest
from dicom_predictions import series, weights

from medseg.bundle.assembly import description
from medseg.bundle.networks import create
from medseg.data.datalist import Datalist
from medseg.importers.dicom_masks import draw_structures, draw_volume, rois_of, segments_of
from medseg.io.images import read_image
from medseg.prediction.dicom_objects import DicomError
from medseg.prediction.predict import predict

highdicom = pytest.importorskip("highdicom", reason="DICOM objects need highdicom; pip install 'medseg[dicom]'")

OUTPUTS = ("dicom-seg", "dicom-labelmap", "dicom-fractional", "dicom-sr", "rtstruct")
CODES = {"2": {"value": "T1", "scheme": "99LOCAL", "meaning": "Thing"}}


def noisy(number, data):
    values = np.random.default_rng(number).integers(0, 1000, (16, 24)).astype(np.int16)
    data.PixelData = values.tobytes()
    data.PatientName, data.PatientID = "Geheim^Gerda", "geheim-4711"


def test_every_output_of_a_series(tmp_path, caplog):
    """All of them say what the NIfTI mask says."""
    folder = series(tmp_path / "in" / "scan", change=noisy)
    model = weights(tmp_path / "a.pt", codes=CODES)
    (tmp_path / "rules.yaml").write_text("take: [{modality: CT, slices: [3, 9]}]")
    options = {"outputs": OUTPUTS, "overrides": {"device": "cpu"}, "series": tmp_path / "rules.yaml"}
    with caplog.at_level(logging.DEBUG):
        outcome = predict(model, tmp_path / "in", tmp_path / "out", **options)
    assert (outcome.written, outcome.failures) == (1, [])
    image, mask = read_image(folder), read_image(tmp_path / "out" / "scan.nii.gz", label=True).array
    assert set(np.unique(mask)) == {0, 1, 2}
    for name in ("scan.seg.dcm", "scan.labelmap.seg.dcm"):
        path = tmp_path / "out" / name
        for segment, index in zip(draw_volume(path, segments_of(path), image), (1, 2), strict=True):
            np.testing.assert_array_equal(segment.draw(image.shape), mask == index)
    path = tmp_path / "out" / "scan.rtstruct.dcm"
    for segment, index in zip(draw_structures(path, rois_of(path), image), (1, 2), strict=True):
        np.testing.assert_array_equal(segment.draw(image.shape), mask == index)
    seg, report = (pydicom.dcmread(tmp_path / "out" / f"scan.{kind}.dcm") for kind in ("seg", "sr"))
    assert [item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in seg.SegmentSequence] == ["10200004", "T1"]
    referred = [
        item.ReferencedSOPInstanceUID
        for series_ in report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series_.ReferencedSOPSequence
    ]
    assert seg.SOPInstanceUID in referred
    fractions = highdicom.seg.segread(tmp_path / "out" / "scan.fractional.seg.dcm")
    assert fractions.SegmentationType == "FRACTIONAL"
    record = "".join(path.read_text() for path in (tmp_path / "out").glob("*.json"))
    assert "geheim" not in (caplog.text + record).lower()
    (path,) = (tmp_path / "out").glob("medseg_run_*.json")
    names = [each["name"] for each in json.loads(path.read_text())["cases"][0]["outputs"]]
    assert sorted(names) == sorted(each.name for each in (tmp_path / "out").glob("scan.*"))  # each once


def test_what_is_no_series_is_refused_before_it_is_predicted(tmp_path):
    import nibabel

    values = np.random.default_rng(0).random((16, 16, 8)).astype(np.float32)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "in" / "v.nii.gz")
    model = weights(tmp_path / "a.pt", codes=CODES)
    wanted = ("uncertainty", "measurements", "dicom-seg")
    outcome = predict(model, tmp_path / "in", tmp_path / "out", outputs=wanted, overrides={"device": "cpu"})
    assert [(name, "it is no DICOM series" in reason) for name, reason in outcome.failures] == [("v.nii.gz", True)]
    assert not list((tmp_path / "out").glob("v.*"))  # refused before it is predicted: nothing of it is half there
    assert "v.nii.gz" not in "".join(path.read_text() for path in (tmp_path / "out").glob("*.csv"))


def test_a_model_without_codes_is_refused_before_the_first_case(tmp_path):
    series(tmp_path / "in" / "scan", change=noisy)
    model = weights(tmp_path / "a.pt")
    with pytest.raises(DicomError, match=r"the classes 2 \(thing\) have no code"):
        predict(model, tmp_path / "in", tmp_path / "out", outputs=("rtstruct",), overrides={"device": "cpu"})
    assert not list(tmp_path.glob("out/*.nii.gz"))


def test_codes_are_named_for_weights_that_have_none(tmp_path):
    series(tmp_path / "in" / "scan", change=noisy)
    (tmp_path / "codes.json").write_text(json.dumps({"thing": CODES["2"]}))
    options = {"outputs": ("dicom-seg",), "overrides": {"device": "cpu"}, "codes": tmp_path / "codes.json"}
    assert predict(weights(tmp_path / "a.pt"), tmp_path / "in", tmp_path / "out", **options).written == 1
    found = [roi.code for roi in segments_of(tmp_path / "out" / "scan.seg.dcm")]
    assert found == [{"value": "10200004", "scheme": "SCT", "meaning": "Liver"}, CODES["2"]]


@pytest.mark.parametrize("output", OUTPUTS)
def test_other_codes_make_other_objects(tmp_path, output):
    """They had been taken for done, and an archive was sent those with the codes of before."""
    series(tmp_path / "in" / "scan", change=noisy)
    model = weights(tmp_path / "a.pt", codes=CODES)

    def run(**more):
        made = predict(model, tmp_path / "in", tmp_path / "out", outputs=(output,), overrides={"device": "cpu"}, **more)
        files = sorted((tmp_path / "out").glob("*.dcm"))
        return (made.written, made.skipped), {file.name: pydicom.dcmread(file).SOPInstanceUID for file in files}

    first = run()
    assert first[0] == (1, 0)
    assert run() == ((0, 1), first[1])
    other = {**CODES["2"], "meaning": "Other thing"}
    (tmp_path / "codes.json").write_text(json.dumps({"thing": other}))
    second = run(codes=tmp_path / "codes.json")
    assert second[0] == (1, 0)
    assert not set(second[1].values()) & set(first[1].values())
    assert run(codes=tmp_path / "codes.json") == ((0, 1), second[1])


def test_a_report_about_a_segmentation_that_is_gone_is_written_again(tmp_path):
    series(tmp_path / "in" / "scan", change=noisy)
    model = weights(tmp_path / "a.pt", codes=CODES)
    (tmp_path / "codes.json").write_text(json.dumps({"thing": {**CODES["2"], "meaning": "Other thing"}}))
    for outputs, written in ((("dicom-sr",), 1), (("dicom-seg",), 1), (("dicom-sr",), 1), (("dicom-sr",), 0)):
        options = {"outputs": outputs, "overrides": {"device": "cpu"}}
        options |= {} if written and not (tmp_path / "out").exists() else {"codes": tmp_path / "codes.json"}
        assert predict(model, tmp_path / "in", tmp_path / "out", **options).written == written
    seg, report = (pydicom.dcmread(tmp_path / "out" / f"scan.{end}.dcm") for end in ("seg", "sr"))
    assert str(seg.SOPInstanceUID) in str(report)


def test_a_training_proposes_codes(tmp_path):
    """By the data set's name, which the weights do not have; a datalist's own go before."""
    labels = {0: "background", 1: "Anterior", 2: "Posterior"}
    about = {"modality": ("MRI",), "licence": "none", "source": "here", "ignore_index": None}
    lists = {"training": [], "validation": [], "test": [{"image": "a.nii"}]}
    own = {2: {"value": "T1", "scheme": "99LOCAL", "meaning": "Back"}}
    data = Datalist("Hippocampus", 1, labels=labels, path=tmp_path / "d.json", codes=own, **about, **lists)
    made = description({"name": "plan"}, data, create("unet", 3, 1, 3, channels=[4, 8]))
    assert (made.codes["1"]["meaning"], made.codes["1"]["modifier"]["meaning"]) == ("Hippocampus", "Anterior")
    assert made.codes["2"] == own[2]


def test_codes_travel_with_the_weights(tmp_path):
    from medseg.bundle.record import read_weights

    described = read_weights(weights(tmp_path / "a.pt", codes=CODES)).description
    assert json.loads(json.dumps(described.to_dict()))["codes"] == CODES
    assert "codes" not in read_weights(weights(tmp_path / "b.pt")).description.to_dict()
