"""A trained model in Python: it knows how it is fed, refuses to be fed otherwise, and masks lie where images lie."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import AsDiscreted, Compose, SpatialResample
from PIL import Image
from torch import nn

import medseg
from medseg.bundle import feeding
from medseg.bundle.command import Command
from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.library import BundleError, weights_file
from medseg.bundle.networks import create
from medseg.bundle.record import header_of, load_described, read_weights
from medseg.bundle.start import ConfigError, check_names
from medseg.io.folder import MASK_RECORD
from medseg.io.images import ImageError
from medseg.prediction.case import Feeder, PredictionError
from medseg.prediction.forward import Forward
from medseg.prediction.mask_record import Maker, MaskRecordError
from medseg.prediction.model import ModelError, load
from medseg.prediction.predict import predict
from medseg.prediction.predictor import ImageFolder, Predictor
from medseg.resources import bundles_root
from medseg.runs.checkpoint import CheckpointError, save_checkpoint
from medseg.runs.header import write_header


def save(path: Path, dims: int = 2, channels: int = 1, sure: float = 1.0, **options: Any) -> tuple[nn.Module, Path]:
    """Write weights of a tiny network that know how they are fed."""
    network = create("unet", dims, channels, 3, channels=[4, 8], seed=0).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # so that every class occurs
        logits = network(torch.rand(1, channels, *[16] * dims, generator=generator))
        last.bias -= logits.flatten(2).median(2).values[0]
        last.weight *= sure
        last.bias *= sure
    content = {"name": "lfa_unet_drosophila", "classes": ["a", "b", "c"], "input": {"intensity": {"scheme": "range"}}}
    described = Description.of({**content, "network": network.recipe, **options})
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)
    return network, path


def grey(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)


def test_five_lines(tmp_path: Path) -> None:
    network, weights = save(tmp_path / "model.pt")
    Image.fromarray(grey(20, 30)).save(tmp_path / "x.png")
    model = medseg.load(weights, device="cpu")
    prediction = model.predict(tmp_path / "x.png")
    prediction.save(tmp_path / "mask.png")
    with torch.no_grad():
        expected = network(torch.from_numpy(grey(20, 30))[None, None] / 255)[0].argmax(0)
    np.testing.assert_array_equal(prediction.mask, expected)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "mask.png")), expected)
    assert prediction.class_names == ["a", "b", "c"]


def test_arrays_and_files_are_the_same(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "model.pt")
    model = load(weights, device="cpu")
    Image.fromarray(grey(17, 23)).save(tmp_path / "x.png")
    from_file = model.predict(str(tmp_path / "x.png")).mask
    np.testing.assert_array_equal(model.predict(grey(17, 23)).mask, from_file)
    np.testing.assert_array_equal(model.predict(grey(17, 23)[..., None]).mask, from_file)
    (several,) = model.predict_all([tmp_path / "x.png"])
    np.testing.assert_array_equal(several.mask, from_file)


@pytest.mark.parametrize("scheme", ["range", "image", "zscore", "none"])
def test_the_image_is_kept_as_it_was_read(tmp_path: Path, scheme: str) -> None:
    """Whatever the network sees of it: values are measured, and compared with those of the training."""
    _, path = save(tmp_path / "m.pt", 3, input={"intensity": {"scheme": scheme}})
    stored = grey(9, 8, 7).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "x.nii.gz")
    usual = {"low": [[-1e9] * 5], "high": [[1e9] * 5], "values": [0.0, 255.0], "images": 9}
    if scheme in ("image", "zscore"):
        usual |= {"low": [[0.0, 0.0, 0.0, 0.0]], "high": [[1.0, 1.0, 1.0, 0.0]]}  # no value below 0
    described = read_weights(path).description
    assert described is not None
    description = replace(described, intensities=usual)
    fed = Feeder(description, values=True).read(tmp_path / "x.nii.gz")
    assert fed.values is not None
    np.testing.assert_array_equal(fed.values[0], stored)
    assert fed.unlike == ()
    assert Feeder(description).read(tmp_path / "x.nii.gz").unlike == ()


def test_means_are_of_the_image_whatever_the_network_sees(tmp_path: Path) -> None:
    _, path = save(tmp_path / "m.pt", 3, input={"intensity": {"scheme": "zscore"}})
    (tmp_path / "in").mkdir()
    stored = grey(9, 8, 7)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "in" / "x.nii.gz")
    predict(path, tmp_path / "in", tmp_path / "out", outputs=["measurements"], overrides={"device": "cpu"})
    mask = np.asanyarray(nibabel.load(tmp_path / "out" / "x.nii.gz").dataobj)
    with (tmp_path / "out" / "measurements.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {int(row["class"]): float(row["mean_intensity"]) for row in rows if row["part"] == "all"}
    assert found == {index: pytest.approx(stored[mask == index].mean(), rel=1e-5) for index in found}
    assert len(found) >= 2


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "SAL"])
def test_a_volume_in_any_orientation_has_one_mask(tmp_path: Path, codes: str) -> None:
    """The model states an orientation: however a volume is stored, a place in the patient gets the same class."""
    _, weights = save(tmp_path / "model.pt", dims=3, input={"orientation": "RAS", "intensity": {"scheme": "image"}})
    model = load(weights, device="cpu")
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[:3, 3] = [-10, 4, 7]
    stored = nibabel.Nifti1Image(grey(16, 12, 8), affine)
    nibabel.save(stored, tmp_path / "ras.nii.gz")
    wanted = nibabel.orientations.axcodes2ornt(codes)
    turn = nibabel.orientations.ornt_transform(nibabel.orientations.io_orientation(affine), wanted)
    nibabel.save(stored.as_reoriented(turn), tmp_path / "turned.nii.gz")
    masks = []
    for name in ("ras", "turned"):
        model.predict(tmp_path / f"{name}.nii.gz").save(tmp_path / f"{name}_mask.nii.gz")
        mask, image = (nibabel.load(tmp_path / f"{name}{end}.nii.gz") for end in ("_mask", ""))
        assert mask.shape == image.shape
        np.testing.assert_allclose(mask.affine, image.affine, atol=1e-5)
        masks.append(np.asarray(nibabel.as_closest_canonical(mask).dataobj))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert len(np.unique(masks[0])) > 1


def test_a_2d_network_looks_at_a_plane_of_the_patient(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "model.pt")
    model = load(weights, device="cpu")
    volume = grey(16, 12, 8)
    expected = np.stack([model.predict(volume[..., k]).mask for k in range(8)], -1)
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    np.testing.assert_array_equal(model.predict(volume, affine=affine).mask, expected)
    moved = np.moveaxis(volume, 2, 0)  # the same patient, its slices along the first axis
    turned = np.eye(4)[[1, 2, 0, 3]] @ np.diag([2.0, 1.0, 1.0, 1.0])
    np.testing.assert_array_equal(model.predict(moved, affine=turned).mask, np.moveaxis(expected, 2, 0))


def test_what_is_resampled_is_the_logits(tmp_path: Path) -> None:
    """Every road to a mask gives the classes of all logits, interpolated at once."""
    fed = {"orientation": "RAS", "spacing": [2.0, 1.5, 2.0], "intensity": {"scheme": "image"}}
    network, weights = save(tmp_path / "model.pt", dims=3, input=fed, inference={"window": [8, 8, 4], "overlap": 0.5})
    model = load(weights, device="cpu")
    affine = np.diag([-1.0, 1.0, 1.2, 1.0])
    affine[:3, 3] = [20, 4, 7]
    image = grey(18, 14, 12)
    found = model.predict(image, affine=affine).mask
    loaded = MetaTensor(torch.from_numpy(image[None].astype(np.float32)), affine=torch.from_numpy(affine))
    moved = feeding.prediction(model.description)({"image": loaded}, start=1)["image"]
    with torch.no_grad():
        logits = SlidingWindowInferer((8, 8, 4), 1, 0.5, "gaussian")(moved.as_tensor()[None], network)[0]
    move = SpatialResample(mode="bilinear", padding_mode="border")
    whole = move(MetaTensor(logits, affine=moved.affine), dst_affine=affine, spatial_size=image.shape).as_tensor()
    surest = whole.topk(2, dim=0).values
    sure = (surest[0] - surest[1] > 1e-5).numpy()  # no tie but for rounding
    assert sure.mean() > 0.98
    np.testing.assert_array_equal(found[sure], whole.argmax(0).numpy()[sure])
    assert len(np.unique(found)) == 3

    case = Feeder(model.description).feed(loaded)
    options: dict[str, Any] = {"precision": "fp32", "device": torch.device("cpu")}
    largest = AsDiscreted("pred", argmax=True)
    seen: list[torch.Size] = []

    def watched(data: dict[str, Any]) -> dict[str, Any]:
        seen.append(data["pred"].shape)
        return data

    for transforms in ([largest], [largest, watched], [watched, largest]):
        forward = Forward([network], model.description, model.inferer, finish=Compose(transforms), **options)
        np.testing.assert_array_equal(forward([case])[0].mask, found)
    assert seen == [(1, *image.shape), (3, *image.shape)]


# ---------------------------------------------------------------------------------------------- refusals


def test_weights_trained_otherwise_are_refused(tmp_path: Path) -> None:
    network, weights = save(tmp_path / "model.pt", input={"intensity": {"scheme": "image"}, "polarity": "bright"})
    held = read_weights(weights)
    trained = held.description
    assert trained is not None
    assert load_described(network, held, trained) == trained
    content = trained.to_dict()
    content["input"] |= {"polarity": None, "size": [8, 8]}
    with pytest.raises(DescriptionError) as caught:
        load_described(network, held, Description.of(content))
    said = str(caught.value)
    assert f"weights {weights} were trained otherwise: input polarity bright (here unset)" in said
    assert "input size unset (here [8, 8])" in said
    assert f"medseg predict {weights} IMAGES MASKS" in said


def test_a_volume_without_an_affine(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was taken for voxels of 1 mm, whatever they were: of 1.5 mm, a quarter of its mask was another."""
    volume = grey(12, 12, 8)
    _, weights = save(tmp_path / "a.pt", 3, input={"intensity": {"scheme": "range"}, "spacing": [2, None, 2]})
    with pytest.raises(ModelError, match=r"no affine, and the model takes voxels of 2 x any x 2 mm; give affine="):
        load(weights, device="cpu").predict(volume)
    assert load(weights, device="cpu").predict(volume, affine=np.eye(4)).mask.shape == volume.shape
    assert not caplog.text
    _, weights = save(tmp_path / "b.pt", 3)
    assert load(weights, device="cpu").predict(volume).mask.shape == volume.shape
    assert "taken to point right, anterior and superior" in caplog.text


