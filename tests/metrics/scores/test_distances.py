"""HD95, ASSD and NSD against brute force and figures by hand."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_edge_surface_distance
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.metrics.scores.distances import Distances

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call of MONAI
NAMES = ["background", "one", "two"]


def case(prediction: Any, label: Any, spacing: Sequence[float] | None = None, name: str = "a") -> ScoredCase:
    affine = None
    if spacing is not None:
        turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # axes are not those of the patient
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(spacing)
    return ScoredCase(0, name, torch.as_tensor(prediction), torch.as_tensor(label), affine=affine)


def scored(prediction: Any, label: Any, spacing: Sequence[float] | None = None, **options: Any) -> dict[str, Any]:
    return dict(Distances(NAMES, options.pop("ignore_index", None), **options).update(case(prediction, label, spacing)))


def surface(mask: NDArray[np.bool_], spacing: Sequence[float]) -> NDArray[np.float64]:
    """Return the places of the voxels with a neighbour outside, found one by one."""
    padded = np.pad(mask, 1)
    points = []
    for place in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                near = place + 1
                near[axis] += step
                if not padded[tuple(near)]:
                    points.append(tuple(place))
    return np.array(sorted(set(points))) * np.asarray(spacing)


def by_hand(guess: Any, truth: Any, spacing: Sequence[float], tolerance: float) -> tuple[float, float, float]:
    apart = cdist(surface(guess, spacing), surface(truth, spacing))
    forth, back = apart.min(1), apart.min(0)
    both = [*forth, *back]
    near = [distance <= tolerance + 1e-9 for distance in both]
    return max(np.percentile(forth, 95), np.percentile(back, 95)), float(np.mean(both)), float(np.mean(near))


@pytest.mark.parametrize("spacing", [None, (0.8, 1.5, 4.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_against_all_pairs_of_surface_voxels(spacing: Sequence[float] | None, seed: int) -> None:
    random = np.random.default_rng(seed)
    label = (random.random((9, 8, 7)) < 0.1).repeat(2, 0).astype(np.int64)  # runs into the borders
    prediction = np.where(random.random(label.shape) < 0.1, 2, np.roll(label, 1, 2))
    label[:3, :4] *= 2
    found = scored(prediction, label, spacing, tolerance=1.5)
    for index in (1, 2):
        expected = by_hand(prediction == index, label == index, spacing or (1, 1, 1), 1.5)
        assert [found[column][index] for column in ("hd95", "assd", "nsd")] == pytest.approx(expected)
    assert math.isnan(found["hd95"][0])  # the first class is left out
    named = scored(prediction, label, spacing, tolerance=1.5, classes=["background", "two"])
    expected = by_hand(prediction == 0, label == 0, spacing or (1, 1, 1), 1.5)
    assert [named[column][0] for column in ("hd95", "assd", "nsd")] == pytest.approx(expected)
    assert math.isnan(named["hd95"][1])


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        (["background", "one"], ["one"]),
        (["one", "background"], ["one"]),
        (["one", "BG", "two"], ["one", "two"]),
        (["membrane", "mitochondria"], ["mitochondria"]),
        (["background"], ["background"]),
    ],
)
def test_the_background_is_left_out_wherever_it_stands(names: list[str], counted: list[str]) -> None:
    assert Distances(names).compute().details["classes"] == counted


def test_a_tilted_gantry() -> None:
    """Slices 4 mm apart along a table at 30 degrees to their normal: axes are not at right angles."""
    affine = np.diag([0.8, 1.5, 4.0, 1.0])
    affine[1, 2] = -4 * math.tan(math.radians(30))
    random = np.random.default_rng(0)
    label = (random.random((9, 8, 7)) < 0.1).repeat(2, 0).astype(np.int64)
    prediction = np.roll(label, 1, 2) * (random.random(label.shape) < 0.9)
    one = ScoredCase(0, "a", torch.from_numpy(prediction), torch.from_numpy(label), affine=affine)
    found = Distances(NAMES, None, tolerance=1.5).update(one)
    points = [surface(mask == 1, (1, 1, 1)) @ affine[:3, :3].T for mask in (prediction, label)]
    apart = cdist(*points)
    both = [*apart.min(1), *apart.min(0)]
    expected = max(np.percentile(apart.min(side), 95) for side in (0, 1)), np.mean(both), np.mean(np.array(both) <= 1.5)
    assert [found[column][1] for column in ("hd95", "assd", "nsd")] == pytest.approx(expected)
    assert math.prod(one.spacing or ()) / one.voxel_volume == pytest.approx(1 / math.cos(math.radians(30)))
    missed = ScoredCase(0, "a", torch.zeros(18, 8, 7, dtype=torch.int64), torch.from_numpy(label), affine=affine)
    corners = np.array(list(itertools.product((0, 18), (0, 8), (0, 7)))) @ affine[:3, :3].T
    assert Distances(NAMES, None).update(missed)["hd95"][1] == pytest.approx(cdist(corners, corners).max())


def test_a_moved_cuboid_in_millimetres() -> None:
    """Two voxels along the third axis, of 2.5 mm: no voxel's distance is above 5 mm."""
    label = np.zeros((12, 12, 20), np.int64)
    label[3:9, 3:9, 4:12] = 1
    found = scored(np.roll(label, 2, 2), label, (1.0, 1.0, 2.5), tolerance=1.0)
    assert found["hd95"][1] == pytest.approx(5.0)
    swapped = scored(np.roll(label, 2, 2), label, (2.5, 1.0, 1.0), tolerance=1.0)
    assert swapped["hd95"][1] == pytest.approx(2.0)


