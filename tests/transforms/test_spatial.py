"""Turned, scaled and bent patches: where they should be, labels still labels, and no border in sight."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import affine_transform, center_of_mass
from torch import Tensor

from medseg.errors import MedsegError
from medseg.transforms.spatial import RandSpatiald

KEYS = ["image", "label"]


def blob(size: tuple[int, ...], place: tuple[float, ...]) -> dict[Any, Tensor]:
    """A smooth bump at ``place``, labelled 3 where it is high, beside a ridge of label 1."""
    axes = torch.meshgrid(*[torch.arange(float(edge)) for edge in size], indexing="ij")
    distance = sum((axis - p) ** 2 for axis, p in zip(axes, place, strict=True))
    image = torch.exp(-torch.as_tensor(distance) / 30)[None]
    label = (image > 0.5).to(torch.uint8) * 3
    return {"image": image, "label": label}


def always(roi_size: tuple[int, ...], seed: int = 0, **options: Any) -> RandSpatiald:
    settings: dict[str, Any] = {"prob_rotation": 1.0, "prob_scale": 1.0, **options}
    transform = RandSpatiald(KEYS, roi_size, **settings)
    transform.set_random_state(seed=seed)
    return transform


def centre(values: Tensor) -> np.ndarray[Any, Any]:
    return np.array(center_of_mass(values[0].numpy()))


@pytest.mark.parametrize("size", [(48, 56), (32, 40, 36)])
@pytest.mark.parametrize("seed", range(4))
def test_image_and_label_go_where_the_matrix_says(size: tuple[int, ...], seed: int) -> None:
    """The bump's centre, in image and label, is where the inverse of the drawn matrix brings it."""
    middle = (np.array(size) - 1) / 2
    place = middle + np.array([4.0, -5.0, 3.0][: len(size)])
    transform = always(size, seed)
    moved = transform(blob(size, tuple(place)))
    matrix = transform._matrix
    assert matrix is not None
    expected = middle + np.linalg.inv(matrix) @ (place - middle)
    np.testing.assert_allclose(centre(moved["image"].clamp(min=0.02) - 0.02), expected, atol=0.3)
    np.testing.assert_allclose(centre((moved["label"] == 3).float()), expected, atol=0.4)


@pytest.mark.parametrize("size", [(40, 44), (20, 24, 22)])
def test_values_are_scipys(size: tuple[int, ...]) -> None:
    """The same matrix by an independent implementation, image and label."""
    numbers = torch.Generator().manual_seed(0)
    sample: dict[Any, Tensor] = {
        "image": torch.rand((2, *size), generator=numbers),
        "label": torch.randint(5, (1, *size), generator=numbers).to(torch.uint8),
    }
    transform = always(size, seed=3)
    moved = transform(sample)
    middle = (np.array(size) - 1) / 2
    matrix = transform._matrix
    assert matrix is not None
    offset = middle - matrix @ middle
    for channel in range(2):
        there = affine_transform(sample["image"][channel].numpy(), matrix, offset, order=1, mode="nearest")
        np.testing.assert_allclose(moved["image"][channel].numpy(), there, atol=1e-4)
    there = affine_transform(sample["label"][0].numpy(), matrix, offset, order=0, mode="nearest")
    assert (moved["label"][0].numpy() != there).mean() < 2e-3  # halfway between two voxels either is the nearest


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_stay_labels(kind: torch.dtype) -> None:
    values = torch.tensor([0, 1, 100, 255 if kind is torch.uint8 else 30_001], dtype=kind)
    numbers = torch.Generator().manual_seed(0)
    label = values[torch.randint(4, (1, 20, 24, 22), generator=numbers)]
    for seed in range(5):
        moved = always((12, 16, 14), seed, prob_elastic=1.0)({"image": torch.rand(1, 20, 24, 22), "label": label})
        assert moved["label"].dtype == kind
        assert set(moved["label"].unique().tolist()) <= set(values.tolist())
        assert moved["image"].shape == moved["label"].shape == (1, 12, 16, 14)


def test_image_and_label_stay_together() -> None:
    """Of an image that is its own label: bent and turned, the two agree but where linear and nearest differ."""
    label = torch.zeros((1, 40, 44, 42), dtype=torch.uint8)
    label[0, 8:30, 10:25, 12:36] = 1
    for seed in range(5):
        moved = always((28, 30, 26), seed, prob_elastic=1.0, elastic=6)({"image": label.float(), "label": label})
        assert bool(((moved["image"] > 0.5) == (moved["label"] == 1)).float().mean() > 0.985)
        inside, outside = moved["image"] > 0.999, moved["image"] < 0.001
        assert bool((moved["label"][inside] == 1).all())
        assert bool((moved["label"][outside] == 0).all())


