"""What is drawn in a training: kinds of images balanced by those of the training part alone."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle.test_feeding import description
from PIL import Image

from medseg.bundle.options import OptionError, Options
from medseg.bundle.samples import samples
from medseg.data.datalist import Datalist
from medseg.engines.loading import EpochSampler

KINDS = ["bright"] * 8 + ["dark"] * 2  # of the training part; four of five images that are left out are dark


def data_of(folder: Path) -> Datalist:
    label = np.zeros((16, 16), np.uint8)
    label[:5] = 1
    entries: list[dict[str, Any]] = []
    for number, kind in enumerate([*KINDS, "bright", *["dark"] * 4]):
        pixels = label * 150 + number if kind == "bright" else 200 - label * 150 + number
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(label).save(folder / f"label_{number}.png")
        fold = int(number >= len(KINDS))
        entry = {"image": f"{number}.png", "label": f"label_{number}.png", "group": f"{number}", "fold": fold}
        entries.append(entry)
    data = Datalist(
        name="kinds", version=1, modality=("microscopy",), licence="CC0-1.0", source="drawn",
        labels={0: "background", 1: "cell"}, training=entries, path=folder / "datalist.json",
    )  # fmt: skip
    data.save()
    return data


def drawn(data: Datalist, balance: float, patch: list[int] | None) -> np.ndarray[Any, Any]:
    """Return how often each training image is drawn in 100 times as many draws as there are images."""
    training, _, _ = data.split(1, validation_fold=None)
    assert [entry["image"] for entry in training] == [data.absolute(each)["image"] for each in data.training[:10]]
    made = samples(training, description(), [], patch, data, balance_kinds=balance)
    return np.bincount([draw.case for draw in EpochSampler(made, 10, iterations=100)])


@pytest.mark.parametrize("patch", [[8, 8], None])
def test_kinds_are_drawn_by_those_of_the_training_part(
    tmp_path: Path, patch: list[int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of(tmp_path)
    assert drawn(data, 0.0, patch).tolist() == [100] * 10
    assert "of the kind" not in caplog.text
    with caplog.at_level(logging.INFO):
        rooted = drawn(data, 0.5, patch)
    assert (
        "2 of 10 training images are of the kind 'grey, dark objects': 33 % of the training's samples come from them, "
        "as balance_kinds is 0.5 (20 % if it were 0)"
    ) in caplog.text  # 45 % by all 15 of the data
    assert abs(int(rooted[8:].sum()) - 333) <= 20
    assert np.abs(rooted[:8] - 667 / 8).max() <= 15
    assert drawn(data, 1.0, patch)[8:].sum() == 500


def test_a_balance_out_of_range_is_said() -> None:
    assert Options.of({"balance_kinds": 1}).balance_kinds == 1
    for wrong in (1.5, -0.1, "much", True):
        with pytest.raises(OptionError, match=f"balance_kinds is {wrong!r}; give a number from 0 to 1"):
            Options.of({"balance_kinds": wrong})
