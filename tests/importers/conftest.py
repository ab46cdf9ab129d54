"""Tiny data sets in foreign layouts."""

import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist
from medseg.importers.layout import Options
from medseg.importers.writing import Wishes, import_folder

WISHES = set(Wishes.__dataclass_fields__)


class Maker:
    """Writes files below a folder; the values of each follow from its name."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def place(self, name):
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def rng(self, name):
        return np.random.default_rng(zlib.crc32(name.encode()))

    def picture(self, *names, shape=(12, 16)):
        for name in names:
            pixels = self.rng(name).integers(0, 255, (*shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(self.place(name))

    def label(self, *names, values=(0, 1), shape=(12, 16)):
        for name in names:
            pixels = self.rng(name).choice(np.array(values, np.uint8), shape)
            pixels.flat[: len(values)] = values
            Image.fromarray(pixels).save(self.place(name))

    def volume(self, *names, label=False, affine=None, channels=1, values=(0, 1)):
        for name in names:
            shape = (6, 5, 4) if channels == 1 else (6, 5, 4, channels)
            array = self.rng(name).integers(0, 1000, shape).astype(np.int16)
            array = np.array(values, np.uint8)[array % len(values)] if label else array
            image = nibabel.Nifti1Image(array, np.diag([1.0, 1, 2.5, 1]) if affine is None else affine)
            nibabel.save(image, self.place(name))

    def text(self, name, text):
        self.place(name).write_text(text, encoding="utf-8")


@pytest.fixture
def make(tmp_path):
    return Maker(tmp_path / "source")


@pytest.fixture
def bring(make, tmp_path):
    """Import the folder that ``make`` filled, or another, into a folder beside; the check must find no error."""

    def run(source=None, output="out", *, check=True, **said):
        wishes = Wishes(**{key: said.pop(key) for key in list(said) if key in WISHES})
        made = import_folder(source or make.root, tmp_path / output, Options(**said), wishes)
        if check and not wishes.dry_run:
            assert check_datalist(made.datalist.path, cache=False).errors == []
            assert Datalist.load(made.datalist.path).training == made.datalist.training
        return made

    return run


def left_out(made):
    """What was left out and why, by its path below the source."""
    return {each.path.relative_to(made.root).as_posix(): each.reason for each in made.left_out}


@pytest.fixture(name="left_out")
def give_left_out():
    return left_out
