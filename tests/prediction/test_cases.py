"""What is a case: images of folders and datalists, DICOM series however they lie, and where their masks go."""

import json
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from prediction.slices import dicom_slice

from medseg.bundle.description import Description
from medseg.data.datalist import Datalist
from medseg.engines.scores import case_names
from medseg.errors import MedsegError
from medseg.io.images import read_image
from medseg.prediction.cases import ImageFolder, InputError, names_of


def described(channels: int = 1) -> Description:
    network = {"name": "toy", "spatial_dims": 2, "in_channels": channels, "out_channels": 2}
    return Description.of({"name": "toy", "network": network, "classes": ["a", "b"]})


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)
    return path


def targets(folder: ImageFolder) -> dict[str, str]:
    return {case.name: case.target.relative_to(folder.output_dir).as_posix() for case in folder.cases}


def write_datalist(tmp_path: Path) -> Path:
    """Write a datalist of three images, one a list, one of them beside its folder."""
    for name in ("images/a.png", "images/sub/b.png", "labels/a.png", "labels/b.png"):
        picture(tmp_path / "data" / name)
    picture(tmp_path / "beside" / "c.png")
    content = {
        "name": "toy", "version": 1, "modality": ["x"], "licence": "CC0", "source": "here", "ignore_index": None,
        "labels": {"0": "a", "1": "b"},
        "training": [{"image": "images/a.png", "label": "labels/a.png", "group": "1"}],
        "validation": [{"image": "images/sub/b.png", "label": "labels/b.png", "group": "2"}],
        "test": [{"image": "../beside/c.png"}],
    }  # fmt: skip
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(content))
    return tmp_path / "data"


@pytest.mark.parametrize("named", ["datalist.json", ""])
def test_a_datalist_s_images(tmp_path: Path, named: str) -> None:
    """A folder that holds a datalist stands for it, as in training and evaluation."""
    found = ImageFolder(write_datalist(tmp_path) / named, described(), tmp_path / "out")
    assert targets(found) == {
        "beside/c.png": "beside/c.png",
        "data/images/a.png": "data/images/a.png",
        "data/images/sub/b.png": "data/images/sub/b.png",
    }
    assert found.told == "datalist.json lists 3 images, all are predicted: training 1, validation 1, test 1"


def test_images_that_have_a_channel_in_common(tmp_path: Path) -> None:
    """An atlas as the first channel of all: the others were called like the first, and vanished without a word."""
    listed = write_datalist(tmp_path) / "datalist.json"
    for name in ("atlas", "a", "b"):
        picture(tmp_path / "data" / f"{name}.png")

    def found(*images: list[str]) -> ImageFolder:
        training = [{"image": image, "label": "labels/a.png"} for image in images]
        content = {**json.loads(listed.read_text()), "modality": ["x", "y"], "training": training}
        listed.write_text(json.dumps({**content, "validation": [], "test": []}))
        return ImageFolder(listed, described(2), tmp_path / "out")

    pairs = [["atlas.png", "a.png"], ["atlas.png", "b.png"]]
    folder = found(*pairs)
    assert targets(folder) == {"a.png": "a.png", "b.png": "b.png"}
    assert [[file.name for file in case.files] for case in folder.cases] == pairs
    data = Datalist.load(listed)
    entries = [data.absolute(entry) for entry in data.training]
    assert names_of(data, entries[1:]) == ["b.png"]
    assert case_names(entries) == ["a.png", "b.png"]
    with pytest.raises(InputError, match=r"both would be called a\.png; give each a file of its own"):
        found(["a.png", "b.png"], ["a.png", "atlas.png"], ["b.png", "atlas.png"])


def test_images_that_a_folder_s_datalist_does_not_list_are_counted(tmp_path: Path) -> None:
    data = write_datalist(tmp_path)
    for name in ("images/new.png", "z.png", "out/a.png"):
        picture(data / name)
    found = ImageFolder(data, described(), data / "out")
    assert len(found) == 3
    assert found.told.endswith(
        "test 1; 2 other images of the folder, such as images/new.png, not: name them, or a folder of them"
    )


def test_a_json_beside_images_that_lists_none(tmp_path: Path) -> None:
    """Such as nnU-Net's; one that is called as medseg's datalists are is not passed over."""
    picture(tmp_path / "in" / "a.png")
    for text in ('{"channel_names": {"0": "CT"}, "labels": {"background": 0}}', "[1]", "{"):
        (tmp_path / "in" / "dataset.json").write_text(text)
        found = ImageFolder(tmp_path / "in", described(), tmp_path / "out")
        assert (list(targets(found)), found.datalist, found.told) == (["a.png"], None, "")
    (tmp_path / "in" / "datalist.json").write_text("{}")
    with pytest.raises(MedsegError, match=r"in/datalist\.json"):
        ImageFolder(tmp_path / "in", described(), tmp_path / "out")


def test_a_series_that_a_datalist_names_by_a_slice_is_no_other_image(tmp_path: Path) -> None:
    for number in range(2):
        dicom_slice(tmp_path / "data" / "s" / f"{number}.dcm", "1.1", number, 1)
    data = write_datalist(tmp_path)
    content = json.loads((data / "datalist.json").read_text())
    for image in ("s/0.dcm", "s"):
        (data / "datalist.json").write_text(json.dumps({**content, "test": [{"image": image}]}))
        assert "other image" not in ImageFolder(data, described(), tmp_path / "out").told