def test_a_configuration_that_predicts_otherwise_makes_other_masks(tmp_path: Path) -> None:
    """As MONAI's command runs it: mirrored masks passed for those that were not, and the second run skipped all."""
    network, weights = save(tmp_path / "model.pt")
    (tmp_path / "in").mkdir()
    Image.fromarray(np.arange(120, dtype=np.uint8).reshape(10, 12)).save(tmp_path / "in" / "a.png")
    trained = read_weights(weights).description
    assert trained is not None
    mirrored = Description.of({**trained.to_dict(), "inference": {"flip_axes": [-1]}})
    for here in (trained, mirrored):
        images = ImageFolder(tmp_path / "in", here, tmp_path / "out")
        made = (torch.device("cpu"), images, network, feeding.inferer(here), None)
        if here is mirrored:
            with pytest.raises(MaskRecordError, match="with other settings of the inference"):
                Predictor(*made, description=here, ckpt=weights)
        else:
            Predictor(*made, description=here, ckpt=weights).run()
    record = json.loads((tmp_path / "out" / MASK_RECORD).read_text())
    assert record["made_by"][0]["model"] == Maker.of(network, trained).model


def test_steps_that_come_with_the_weights_cannot_be_typed() -> None:
    train, *scored, inference = (
        bundles_root() / "unet_drosophila" / "configs" / f"{name}.yaml" for name in ("train", "evaluate", "inference")
    )
    steps = {"model#postprocess": "{}"}
    check_names(Command("monai.bundle", (train,), steps))  # which writes it into the weights
    for files in ((train, *scored), (inference,)):
        with pytest.raises(ConfigError, match="model#postprocess: comes with the weights"):
            check_names(Command("monai.bundle", files, steps))
    check_names(Command("monai.bundle", (inference,), {"model#inference#overlap": "0.5"}))


