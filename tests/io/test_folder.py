"""Listing a folder: links are followed once, and whatever is left out is named."""

import os
import shutil
import socket
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.errors import MedsegError
from medseg.io.folder import MASK_RECORD, Listing, list_images, mask_targets
from medseg.runs.run import Run


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


def names(listing: Listing) -> list[str]:
    return [str(path.relative_to(listing.folder)) for path in listing.images]


def reasons(listing: Listing) -> dict[str, str]:
    return {str(each.path.relative_to(listing.folder)): each.reason for each in listing.left_out}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_every_format_in_subfolders(folder: Path) -> None:
    for name in ("z.png", "a/b.JPG", "a/c.tif", "a/v.nii.gz", "b.bmp", "w.nrrd", "x.mha", "y.TIFF"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"whatever: a reader judges the content")
    listing = list_images(folder)
    assert names(listing) == ["a/b.JPG", "a/c.tif", "a/v.nii.gz", "b.bmp", "w.nrrd", "x.mha", "y.TIFF", "z.png"]
    assert listing.left_out == ()
    assert listing.describe() == ""


def test_what_is_left_out_is_named(folder: Path, tmp_path: Path) -> None:
    png(folder / "a.png")
    png(tmp_path / "far" / "b.png")
    (folder / "patient2").symlink_to(tmp_path / "far")
    (folder / "c.nrrd").write_bytes(b"NRRD")
    (folder / "d.dcm").write_bytes(bytes(132))
    (folder / "g.webp").write_bytes(b"x")
    (folder / "h.png").symlink_to("/nowhere.png")
    (folder / "l.png").symlink_to("l.png")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / ".cache").mkdir()
    png(folder / ".cache" / "e.png")
    (folder / "README").write_text("x")
    os.mkfifo(folder / "pipe.png")
    server = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(folder)  # a socket's path may have about 100 letters
    server.bind("s.png")
    os.chdir(here)
    server.close()
    (folder / "device.png").symlink_to("/dev/zero")
    listing = list_images(folder)
    assert names(listing) == ["a.png", "c.nrrd", "patient2/b.png"]  # c.nrrd is damaged: reading it says so
    assert reasons(listing) == {
        ".cache": "hidden",
        ".hidden.png": "hidden",
        "README": "unknown format (no suffix)",
        "d.dcm": "not DICOM, whatever its name says",
        "device.png": "device, pipe or socket",
        "g.webp": "unknown format .webp",
        "h.png": "link that leads nowhere",
        "l.png": "link in a circle",
        "pipe.png": "device, pipe or socket",
        "s.png": "device, pipe or socket",
    }
    assert listing.describe(most=2) == "left out 10 of 13: .cache (hidden), .hidden.png (hidden) and 8 more"


def test_circles_end_and_a_folder_is_listed_once(folder: Path) -> None:
    png(folder / "b" / "x.png")
    (folder / "b" / "up").symlink_to("..")
    (folder / "b" / "self").symlink_to(".")
    (folder / "a_link").symlink_to("b")
    listing = list_images(folder)
    assert names(listing) == ["b/x.png"]  # by its own name, though the link comes first
    assert reasons(listing) == {
        "a_link": "link to b, which is listed already",
        "b/self": "link to b, which is listed already",
        "b/up": "link to the folder itself, which is listed already",
    }


def test_many_links_to_each_other_end(folder: Path) -> None:
    for number in range(12):  # 2^12 ways from the first to the last, if each is followed
        (folder / f"d{number}").mkdir()
        for way in "ab":
            (folder / f"d{number}" / way).symlink_to(f"../d{number + 1}")
    (folder / "d12").mkdir()
    png(folder / "d12" / "x.png")
    listing = list_images(folder / "d0")
    assert len(listing.images) == 1
    assert len(listing.left_out) == 12


def test_links_to_files_are_images(folder: Path, tmp_path: Path) -> None:
    (folder / "link.png").symlink_to(png(tmp_path / "other.dat.png"))
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert names(list_images(folder)) == ["link.png"]
    assert list_images(linked).images == (linked / "link.png",)  # by the name that the user gave


def test_the_folder_of_masks_is_passed_over(folder: Path) -> None:
    png(folder / "a.png")
    png(folder / "masks" / "a.png")
    listing = list_images(folder, leave=[folder / "masks"])
    assert names(listing) == ["a.png"]
    assert listing.left_out == ()
    assert mask_targets(listing, folder / "masks") == {folder / "a.png": folder / "masks" / "a.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(folder: Path) -> None:
    png(folder / "a.png").chmod(0)
    (folder / "sub").mkdir(mode=0)
    assert reasons(list_images(folder)) == {
        "a.png": "permission denied",
        "sub": "folder cannot be listed: Permission denied",
    }


def test_a_folder_that_vanishes_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(folder / "a.png")
    png(folder / "sub" / "b.png")
    scandir = os.scandir

    def fails(path: str | Path) -> object:
        if Path(path).name == "sub":
            raise OSError(5, os.strerror(5))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails)
    listing = list_images(folder)
    assert names(listing) == ["a.png"]
    assert reasons(listing) == {"sub": "folder cannot be listed: Input/output error"}


