"""Kinds of images, and how often each is drawn."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from medseg.data.case_facts import QUANTILES, CaseFacts
from medseg.data.datalist import Datalist
from medseg.data.kinds import UNKNOWN, chances, kind_of, kinds_of

FLAT = tuple(float(number) for number in range(len(QUANTILES)))
PICTURE = CaseFacts((64, 64), None, "", 1, "uint8", False, (FLAT,), (tuple(2 * each for each in FLAT),), (9, 1), (1, 1))


def test_kind_of_pictures() -> None:
    assert kind_of(PICTURE) == "grey, bright objects"
    assert kind_of(replace(PICTURE, foreground=((0.0,) * len(FLAT),))) == "grey, dark objects"
    assert kind_of(replace(PICTURE, channels=4, alpha=True, equal_channels=True)) == "grey, bright objects"
    assert kind_of(replace(PICTURE, channels=3)) == "colour, bright objects"
    assert kind_of(replace(PICTURE, shape=(600, 300), foreground=())) == "grey, large"


def test_kind_of_volumes() -> None:
    volume = replace(PICTURE, shape=(9, 9, 9), spacing=(1.0, 1.0, 1.2), codes="LPS")
    assert kind_of(volume) == "LPS"
    assert kind_of(replace(volume, spacing=(0.5, 0.5, 5.0))) == "LPS, thick slices"
    assert kind_of(replace(volume, spacing=None, codes="")) == "no orientation"


def test_shares_of_kinds_go_from_those_of_images_to_equal_ones() -> None:
    kinds = ["grey"] * 64 + ["colour"] * 4 + ["large"]
    for balance, wanted in ((0.0, (64 / 69, 4 / 69, 1 / 69)), (0.5, (8 / 11, 2 / 11, 1 / 11)), (1.0, (1 / 3,) * 3)):
        drawn = chances(kinds, balance)
        share = Counter()
        for kind, chance in zip(kinds, drawn, strict=True):
            share[kind] += chance
        np.testing.assert_allclose([share[kind] for kind in ("grey", "colour", "large")], wanted)
        assert len(set(drawn[:64])) == 1  # within a kind, images are alike


def test_kinds_of_a_datalist(tmp_path: Path) -> None:
    label = np.zeros((8, 8), np.uint8)
    label[:4] = 1
    values = {"bright": label * 200, "dark": 200 - label * 200, "red": np.stack([label * 200, label, label], axis=-1)}
    for name, pixels in values.items():
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    Image.fromarray(label).save(tmp_path / "label.png")
    entries = [{"image": f"{name}.png", "label": "label.png", "group": name} for name in values]
    data = Datalist(
        name="kinds", version=1, modality=("microscopy",), licence="CC0-1.0", source="drawn",
        labels={0: "background", 1: "cell"}, training=entries[:2], validation=entries[2:], test=entries[:1],
        path=tmp_path / "datalist.json",
    )  # fmt: skip
    data.save()
    asked = [data.absolute(entry) for entry in (entries[2], entries[1], entries[0], {"image": "other.png"})]
    assert kinds_of(data, asked) == ["colour, bright objects", "grey, dark objects", "grey, bright objects", UNKNOWN]
