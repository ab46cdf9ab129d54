"""Values of images beyond what a model scales, and labels that the data ignore, wherever in the data they stand."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from bundle.test_fit import BUNDLE, SMALL, both, write
from PIL import Image

from medseg.bundle import workflow
from medseg.runs import checkpoint


def test_one_image_of_16_bits_wherever_it_stands(tmp_path: Path) -> None:
    """Only some images of the training part were looked at: one of a fold that validates or tests was scaled by 255."""
    data = write(tmp_path, [(16, 16)] * 6)
    for number in (3, 4):  # fold 0, which is left out, and 1, which validates
        deep = np.array(Image.open(data / f"i{number}.png")).astype(np.uint16) * 257
        Image.fromarray(deep).save(data / f"i{number}.png")
    said = both(data, tmp_path / "other")
    assert said.startswith(f"{data / 'i3.png'}: its values go from ")
    assert said.endswith("or with scheme image (and so 1 more image of 6)")


def test_values_of_which_the_scale_leaves_nothing_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write(tmp_path, [(16, 16)] * 6)
    workflow.check(BUNDLE, data=data, overrides=SMALL)
    assert "little is left" not in caplog.text
    for path in data.glob("i*.png"):
        Image.fromarray(np.array(Image.open(path)) // 128).save(path)
    workflow.check(BUNDLE, data=data, overrides=SMALL)
    assert (
        "the values of all images go from 0 to 1, of which little is left where the model scales 0 to 255"
        in caplog.text
    )


@pytest.mark.parametrize("ignored", [255, -1])
def test_the_ignore_label_of_the_data_is_the_loss_s(tmp_path: Path, ignored: int) -> None:
    """What the datalist ignores passed the check, and ended the training at its first step."""
    data = write(tmp_path, [(16, 16)] * 6)
    for path in data.glob("l*.png"):
        label = np.array(Image.open(path)).astype(np.int16)
        label[:4] = ignored
        if path.name == "l2.png":
            label[:] = ignored  # nothing to learn from
        tifffile.imwrite(path.with_suffix(".tif"), label)
    content = json.loads((data / "datalist.json").read_text().replace('.png", "group', '.tif", "group'))
    (data / "datalist.json").write_text(json.dumps({**content, "ignore_index": ignored}))
    overrides = {**SMALL, "batch_size": 1, "output_dir": tmp_path / "run"}
    run = workflow.train(BUNDLE, data=data, overrides=overrides)
    assert all(np.isfinite(value.numpy()).all() for value in checkpoint.load_checkpoint(run / "model.pt").values())
