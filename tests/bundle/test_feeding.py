"""How images are fed: schemes, colours, polarity, and volumes there and back, against independent arithmetic."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import NormalizeIntensityd, Spacing, SpatialResample
from nibabel.orientations import aff2axcodes, axcodes2ornt, io_orientation, ornt_transform
from PIL import Image

from medseg.bundle import feeding
from medseg.bundle.description import Description, DescriptionError, differences
from medseg.bundle.model_grid import ToModelGridd
from medseg.inferers.blocks import gather, whole
from medseg.inferers.way_back import WayBack
from medseg.io.load import ALPHA


def description(dims: int = 2, classes: int = 2, inference: dict[str, Any] | None = None, **fed: Any) -> Description:
    network = {"name": "unet", "spatial_dims": dims, "in_channels": 1, "out_channels": classes}
    names = [f"class {index}" for index in range(classes)]
    content = {"name": "toy", "network": network, "classes": names, "input": fed, "inference": inference or {}}
    return Description.of(content)


def back_on(image: MetaTensor, moved: MetaTensor) -> torch.Tensor:
    """Return a volume on the model's grid on the grid of the image that it was read from."""
    way = WayBack(moved.shape[1:], moved.affine, image.shape[1:], image.affine)
    return gather(way.blocks([whole(moved[None], moved.as_tensor()[None])]), (1, *image.shape[1:]))[0]


def fed(image: Any, **options: Any) -> torch.Tensor:
    loaded = torch.as_tensor(np.asarray(image, dtype=np.float32))
    result: torch.Tensor = feeding.prediction(description(**options))({"image": loaded}, start=1)["image"]
    return result


