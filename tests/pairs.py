"""Tiny labelled images for the engines."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg.io.load import LoadImagesd

LOAD = [LoadImagesd(keys=["image", "label"])]


@pytest.fixture
def entries(tmp_path: Path) -> list[dict[str, Any]]:
    """Eight pairs of 16 x 16: a bright square is class 1, a dark one class 2."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pairs"
    folder.mkdir()
    rows = []
    for number in range(8):
        label = np.zeros((16, 16), np.uint8)
        r, c = rng.integers(0, 8, 2)
        label[r : r + 8, c : c + 8] = 1 + number % 2
        image = 100 + 80 * (label == 1) - 80 * (label == 2) + rng.integers(-15, 16, label.shape)
        row = {"image": str(folder / f"{number}.png"), "label": str(folder / f"{number}_label.png")}
        Image.fromarray(image.astype(np.uint8)).save(row["image"])
        Image.fromarray(label).save(row["label"])
        rows.append(row)
    return rows
