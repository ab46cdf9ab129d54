"""Masks that another model made are refused by name; those of this one are skipped, also after a kill."""

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medseg.bundle.description import Description
from medseg.bundle.feeding import inferer
from medseg.io.folder import MASK_RECORD
from medseg.prediction import masks as module
from medseg.prediction.mask_record import Maker, MaskRecord, MaskRecordError
from medseg.prediction.predictor import ImageFolder, InputError, Predictor
from medseg.runs.header import read_header, write_header
from medseg.runs.lock import FolderLock, LockedError

NAMES = ("a.png", "b.png", "sub/c.png", "sub/d.png")


class Network(nn.Conv2d):
    """One convolution; the seed is all that its weights know."""

    def __init__(self, seed: int) -> None:
        super().__init__(1, 2, 1, bias=False)
        with torch.no_grad():
            self.weight.copy_(torch.randn(2, 1, 1, 1, generator=torch.Generator().manual_seed(seed)))


def description(**changes: Any) -> Description:
    network = {"name": "toy", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    content = {"name": "toy", "network": network, "classes": ["back", "front"], "inference": {"window": [16, 16]}}
    return Description.of({**content, **changes})


def predict(folder: Path, seed: int = 0, *, overwrite: bool = False, **changes: Any) -> Predictor:
    model = description(**changes)
    images = ImageFolder(folder / "in", model, folder / "out", overwrite=overwrite)
    made = Predictor("cpu", images, Network(seed), inferer(model), None, description=model, precision="fp32")
    made.run()
    return made


def record(folder: Path) -> dict[str, list[str]]:
    """Return the masks by the beginning of the weights' hash that made them."""
    content = json.loads((folder / "out" / MASK_RECORD).read_text())
    return {each["weights"]: each["masks"] for each in content["made_by"]}


def weights(seed: int) -> str:
    return Maker.of(Network(seed), description()).weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (20, 20)).astype(np.uint8)).save(path)
    return tmp_path


def test_the_record_names_masks_hashes_and_classes_alone(folder: Path) -> None:
    predict(folder)
    content = json.loads((folder / "out" / MASK_RECORD).read_text())
    assert content.keys() == {"format", "medseg", "made_by", "images"}
    about = {"name", "weights", "model", "classes", "colours", "window", "masks", "others"}
    assert content["made_by"][0].keys() == about
    assert record(folder) == {weights(0): list(NAMES)}
    assert str(folder) not in str(content)


def test_the_hash_is_that_of_the_weights_header() -> None:
    header = read_header(write_header(Network(3).state_dict(), {}))
    assert header is not None
    assert header["sha256"] == weights(3)


def test_masks_of_this_model_are_skipped(folder: Path) -> None:
    predict(folder)
    assert predict(folder).skipped == 4
    more = description().to_dict()["inference"] | {"batch": 1}
    assert predict(folder, inference=more, name="other name").skipped == 4


def test_masks_of_other_weights_are_refused_by_name(folder: Path) -> None:
    predict(folder)
    (folder / "out" / "a.png").unlink()
    with pytest.raises(MaskRecordError) as caught:
        predict(folder, seed=1)
    assert str(caught.value) == (
        f"{folder / 'out' / 'b.png'} was made by other weights (toy, {weights(0)[:12]}) than these "
        f"(toy, {weights(1)[:12]}) (and 2 more masks like it); name another folder for the masks, or do them again "
        "with overwrite"
    )
    assert not (folder / "out" / "a.png").exists(), "nothing is written"
    assert record(folder) == {weights(0): list(NAMES)}


def test_other_settings_are_refused(folder: Path) -> None:
    predict(folder)
    with pytest.raises(MaskRecordError, match=r"a\.png was made by these weights .* with other settings of the infer"):
        predict(folder, inference={"window": [16, 16], "overlap": 0.5})


@pytest.mark.parametrize("recorded", [False, True])
def test_masks_that_nobody_knows_are_refused(folder: Path, recorded: bool) -> None:
    if recorded:
        (folder / "in" / "b.png").rename(folder / "b.png")
        predict(folder)
        (folder / "b.png").rename(folder / "in" / "b.png")
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / "b.png").write_bytes(b"a mask of somebody's")
    with pytest.raises(MaskRecordError, match=rf"b\.png is not in {MASK_RECORD}, so that nobody knows what made it;"):
        predict(folder)
    assert (folder / "out" / "b.png").read_bytes() == b"a mask of somebody's"


def test_overwriting_makes_them_this_model_s(folder: Path) -> None:
    predict(folder)
    (folder / "in" / "a.png").unlink()
    assert len(predict(folder, seed=1, overwrite=True).written) == 3
    assert record(folder) == {weights(0): ["a.png"], weights(1): list(NAMES[1:])}
    assert predict(folder, seed=1).skipped == 3