def test_weights_without_a_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network, _ = save(tmp_path / "a.pt")
    torch.save(dict(network.state_dict()), tmp_path / "bare.pt")
    with pytest.raises(ModelError, match=r"bare\.pt carries no record of its network and of how it is fed"):
        load(tmp_path / "bare.pt")
    described = read_weights(tmp_path / "a.pt").description
    assert described is not None
    load_described(network, read_weights(tmp_path / "bare.pt"), described)
    assert "carry no record of how they are fed" in caplog.text


def test_a_record_of_the_future_and_one_of_nonsense(tmp_path: Path) -> None:
    network, _ = save(tmp_path / "a.pt")
    for header, said in (({"format": 99, "model": {}}, "has format 99"), ({"format": 1, "model": {"a": 1}}, "no 'a'")):
        save_checkpoint(write_header(network.state_dict(), header), tmp_path / "b.pt")
        with pytest.raises(DescriptionError, match=said):
            load(tmp_path / "b.pt")


def test_weights_that_changed_since(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "a.pt")
    content = torch.load(weights, weights_only=True)
    next(iter(content.values())).add_(1)
    torch.save(content, weights)
    with pytest.raises(CheckpointError, match="changed"):
        load(weights)


def test_logits_that_are_no_numbers_name_the_image(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "model.pt")
    model = load(weights, device="cpu")
    with torch.no_grad():
        for parameter in model.networks[0].parameters():
            parameter.mul_(1e30)
    (tmp_path / "in").mkdir()
    Image.fromarray(grey(8, 8)).save(tmp_path / "in" / "x.png")
    with pytest.raises(ModelError, match=r"x\.png: the network gives \d+ of 192 logits that are NaN or infinite"):
        model.predict(tmp_path / "in" / "x.png")


