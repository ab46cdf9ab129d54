"""Otsu's foreground against trying every threshold, and on real nuclei."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.filters import threshold_otsu

from medseg.metrics.threshold_baseline import otsu_foreground

Array = NDArray[Any]

DSB_FLUORESCENCE = ("97158b2fe387", "9f073db4acd7", "b67a6e5da8b1")


def two_peaks(seed: int, shape: tuple[int, ...], light: float = 0.3) -> Array:
    """Return grey values in [0, 255] around 70, and around 170 in the given share of pixels."""
    rng = np.random.default_rng(seed)
    centre = np.where(rng.random(shape) < light, 170, 70)
    return np.clip(rng.normal(centre, 25), 0, 255).astype(np.uint8)


def best_split(grey: Array) -> Array:
    """Try all thresholds: the two sides of the largest variance between them."""

    def between(threshold: int) -> float:
        bright = grey > threshold
        share = bright.mean()
        return float(share * (1 - share) * (grey[bright].mean() - grey[~bright].mean()) ** 2)

    values = np.unique(grey)[:-1]
    return grey > max(values, key=between)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(20, 30), (8, 9, 3)])
def test_equals_trying_every_threshold(seed: int, shape: tuple[int, ...]) -> None:
    """A volume 3 wide is no colour image, and no warning says so."""
    grey = two_peaks(seed, shape)
    ours = otsu_foreground(grey, "bright", spatial_dims=len(shape))
    assert ours.dtype == bool
    assert np.array_equal(ours, best_split(grey))
    assert 0.2 < ours.mean() < 0.4


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_any_type(dtype: Any) -> None:
    """The split is that of the grey values, wherever they lie and however they are stored."""
    grey = two_peaks(0, (16, 16), light=0.4) // 2
    expected = otsu_foreground(grey, "bright")
    moved = grey.astype(dtype) if np.dtype(dtype).kind == "u" else grey.astype(dtype) - dtype(100)
    assert np.array_equal(otsu_foreground(moved, "bright"), expected)


@pytest.mark.parametrize("scale", [2**23, 1e-30, 1e30])
def test_wide_and_tiny_ranges(scale: float) -> None:
    """Integers that span 31 bits would need a bin for each value; the smallest floats are told apart too."""
    value = np.array([[0, 1, 2, 100], [101, 1, 0, 2]])
    image = (value * scale).astype(np.int64 if isinstance(scale, int) else np.float32)
    assert np.array_equal(otsu_foreground(image), value > 50)


@pytest.mark.parametrize(
    ("low", "span", "levels"),
    [(0, 65535, 65535), (0, 65536, 65535), (-(2**31), 2**32 - 1, 65535), (2**31, 300, 300), (-32768, 65535, 65535)],
)
def test_what_spans_16_bits_is_thresholded_as_it_is(
    monkeypatch: pytest.MonkeyPatch, low: int, span: int, levels: int
) -> None:
    """Whatever spans more is brought to 16 bits: a histogram has a bin for every value between the ends."""
    seen: list[int] = []

    def recorded(values: Array) -> Any:
        seen.append(int(np.ptp(values.astype(np.int64))))
        return threshold_otsu(values)

    monkeypatch.setattr("medseg.metrics.threshold_baseline.threshold_otsu", recorded)
    image = low + np.array([[0, 1, span - 1, span, 0]])
    assert otsu_foreground(image, "bright").tolist() == [[False, False, True, True, False]]
    assert seen == [levels]


def test_neighbouring_floats() -> None:
    image = np.array([[1, 1, np.nextafter(np.float32(1), np.float32(2))]], dtype=np.float32)
    assert otsu_foreground(image).tolist() == [[False, False, True]]


def test_which_side_is_foreground() -> None:
    """8 dark pixels of 24 in one image, 8 bright ones in the other."""
    dark_objects = np.full((4, 6), 200, dtype=np.uint8)
    dark_objects[1:3, 1:5] = 30
    objects = dark_objects == 30
    light_objects = 255 - dark_objects
    for image, bright in [(dark_objects, ~objects), (light_objects, objects)]:
        assert np.array_equal(otsu_foreground(image, "bright"), bright)
        assert np.array_equal(otsu_foreground(image, "dark"), ~bright)
        assert np.array_equal(otsu_foreground(image, "minority"), objects)
        assert np.array_equal(otsu_foreground(image), objects)
    half = np.array([[10, 20]])
    assert otsu_foreground(half).tolist() == [[False, True]]  # as many on both sides: the bright one


def test_colours_become_luminance() -> None:
    """0.7154 x 100 green is brighter than 0.2125 x 255 red and 0.0721 x 255 blue, though their values are larger."""
    image = np.zeros((3, 1, 4), dtype=np.uint8)
    image[0, 0, 0], image[1, 0, 1], image[2, 0, 2:] = 255, 100, 255
    luminance = np.array([[0.2125 * 255, 0.7154 * 100, 0.0721 * 255, 0.0721 * 255]])
    assert np.array_equal(otsu_foreground(image, "bright"), luminance > 30)
    image[0] = 0  # without the red one green alone is bright
    assert otsu_foreground(image).tolist() == [[False, True, False, False]]


@pytest.mark.parametrize("seed", range(3))
def test_colours_equal_the_luminance_of_skimage(seed: int) -> None:
    from skimage.color import rgb2gray

    image = np.stack([two_peaks(seed, (20, 21)) for _ in range(3)]) // np.array([1, 2, 3], np.uint8)[:, None, None]
    image[0] = image[0][::-1]  # the channels disagree
    assert np.array_equal(otsu_foreground(image, "bright"), best_split(rgb2gray(image, channel_axis=0).round(9)))


@pytest.mark.parametrize("size", [(23, 37), (61, 97), (128, 131)])
def test_one_colour_is_one_value(size: tuple[int, int]) -> None:
    """Rounding must not tell pixels of one colour apart."""
    for colour in np.random.default_rng(0).integers(0, 256, (20, 3, 1, 1)):
        image = np.broadcast_to(colour, (3, *size)).astype(np.uint8)
        assert not otsu_foreground(image).any()


@pytest.mark.parametrize("shape", [(12, 13), (3, 4, 5)])
def test_channels(shape: tuple[int, ...]) -> None:
    grey = two_peaks(1, shape)
    expected = otsu_foreground(grey, spatial_dims=len(shape))
    assert expected.shape == shape
    assert np.array_equal(otsu_foreground(grey[None], spatial_dims=len(shape)), expected)
    black, white = np.zeros_like(grey), np.full_like(grey, 255)
    flat = np.where(expected, white, black)
    colours = np.stack([flat] * 3)
    assert np.array_equal(otsu_foreground(colours, spatial_dims=len(shape)), expected)


@pytest.mark.parametrize("image", [np.full((3, 4), 7), np.full((3, 3, 4), 7, np.uint8), np.full((3, 4), 0.1)])
def test_an_image_of_one_value_has_no_foreground(image: Array) -> None:
    for rule in ("bright", "dark", "minority"):
        assert otsu_foreground(image, rule).shape == (3, 4)
        assert not otsu_foreground(image, rule).any()


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        (np.zeros((4, 5, 5)), {}, ValueError, r"\(4, 5, 5\) is no 2D image of 1 or 3 channels.*image\[:3\]"),
        (np.zeros((5, 5, 3)), {}, ValueError, r"\(5, 5, 3\) is no 2D image .* channels first"),
        (np.zeros((3, 5, 5)), {"spatial_dims": 1}, ValueError, "spatial_dims is 1"),
        (np.zeros((5, 5)), {"spatial_dims": 3}, ValueError, r"\(5, 5\) is no 3D image"),
        (np.zeros((0, 5)), {}, ValueError, r"\(0, 5\) is no 2D image"),
        (np.zeros((5, 5), bool), {}, TypeError, "the image is bool"),
        (torch.zeros(5, 5), {}, TypeError, "the image is Tensor"),
        (np.array([[0, np.nan]]), {}, ValueError, "NaN or infinite"),
        (np.array([[0, np.inf]]), {}, ValueError, "NaN or infinite"),
        (
            np.zeros((5, 5)),
            {"foreground": "light"},
            ValueError,
            "foreground is 'light'; .*'bright', 'dark', 'minority'",
        ),
    ],
)
def test_bad_input(image: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        otsu_foreground(image, **options)


def test_real_nuclei(real_data: Path) -> None:
    """Fluorescence: light nuclei on dark; turned into a negative, the minority stays the nuclei."""
    path = real_data / "dsb2018" / "stage1_train.zip"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for prefix in DSB_FLUORESCENCE:
            mine = [name for name in names if name.startswith(f"stage1_train/{prefix}") and name.endswith(".png")]
            pixels = {name: np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in mine}
            truth = np.any([mask > 0 for name, mask in pixels.items() if "/masks/" in name], axis=0)
            (image,) = (np.moveaxis(value, -1, 0)[:3] for name, value in pixels.items() if "/images/" in name)
            ours = otsu_foreground(image)
            dice = 2 * (ours & truth).sum() / (ours.sum() + truth.sum())
            assert dice > 0.85
            negative = otsu_foreground(255 - image)
            assert (negative != ours).mean() < 0.01  # a pixel on the threshold may change sides
            assert np.array_equal(otsu_foreground(image, "dark"), ~ours)
