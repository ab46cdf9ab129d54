"""Where itk is not installed, what never uses it works, and what does says so in one line."""

import importlib.metadata
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from tiny_study import write_data

from medseg.bundle import workflow
from medseg.io.image_file import ImageError
from medseg.io.images import read_image
from medseg.io.mask_volumes import write_itk

NRRD = "NRRD0004\ntype: uint8\ndimension: 2\nsizes: 2 2\nencoding: raw\n\n"


@pytest.fixture
def no_itk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package can be neither imported nor found among what is installed."""
    version = importlib.metadata.version

    def of(name: str) -> str:
        if name == "itk":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", of)
    monkeypatch.setitem(sys.modules, "itk", None)


@pytest.mark.usefixtures("no_itk", "undrawn")
def test_pictures_are_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ImportError):
        import itk  # noqa: F401
    small = {"network_def#channels": [4, 8], "batch_size": 2, "iterations": 1, "max_epochs": 1, "mlflow": False}
    given = {**small, "device": "cpu", "output_dir": str(tmp_path / "run"), "fold": 0}
    run = workflow.train("lfa_unet_drosophila", data=write_data(tmp_path / "data"), overrides=given)
    assert (run / "model.pt").is_file()


@pytest.mark.usefixtures("no_itk")
def test_its_formats_name_it(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").write_bytes(NRRD.encode() + bytes(4))
    said = "this format needs itk; install it: pip install itk"
    with pytest.raises(ImageError, match=f"a.nrrd: {said}"):
        read_image(tmp_path / "a.nrrd")
    with pytest.raises(ImageError, match=f"b.mha: {said}"):
        write_itk(np.zeros((2, 2, 2), np.uint8), np.eye(4), tmp_path / "b.mha", source=None, keep_header=False)
    with pytest.raises(ImageError, match=said):
        read_image(Path(str(get_testdata_file("JPEG2000.dcm", download=False))))
