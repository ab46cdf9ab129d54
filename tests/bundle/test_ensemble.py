"""A folder that names the models of an ensemble: all of them or none."""

import json
from pathlib import Path

import pytest

from medseg.bundle import ensemble
from medseg.bundle.library import BundleError, weights_file
from medseg.errors import MedsegError


def write(folder: Path, record: object, *names: str) -> Path:
    folder.mkdir()
    (folder / "ensemble.json").write_text(json.dumps(record))
    for name in names:
        (folder / name).touch()
    return folder


def test_its_models_in_their_order(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"format": 1, "members": ["b.zip", "a.zip"]}, "a.zip", "b.zip", "other.zip")
    assert ensemble.members(folder) == [folder / "b.zip", folder / "a.zip"]
    assert ensemble.members("unet_drosophila") == ["unet_drosophila"]
    with pytest.raises(BundleError, match="is an ensemble of several models; name one of them"):
        weights_file(folder)


def test_one_that_is_missing(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", {"format": 1, "members": ["a.zip", "b.zip"]}, "b.zip")
    with pytest.raises(MedsegError, match=r"is an ensemble of 2 models, but a\.zip is missing: fewer of them are"):
        ensemble.members(folder)


@pytest.mark.parametrize(
    "record", [[], {}, {"format": 2, "members": ["a.zip"]}, {"format": 1, "members": []},
               {"format": 1, "members": ["../a.zip"]}, {"format": 1, "members": 3}],
)  # fmt: skip
def test_a_record_that_is_none(tmp_path: Path, record: object) -> None:
    with pytest.raises(MedsegError, match="does not name the models of an ensemble; write the folder anew"):
        ensemble.members(write(tmp_path / "a", record, "a.zip"))


def test_a_folder_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match="exists already; name a new folder for the ensemble"):
        ensemble.write(tmp_path, {})