VALUES = np.random.default_rng(0).integers(20, 200, (1, 6, 5)).astype(np.float32)


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        ({"scheme": "none"}, VALUES),
        ({"scheme": "range"}, VALUES / 255),
        ({"scheme": "range", "low": 50, "high": 150}, (VALUES - 50) / 100),
        ({"scheme": "range", "low": 50, "high": 150, "clip": True}, np.clip((VALUES - 50) / 100, 0, 1)),
        ({"scheme": "image"}, (VALUES - VALUES.min()) / (VALUES.max() - VALUES.min())),
        ({"scheme": "zscore"}, (VALUES - VALUES.mean()) / VALUES.std()),
        (
            {"scheme": "percentiles", "low": 10, "high": 75},
            (VALUES - np.percentile(VALUES, 10)) / (np.percentile(VALUES, 75) - np.percentile(VALUES, 10)),
        ),
    ],
)
def test_intensity(intensity: dict[str, Any], expected: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(fed(VALUES, intensity=intensity), expected, rtol=1e-5, atol=1e-6)


def test_imagenet_is_normalised_on_the_device() -> None:
    image = np.random.default_rng(1).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    model = description(intensity={"scheme": "imagenet"}, colour="rgb")
    seen = []
    feeding.inferer(model)(torch.from_numpy(image)[None], lambda x: seen.append(x) or x)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (image / 255 - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(seen[0][0], expected, atol=1e-5)
    training = []
    feeding.training_inferer(model)(torch.from_numpy(image)[None], lambda x: training.append(x) or x)
    torch.testing.assert_close(training[0], seen[0])


def test_colour() -> None:
    grey = np.full((1, 2, 3), 7.0)
    assert fed(grey, colour="rgb").shape == (3, 2, 3)
    np.testing.assert_array_equal(fed(grey, colour="rgb"), np.repeat(grey, 3, 0))
    rgba = np.stack([np.full((2, 3), v) for v in (10.0, 20.0, 30.0, 128.0)])
    known = MetaTensor(torch.from_numpy(rgba), meta={ALPHA: True})
    np.testing.assert_array_equal(feeding.Colourd("image", "rgb")({"image": known})["image"], rgba[:3])
    np.testing.assert_allclose(fed(rgba[:3], colour="grey"), np.full((1, 2, 3), 0.299 * 10 + 0.587 * 20 + 0.114 * 30))
    for channels in (2, 4, 5):  # of which none says that it is alpha
        with pytest.raises(RuntimeError, match="applying transform") as caught:
            fed(np.zeros((channels, 2, 3)), colour="rgb")
        assert f"the image has {channels} channels" in str(caught.value.__cause__)


@pytest.mark.parametrize("polarity", ["bright", "dark"])
def test_polarity(polarity: str) -> None:
    dark_objects = np.full((1, 4, 4), 200.0)
    dark_objects[0, 0, :2] = 10
    bright_objects = 210 - dark_objects
    wanted = bright_objects if polarity == "bright" else dark_objects
    for image in (dark_objects, bright_objects):
        np.testing.assert_array_equal(fed(image, polarity=polarity), wanted)
    flat = np.full((1, 3, 3), 9.0)
    np.testing.assert_array_equal(fed(flat, polarity=polarity), flat)


def test_polarity_of_bytes() -> None:
    image = np.full((3, 4, 4), 200, np.uint8)
    image[:, 0, :2] = 100  # both ends together are more than a byte holds
    seen = fed(image, polarity="bright", intensity={"scheme": "imagenet"}, colour="rgb")
    np.testing.assert_array_equal(seen, np.where(image == 200, 100, 200))


def test_percentiles_of_an_even_ground() -> None:
    image = np.zeros((2, 40, 40))
    image[0, 7, 8] = 200  # fewer than one in 500
    image[1] = 5
    seen = fed(image.copy(), intensity={"scheme": "percentiles"})
    np.testing.assert_array_equal(seen, np.stack([image[0] / 200, np.zeros((40, 40))]))


def test_percentiles_leave_the_image_of_who_asks() -> None:
    image = torch.rand(1, 6, 7)
    before = image.clone()
    seen = feeding.prediction(description(intensity={"scheme": "percentiles"}))({"image": image}, start=1)
    assert not torch.equal(seen["image"], before)
    assert torch.equal(image, before)


@pytest.mark.parametrize("intensity", [{"scheme": "zscore"}, {"scheme": "percentiles"}, {"scheme": "image"}])
def test_negatives_are_scaled_as_what_they_show(intensity: dict[str, Any]) -> None:
    bright = np.random.default_rng(6).integers(20, 60, (1, 19, 18)).astype(float)
    bright[0, 2:4, 3:6] = 240
    expected = {
        "zscore": lambda: (bright - bright.mean()) / bright.std(),
        "percentiles": lambda: (bright - np.percentile(bright, 1)) / np.subtract(*np.percentile(bright, [99.8, 1])),
        "image": lambda: (bright - bright.min()) / np.ptp(bright),
    }[intensity["scheme"]]()
    np.testing.assert_allclose(fed(bright, polarity="bright", intensity=intensity), expected, atol=1e-5)
    # the range of a negative is its image's: 20 to 240, so the same image again
    np.testing.assert_allclose(fed(260 - bright, polarity="bright", intensity=intensity), expected, atol=1e-5)


@pytest.mark.parametrize("nonzero", [False, True])
def test_zscore_is_monais_to_the_last_bit_and_leaves_the_image_of_who_asks(nonzero: bool) -> None:
    drawn = torch.from_numpy(np.random.default_rng(1).normal(300, 70, (4, 9, 8, 7)).astype(np.float32))
    drawn[:, ::2] = 0
    drawn[2], drawn[3] = 5, 0  # channels of one value
    expected = NormalizeIntensityd("image", nonzero=nonzero, channel_wise=True)({"image": drawn.clone()})["image"]
    place = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    for image in (drawn, MetaTensor(drawn.clone(), affine=place, meta={"pages": True})):
        given = image.clone()
        scheme = {"scheme": "zscore", "nonzero": nonzero}
        found = feeding.prediction(description(3, intensity=scheme))({"image": image}, start=1)["image"]
        assert torch.equal(torch.as_tensor(found), torch.as_tensor(expected))
        assert torch.equal(torch.as_tensor(image), torch.as_tensor(given))
        if isinstance(image, MetaTensor):
            assert torch.equal(found.affine, place)
            assert found.meta["pages"]


def test_negatives_leave_nothing_where_it_is() -> None:
    image = np.full((1, 9, 8), 200.0)
    image[0, :2], image[0, 4:6, 3:5] = 0, 40
    seen = fed(image, polarity="bright", intensity={"scheme": "zscore", "nonzero": True})
    inside = image != 0
    negative = 240 - image[inside]
    np.testing.assert_array_equal(seen[~inside], 0)
    np.testing.assert_allclose(seen[inside], (negative - negative.mean()) / negative.std(), atol=1e-5)


def test_training_and_evaluation_see_the_same(tmp_path: Path) -> None:
    image = np.random.default_rng(2).integers(0, 256, (24, 20)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "i.png")
    Image.fromarray((image > 128).astype(np.uint8)).save(tmp_path / "l.png")
    entry = {"image": str(tmp_path / "i.png"), "label": str(tmp_path / "l.png")}
    model = description(intensity={"scheme": "range"}, polarity="bright")
    trained, scored = feeding.training(model)(dict(entry)), feeding.evaluation(model)(dict(entry))
    predicted = feeding.prediction(model)({"image": entry["image"]})
    assert torch.equal(trained["image"], scored["image"])
    assert torch.equal(trained["image"], predicted["image"])
    assert torch.equal(trained["label"], scored["label"])
    sized = feeding.training(description(intensity={"scheme": "range"}, size=[12, 10]))(dict(entry))
    assert sized["image"].shape == sized["label"].shape == (1, 12, 10)
    assert set(np.unique(sized["label"])) <= {0, 1}


@pytest.mark.parametrize("size", [[20, 21], [32, 30], [64, 61], [90, 120]])
def test_a_resized_label_lies_on_its_image(tmp_path: Path, size: list[int]) -> None:
    """MONAI's ``nearest`` left it half a pixel of the network's nearer to the origin."""
    x, y = np.mgrid[:100, :103]
    disc = ((x - 50) ** 2 + (y - 40) ** 2 < 900).astype(np.uint8)
    for name in ("i.png", "l.png"):
        Image.fromarray(disc).save(tmp_path / name)
    fed = description(intensity={"scheme": "range", "high": 1}, size=size)
    sample = feeding.training(fed)({"image": str(tmp_path / "i.png"), "label": str(tmp_path / "l.png")})
    centres = [
        [
            float(np.average(np.arange(edge), weights=np.asarray(sample[key])[0].sum(1 - axis)))
            for axis, edge in enumerate(size)
        ]
        for key in ("image", "label")
    ]
    np.testing.assert_allclose(*centres, atol=0.2)


# ---------------------------------------------------------------------------------------------- volumes

SHAPE = (5, 7, 9)


def volume(codes: str, zooms: tuple[float, float, float] = (1.0, 1.0, 1.0), oblique: bool = False) -> MetaTensor:
    """A volume whose voxels hold their place in the patient: 100 x + 10 y + z of an RAS grid, stored in ``codes``."""
    i, j, k = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    ras = nibabel.Nifti1Image((100 * i + 10 * j + k).astype(np.float32), np.diag([*zooms, 1.0]))
    stored = ras.as_reoriented(ornt_transform(io_orientation(ras.affine), axcodes2ornt(codes)))
    affine = stored.affine
    if oblique:
        angle = 0.2
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ affine
    return MetaTensor(torch.from_numpy(stored.get_fdata().astype(np.float32))[None], affine=torch.from_numpy(affine))


CODES = ["RAS", "LPS", "PSR", "ASL", "IRP", "SAL"]


@pytest.mark.parametrize("oblique", [False, True])
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize(("dims", "options"), [(3, {"orientation": "RAS"}), (2, {}), (2, {"plane": "sagittal"})])
def test_volumes_there_and_back(codes: str, oblique: bool, dims: int, options: dict[str, Any]) -> None:
    image = volume(codes, oblique=oblique)
    model = description(dims=dims, **options)
    moved = feeding.prediction(model)({"image": image}, start=1)["image"]
    found = aff2axcodes(moved.affine)
    if dims == 3:
        assert "".join(found) == "RAS"
        x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
        np.testing.assert_array_equal(moved[0], 100 * x + 10 * y + z)
    else:
        assert found[2] in ("IS" if options.get("plane", "axial") == "axial" else "LR")
    back = back_on(image, moved)
    np.testing.assert_array_equal(back, image.as_tensor())


def test_a_resampled_volume_comes_back_to_its_grid() -> None:
    image = volume("LPS", zooms=(1.0, 1.0, 1.0))
    model = description(dims=3, orientation="RAS", spacing=[2.0, 1.0, 1.0])
    moved = feeding.prediction(model)({"image": image}, start=1)["image"]
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(moved.affine.numpy()), [2, 1, 1])
    back = back_on(image, moved)
    assert back.shape == image.shape
    np.testing.assert_allclose(back, image.as_tensor(), atol=1e-2)  # a linear ramp survives linear interpolation


@pytest.mark.parametrize("codes", ["RAS", "PSR"])
@pytest.mark.parametrize(("plane", "order"), [("axial", (0, 1, 2)), ("coronal", (0, 2, 1)), ("sagittal", (1, 2, 0))])
def test_voxel_sizes_go_with_their_axes(codes: str, plane: str, order: tuple[int, ...]) -> None:
    """Whatever axis comes last for a 2D network; an axis without a size keeps the file's."""
    image = volume(codes, zooms=(1.0, 2.0, 4.0))
    moved = feeding.prediction(description(plane=plane, spacing=[0.5, 1.0, None]))({"image": image}, start=1)["image"]
    found = nibabel.affines.voxel_sizes(moved.affine.numpy())
    np.testing.assert_allclose(found, [(0.5, 1.0, 4.0)[axis] for axis in order])
    kept = feeding.prediction(description(plane=plane, spacing=[None] * 3))({"image": image}, start=1)["image"]
    assert kept.shape[1:] == tuple(SHAPE[axis] for axis in order)


@pytest.mark.parametrize("spacing", [[2.0, 1.7, 0.8], [0.5, 0.5, 3.0], [5.0, 7.0, 1.0]])
@pytest.mark.parametrize("oblique", [False, True])
def test_a_volume_is_resampled_as_by_monai(spacing: list[float], oblique: bool) -> None:
    image = volume("RAS", zooms=(1.0, 1.3, 0.9), oblique=oblique)
    image += torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    label = MetaTensor(torch.randint(0, 200, image.shape, dtype=torch.uint8), affine=image.affine)
    to_grid = ToModelGridd(["image", "label"], description(dims=3, spacing=spacing))
    moved = to_grid({"image": image, "label": label})
    expected = Spacing(spacing, mode="bilinear", padding_mode="border")(image)
    torch.testing.assert_close(moved["image"].as_tensor(), expected.as_tensor(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(moved["image"].affine, expected.affine)
    nearest = Spacing(spacing, mode="nearest", padding_mode="border")(label)
    same = moved["label"].as_tensor() == nearest.as_tensor()
    matrix = np.linalg.solve(np.array(label.affine.tolist()), np.array(expected.affine.tolist()))
    ties = torch.zeros(same.shape, dtype=torch.bool)  # halfway between two voxels either is the nearest
    for axis, edge in enumerate(same.shape[1:]):
        place = matrix[axis, axis] * np.arange(edge) + matrix[axis, 3]
        halfway = torch.from_numpy(np.abs(np.abs(place - np.rint(place)) - 0.5) < 1e-6)
        ties |= halfway.view([-1 if each == axis else 1 for each in range(3)])
    assert bool((same | ties).all())
    assert float(same.float().mean()) > 0.4
    assert moved["label"].dtype == torch.uint8


def test_a_volume_that_states_no_place() -> None:
    with pytest.raises(RuntimeError) as caught:
        feeding.prediction(description(dims=3, spacing=[1, 1, 1]))({"image": torch.zeros(1, 4, 4, 4)}, start=1)
    assert "states no spacing" in str(caught.value.__cause__)


# ---------------------------------------------------------------------------------------------- what differs


def test_differences_name_what_differs() -> None:
    fed = {"intensity": {"scheme": "image"}, "polarity": "bright"}
    trained = description(**fed)
    assert differences(trained, trained) == []
    assert differences(trained, description(inference={"window": [8, 8]}, **fed)) == []
    here = description(intensity={"scheme": "range", "high": 100}, size=[8, 8])
    found = differences(trained, here)
    assert "input intensity scheme image (here range)" in found
    assert "input polarity bright (here unset)" in found
    assert "input size unset (here [8, 8])" in found
    assert "network out_channels 2 (here 3)" in differences(trained, description(classes=3, **fed))


def test_first_weights_are_no_difference() -> None:
    content = description().to_dict()
    content["network"] |= {"weights": "imagenet"}
    assert differences(Description.of(content), description()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"polarity": "light"}, "polarity is 'light'; choose one of bright, dark or null"),
        ({"colour": "cmyk"}, "colour is 'cmyk'"),
        ({"plane": "oblique"}, "plane is 'oblique'"),
        ({"size": [0, 4]}, "size is [0, 4]"),
        ({"size": [4, 4, 4]}, "input size [4, 4, 4] has 3 edges, the network 2 axes"),
        ({"orientation": "RAX"}, "orientation is 'RAX'"),
        ({"orientation": "RLS"}, "orientation is 'RLS'"),
        ({"spacing": [1, 1]}, "spacing [1.0, 1.0] is that of volumes"),
        ({"spacing": [1, 0, None]}, "spacing is [1, 0, None]; give one number above 0 for each axis, or null"),
        ({"spacing": [1, "a", 1]}, "spacing is [1, 'a', 1]; give one number"),
        ({"size": [4, None]}, "size is [4, None]; give one number"),
        ({"sise": [4, 4]}, "has no 'sise'; did you mean 'size'?"),
        ({"inference": {"overlap": 1}}, "inference overlap is 1"),
        (
            {"inference": {"mirror_axes": [1, 2]}},
            "inference mirror_axes names the axis 2, the network has 2; give 0 to 1",
        ),
        ({"inference": {"flip_axes": [-3]}}, "inference flip_axes names the axis -3, the network has 2"),
        ({"inference": {"scales": []}}, "inference scales are []"),
        ({"inference": {"window": [0, 3]}}, "inference window is [0, 3]"),
    ],
)
def test_descriptions_that_are_none(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        description(**options)
    assert said in str(caught.value)


def volume_of(affine: np.ndarray[Any, Any]) -> MetaTensor:
    values = np.random.default_rng(0).random((1, 9, 12, 7)).astype(np.float32)
    return MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(affine))


