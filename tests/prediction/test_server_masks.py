"""Masks for test servers: read back they are what each server counts, whatever the order of the model's classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from medseg.bundle.description import Description
from medseg.errors import MedsegError
from medseg.io.placement import Grid
from medseg.prediction.mask_record import Maker
from medseg.prediction.server_masks import ServerMasks, voc_palette
from medseg.prediction.sinks import Case, Result, RunInfo

BUNDLES = Path(__file__).parents[2] / "bundles"
# of cityscapesScripts' helpers/labels.py
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


def classes_of(bundle: str) -> list[str]:
    classes: list[str] = yaml.safe_load((BUNDLES / bundle / "bundle.yaml").read_text(encoding="utf-8"))["classes"]
    return classes


def written(folder: Path, classes: list[str], mask: Any, orientation: int = 1) -> Image.Image:
    network = {"name": "unet", "spatial_dims": 2, "in_channels": 3, "out_channels": len(classes)}
    described = Description.of({"name": "x", "network": network, "classes": classes}, where="test")
    sink = ServerMasks()
    sink.open(RunInfo(folder, described, [Maker("a", "b", "c")]))
    case = Case("sub/x.jpg", (folder / "x.jpg",), folder / "sub" / "x.png")
    mask = np.asarray(mask, np.uint8)
    sink.write(case, Result(mask, Grid(mask.shape, None, orientation)))
    sink.close()
    (path,) = sink.files(case)
    assert path == folder / "test_server" / "sub" / "x.png"
    return Image.open(path)


def test_voc_has_its_indices_and_its_palette(tmp_path: Path) -> None:
    mask = np.arange(21).reshape(3, 7)
    picture = written(tmp_path, classes_of("df_dam_voc"), mask)
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), mask)
    colours = np.asarray(picture.convert("RGB")).reshape(21, 3).tolist()
    # as every description of the release has them: aeroplane, bicycle, bird, person, monitor
    known = {0: [0, 0, 0], 1: [128, 0, 0], 2: [0, 128, 0], 3: [128, 128, 0], 15: [192, 128, 128], 20: [0, 64, 128]}
    assert {index: colours[index] for index in known} == known
    assert voc_palette()[3 * 255 :] == [224, 224, 192]  # the border of the release's labels


def test_voc_has_the_palette_of_the_release(real_data: Path) -> None:
    labels = sorted((real_data / "pascal_voc2012").rglob("SegmentationClass/*.png"))
    if not labels:
        pytest.skip("no label of VOC as released among the real data")
    with Image.open(labels[0]) as picture:
        assert picture.mode == "P"
        used = np.unique(np.asarray(picture))
        palette = np.reshape(picture.getpalette() or [], (-1, 3))
    np.testing.assert_array_equal(palette[used], np.reshape(voc_palette(), (-1, 3))[used])


@pytest.mark.parametrize("order", [1, -1])
def test_cityscapes_has_label_ids(tmp_path: Path, order: int) -> None:
    classes = classes_of("df_dam_cityscapes")[::order]
    picture = written(tmp_path, classes, np.arange(19)[None])
    assert picture.mode == "L"
    assert np.asarray(picture)[0].tolist() == LABEL_IDS[::order]


def test_ade20k_counts_from_1(tmp_path: Path) -> None:
    picture = written(tmp_path, classes_of("refine_multi_scale_ade20k"), np.arange(150).reshape(10, 15))
    assert picture.mode == "L"
    assert np.asarray(picture).ravel().tolist() == list(range(1, 151))


def test_a_turned_picture_has_its_mask_on_the_stored_pixels(tmp_path: Path) -> None:
    upright = np.arange(6).reshape(3, 2)
    picture = written(tmp_path, classes_of("df_dam_voc"), upright, orientation=6)
    np.testing.assert_array_equal(np.asarray(picture), np.rot90(upright))
    assert not dict(picture.getexif())


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match=r"the model has 2 others \(cell, nucleus, \.\.\.\); leave --test-server out"):
        written(tmp_path, ["cell", "nucleus"], [[0, 1]])
    with pytest.raises(MedsegError, match="it is no single picture, and --test-server writes pictures"):
        written(tmp_path, classes_of("df_dam_voc"), np.zeros((2, 3, 3)))
