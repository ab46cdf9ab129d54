"""The series of a folder that become cases, and what is said of the others."""

import shutil

import numpy as np
import pytest
from dicom_series import AXIAL, tags, write_series
from pydicom.data import get_testdata_file

from medseg.bundle.description import Description
from medseg.io.dicom_rules import rules_of
from medseg.io.images import read_image
from medseg.prediction.cases import ImageFolder, InputError

MODEL = Description.of(
    {"name": "m", "classes": ["a", "b"], "network": {"name": "unet", "spatial_dims": 3, "in_channels": 1}}
)


def one_folder(folder, **kinds):
    """Write series of several kinds into one folder, as a scanner's export does."""
    for number, (name, options) in enumerate(kinds.items()):
        count = len(options["distances"])
        about = tags(
            SeriesInstanceUID=[f"1.2.{number}"] * count, **{key: [v] * count for key, v in options["tags"].items()}
        )
        made = write_series(
            folder / f"_{name}", options["distances"], about, turn=AXIAL, shift=options.get("shift", (0, 0, 0))
        )
        for path in made.iterdir():
            path.rename(folder / f"{name}{path.name}")
        made.rmdir()


@pytest.fixture
def study(tmp_path):
    one_folder(
        tmp_path / "in",
        thin={"distances": [0, 1, 2, 3], "tags": {"SeriesDescription": "thorax"}},
        thick={"distances": [0, 5, 10], "tags": {"SeriesDescription": "thorax"}},
        tilted={"distances": [0, 5, 10], "tags": {}, "shift": (0, -0.2679, 0)},
        gap={"distances": [0, 1, 2, 4, 5], "tags": {}},
        scout={"distances": [0], "tags": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}},
    )
    return tmp_path


def found(study, rules=None):
    folder = ImageFolder(study / "in", MODEL, study / "out", rules=rules)
    shapes = sorted(read_image(case.image).shape for case in folder.cases)
    return shapes, {path.name: reason for path, reason in folder.left_out}, [path.name for path in folder.missed]


def test_each_volume_is_a_case(study):
    shapes, left_out, missed = found(study)
    assert shapes == [(24, 16, 3), (24, 16, 4)]
    assert left_out["scout01.dcm"] == "localiser"
    assert left_out["tilted01.dcm"].startswith("series of 3 slices: slices sheared by 15.0 degrees")
    assert left_out["gap01.dcm"].startswith(f"series of 5 slices: {study / 'in'}: 1 slice is missing between")
    assert sorted(missed) == ["gap01.dcm", "tilted01.dcm"]


def test_a_rule_chooses(study):
    rules = rules_of([{"modality": "CT", "description": "thorax", "slice_distance": [0.5, 2]}], "rules")
    shapes, left_out, missed = found(study, rules)
    assert shapes == [(24, 16, 4)]
    assert left_out["thick01.dcm"] == "series of 3 slices: slices 5 mm apart, wanted 0.5 to 2"
    assert left_out["gap01.dcm"] == "series of 5 slices: its description does not fit 'thorax'"
    assert missed == []  # what a rule refuses is not what anybody waits for


def test_a_single_series_keeps_its_name(tmp_path):
    write_series(tmp_path / "in" / "scan", [0, 2, 4])
    folder = ImageFolder(tmp_path / "in", MODEL, tmp_path / "out")
    assert [(case.name, case.target.name, case.image.name) for case in folder.cases] == [
        ("scan", "scan.nii.gz", "scan")
    ]
    with pytest.raises(InputError, match=r"holds no DICOM series that is taken; scan/01.dcm: series of 3 slices: mod"):
        ImageFolder(tmp_path / "in", MODEL, tmp_path / "out", rules=rules_of([{"modality": "MR"}], "rules"))


def test_what_is_no_volume_is_left_to_the_reader(tmp_path):
    def plain(number, data):
        del data.ImagePositionPatient
        data.PixelData = np.zeros((16, 24), np.int16).tobytes()

    write_series(tmp_path / "in" / "xray", [0], plain)
    (case,) = ImageFolder(tmp_path / "in", MODEL, tmp_path / "out").cases
    assert read_image(case.image).kind == "picture"