def test_the_disk_is_waited_for_once_a_mask_and_once_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each mask is on the disk before it takes its name, all names are before the record of the run says so."""
    said: list[str] = []
    sync, replace = os.fsync, os.replace

    def called(path: str) -> str:
        name = re.sub(r"^(.*/)?\.[0-9a-f]{8}\.", r"\1", os.path.relpath(path, folder / "out"))
        return re.sub(r"_[0-9T]+Z", "", name)

    def synced(file: int) -> None:
        said.append(f"sync {called(os.readlink(f'/proc/self/fd/{file}'))}")
        sync(file)

    def renamed(old: Any, new: Any) -> None:
        said.append(f"name {called(os.fspath(new))}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    predict(folder)
    record, run = ([f"sync {name}", f"name {name}", "sync ."] for name in (MASK_RECORD, "medseg_run.json"))
    masks = [line for name in NAMES for line in (f"sync {name}", f"name {name}")]
    assert said[:3] == record
    assert said[3 : 3 + len(masks)] == masks
    assert sorted(said[3 + len(masks) :]) == sorted(["sync .", "sync sub", *record, *run])
    assert said[-3:] == run
    said.clear()
    predict(folder, overwrite=True)
    assert said[: 3 + len(masks)] == [*record, *masks], "of which images they are is not known while they are replaced"


def test_two_models_share_a_folder_where_their_images_differ(folder: Path) -> None:
    (folder / "in" / "sub").rename(folder / "sub")
    predict(folder)
    (folder / "in").rename(folder / "first")
    (folder / "in").mkdir()
    (folder / "sub").rename(folder / "in" / "sub")
    predict(folder, seed=1)
    assert record(folder) == {weights(0): ["a.png", "b.png"], weights(1): ["sub/c.png", "sub/d.png"]}


class Killed(BaseException):
    """Stands for a SIGKILL: nothing runs after it."""


def kill_in_third(monkeypatch: pytest.MonkeyPatch) -> None:
    write, done = module.write_mask, [0]

    def dies(*arguments: Any, **options: Any) -> None:
        done[0] += 1
        if done[0] == 3:
            monkeypatch.setattr(MaskRecord, "save", lambda _self: None)
            raise Killed
        write(*arguments, **options)

    monkeypatch.setattr(module, "write_mask", dies)


def test_a_killed_prediction_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_in_third(patch)
        with pytest.raises(Killed):
            predict(folder)
    again = predict(folder)
    assert (again.skipped, len(again.written)) == (2, 2)
    assert record(folder) == {weights(0): list(NAMES)}


def test_a_killed_overwriting_never_takes_the_old_for_new(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict(folder)
    with monkeypatch.context() as patch:
        kill_in_third(patch)
        with pytest.raises(Killed):
            predict(folder, seed=1, overwrite=True)
    for seed in (0, 1):  # two masks are one's, two the other's, and which is not known any more
        with pytest.raises(
            MaskRecordError, match=r"a\.png is not in .*, so that nobody knows what made it \(and 3 more"
        ):
            predict(folder, seed=seed)
    assert len(predict(folder, seed=1, overwrite=True).written) == 4
    assert record(folder) == {weights(1): list(NAMES)}


def test_an_image_that_fails_is_not_entered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = module.write_mask

    def fails(mask: Any, image: Any, target: Path, **options: Any) -> None:
        if target.name == "b.png":
            raise ValueError("no room in the test")
        write(mask, image, target, **options)

    monkeypatch.setattr(module, "write_mask", fails)
    with pytest.raises(InputError, match=r"b\.png: no room in the test"):
        predict(folder)
    assert record(folder) == {weights(0): ["a.png", "sub/c.png", "sub/d.png"]}


def test_two_at_once_are_kept_apart(folder: Path) -> None:
    (folder / "out").mkdir()
    lock = FolderLock(folder / "out")
    lock.acquire()
    try:
        with pytest.raises(LockedError, match="is in use by process"):
            predict(folder, seed=1)
    finally:
        lock.release()
    assert sorted(path.name for path in (folder / "out").iterdir()) == []
    assert len(predict(folder, seed=1).written) == 4
    assert not (folder / "out" / ".lock").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 2, "made_by": [{"out": ["a.png"]}]}'])
def test_a_damaged_record_is_named(folder: Path, content: str) -> None:
    (folder / "out").mkdir()
    (folder / "out" / MASK_RECORD).write_text(content)
    with pytest.raises(MaskRecordError, match=rf"{MASK_RECORD} cannot be read .*; name another .* with overwrite"):
        predict(folder)
    assert len(predict(folder, overwrite=True).written) == 4
    assert record(folder) == {weights(0): list(NAMES)}


def test_earlier_masks_inside_the_images_folder_are_no_images(folder: Path) -> None:
    predict(folder)
    (folder / "out").rename(folder / "in" / "earlier")
    made = predict(folder, seed=1)
    assert len(made.written) == 4
    assert made.folder.left_out == [(Path("earlier"), f"folder of masks by medseg (it holds {MASK_RECORD})")]
    assert made.folder.missed == []