def test_the_fault_of_a_file_keeps_its_cause(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "model.pt")
    with pytest.raises(ImageError, match=r"x\.png: no such file") as caught:
        load(weights, device="cpu").predict(tmp_path / "x.png")
    assert isinstance(caught.value.__cause__, FileNotFoundError)  # not MONAI's wrapper, nor nothing


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((8, 8, 3), np.uint8), "it has 3 channels, but the model takes 1"),
        (np.zeros((8,), np.uint8), r"the array has the shape \(8,\); the model takes \(H, W\)"),
        (np.zeros((8, 8), complex), "values of type complex128"),
        (np.full((8, 8), np.nan, np.float32), "NaN or infinite"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, array: Any, said: str) -> None:
    _, weights = save(tmp_path / "model.pt")
    with pytest.raises((ModelError, PredictionError), match=said):
        load(weights, device="cpu").predict(array)


def test_no_weights(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no weights"):
        weights_file("lfa_unet_drosophila")
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(BundleError, match="is no weights file"):
        weights_file(tmp_path / "x.txt")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.pt").write_bytes(b"")
    with pytest.raises(BundleError, match="is a run that has not ended"):
        weights_file(tmp_path / "run")


def test_a_picture_of_other_colours_is_refused_in_one_line(tmp_path: Path) -> None:
    """The fault of the image is said, not that a transform of MONAI's failed."""
    _, weights = save(tmp_path / "model.pt", channels=3, input={"colour": "rgb", "intensity": {"scheme": "image"}})
    model = load(weights, device="cpu")
    with pytest.raises(
        DescriptionError,
        match=r"^the image has 5 channels and .*, but the model takes rgb pictures of 1 channel or of 3 ",
    ):
        model.predict(np.zeros((8, 8, 5), np.uint8))
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 8, 8), np.uint8), planarconfig="separate", photometric="rgb")
    with pytest.raises(ModelError, match=r"x\.tif: .*5 channels"):
        model.predict(tmp_path / "x.tif")


# ---------------------------------------------------------------------------------------------- a folder


def test_a_folder_of_images(tmp_path: Path) -> None:
    _, weights = save(tmp_path / "model.pt")
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(grey(12, 9)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "c.png").write_bytes(b"broken")
    (tmp_path / "in" / "d.webp").write_bytes(b"unknown")
    outcome = predict(weights, tmp_path / "in", tmp_path / "out", overrides={"device": "cpu"})
    assert (outcome.written, outcome.skipped, outcome.missed) == (2, 0, 1)
    assert [name for name, _ in outcome.failures] == ["c.png"]
    assert [name for name, _ in outcome.left_out] == ["d.webp"]
    again = predict(weights, tmp_path / "in", tmp_path / "out", overrides={"device": "cpu", "inference#batch": 1})
    assert (again.written, again.skipped) == (0, 2)
    with pytest.raises(medseg.errors.MedsegError, match=r"a\.png was made by these weights .* with other settings"):
        predict(weights, tmp_path / "in", tmp_path / "out", overrides={"device": "cpu", "inference#window": [8, 8]})
    with pytest.raises(medseg.errors.MedsegError, match="predict has no option 'intensity'"):
        predict(weights, tmp_path / "in", tmp_path / "out", overrides={"intensity": 1})
