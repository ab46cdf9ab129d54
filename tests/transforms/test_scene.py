"""Scale, crop and mirror: values, alignment of image and label, randomness."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medseg.engines.loading import SegmentationDataset
from medseg.inferers.sliding_window import SlidingWindow
from medseg.io.load import LoadImagesd
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.metrics.confusion_matrix import ConfusionMatrix
from medseg.transforms.scene import RandBlurd, RandMirrord, RandPadCropd, RandRescaled

KEYS = ["image", "label"]
IGNORE = 255


def places(*size: int) -> dict[str, Tensor]:
    """An image and a label that both say where a pixel came from."""
    number = torch.arange(int(np.prod(size)), dtype=torch.int32).reshape(1, *size)
    return {"image": torch.cat([number, -number]).float(), "label": number}


def random_pixels(*size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(sum(size))
    return {
        "image": torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator),
        "label": torch.randint(0, 5, (1, *size), dtype=torch.uint8, generator=generator),
    }


# ---------------------------------------------------------------------------------------------- scale


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.6])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_scaling_equals_pillow(scale: float, kind: torch.dtype) -> None:
    sample = random_pixels(37, 50)
    size = (round(50 * scale), round(37 * scale))  # width first
    image = Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BILINEAR)
    label = Image.fromarray(sample["label"][0].numpy()).resize(size, Image.Resampling.NEAREST)
    found = RandRescaled(KEYS, scales=[scale])({**sample, "image": sample["image"].to(kind)})
    assert found["image"].dtype == kind
    assert found["label"].dtype == torch.uint8
    difference = found["image"].double().permute(1, 2, 0).numpy() - np.asarray(image).astype(float)
    assert np.abs(difference).max() <= 1.01  # a grey level, from rounding twice
    np.testing.assert_array_equal(found["label"][0].numpy(), np.asarray(label))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.float32])
def test_volumes_scale(kind: torch.dtype) -> None:
    """Doubled and halved again, blocks are what they were: image and label stay aligned."""
    blocks = torch.randint(0, 200, (1, 4, 5, 3)).repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    sample = {"image": blocks.to(kind), "label": blocks.to(torch.int32)}
    halved = RandRescaled(KEYS, scales=[0.5])(sample)
    assert halved["image"].shape == (1, 4, 5, 3)
    assert halved["image"].dtype == kind
    assert halved["label"].dtype == torch.int32
    assert torch.equal(halved["image"].int(), blocks[:, ::2, ::2, ::2].int())
    assert torch.equal(halved["label"].int(), blocks[:, ::2, ::2, ::2].int())


def test_scales_are_drawn_from_the_list_or_the_range() -> None:
    sample = random_pixels(40, 80)

    def heights(**options: Any) -> list[int]:
        transform = RandRescaled(KEYS, **options)
        transform.set_random_state(0)
        shapes = [transform(sample)["image"].shape for _ in range(60)]
        assert all(width == pytest.approx(2 * height, abs=1) for _, height, width in shapes)
        return [height for _, height, _ in shapes]

    assert set(heights(scales=[0.5, 1.0, 1.75])) == {20, 40, 70}
    between = heights(scale_range=(0.5, 1.5))
    assert min(between) < 25
    assert max(between) > 55
    assert all(20 <= height <= 60 for height in between)
    assert len(set(between)) > 15


@pytest.mark.parametrize(("size", "least", "scaled"), [
    ((40, 60), (30, 30), (30, 45)),  # 0.5 would leave 20 rows
    ((40, 60), (50, 50), (50, 75)),  # enlarged, though the factor is 0.5
    ((80, 90), (30, 30), (40, 45)),
])  # fmt: skip
def test_no_sample_is_scaled_below_the_least_edges(
    size: tuple[int, int], least: tuple[int, int], scaled: tuple[int, int]
) -> None:
    found = RandRescaled(KEYS, scale_range=(0.5, 0.5), least=least)(random_pixels(*size))
    assert [tuple(found[key].shape[1:]) for key in KEYS] == [scaled, scaled]


def test_a_tiny_image_keeps_a_pixel() -> None:
    assert RandRescaled(KEYS, scales=[0.1])(random_pixels(3, 20))["label"].shape == (1, 1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "scales is None and scale_range is None; give one"),
        ({"scales": [1.0], "scale_range": (1, 2)}, "give one of them"),
        ({"scales": []}, r"scale factors are \[\]"),
        ({"scales": [1.0, 0.0]}, "give factors above 0"),
        ({"scale_range": (2.0, 1.0)}, r"scale_range is \[2.0, 1.0\]; give the least and the largest"),
        ({"scale_range": (1.0, 2.0, 3.0)}, "give the least and the largest"),
        ({"scales": [1.0], "least": (0, 3)}, r"least is \[0, 3\]; give an edge of at least 1 pixel for each axis"),
    ],
)
def test_bad_scales(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandRescaled(KEYS, **options)


# ---------------------------------------------------------------------------------------------- crop


@pytest.mark.parametrize(("size", "roi_size"), [((9, 12), (4, 5)), ((4, 5, 4), (3, 4, 2)), ((5, 5), (5, 5))])
def test_a_crop_is_a_window_of_both(size: tuple[int, ...], roi_size: tuple[int, ...]) -> None:
    sample = places(*size)
    crop = RandPadCropd(KEYS, roi_size)
    crop.set_random_state(1)
    corners = set()
    for _ in range(400):
        found = crop(sample)
        corner = np.unravel_index(int(found["label"].flatten()[0]), size)
        corners.add(tuple(map(int, corner)))
        window = tuple(slice(c, c + edge) for c, edge in zip(corner, roi_size, strict=True))
        assert torch.equal(found["label"], sample["label"][(slice(None), *window)])
        assert torch.equal(found["image"], sample["image"][(slice(None), *window)])
    every = set(np.ndindex(*[edge - roi + 1 for edge, roi in zip(size, roi_size, strict=True)]))
    assert corners == every


def test_small_samples_are_padded_at_their_end() -> None:
    sample = random_pixels(6, 20)
    crop = RandPadCropd(KEYS, (8, 10), image_fill=(123.7, 116.3, 103.5), ignore_index=IGNORE)
    found = crop(sample)
    assert found["image"].shape == (3, 8, 10)
    assert found["image"].dtype == found["label"].dtype == torch.uint8
    assert bool((found["label"][:, 6:] == IGNORE).all())
    assert found["image"][:, 6:].flatten(1).unique(dim=1).flatten().tolist() == [124, 116, 104]
    windows = sample["label"].unfold(2, 10, 1)  # (1, 6, 11, 10)
    assert any(torch.equal(found["label"][:, :6], windows[:, :, start]) for start in range(11))

    volume = RandPadCropd(KEYS, (4, 4, 4), image_fill=-1.5, ignore_index=-1)(places(2, 3, 5))
    assert volume["image"][:, 2:].unique().tolist() == volume["image"][:, :, 3:].unique().tolist() == [-1.5]
    assert volume["label"][:, 2:].unique().tolist() == [-1]
    assert bool((volume["label"][:, :2, :3] >= 0).all())


def test_padded_pixels_never_count() -> None:
    """Loss, gradient and scores of a pixelwise network are those of the sample without padding."""
    sample = random_pixels(6, 7)
    padded = RandPadCropd(KEYS, (16, 12), image_fill=100.0, ignore_index=IGNORE)(sample)
    results = []
    for one in (sample, padded):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(3, 5, 1)
        logits = network(one["image"][None].float() / 255)
        loss = CrossEntropyLoss(ignore_index=IGNORE)(logits, one["label"][None])
        loss.backward()
        matrix = ConfusionMatrix(5, IGNORE)
        matrix.update(logits, one["label"][None])
        assert network.weight.grad is not None
        results.append((loss.detach(), network.weight.grad, matrix.matrix))
    torch.testing.assert_close(results[1], results[0])
    assert int(results[1][2].sum()) == 6 * 7


def test_a_crop_has_memory_of_its_own() -> None:
    """Samples come out of a cache that nothing may change."""
    sample = random_pixels(6, 6)
    before = {key: value.clone() for key, value in sample.items()}
    for roi_size in ((6, 6), (4, 8)):
        for value in RandPadCropd(KEYS, roi_size, ignore_index=IGNORE)(sample).values():
            value.zero_()
    assert all(torch.equal(sample[key], before[key]) for key in sample)


def test_bad_crops() -> None:
    small = random_pixels(6, 7)
    with pytest.raises(ValueError, match=r"roi_size is \[4, 0\]; give an edge of at least 1"):
        RandPadCropd(KEYS, (4, 0))
    with pytest.raises(ValueError, match=r"roi_size is \[4\], but the sample has the size \[6, 7\]"):
        RandPadCropd(KEYS, (4,))(small)
    with pytest.raises(ValueError, match=r"label has the size \(6, 7\), less than roi_size \(8, 4\), and without"):
        RandPadCropd(KEYS, (8, 4))(small)
    with pytest.raises(ValueError, match=r"image_fill \(1, 2\) does not fit image of 3 channels"):
        RandPadCropd(KEYS, (8, 4), image_fill=(1, 2), ignore_index=IGNORE)(small)
    with pytest.raises(ValueError, match=r"label of type torch.uint8 cannot hold the padding \(-1,\)"):
        RandPadCropd(KEYS, (8, 4), ignore_index=-1)(small)
    with pytest.raises(ValueError, match=r"differ in size: image \(6, 7\), label \(6, 6\)"):
        RandPadCropd(KEYS, (4, 4))({**small, "label": small["label"][..., :6]})


# ---------------------------------------------------------------------------------------------- mirror


@pytest.mark.parametrize(
    ("size", "axis", "dim"), [((3, 4), -1, 2), ((3, 4), 0, 1), ((3, 4, 5), -1, 3), ((3, 4, 5), 1, 2)]
)
def test_mirror(size: tuple[int, ...], axis: int, dim: int) -> None:
    sample = places(*size)
    always, never = RandMirrord(KEYS, axis, prob=1.0)(sample), RandMirrord(KEYS, axis, prob=0.0)(sample)
    for key in KEYS:
        assert torch.equal(always[key], sample[key].flip(dim))
        assert torch.equal(never[key], sample[key])


def test_half_of_the_samples_are_mirrored() -> None:
    mirror = RandMirrord(KEYS)
    mirror.set_random_state(0)
    sample = places(2, 3)
    mirrored = sum(not torch.equal(mirror(sample)["label"], sample["label"]) for _ in range(400))
    assert 160 < mirrored < 240


def test_bad_mirrors() -> None:
    with pytest.raises(ValueError, match=r"prob is 1.5; it must be in \[0, 1\]"):
        RandMirrord(KEYS, prob=1.5)
    with pytest.raises(ValueError, match="axis is 2, but image has 2 spatial dimensions"):
        RandMirrord(KEYS, axis=2)(places(3, 4))


# ---------------------------------------------------------------------------------------------- together


def augmentation() -> list[Any]:
    return [
        RandRescaled(KEYS, scales=[0.75, 1.0, 1.5]),
        RandPadCropd(KEYS, (24, 24), image_fill=(124, 116, 104), ignore_index=IGNORE),
        RandMirrord(KEYS),
    ]


def test_results_are_plain_tensors() -> None:
    sample = {key: MetaTensor(value) for key, value in random_pixels(20, 30).items()}
    found = Compose(augmentation())({**sample, "name": "kept"})
    assert type(found["image"]) is type(found["label"]) is Tensor
    assert found["name"] == "kept"


def test_8_bit_samples_are_cached_and_drawn_by_seed_epoch_and_index(tmp_path: Path) -> None:
    entries = []
    for number in range(3):
        sample = random_pixels(20 + number, 30)
        entry = {"image": str(tmp_path / f"{number}_image.png"), "label": str(tmp_path / f"{number}.png")}
        Image.fromarray(sample["image"].permute(1, 2, 0).numpy()).save(entry["image"])
        Image.fromarray(sample["label"][0].numpy()).save(entry["label"])
        entries.append(entry)

    def dataset(seed: int = 0) -> SegmentationDataset:
        return SegmentationDataset(entries, [LoadImagesd(KEYS, keep_uint8=True)], augmentation(), seed=seed)

    data = dataset()
    drawn = {(epoch, index): data[(epoch, index)] for epoch in (1, 2) for index in range(3)}
    for key in reversed(drawn):  # in any order, from any data set of that seed
        torch.testing.assert_close(dataset()[key], drawn[key], rtol=0, atol=0)
    assert any(not torch.equal(drawn[(1, n)]["image"], drawn[(2, n)]["image"]) for n in range(3))
    other = dataset(seed=1)
    assert any(not torch.equal(other[(1, n)]["image"], drawn[(1, n)]["image"]) for n in range(3))
    for number in range(3):
        cached = data._base[number]
        assert cached["image"].dtype == cached["label"].dtype == torch.uint8
        assert sum(v.numel() * v.element_size() for v in cached.values()) == 4 * (20 + number) * 30


def test_only_8_bit_images_stay_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 5), 1000, np.uint16)).save(tmp_path / "deep.png")
    load = LoadImagesd("image", keep_uint8=True)
    assert load({"image": tmp_path / "deep.png"})["image"].dtype == torch.float32


def test_symmetric_padding_is_that_of_the_sliding_window() -> None:
    """What a network saw at a place in training it sees there in inference."""
    sample = random_pixels(5, 8)
    cropped = RandPadCropd(KEYS, [10, 9], image_fill=0.0, ignore_index=IGNORE, method="symmetric")(sample)
    seen: list[Tensor] = []

    def network(window: Tensor) -> Tensor:
        seen.append(window.clone())  # what is returned is weighted in place
        return window

    SlidingWindow([10, 9])(sample["image"][None].float(), network)
    assert torch.equal(seen[0][0], cropped["image"].float())
    assert (cropped["label"] == IGNORE).sum() == 10 * 9 - 5 * 8
    with pytest.raises(ValueError, match="method is 'centre'; choose 'end' or 'symmetric'"):
        RandPadCropd(KEYS, [4, 4], method="centre")


# ---------------------------------------------------------------------------------------------- blur


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_blur_is_a_gaussian_of_the_image_alone(kind: torch.dtype) -> None:
    sample = random_pixels(21, 26)
    found = RandBlurd("image", sigma=(0.8, 0.8), prob=1.0)({**sample, "image": sample["image"].to(kind)})
    assert torch.equal(found["label"], sample["label"])
    assert found["image"].dtype == kind
    expected = gaussian_filter(sample["image"].double().numpy(), (0, 0.8, 0.8), mode="mirror", radius=(0, 2, 2))
    assert np.abs(found["image"].double().numpy() - expected).max() <= (0.501 if kind == torch.uint8 else 1e-3)


def test_blur_is_drawn() -> None:
    sample, transform = random_pixels(9, 9), RandBlurd("image")
    transform.set_random_state(0)
    drawn = [transform(sample)["image"] for _ in range(40)]
    same = sum(torch.equal(image, sample["image"]) for image in drawn)
    assert 12 <= same <= 30, "half of them, and those that are too narrow to tell"
    assert len({image.float().std().item() for image in drawn}) > 8
    for options, message in (({"prob": 2.0}, "prob is 2.0"), ({"sigma": (1.0, 0.5)}, r"sigma is \[1.0, 0.5\]; give")):
        with pytest.raises(ValueError, match=message):
            RandBlurd("image", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"least is \[3\], but the sample has the size \[9, 9\]"):
        RandRescaled(KEYS, scales=[1.0], least=[3])(sample)