def test_a_datalist_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(MedsegError, match=r"x\.json"):
        ImageFolder(tmp_path / "x.json", described(), tmp_path / "out")
    with pytest.raises(MedsegError, match=r"none\.json: no such file or folder"):
        ImageFolder(tmp_path / "none.json", described(), tmp_path / "out")


def test_dicom_however_it_lies(tmp_path: Path) -> None:
    """Nested, without suffixes, several series in one folder: a case each, told apart by tags and named without any."""
    for number in range(3):
        dicom_slice(tmp_path / "in" / "one" / "deep" / f"IM{number}", "1.1", 3 - number, 1)
        dicom_slice(tmp_path / "in" / "two" / f"A{number}.dcm", "1.2", number, 2)
        dicom_slice(tmp_path / "in" / "two" / f"B{number}.dcm", "1.3", 2 * number, 3)
    found = ImageFolder(tmp_path / "in", described(), tmp_path / "out")
    names = targets(found)
    assert len(names) == 3
    assert names["one/deep"] == "one/deep.nii.gz"
    assert {name.split("_")[0] for name in names if name != "one/deep"} == {"two"}
    for case in found.cases:
        assert case.target.name == f"{Path(case.name).name}.nii.gz"
        image = read_image(case.image)
        assert image.shape == (4, 3, 3)
        assert image.spacing is not None
        assert (int(image.array.max()), image.spacing[2]) in ((1, 1.0), (2, 1.0), (3, 2.0))
    again = ImageFolder(tmp_path / "in", described(), tmp_path / "out")
    assert targets(again) == names
    assert "Secret" not in str(names)


def test_other_dicom_files_beside_a_series_are_no_series(tmp_path: Path) -> None:
    for number in range(2):
        dicom_slice(tmp_path / "in" / "s" / f"{number}.dcm", "1.1", number, 1)
    report = pydicom.dcmread(tmp_path / "in" / "s" / "0.dcm")
    report.Modality, report.SeriesInstanceUID = "SEG", "1.9"
    report.save_as(tmp_path / "in" / "s" / "seg.dcm")
    assert targets(ImageFolder(tmp_path / "in", described(), tmp_path / "out")) == {"s": "s.nii.gz"}


def test_a_damaged_file_among_slices_is_left_to_the_reader(tmp_path: Path) -> None:
    for number in range(2):
        dicom_slice(tmp_path / "in" / f"{number}.dcm", f"1.{number}", number, 1)
    (tmp_path / "in" / "2.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    found = ImageFolder(tmp_path / "in", described(), tmp_path / "out")
    assert targets(found) == {"in": "in.nii.gz"}
    with pytest.raises(MedsegError):
        read_image(found[0].image)


def test_a_lone_file_with_two_numbers_of_frames_is_left_to_the_reader(tmp_path: Path) -> None:
    dicom_slice(tmp_path / "in" / "a.dcm", "1.1", 0, 1)
    data = pydicom.dcmread(tmp_path / "in" / "a.dcm")
    data.NumberOfFrames = ["1", "2"]
    data.save_as(tmp_path / "in" / "a.dcm")
    found = ImageFolder(tmp_path / "in" / "a.dcm", described(), tmp_path / "out")
    assert len(found.cases) == 1
    with pytest.raises(MedsegError, match=r"a\.dcm: its NumberOfFrames is .*, not a number"):
        read_image(found[0].image)


def test_one_image_alone(tmp_path: Path) -> None:
    found = ImageFolder(picture(tmp_path / "a.png"), described(), tmp_path / "out")
    assert targets(found) == {"a.png": "a.png"}


def test_texts_are_not_missed(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    for name in ("notes.txt", "a.geojson", "x.webp", "LICENSE", "README.rst"):
        (tmp_path / "in" / name).write_text("?")
    found = ImageFolder(tmp_path / "in", described(), tmp_path / "out")
    assert [path.name for path in found.missed] == ["x.webp"]
    assert len(found.left_out) == 5


def test_masks_do_not_replace_images(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match="is the folder of the images; masks would replace them"):
        ImageFolder(tmp_path / "in", described(), tmp_path / "in")


def test_dicom_whatever_it_is_called(tmp_path: Path) -> None:
    """As scanners and archives name slices: by UIDs behind a modality, or with suffixes of their own."""
    names = ("MR.1.3.12.2.1107.{}", "i{}.MRDC.1", "IM00{}.img", "slice{}.txt", "1.2.840.{}", "I{}")
    for number, name in enumerate(names):
        for place in range(3):
            dicom_slice(tmp_path / "in" / f"{number}" / name.format(place), f"1.{number}", place, 1)
    (tmp_path / "in" / "0" / "MR.1.3.12.2.1107.7").touch()
    found = ImageFolder(tmp_path / "in", described(), tmp_path / "out")
    assert targets(found) == {f"{number}": f"{number}.nii.gz" for number in range(len(names))}
    assert all(read_image(case.image).shape == (4, 3, 3) for case in found.cases)
    assert [(path.name, reason) for path, reason in found.left_out] == [("MR.1.3.12.2.1107.7", "is empty (0 bytes)")]
    assert len(found.missed) == 1
