"""Channels by name: a model that was trained on T1 and FLAIR is given no FLAIR in the place of T1."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import KINDS, write_model

from medseg.bundle import assembly, workflow
from medseg.bundle.description import Description, DescriptionError, misplaced
from medseg.bundle.ensemble import joined
from medseg.bundle.model_card import card
from medseg.bundle.networks import create
from medseg.bundle.record import read_weights
from medseg.data.datalist import Datalist
from medseg.prediction.predict import predict

TRAINED = ["T1", "FLAIR"]
CLASSES = ["background", "b", "c"]
ON_CPU = {"device": "cpu"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(KINDS, "two", (2, 2, {"intensity": {"scheme": "zscore"}}, None))
    return write_model(tmp_path / "run" / "model.pt", "two", channels=TRAINED)


def write_data(folder: Path, modality: list[str]) -> Datalist:
    """Write two images of a file a channel, which are listed in the order of the names."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    listed = []
    for number in range(2):
        files = [f"{name}_{number}.png" for name in modality]
        for name in files:
            Image.fromarray(generator.integers(0, 256, (24, 24), np.uint8)).save(folder / name)
        Image.fromarray(generator.integers(0, 3, (24, 24), np.uint8)).save(folder / f"label{number}.png")
        listed.append({"image": files, "label": f"label{number}.png", "group": str(number)})
    content = {"name": "brains", "version": 1, "modality": modality, "licence": "CC0-1.0", "source": "here"}
    content |= {"labels": dict(enumerate(CLASSES)), "ignore_index": None, "training": [], "validation": []}
    (folder / "datalist.json").write_text(json.dumps({**content, "test": listed}))
    return Datalist.load(folder / "datalist.json")


@pytest.mark.parametrize(
    ("here", "wrong"),
    [
        (["T1", "FLAIR"], False),
        (["t1", "Flair "], False),
        (["FLAIR", "T1"], True),
        (["flair", "T2"], True),
        (["T1w", "T2-FLAIR"], False),  # not known
        (["MR", "MR"], False),
        (["MR"], False),
        ([], False),
    ],
)
def test_what_is_misplaced(here: list[str], wrong: bool) -> None:
    assert misplaced(TRAINED, here) is wrong
    assert misplaced(here, TRAINED) is wrong


def test_a_training_keeps_the_names_of_several_channels(tmp_path: Path) -> None:
    for modality, kept in ((TRAINED, TRAINED), (["MR"], ())):
        data = write_data(tmp_path / "data", modality)
        network = create("unet", 2, len(modality), 3, channels=[4, 8], seed=0)
        made = assembly.description({"name": "m"}, data, network)
        assert made.channels == kept
        assert Description.of(made.to_dict()) == made
        assert ("channels" in made.to_dict()) is bool(kept)


def test_images_in_another_order_are_refused(model: Path, tmp_path: Path) -> None:
    said = "trained on images of the channels T1, FLAIR, but the modality of .* is FLAIR, T1; list the files"
    swapped = write_data(tmp_path / "swapped", TRAINED[::-1]).path
    with pytest.raises(DescriptionError, match=said):
        predict(model, swapped, tmp_path / "masks", overrides=ON_CPU)
    assert not (tmp_path / "masks").exists()
    with pytest.raises(DescriptionError, match=said):
        workflow.evaluate(model.parent, data=swapped.parent, overrides={**ON_CPU, "mlflow": False})
    right = write_data(tmp_path / "right", TRAINED).path
    assert predict(model, right, tmp_path / "masks", overrides=ON_CPU).written == 2
    workflow.evaluate(model.parent, data=right.parent, overrides={**ON_CPU, "mlflow": False})


def test_weights_that_a_training_starts_from(model: Path, tmp_path: Path) -> None:
    overrides = {**ON_CPU, "mlflow": False, "max_epochs": 1, "network_def#channels": [4, 8]}
    overrides |= {"start_from": str(model.parent), "patch": [16, 16], "batch_size": 1}
    for modality in (TRAINED, TRAINED[::-1]):
        path = write_data(tmp_path / "data", modality).path
        content = json.loads(path.read_text())
        first, second = content["test"]
        path.write_text(json.dumps({**content, "training": [first], "validation": [second], "test": []}))
        given = {**overrides, "output_dir": str(tmp_path / modality[0])}
        train = partial(workflow.train, "unet_drosophila", data=path.parent, overrides=given)
        if modality == TRAINED:
            assert (train() / "model.pt").is_file()
            continue
        with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
            train()
        assert "start_from: weights" in str(caught.value.__cause__)


def test_postprocessing_is_not_chosen_on_other_classes(model: Path, tmp_path: Path) -> None:
    """By index: what suited one class would have been kept for another."""
    path = write_data(tmp_path / "data", TRAINED).path
    content = json.loads(path.read_text())
    named = {"0": "background", "1": "c", "2": "b"}
    path.write_text(json.dumps({**content, "labels": named, "validation": content["test"]}))
    options = {"data": path.parent, "overrides": {**ON_CPU, "mlflow": False}}
    for choose in (workflow.choose_postprocessing, workflow.calibrate):
        with pytest.raises(DescriptionError, match=r"give the classes background, b, c, but .* names background, c, b"):
            choose(model.parent, **options)


def test_members_of_an_ensemble(model: Path) -> None:
    described = read_weights(model).description
    assert described is not None
    unnamed, swapped = (Description.of({**described.to_dict(), "channels": names}) for names in ([], TRAINED[::-1]))
    assert joined({"a": unnamed, "b": described}).description.channels == TRAINED
    for members in ({"a": described, "b": swapped}, {"a": unnamed, "b": described, "c": swapped}):
        with pytest.raises(DescriptionError, match=r"channels FLAIR, T1 \(the latter has T1, FLAIR\)"):
            joined(members)


def test_the_card_names_them(model: Path) -> None:
    described = read_weights(model).description
    assert described is not None
    texts = dict.fromkeys(("title", "task", "description", "data_source", "data_type", "modality"), "x")
    record = {"data": {}, "texts": texts, "licence": None, "version": "1", "authors": "x", "parameters": 1}
    record |= {"weights": "0", "packages": {}, "commit": None, "intended_use": "x", "name": "x", "references": []}
    assert "T1, FLAIR" in card(record, described, [])
