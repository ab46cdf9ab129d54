import json

import pytest

from medseg.importers.layout import ImportingError


@pytest.fixture
def raw(make):
    make.volume(*(f"imagesTr/{case}_{channel}.nii.gz" for case in ("a", "b") for channel in ("0000", "0001")))
    make.volume("imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz")
    make.volume("labelsTr/a.nii.gz", "labelsTr/b.nii.gz", label=True)

    def write(**content):
        make.text("dataset.json", json.dumps(content))

    write(
        channel_names={"0": "T1", "1": "T2"},
        labels={"background": 0, "tumour": 1},
        numTraining=2,
        file_ending=".nii.gz",
    )
    return write


def test_version_2(raw, bring, left_out):
    made = bring()
    assert made.found.layout == "nnunet"
    assert "dataset.json is of version 2" in made.found.why
    assert made.datalist.modality == ("T1", "T2")
    assert made.datalist.training[0]["image"] == [
        "../source/imagesTr/a_0000.nii.gz",
        "../source/imagesTr/a_0001.nii.gz",
    ]
    assert made.datalist.test[0]["image"][1] == "../source/imagesTs/c_0001.nii.gz"
    assert made.datalist.class_names == ["background", "tumour"]
    assert left_out(made) == {}


def test_version_1(raw, bring):
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in "ab"]
    raw(
        name="Brain", modality={"0": "T1", "1": "T2"}, labels={"0": "background", "1": "tumour"}, training=training,
        test=[], numTraining=2, tensorImageSize="4D",
    )  # fmt: skip
    made = bring()
    assert (made.found.layout, made.datalist.name, made.datalist.modality) == ("nnunet", "Brain", ("T1", "T2"))
    assert "version 1" in made.found.why


def test_ignore_label(raw, bring, make):
    make.volume("labelsTr/a.nii.gz", label=True, values=(0, 1, 2))
    raw(channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "tumour": 1, "ignore": 2}, file_ending=".nii.gz")
    made = bring()
    assert (made.datalist.labels, made.datalist.ignore_index) == ({0: "background", 1: "tumour"}, 2)


def test_what_is_incomplete_is_left_out(raw, bring, make, left_out):
    (make.root / "imagesTr/b_0000.nii.gz").unlink()
    made = bring()
    assert left_out(made)["imagesTr/b_0001.nii.gz"] == "the case has the channels 0001 alone"
    for name in ("labelsTr/a", "imagesTs/c_0000", "imagesTs/c_0001"):
        (make.root / f"{name}.nii.gz").unlink()
    with pytest.raises(ImportingError, match=r"holds no case; imagesTr/a_0000.nii.gz: the case has no label"):
        bring(output="two")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2]}, "whole is a region of 2 values"),
        ({}, "has no labels"),
        ({"background": -1}, "gives background the value -1"),
    ],
)
def test_bad_labels(raw, bring, labels, message):
    raw(channel_names={"0": "T1", "1": "T2"}, labels=labels)
    with pytest.raises(ImportingError, match=message):
        bring()


def test_more_than_ten_channels(raw, make, bring):
    names = [f"m{number}" for number in range(11)]
    make.volume(*(f"imagesTr/{case}_{number:04d}.nii.gz" for case in "ab" for number in range(11)))
    make.volume(*(f"imagesTs/c_{number:04d}.nii.gz" for number in range(11)))
    raw(channel_names=dict(enumerate(names)), labels={"background": 0, "a": 1}, numTraining=2, file_ending=".nii.gz")
    made = bring()
    assert list(made.datalist.modality) == names
    assert [path.name[-11:-7] for path in made.found.cases[0].images] == [f"{number:04d}" for number in range(11)]
    raw(channel_names={"0": "T1", "2": "T2"}, labels={"background": 0, "a": 1}, file_ending=".nii.gz")
    with pytest.raises(
        ImportingError, match=r"dataset.json: has the channels 0, 2; number them 0, 1, 2 ... without gaps"
    ):
        bring(output="two")
