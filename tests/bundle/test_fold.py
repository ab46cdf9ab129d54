"""A fold that was asked for is there or refused; the default of 0 takes a datalist without folds as it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg.bundle import assembly, workflow
from medseg.bundle.command import Command
from medseg.data.datalist import Datalist, DatalistError


def datalist(folder: Path, **keys: int) -> Datalist:
    """Write four pairs of 16 x 16 and their datalist."""
    rng = np.random.default_rng(0)
    entries: list[dict[str, Any]] = []
    for number in range(4):
        entries.append({"image": f"{number}.png", "label": f"{number}_label.png"} | ({"fold": number} if keys else {}))
        for name in entries[-1]["image"], entries[-1]["label"]:
            Image.fromarray(rng.integers(0, 2, (16, 16)).astype(np.uint8)).save(folder / name)
    data = Datalist(
        name="toy", version=1, modality=("EM",), licence="CC0-1.0", source="here", labels={0: "a", 1: "b"},
        training=entries, test=[], path=folder / "datalist.json",
    )  # fmt: skip
    data.save()
    return data


def test_the_default_takes_the_lists(tmp_path: Path) -> None:
    training, validation, test = assembly.split(datalist(tmp_path), {"fold": 0}, Command())
    assert (len(training), validation, test) == (4, [], [])


@pytest.mark.parametrize("fold", [None, "all"])
def test_no_fold_may_be_asked_for(tmp_path: Path, fold: str | None) -> None:
    assert len(assembly.split(datalist(tmp_path), {"fold": fold}, Command("medseg", (), {"fold": fold}))[0]) == 4


def test_a_fold_that_is_not_there_is_refused(tmp_path: Path) -> None:
    asked = Command("monai.bundle", (), {"fold": "0"})
    with pytest.raises(DatalistError, match=r"datalist\.json: fold 0 was asked for, but its entries carry no folds; "):
        assembly.split(datalist(tmp_path), {"fold": 0}, asked)


def test_a_fold_that_is_there_is_taken(tmp_path: Path) -> None:
    parts = assembly.split(datalist(tmp_path, fold=1), {"fold": 0}, Command("medseg", (), {"fold": 0}))
    assert [len(part) for part in parts] == [2, 1, 1]


def test_the_bundle_hands_on_what_was_typed(tmp_path: Path) -> None:
    datalist(tmp_path)
    small = {"network_def#channels": [2, 4], "mlflow": False, "output_dir": str(tmp_path / "run")}
    with pytest.raises(DatalistError, match="fold 0 was asked for"):
        workflow.check("lfa_unet_drosophila", data=tmp_path, overrides={**small, "fold": 0})
    assert workflow.check("lfa_unet_drosophila", data=tmp_path, overrides=small)[0].ok