@pytest.mark.parametrize("roi_size", [(20, 24), (16, 20, 18), (4, 20, 20)])
def test_what_is_read_is_enough(roi_size: tuple[int, ...]) -> None:
    """No place outside of what `reads` asks for is looked at; a little less would not do."""
    widest = np.zeros(len(roi_size))
    for seed in range(300):
        transform = always(roi_size, seed, prob_elastic=1.0)
        size = transform.reads(roi_size)
        transform.randomize()
        places = transform._places(size, torch.device("cpu"))
        pixels = torch.stack(places, -1).numpy().reshape(-1, len(roi_size))
        assert pixels.min() >= -1e-3
        assert bool((pixels.max(0) <= np.array(size) - 1 + 1e-3).all())
        widest = np.maximum(widest, np.abs(pixels - (np.array(size) - 1) / 2).max(0) * 2 + 1)
    assert bool((widest > 0.6 * np.array(size)).all())


def test_thin_patches_are_turned_in_their_plane() -> None:
    transform = always((4, 20, 24), prob_elastic=1.0)
    assert transform.through == 0
    assert transform.reads((4, 20, 24))[0] == 4
    sample: dict[Any, Tensor] = {
        "image": torch.arange(4.0).view(1, 4, 1, 1).expand(1, 4, 40, 48),
        "label": torch.zeros(1, 4, 40, 48),
    }
    for _ in range(10):  # slices are not mixed
        torch.testing.assert_close(transform(sample)["image"], sample["image"][:, :, :20, :24])
    assert always((16, 20, 24)).through is None
    assert always((16, 20, 24), in_plane=True).through == 0


def test_angles_and_factors_are_nnunets() -> None:
    """30 degrees about each axis in 3D, 180 in a plane; 0.7 to 1.4, as often smaller as larger."""
    transform = always((8, 8), prob_scale=0.0)
    angles = []
    for _ in range(300):
        transform.randomize()
        assert transform._matrix is not None
        angles.append(math.atan2(transform._matrix[1, 0], transform._matrix[0, 0]))
    assert max(angles) > 0.95 * math.pi
    assert min(angles) < -0.95 * math.pi
    grown = always((8, 8, 8), prob_rotation=0.0)
    factors = []
    for _ in range(300):
        grown.randomize()
        assert grown._matrix is not None
        factors.append(1 / grown._matrix[0, 0])
    assert 0.7 <= min(factors) < 0.72
    assert 1.35 < max(factors) <= 1.4
    assert np.mean(np.array(factors) < 1) == pytest.approx(0.5, abs=0.1)
    usual = RandSpatiald(KEYS, (8, 8, 8)).set_random_state(seed=0)
    changed = 0
    for _ in range(500):
        usual.randomize()
        changed += usual._matrix is not None
    assert changed / 500 == pytest.approx(1 - 0.8**2, abs=0.06)


def test_patients_are_turned_not_arrays() -> None:
    """With voxels of 1 x 1 x 4 mm a turned ball stays a ball in mm."""
    spacing = np.array([1.0, 1.0, 4.0])
    axes = torch.meshgrid(*[torch.arange(float(edge)) for edge in (41, 41, 11)], indexing="ij")
    distance = sum(((axis - m) * s) ** 2 for axis, m, s in zip(axes, (20, 20, 5), spacing, strict=True))
    ball = torch.exp(-torch.as_tensor(distance) / 50)[None]
    for seed in range(3):
        turned = always((41, 41, 11), seed, prob_scale=0.0, spacing=list(spacing), in_plane=False)
        moved = turned({"image": ball, "label": (ball > 0.5).to(torch.uint8)})
        torch.testing.assert_close(moved["image"], ball, rtol=0, atol=0.08)


def test_nothing_drawn_gives_the_middle() -> None:
    sample = blob((21, 20), (10, 10))
    moved = always((11, 12), prob_rotation=0.0, prob_scale=0.0)(sample)
    torch.testing.assert_close(moved["image"], sample["image"][:, 5:16, 4:16], rtol=0, atol=0)


def test_seeds_decide_and_nothing_else() -> None:
    sample = blob((24, 24), (10, 10))
    torch.manual_seed(1)
    one = always((24, 24), 5, prob_elastic=1.0)(sample)
    torch.manual_seed(2)
    torch.testing.assert_close(always((24, 24), 5, prob_elastic=1.0)(sample), one, rtol=0, atol=0)
    assert not torch.equal(always((24, 24), 6, prob_elastic=1.0)(sample)["image"], one["image"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"roi_size": (8,)}, r"roi_size is \[8\]; give two or three edges"),
        ({"scale": (1.2, 0.8)}, r"scale is \[1.2, 0.8\]; give the least and the largest"),
        ({"elastic": -1}, "elastic is -1"),
        ({"prob_rotation": 2}, "probabilities are .* must be in"),
        ({"spacing": [1.0]}, "spacing is .*; give 2 numbers above 0"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(MedsegError, match=said):
        RandSpatiald(KEYS, **{"roi_size": (8, 8), **options})


def test_bad_samples() -> None:
    transform = always((8, 8))
    with pytest.raises(MedsegError, match=r"roi_size is \[8, 8\], but the sample has the size \[6, 9\]; pad it"):
        transform(blob((6, 9), (3, 3)))
    with pytest.raises(MedsegError, match=r"roi_size is \[8, 8\], but patches are \[6, 8\]; give both the same"):
        transform.reads((6, 8))