@pytest.mark.parametrize("spacing", [[1.0, 1.0, 1.0], [0.7, 2.0, 3.1]])
def test_voxel_sizes_change_as_monai_changes_them(spacing: list[float]) -> None:
    volume = volume_of(np.diag([0.7, 1.3, 3.0, 1.0]))
    found = feeding.prediction(description(3, spacing=spacing))({"image": volume}, start=1)["image"]
    expected = Spacing(spacing, mode="bilinear", padding_mode="border")(volume)
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.affine, expected.affine)


def test_oblique_volumes_are_seen_whole() -> None:
    """Direction cosines with the six digits that DICOM often has: no slice at an end may be left out."""
    c, s = 0.982300, 0.187400
    turn = np.array([[1, 0, -0.0003], [0, c, -s], [0.0003, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.6875, 0.6875, 6.5])
    affine[:3, 3] = [-94, -132, -52]
    volume = volume_of(affine)
    found = feeding.prediction(description(3, spacing=[1, 1, 1]))({"image": volume}, start=1)["image"]
    np.testing.assert_allclose(found.affine[:3, 3], affine[:3, 3], atol=1e-2)
    assert found.shape[1:] == (7, 9, 40)  # 8 x 0.6875, 11 x 0.6875 and 6 x 6.5 mm between the outer centres
    back = back_on(volume, found)
    assert back.shape == volume.shape
    np.testing.assert_allclose(back[..., [0, -1]], volume.as_tensor()[..., [0, -1]], atol=0.6)


@pytest.mark.parametrize("key", ["image", "label"])
def test_a_tilted_gantry_is_set_upright(key: str) -> None:
    """Axes that are not at right angles are no axis-by-axis matter: voxels come from where they lie."""
    affine = np.diag([0.7, 0.7, 3.0, 1.0])
    affine[1, 2] = -0.8  # 15 degrees
    volume = volume_of(affine)
    found = ToModelGridd([key], description(3, spacing=[1, 1, 3]))({key: volume})[key]
    axes = found.affine[:3, :3].numpy()
    np.testing.assert_allclose(axes.T @ axes, np.diag([1.0, 1.0, 9.0]), atol=1e-9)
    move = SpatialResample(mode="nearest" if key == "label" else "bilinear", padding_mode="border")
    expected = move(volume, dst_affine=found.affine, spatial_size=tuple(found.shape[1:]))
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor())
    assert found.shape[2] > 9  # the slices' shift along y is within