def test_against_monais_own_scores_on_the_whole_image() -> None:
    """Cutting the masks to their box changes nothing, and the definitions are MONAI's."""
    label = np.zeros((20, 24, 16), np.int64)
    label[5:15, 4:12, 3:9], label[0:4, 20:24, 10:16] = 1, 2
    prediction = np.roll(label, (1, 2, 1), (0, 1, 2))
    spacing = (0.7, 0.9, 3.0)
    found = scored(prediction, label, spacing, tolerance=0.7)
    pair = [torch.nn.functional.one_hot(torch.as_tensor(x), 3).movedim(-1, 0)[None] for x in (prediction, label)]
    options: dict[str, Any] = {"include_background": False, "spacing": spacing}
    np.testing.assert_allclose(
        found["hd95"][1:], compute_hausdorff_distance(*pair, percentile=95, **options)[0], rtol=1e-5
    )
    theirs = compute_average_surface_distance(*pair, symmetric=True, **options)[0]
    np.testing.assert_allclose(found["assd"][1:], theirs, rtol=1e-5)
    theirs = compute_surface_dice(*pair, class_thresholds=[0.7, 0.7], **options)[0]
    np.testing.assert_allclose(found["nsd"][1:], theirs, rtol=1e-5)


def test_definitions_of_hd95_differ_as_the_documentation_says() -> None:
    label = np.zeros((40, 40, 20), bool)
    label[10:30, 10:30, 5:15] = True
    prediction = label.copy()
    prediction[30:38, 18:22, 8:12] = True  # a spur of 8 voxels
    spacing = (1.0, 1.0, 2.0)
    ours = scored(prediction.astype(np.int64), label.astype(np.int64), spacing)["hd95"][1]
    apart = cdist(surface(prediction, spacing), surface(label, spacing))
    pooled = float(np.percentile([*apart.min(1), *apart.min(0)], 95))
    _, sides, areas = get_edge_surface_distance(
        *(torch.from_numpy(mask) for mask in (prediction, label)), use_subvoxels=True, symmetric=True, spacing=spacing
    )
    edges = get_edges(prediction, label, spacing)
    weighted = max(
        weighted_percentile(np.asarray(side), np.asarray(area)[np.asarray(edge)])
        for side, area, edge in zip(sides, areas, edges, strict=True)
    )
    assert [round(value, 2) for value in (ours, pooled, weighted)] == [3.0, 0.0, 4.0]


def get_edges(prediction: Any, label: Any, spacing: Sequence[float]) -> Any:
    masks = (torch.from_numpy(mask) for mask in (prediction, label))
    edges, _, _ = get_edge_surface_distance(*masks, use_subvoxels=True, symmetric=True, spacing=tuple(spacing))
    return edges


def weighted_percentile(distances: NDArray[Any], weights: NDArray[Any]) -> float:
    """As ``compute_robust_hausdorff`` of DeepMind's surface-distance has it."""
    order = np.argsort(distances)
    share = np.cumsum(weights[order]) / weights.sum()
    return float(distances[order][np.searchsorted(share, 0.95)])


