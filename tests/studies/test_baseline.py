"""What needs no network, on images of any number of channels."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.bundle.data import load_data
from medseg.data.datalist import Datalist
from medseg.studies.baseline import score_otsu


def written(folder: Path, image: str) -> Datalist:
    content = {
        "name": "squares", "version": 1, "modality": [], "licence": "", "source": "", "ignore_index": None,
        "labels": {"0": "background", "1": "square"}, "training": [{"image": image, "label": f"label_{image}"}],
        "validation": [], "test": [],
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps(content))
    return load_data(folder)


@pytest.mark.parametrize("channels", [2, 4, 12])
def test_modalities_count_alike_whatever_their_scale(tmp_path: Path, channels: int) -> None:
    draw = np.random.default_rng(0)
    label = np.zeros((12, 10, 8), np.uint8)
    label[2:9, 2:8, 1:7] = 1
    seen = np.stack([draw.normal(0, 1, label.shape) + (12 if c else 0) * label for c in range(channels)], axis=-1)
    seen *= 10.0 ** np.arange(channels)[::-1]  # the first channel, which shows nothing, has by far the largest values
    seen[..., -1] = 5 if channels > 2 else seen[..., -1]  # one channel of one value
    for name, array in (("image.nii.gz", seen), ("label_image.nii.gz", label)):
        nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / name)
    data = written(tmp_path, "image.nii.gz")
    found = score_otsu(data, [data.absolute(entry) for _, entry in data.entries()])
    assert found.title == "Otsu's threshold, minority side of the channels' mean"
    assert found.scores["per_case"]["classes"][1]["dice"] > (0.7 if channels == 2 else 0.9)


def test_the_background_may_be_the_second_class(tmp_path: Path) -> None:
    label = np.ones((20, 30), np.uint8)
    label[5:10, 5:15] = 0
    Image.fromarray(220 - 200 * label).save(tmp_path / "image.png")
    Image.fromarray(label).save(tmp_path / "label_image.png")
    written(tmp_path, "image.png")
    content = json.loads((tmp_path / "datalist.json").read_text())
    (tmp_path / "datalist.json").write_text(json.dumps({**content, "labels": {"0": "square", "1": "background"}}))
    data = load_data(tmp_path)
    found = score_otsu(data, [data.absolute(entry) for _, entry in data.entries()], scores={"distances": {}})
    square, around = found.scores["per_case"]["classes"]
    assert (square["dice"], around["dice"], square["hd95"], around["hd95"]) == (1, 1, 0, None)


def test_pictures_stored_as_nifti_are_scored_in_pixels_as_a_networks_are(tmp_path: Path) -> None:
    """In one table, NSD within a pixel stood beside NSD within a millimetre."""
    label = np.zeros((20, 30), np.uint8)
    label[5:10, 5:15] = 1
    for name, array in (("image.nii.gz", 20 + 200 * label), ("label_image.nii.gz", label)):
        nibabel.Nifti1Image(array.astype(np.uint8), np.diag([0.5, 0.5, 1, 1])).to_filename(tmp_path / name)
    data = written(tmp_path, "image.nii.gz")
    found = score_otsu(data, [data.absolute(entry) for _, entry in data.entries()], scores={"distances": {}})
    assert found.scores["distances"]["unit"] == "pixels"


def test_opacity_is_no_channel(tmp_path: Path) -> None:
    label = np.zeros((20, 30), np.uint8)
    label[5:10, 5:15] = 1
    opacity = np.linspace(1, 255, label.size).reshape(label.shape).astype(np.uint8)
    for colours in (1, 3):
        channels = np.dstack([*[20 + 200 * label] * colours, opacity])
        Image.fromarray(channels).save(tmp_path / "image.png")
        Image.fromarray(label).save(tmp_path / "label_image.png")
        data = written(tmp_path, "image.png")
        found = score_otsu(data, [data.absolute(entry) for _, entry in data.entries()])
        assert found.title == "Otsu's threshold, minority side"
        assert found.scores["per_case"]["classes"][1]["dice"] == 1