@pytest.mark.parametrize("apart", ["halves", "by turns", "each alone", "with a gap"])
def test_parts_of_a_series_in_several_folders_are_no_cases(tmp_path, apart):
    """Each of them would have a mask of its own that is right in itself, of a third of an organ."""
    made = write_series(tmp_path / "made", [0, 2, 4, 6, 8, 10])
    for number, path in enumerate(sorted(made.iterdir())):
        place = {"halves": number // 3, "by turns": number % 2, "each alone": number, "with a gap": number // 3}[apart]
        (tmp_path / "in" / f"p{place}").mkdir(parents=True, exist_ok=True)
        if not (apart == "with a gap" and number == 3):
            path.rename(tmp_path / "in" / f"p{place}" / path.name)
    write_series(tmp_path / "in" / "whole", [0, 2, 4], tags(SeriesInstanceUID=["1.2.9"] * 3))
    folder = ImageFolder(tmp_path / "in", MODEL, tmp_path / "out")
    assert [case.name for case in folder.cases] == ["whole"]
    assert {path.parent.name for path in folder.missed} == {each.name for each in (tmp_path / "in").glob("p*")}
    for _, reason in folder.left_out:
        assert f"the slices of its series lie in several folders ({tmp_path / 'in' / 'p0'}, " in reason
        assert reason.endswith("); put them, or links to them, into one folder, and name that one")
    (tmp_path / "one").mkdir()
    for number, path in enumerate(sorted((tmp_path / "in").glob("p*/*"))):
        (tmp_path / "one" / f"{number}.dcm").symlink_to(path)
    ((case),) = ImageFolder(tmp_path / "one", MODEL, tmp_path / "out").cases
    assert (tmp_path / "one") in (case.image, case.image.parent)


def test_a_copy_of_some_slices_is_no_case(tmp_path):
    write_series(tmp_path / "in" / "a", [0, 2, 4, 6])
    write_series(tmp_path / "in" / "copy", [0, 2, 4, 6])
    write_series(tmp_path / "in" / "some", [0, 2, 4])
    folder = ImageFolder(tmp_path / "in", MODEL, tmp_path / "out")
    assert [case.name for case in folder.cases] == ["a", "copy"]
    ((path, reason),) = folder.left_out
    assert path.parent.name == "some"
    assert reason == (
        f"series of 3 slices: 3 of the slices that {tmp_path / 'in' / 'a'} holds; remove these, or name one folder"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"distances": [0, 2, 4]},  # another phase, at the same places
        {"distances": [6, 8, 10], "turn": AXIAL},
        {"distances": [6, 8, 10], "spacing": (1, 1)},
    ],
)
def test_volumes_that_share_the_uid_of_a_series_are_cases(tmp_path, other):
    """As somebody leaves them who split a series of several volumes, which its refusal asks for."""
    write_series(tmp_path / "in" / "one", [0, 2, 4])
    distances = other.pop("distances")
    new = tags(SOPInstanceUID=["1.2.3.7", "1.2.3.8", "1.2.3.9"])
    write_series(tmp_path / "in" / "two", distances, new, **other)
    folder = ImageFolder(tmp_path / "in", MODEL, tmp_path / "out")
    assert [case.name for case in folder.cases] == ["one", "two"]
    write_series(tmp_path / "in" / "two", [6, 8, 10], tags(SOPInstanceUID=["1.2.3.7", "1.2.3.8", "1.2.3.9"]))
    with pytest.raises(InputError, match="lie in several folders"):
        ImageFolder(tmp_path / "in", MODEL, tmp_path / "out")


def test_patients_whose_series_share_a_uid_are_cases(tmp_path):
    write_series(tmp_path / "in" / "one", [0, 2, 4])
    new = tags(SOPInstanceUID=["1.2.3.7", "1.2.3.8", "1.2.3.9"], PatientID=["other"] * 3)
    write_series(tmp_path / "in" / "two", [6, 8, 10], new)
    assert len(ImageFolder(tmp_path / "in", MODEL, tmp_path / "out").cases) == 2


def test_what_lies_beside_series_in_folders_of_its_own(tmp_path):
    """As of a study on a medium: its directory, localisers, screenshots and reports are no cases, and no failures."""
    study = tmp_path / "in"
    write_series(study / "t1", [0, 1, 2, 3])
    write_series(study / "scout", [0], tags(SeriesInstanceUID=["1.2.9"], ImageType=[["ORIGINAL", "LOCALIZER"]]))

    def captured(number, data):
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        del data.ImagePositionPatient

    write_series(study / "shots", [0, 1], captured)
    write_series(study / "report", [0], tags(Modality=["SR"]))
    shutil.copy(get_testdata_file("DICOMDIR", download=False), study / "DICOMDIR")
    folder = ImageFolder(study, MODEL, tmp_path / "out")
    assert [case.name for case in folder.cases] == ["t1"]
    assert {path.as_posix(): reason for path, reason in folder.left_out} == {
        "DICOMDIR": "the directory of a medium (DICOMDIR)",
        "report/01.dcm": "no image of its own (modality SR)",
        "scout/01.dcm": "localiser",
        "shots/01.dcm": "secondary capture without a place in the patient",
        "shots/02.dcm": "secondary capture without a place in the patient",
    }
    assert folder.missed == []
    assert [case.name for case in ImageFolder(study / "scout", MODEL, tmp_path / "out").cases] == ["scout"]  # is meant
    with pytest.raises(InputError, match=r"holds no DICOM series that is taken; 01\.dcm: localiser"):
        ImageFolder(study / "scout", MODEL, tmp_path / "out", rules=rules_of([{"modality": "CT"}], "rules"))
    chosen = ImageFolder(study, MODEL, tmp_path / "out", rules=rules_of([{"modality": "CT"}], "rules"))
    assert [case.name for case in chosen.cases] == ["t1"]
    assert len(chosen.left_out) == 5