def test_empty_masks() -> None:
    label = np.zeros((3, 4, 12), np.int64)
    prediction = label.copy()
    label[0, 0, 0] = 1
    prediction[1, 1, 1] = 2
    found = scored(prediction, label, (1.0, 1.0, 1.0))
    for index in (1, 2):  # missed, and invented
        assert [found[column][index] for column in ("hd95", "assd", "nsd")] == [13.0, 13.0, 0.0]
    assert all(math.isnan(values[1]) for values in scored(label * 0, label * 0).values())
    one = scored(label, label, (1.0, 1.0, 1.0))
    assert [one[column][1] for column in ("hd95", "assd", "nsd")] == [0.0, 0.0, 1.0]


def test_ignored_voxels_belong_to_nothing() -> None:
    label = np.zeros((8, 8), np.int64)
    label[2:6, 2:4] = 1
    label[2:6, 4:] = 255
    prediction = np.zeros((8, 8), np.int64)
    prediction[2:6, 2:8] = 1
    found = scored(prediction, label, ignore_index=255)
    assert (found["hd95"][1], found["nsd"][1]) == (0.0, 1.0)


def test_millimetres_and_pixels_are_not_mixed_and_are_named() -> None:
    picture, volume = np.ones((4, 5), np.int64), np.ones((4, 5, 2), np.int64)
    board = ScoreBoard(NAMES, None, {"distances": {"tolerance": 2}})
    board.update(case(picture, picture))
    assert board.table()["per_case"]["units"] == {"hd95": "pixels", "assd": "pixels"}
    assert "hd95_pixels" in next(iter(board.lines()))
    assert board.table()["per_case"]["notes"]["distances"][0].startswith("NSD within 2 pixels.")
    with pytest.raises(MedsegError, match=r"^b\.nii has a spacing, the cases before have none: millimetres and pixels"):
        board.update(case(volume, volume, (1, 1, 1), "b.nii"))
    board.reset()
    board.update(case(volume, volume, (1, 1, 1)))
    assert board.table()["distances"]["unit"] == "mm"
    assert "hd95_mm" in next(iter(board.lines()))
    assert {"case_mean_hd95", "case_hd95_one"} <= board.lower_is_better & board.names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -1}, "`scores: distances: tolerance` is -1; give a length of 0 or more in mm"),
        ({"tolerance": True}, "tolerance` is True"),
        ({"tolerance": math.nan}, "tolerance` is nan"),
        ({"classes": ["three"]}, "classes` names 'three'; the classes are background, one, two"),
        ({"classes": []}, "classes` names none"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    with pytest.raises(MedsegError, match=message):
        Distances(NAMES, **options)


def test_a_header_without_size_is_refused() -> None:
    volume = np.ones((2, 2, 2), np.int64)
    with pytest.raises(MedsegError, match=r"a has the spacing \(1.0, 0.0, 1.0\); correct its header"):
        Distances(NAMES).update(case(volume, volume, (1, 0, 1)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_picture_that_is_stored_as_a_volume_has_the_distances_of_a_picture(axis: int) -> None:
    """As a volume of one slice all of a mask is surface: its NSD was 0.94 where that of its outline is 0.29."""
    x, y = np.mgrid[:60, :60]
    pair = [((x - at) ** 2 + (y - 30) ** 2 < 400).astype(np.int64) for at in (33, 30)]
    picture = scored(*pair, tolerance=1.0)
    spacing = np.insert([0.5, 0.5], axis, 7.0)
    volume = scored(*(np.expand_dims(each, axis) for each in pair), spacing.tolist(), tolerance=0.5)
    assert picture["nsd"][1] == pytest.approx(2 / 7)
    for key, factor in (("hd95", 0.5), ("assd", 0.5), ("nsd", 1)):
        assert volume[key][1] == pytest.approx(factor * picture[key][1])


def test_a_lone_voxel_is_its_own_surface() -> None:
    one = np.ones((1, 1, 1), np.int64)
    assert scored(one, one, (1.0, 1.0, 1.0))["hd95"][1] == 0


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_the_last_of_256_classes_counts(kind: torch.dtype) -> None:
    label = torch.zeros(9, 9, dtype=kind)
    label[2:5, 2:5] = 255
    prediction = label.roll(1, 0)
    found = Distances([f"class {index}" for index in range(256)]).update(case(prediction, label))
    assert np.flatnonzero(~np.isnan(found["hd95"])).tolist() == [255]
    assert found["hd95"][255] == 1