def test_names_that_would_reach_the_terminal_are_escaped(folder: Path) -> None:
    (folder / "a\n\x1b[31m.web\np").write_bytes(b"x")
    text = list_images(folder).describe()
    assert text == r"left out 1 of 1: a\n\x1b[31m.web\np (unknown format .web\np)"


def test_what_medseg_wrote_is_no_image(folder: Path) -> None:
    png(folder / "a.png")
    png(folder / "masks" / "sub" / "a.png")
    (folder / "masks" / MASK_RECORD).write_text("{}")
    run = Run(folder / "runs" / "first", tracking=False)
    run.open(resume=False)
    run.begin(0)
    png(run.folder / "report" / "overlays.png")
    run.close("KILLED")
    png(folder / "config" / "b.png")
    (folder / "config" / "config.yaml").write_text("somebody else's")
    listing = list_images(folder)
    assert names(listing) == ["a.png", "config/b.png"]
    assert {place: reason for place, reason in reasons(listing).items() if "." not in place} == {
        "masks": f"folder of masks by medseg (it holds {MASK_RECORD})",
        "runs/first": "folder of a run of medseg",
    }
    assert [each.ours for each in listing.left_out] == [False, True, True]
    for place in ("masks", "runs/first"):
        with pytest.raises(MedsegError, match=rf"{place} is a folder of .*; name the folder of the images"):
            list_images(folder / place)
    assert names(list_images(folder / "masks" / "sub" / "a.png")) == ["a.png"], "an image that is named is taken"


def test_one_image(folder: Path) -> None:
    image = png(folder / "a.png")
    assert list_images(image) == Listing(folder, (image,))
    (folder / "a.webp").write_bytes(b"x")
    with pytest.raises(MedsegError, match=r"a\.webp: unknown format \.webp; name an image or a folder"):
        list_images(folder / "a.webp")
    with pytest.raises(MedsegError, match="no such file or folder"):
        list_images(folder / "nothing")


def test_pictures_named_by_numbers_are_images(tmp_path: Path) -> None:
    names = ["0001.png", "12.5.tif", "7.jpg", "8.nii.gz"]
    for name in names:
        (tmp_path / name).write_bytes(b"any")
    (tmp_path / "1.2.840").write_bytes(b"as a scanner names a slice, and is none")
    listing = list_images(tmp_path)
    assert [path.name for path in listing.images] == names
    assert [each.path.name for each in listing.left_out] == ["1.2.840"]


def test_two_images_of_one_mask_are_refused(folder: Path, tmp_path: Path) -> None:
    png(folder / "p" / "a.png")
    png(folder / "p" / "a.bmp")
    with pytest.raises(MedsegError, match=r"p/a\.bmp and p/a\.png would both write .*p/a\.png; rename one"):
        mask_targets(list_images(folder), tmp_path / "out")


def test_masks_may_not_replace_images(folder: Path, tmp_path: Path) -> None:
    png(folder / "a.png")
    with pytest.raises(MedsegError, match=r"a\.png would replace the image .*a\.png; name another folder"):
        mask_targets(list_images(folder), folder)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(MedsegError, match="would replace the image"):
        mask_targets(list_images(folder), tmp_path / "link")


def test_a_dicom_series_is_one_image(folder: Path, tmp_path: Path, real_data: Path) -> None:
    series = real_data / "dicom_mr_hippocrop" / "study1"
    shutil.copytree(series, folder / "study1")
    (folder / "numbers").mkdir()
    for number, path in enumerate(sorted(series.iterdir())[:3]):
        shutil.copy(path, folder / "numbers" / f"{number}")
    (folder / "suffixes").mkdir()
    for path, suffix in zip(sorted(series.iterdir())[:3], (".dicom", ".IMA", ".DICOM"), strict=True):
        shutil.copy(path, folder / "suffixes" / f"{path.stem}{suffix}")
    png(folder / "mixed" / "a.png")
    shutil.copy(series / "1.dcm", folder / "mixed" / "1.dcm")
    nibabel.save(nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), folder / "v.nii")
    listing = list_images(folder)
    assert names(listing) == ["mixed/a.png", "numbers", "study1", "suffixes", "v.nii"]
    assert reasons(listing) == {
        "mixed/1.dcm": "DICOM slice beside other images; put the series into a folder of its own"
    }
    targets = mask_targets(listing, tmp_path / "o")
    assert targets[folder / "study1"] == tmp_path / "o" / "study1.nii.gz"
    alone = list_images(folder / "study1")
    assert alone.images == (folder / "study1",)
    assert mask_targets(alone, tmp_path / "o") == {folder / "study1": tmp_path / "o" / "study1.nii.gz"}
