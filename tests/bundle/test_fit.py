"""What a bundle cannot be trained on is said, a line each, by the check and by the training alike."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image

from medseg.bundle import intensities, workflow
from medseg.bundle.fit import FitError
from medseg.bundle.record import read_weights
from medseg.engines.schedule import KINDS
from medseg.errors import MedsegError, one_line
from medseg.io.load import LoadImagesd
from medseg.prediction.predict import predict
from medseg.reports.summary import summarise
from medseg.runs import checkpoint

BUNDLE = "lfa_unet_drosophila"
SMALL = {"network_def#channels": [4, 8], "device": "cpu", "mlflow": False, "max_epochs": 1, "batch_size": 2}


def write(folder: Path, sizes: list[tuple[int, ...]], *, folds: int = 3, top: int = 1, channels: int = 1) -> Path:
    """Write images of these sizes (volumes where there are three edges) with labels and a datalist."""
    entries: list[dict[str, Any]] = []
    for number, size in enumerate(sizes):
        rng = np.random.default_rng(number)
        image = rng.integers(0, 255, size).astype(np.uint8)
        label = (image > 128).astype(np.uint8) * top
        suffix = "nii.gz" if len(size) == 3 else "png"
        names = [f"{kind}{number}.{suffix}" for kind in ("i", "l")]
        for name, values in zip(names, (image, label), strict=True):
            if len(size) == 3:
                nibabel.save(nibabel.Nifti1Image(values, np.diag([1, 1, 3, 1.0])), folder / name)
            elif channels > 1 and name[0] == "i":
                Image.fromarray(np.stack([values] * channels, -1)).save(folder / name)
            else:
                Image.fromarray(values).save(folder / name)
        entry: dict[str, Any] = {"image": names[0], "label": names[1], "group": f"patient {number}"}
        entries.append({**entry, "fold": number % folds})
    content = {"name": "mine", "version": 1, "modality": ["CT"], "licence": "", "source": "", "ignore_index": None}
    lists = {"labels": {"0": "background", "1": "object"}, "training": entries, "validation": [], "test": []}
    (folder / "datalist.json").write_text(json.dumps({**content, **lists}))
    return folder


def both(data: Path, tmp_path: Path, overlays: tuple[str, ...] = (), **options: Any) -> str:
    """Return what the check and the training say of data that do not fit: the same."""
    overrides = {**SMALL, **options}
    report, problems = workflow.check(BUNDLE, data=data, overlays=overlays, overrides=overrides)
    assert report.ok
    run = tmp_path / "run"
    with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
        workflow.train(BUNDLE, data=data, overlays=overlays, overrides={**overrides, "output_dir": str(run)})
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, FitError):
        error = error.__cause__
    assert problems == str(error).split("\n  ")
    assert not run.exists()
    return str(error)


def test_images_of_many_sizes(tmp_path: Path) -> None:
    data = write(tmp_path, [(32, 32)] * 3 + [(40, 36)] * 3)
    said = both(data, tmp_path)
    assert "training images have different sizes (32x32, 40x36), which a batch of 2 cannot hold" in said
    for remedy in ("patch=[32,32]", "model#input#size=[32,32]", "batch_size=1"):
        assert remedy in said
    for options in ({"patch": [32, 32]}, {"model#input#size": [32, 32]}, {"batch_size": 1}):
        report, problems = workflow.check(BUNDLE, data=data, overrides={**SMALL, **options})
        assert (report.ok, problems) == (True, []), options
    run = workflow.train(BUNDLE, data=data, overrides={**SMALL, "patch": [32, 32], "output_dir": tmp_path / "run"})
    assert (run / "model.pt").is_file()
    assert workflow.evaluate(run, overrides={"device": "cpu", "mlflow": False}).scores["mean_iou"] is not None


def test_images_of_many_sizes_that_a_transform_crops(tmp_path: Path) -> None:
    """The loader makes a batch of them; on the device they would have to be one before."""
    data = write(tmp_path, [(32, 32)] * 3 + [(40, 36)] * 3)
    crop = {"_target_": "RandSpatialCropd", "keys": ["image", "label"], "roi_size": [16, 16], "random_size": False}
    said = both(data, tmp_path, augmentation=[crop], augment_on="device")
    assert "augment_on is device, but training samples differ in size before the augmentation (32x32, 40x36)" in said
    for options in ({"augment_on": "auto"}, {"batch_size": 1}, {"model#input#size": [32, 32]}, {"patch": [32, 32]}):
        overrides = {**SMALL, "augmentation": [crop], "augment_on": "device", **options}
        assert workflow.check(BUNDLE, data=data, overrides=overrides)[1] == [], options


def test_volumes_for_a_network_of_pictures(tmp_path: Path) -> None:
    data = write(tmp_path, [(16, 16, 8)] * 6)
    said = both(data, tmp_path)
    assert "lfa_unet is a network for pictures (2D), the images are volumes (3D)" in said
    overrides = {**SMALL, "network_def#spatial_dims": 3, "model#inference#window": [16, 16, 8]}
    report, problems = workflow.check(BUNDLE, data=data, overrides=overrides)
    assert (report.ok, problems) == (True, [])


def test_images_too_small_for_the_depth(tmp_path: Path) -> None:
    said = both(write(tmp_path, [(2, 2)] * 6), tmp_path, batch_size=1)
    assert "images of 2x2 are too small for lfa_unet at batch_size 1" in said


def test_more_in_a_batch_than_there_is(tmp_path: Path) -> None:
    said = both(write(tmp_path, [(16, 16)] * 6), tmp_path, batch_size=8)
    assert "batch_size 8 is more than the 2 training images" in said


VOLUMES: dict[str, Any] = {
    "network_def#spatial_dims": 3,
    "model#inference#window": [8, 8, 8],
    "network_def#window_size": 2,
}


def test_patches_take_batches_larger_than_the_cases_are_many(tmp_path: Path) -> None:
    """Of volumes of other sizes, one of two slices, with a class in one of them alone."""
    data = write(tmp_path, [(16, 12, 8)] * 2 + [(9, 20, 8)] * 2 + [(16, 16, 2)] * 2)
    options = {**VOLUMES, "patch": [8, 8, 8], "batch_size": 5, "foreground": 0.4, "iterations": 2}
    report, problems = workflow.check(BUNDLE, data=data, overrides={**SMALL, **options})
    assert (report.ok, problems) == (True, [])
    run = workflow.train(BUNDLE, data=data, overrides={**SMALL, **options, "output_dir": tmp_path / "run"})
    (row,) = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(row["loss"])
    found = workflow.evaluate(run, overrides={"device": "cpu", "mlflow": False})
    assert found.scores["per_case"]["cases"] == 2
    assert json.loads((found.folder / "scores.json").read_text())["title"].endswith(", test fold 0")


def test_patches_that_cannot_be_cut(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    flat = write(tmp_path / "flat", [(16, 16)] * 6)
    assert "patch [8, 8, 8] has 3 edges, the network 2 axes" in both(flat, tmp_path, patch=[8, 8, 8])
    deep = write(tmp_path, [(16, 16, 8)] * 6)
    said = both(deep, tmp_path, patch=[8, 8], **{key: VOLUMES[key] for key in list(VOLUMES)[:2]})
    assert "patch [8, 8] has 2 edges, the network 3 axes; give patch one edge an axis" in said
    assert "images of 1x1 are too small for lfa_unet" in both(flat, tmp_path, patch=[1, 1], batch_size=1)
    assert "the images are volumes (3D)" in both(deep, tmp_path, patch=[8, 8])
    for options, said in (
        ({"foreground": 0.5}, "foreground is 0.5, but no patches are cut"),
        ({"foreground": 2}, "foreground is 2; give a share between 0 and 1"),
        ({"iterations": 0}, "iterations is 0; give a whole number of at least 1"),
        ({"patch": [8, 0]}, "patch is [8, 0]; give one edge in pixels"),
        ({"schedule": "step"}, f"schedule is 'step'; choose one of {', '.join(KINDS)}"),
        ({"schedule": "steps"}, "schedule is 'steps', but schedule_steps names none"),
        ({"schedule": "steps", "schedule_steps": [15, 25]}, "schedule_steps is [15, 25]; give shares of the schedule"),
    ):
        with pytest.raises((MedsegError, RuntimeError)) as caught:  # MONAI's, around ours
            workflow.check(BUNDLE, data=flat, overrides={**SMALL, **options})
        assert said in str(one_line(caught.value))


def test_mostly_padding_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path, [(16, 16, 2)] * 6)
    options = {**VOLUMES, "patch": [16, 16, 16], "model#inference#window": None}
    report, problems = workflow.check(BUNDLE, data=data, overrides={**SMALL, **options})
    assert (report.ok, problems) == (True, [])
    assert "16x16x2 fills 12 % of a patch of 16x16x16" in caplog.text


def test_steps_of_whole_images_drawn_again(tmp_path: Path) -> None:
    data = write(tmp_path, [(16, 16)] * 6)
    options = {"batch_size": 8, "iterations": 3}
    report, problems = workflow.check(BUNDLE, data=data, overrides={**SMALL, **options})
    assert (report.ok, problems) == (True, [])


def test_channels_classes_and_intensities_come_from_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: None
) -> None:
    """A bundle for one channel and five classes trains on three and two in their colours, without a word of them."""
    data = write(tmp_path, [(16, 16)] * 6, channels=3)
    content = json.loads((data / "datalist.json").read_text())
    (data / "datalist.json").write_text(json.dumps({**content, "colours": {"1": "#0a800b"}}))
    monkeypatch.setattr(intensities, "FEWEST", 2)
    run = workflow.train(BUNDLE, data=data, overrides={**SMALL, "output_dir": tmp_path / "run"})
    described = read_weights(run / "model.pt").description
    assert described is not None
    assert (described.network["in_channels"], described.network["out_channels"]) == (3, 2)
    assert list(described.classes) == ["background", "object"]
    assert described.colours == {"1": "#0a800b"}
    assert 2 <= described.intensities["images"] < 6  # of the training part alone
    assert (len(described.intensities["low"]), len(described.intensities["high"])) == (3, 3)
    assert (described.usual["cases"], described.usual["unit"]) == (described.intensities["images"], "px")
    assert described.usual["extent"] == [[16, 16], [16, 16]]
    assert 0 < described.usual["found"]["1"][1] < 1
    found = workflow.evaluate(run, overrides={"device": "cpu", "mlflow": False})
    for picture in (run / "report" / "overlays.png", found.folder / "overlays.png", run / "curves.png"):
        pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
        assert (pixels == (10, 128, 11)).all(1).any(), picture.name


def test_masks_of_0_and_255_name_their_remedy(tmp_path: Path) -> None:
    data = write(tmp_path, [(16, 16)] * 6, top=255)
    report, _ = workflow.check(BUNDLE, data=data, overrides=SMALL)
    assert not report.ok
    assert '"values": {"0": 0, "255": 1}' in report.errors[0].message
    content = json.loads((data / "datalist.json").read_text())
    (data / "datalist.json").write_text(json.dumps({**content, "values": {"0": 0, "255": 1}}))
    report, problems = workflow.check(BUNDLE, data=data, overrides=SMALL)
    assert (report.ok, problems) == (True, [])
    run = workflow.train(BUNDLE, data=data, overrides={**SMALL, "output_dir": tmp_path / "run"})
    scores = workflow.evaluate(run, overrides={"device": "cpu", "mlflow": False}).scores
    assert {row["name"] for row in scores["classes"]} == {"background", "object"}


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    """Masks of 0 and 255, sizes that make no batch and a batch larger than the data: one check, one refusal."""
    data = write(tmp_path, [(16, 16), (20, 18), (24, 24)] * 2, top=255)
    (data / "i0.png").write_bytes(b"no image")  # the first, of which channels are asked
    overrides = {**SMALL, "batch_size": 3}
    report, problems = workflow.check(BUNDLE, data=data, overrides=overrides)
    assert {finding.code for finding in report.errors} >= {"unreadable-file"}
    assert '"values": {"0": 0, "255": 1}' in "".join(finding.message for finding in report.errors)
    assert len(problems) == 1
    assert "batch_size 3 is more than the 2 training images" in problems[0]
    with pytest.raises(RuntimeError) as caught:
        workflow.train(BUNDLE, data=data, overrides={**overrides, "output_dir": str(tmp_path / "run")})
    said = str(one_line(caught.value)).splitlines()
    assert said[0].endswith(f"{len(report.errors)} errors in the data")
    assert len(said) == 1 + len(report.errors) + len(problems)
    assert said[-1].strip() == problems[0]
    many = both(write(tmp_path, [(16, 16), (20, 18), (24, 24)] * 2, folds=6), tmp_path, batch_size=5)
    assert "batch_size 5 is more than the 4 training images" in many
    assert "training images have different sizes (16x16, 20x18, 24x24), which a batch of 5 cannot hold" in many
    assert "patch=[16,16] (random windows)" in many


def test_folds_as_they_come(tmp_path: Path) -> None:
    data = write(tmp_path, [(16, 16)] * 6, folds=2)
    for options in ({"fold": 0}, {"fold": "all"}):
        report, problems = workflow.check(BUNDLE, data=data, overrides={**SMALL, **options})
        assert (report.ok, problems) == (True, []), options


def test_a_mistyped_key(tmp_path: Path) -> None:
    data = write(tmp_path, [(16, 16)] * 6)
    with pytest.raises(MedsegError, match=r"^max_epoch: .* has no 'max_epoch'.*did you mean max_epochs\?"):
        workflow.check(BUNDLE, data=data, overrides={"max_epoch": 3})
    with pytest.raises(MedsegError, match=r"^model#input#sise: .* has no such key; there are intensity"):
        workflow.check(BUNDLE, data=data, overrides={"model#input#sise": [8, 8]})


def test_values_beyond_what_the_model_scales(tmp_path: Path) -> None:
    """16 bits into a model of 8: said by the check, the training and the prediction."""
    data = write(tmp_path, [(16, 16)] * 6)
    run = workflow.train(BUNDLE, data=data, overrides={**SMALL, "output_dir": tmp_path / "run"})
    for path in data.glob("i*.png"):
        deep = np.array(Image.open(path)).astype(np.uint16) * 257
        Image.fromarray(deep).save(path)
    assert "values go from" in both(data, tmp_path / "other")
    outcome = predict(run, data / "i0.png", tmp_path / "masks", overrides={"device": "cpu"})
    assert outcome.written == 0
    assert "but the model scales 0 to 255" in outcome.failures[0][1]


# ---------------------------------------------------------------------------------------------- what a test may be


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """Data of three folds, and a run that left fold 0 out and picked its weights by fold 1."""
    (tmp_path / "data").mkdir()
    data = write(tmp_path / "data", [(16, 16)] * 6)
    return data, workflow.train(BUNDLE, data=data, overrides={**SMALL, "output_dir": tmp_path / "run"})


def test_a_run_goes_on_only_as_it_was_fed(trained: tuple[Path, Path]) -> None:
    """Its first epochs saw 0 to 255 as 0 to 1, the next ones as 0 to 0.85, and its weights said the latter of all."""
    data, run = trained
    more = {**SMALL, "max_epochs": 2, "resume": str(run)}
    with pytest.raises((MedsegError, RuntimeError)) as caught:
        workflow.train(BUNDLE, data=data, overrides={**more, "model#input#intensity#high": 300})
    assert "cannot be continued: input intensity high was 255 and is 300 now" in (one_line(caught.value) or "")
    workflow.train(BUNDLE, data=data, overrides=more)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_what_a_run_does_otherwise_from_now_on_is_said(
    trained: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    data, run = trained
    workflow.train(BUNDLE, data=data, overrides={**SMALL, "max_epochs": 2, "resume": str(run)})
    assert "goes on otherwise" not in caplog.text
    before = (run / "config.yaml").read_text()
    workflow.train(BUNDLE, data=data, overrides={**SMALL, "max_epochs": 3, "seed": 7, "resume": str(run)})
    assert "goes on otherwise from epoch 3: seed was 0 and is 7 now (before: config_until_epoch_2.yaml)" in caplog.text
    assert (run / "config_until_epoch_2.yaml").read_text() == before


def test_nothing_that_was_trained_on_is_a_test(trained: tuple[Path, Path]) -> None:
    data, run = trained
    options = {"device": "cpu", "mlflow": False}
    assert workflow.evaluate(run, overrides=options).scores["per_case"]["cases"] == 2
    for fold, did in ((2, "was trained on 2 of the 2 images"), (1, "picked the weights by 2 of the 2 images")):
        with pytest.raises(MedsegError, match=did):
            workflow.evaluate(run, overrides={**options, "fold": fold})
    found = workflow.evaluate(run, overrides={**options, "scored": "training", "hide_names": True})
    assert found.scores["per_case"]["cases"] == 2
    assert ".png" not in "".join(path.read_text() for path in found.folder.glob("*.csv"))
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["checkpoints", "report", "test", "training"]
    content = json.loads((data / "datalist.json").read_text())
    for entry in content["training"]:
        entry["fold"] = (entry["fold"] + 1) % 3
    (data / "datalist.json").write_text(json.dumps(content))  # folds that changed after the training
    with pytest.raises(MedsegError, match="of the 2 images to score"):
        workflow.evaluate(run, overrides=options)


def test_classes_of_another_order_are_not_scored(trained: tuple[Path, Path]) -> None:
    data, run = trained
    content = json.loads((data / "datalist.json").read_text())
    content["labels"] = {"0": "object", "1": "background"}
    (data / "other.json").write_text(json.dumps(content))
    with pytest.raises(MedsegError, match=r"give the classes background, object, but .* names object, background"):
        workflow.evaluate(run, data=data / "other.json", overrides={"device": "cpu", "mlflow": False})


def test_a_finished_run_keeps_its_records(trained: tuple[Path, Path]) -> None:
    data, run = trained
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    workflow.train(BUNDLE, data=data, overrides={**SMALL, "resume": str(run), "batch_size": 1})
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_weights_are_read_once_and_scores_of_other_data_lie_beside(
    trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data, run = trained
    caplog.set_level("INFO", logger="medseg")
    read, hashed = Mock(wraps=torch.load), Mock(wraps=checkpoint.weights_hash)
    monkeypatch.setattr(torch, "load", read)
    monkeypatch.setattr(checkpoint, "weights_hash", hashed)
    found = workflow.evaluate(run, data=data, overrides={"device": "cpu", "mlflow": False})
    assert (read.call_count, hashed.call_count) == (1, 1)
    assert found.folder == run / "test_mine"
    assert json.loads((found.folder / "scores.json").read_text())["mean_iou"] == found.scores["mean_iou"]
    assert "pooled over all pixels" in summarise(found.folder)[0]
    assert "pooled over all pixels" not in caplog.text  # the command prints it


def test_a_test_list_of_other_data_is_all_that_scoring_needs(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    (tmp_path / "outside").mkdir()
    outside = write(tmp_path / "outside", [(24, 20)] * 3)
    content = json.loads((outside / "datalist.json").read_text())
    test = [{"image": each["image"], "label": each["label"], "group": f"outside {n}"}
            for n, each in enumerate(content["training"])]  # fmt: skip
    (outside / "datalist.json").write_text(json.dumps({**content, "training": [], "test": test}))
    found = workflow.evaluate(run, data=outside, overrides={"device": "cpu", "mlflow": False})
    assert found.scores["per_case"]["cases"] == 3


def test_cases_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are tried are fed once, whole and cut alike."""
    data = write(tmp_path, [(16, 16)] * 6)
    fed = Mock(wraps=LoadImagesd.__call__)
    monkeypatch.setattr(LoadImagesd, "__call__", lambda *args: fed(*args))
    for options in ({}, {"patch": [8, 8]}, {"patch": [8, 8], "model#input#size": [12, 12]}):
        report, problems = workflow.check(BUNDLE, data=data, overrides={**SMALL, **options})
        assert (report.ok, problems) == (True, [])
        paths = [Path(call.args[1]["image"]).name for call in fed.call_args_list]
        assert paths == ["i2.png", "i5.png"]  # the cases to train on
        fed.reset_mock()


def test_configurations_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path, [(16, 16)] * 6)
    read = Mock(wraps=ConfigParser.load_config_file)
    monkeypatch.setattr(ConfigParser, "load_config_file", read)
    report, problems = workflow.check(BUNDLE, data=data, overlays=["small"], overrides={"batch_size": 2})
    assert (report.ok, problems) == (True, [])
    assert [Path(call.args[0]).name for call in read.call_args_list] == ["train.yaml", "small.yaml", "metadata.json"]
