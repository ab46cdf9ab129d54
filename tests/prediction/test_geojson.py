"""Outlines: drawn back they are the mask, their areas are its pixels, rings are closed and simple."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask
from tiny_models import write_model

from medseg.bundle.description import Description
from medseg.errors import MedsegError
from medseg.importers.drawing import fill_polygons
from medseg.io.placement import Grid
from medseg.prediction.forward import Forward
from medseg.prediction.geojson import Geojson
from medseg.prediction.mask_record import Maker
from medseg.prediction.outlines import Polygon, outlines
from medseg.prediction.predict import predict
from medseg.prediction.sinks import Case, Result, RunInfo

RING = """
.......
.#####.
.#...#.
.#.#.#.
.#...#.
.#####.
.......
"""
TOUCHES_ITSELF = """
.###.
.#.#.
.##..
.###.
"""
CORNERS = """
#.#.
.#..
#..#
"""


def drawn(text: str) -> NDArray[np.bool_]:
    return np.array([[letter == "#" for letter in line] for line in text.split()])


def filled(polygons: list[Polygon], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Draw polygons by scikit-image: pixels whose centres are inside an outer ring and in none of its holes."""
    mask = np.zeros(shape, bool)
    for outer, *holes in polygons:
        inside = polygon2mask(shape, np.array(outer)[:, ::-1] - 0.5)
        for hole in holes:
            inside &= ~polygon2mask(shape, np.array(hole)[:, ::-1] - 0.5)
        mask |= inside
    return mask


def area(ring: list[tuple[int, int]]) -> float:
    x, y = np.array(ring).T
    return float(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2


def noise(seed: int, share: float) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((23, 31)) < share


@pytest.mark.parametrize(
    "mask",
    [
        *(drawn(RING), drawn(TOUCHES_ITSELF), drawn(CORNERS), np.zeros((3, 4), bool), np.ones((3, 4), bool)),
        *(noise(seed, share) for seed, share in enumerate((0.1, 0.4, 0.6, 0.9))),
        ndimage.gaussian_filter(np.random.default_rng(0).random((60, 50)), 3) > 0.5,
    ],
)
def test_what_is_drawn_back_is_the_mask(mask: NDArray[np.bool_]) -> None:
    found = outlines(mask)
    parts, number = ndimage.label(mask, np.ones((3, 3)))
    assert len(found) == number
    for index, polygons in enumerate(found, start=1):
        part = parts == index
        np.testing.assert_array_equal(filled(polygons, mask.shape), part)
        assert sum(area(ring) for polygon in polygons for ring in polygon) == part.sum()
        for outer, *holes in polygons:
            assert area(outer) > 0
            for ring in (outer, *holes):
                assert ring[0] == ring[-1]
                assert len(set(ring)) == len(ring) - 1  # it does not come to a corner twice
            assert all(area(hole) < 0 for hole in holes)


def test_straight_lines_have_two_points() -> None:
    ((polygon,),) = outlines(np.pad(np.ones((5, 9), bool), 2))
    assert polygon == [[(2, 2), (11, 2), (11, 7), (2, 7), (2, 2)]]


@pytest.mark.skipif(importlib.util.find_spec("shapely") is None, reason="shapely is not installed")
@pytest.mark.parametrize("mask", [drawn(RING), drawn(TOUCHES_ITSELF), noise(0, 0.6)])
def test_shapely_finds_them_valid(mask: NDArray[np.bool_]) -> None:
    from shapely.geometry import shape

    for polygons in outlines(mask):
        assert shape({"type": "MultiPolygon", "coordinates": polygons}).is_valid


# ---------------------------------------------------------------------------------------------- the file


def described(dims: int = 2) -> Description:
    network = {"name": "toy", "spatial_dims": dims, "in_channels": 1, "out_channels": 3}
    classes = ["background", "nucleus", "gland"]
    return Description.of({"name": "toy", "network": network, "classes": classes, "colours": {"2": "#ff8000"}})


def written(mask: NDArray[Any], folder: Path, **grid: Any) -> list[dict[str, Any]]:
    sink, case = Geojson(), Case("x.png", (folder / "x.png",), folder / "out" / "x.png")
    sink.open(RunInfo(folder / "out", described(), [Maker("toy", "w", "m")]))
    sink.write(case, Result(mask.astype(np.uint8), Grid(mask.shape, **grid)))
    sink.close()
    assert sink.files(case) == [folder / "out" / "x.geojson"]
    content = json.loads((folder / "out" / "x.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    features: list[dict[str, Any]] = content["features"]
    return features


def test_annotations_for_qupath(tmp_path: Path) -> None:
    mask = np.zeros((9, 12), int)
    mask[1:8, 1:8] = drawn(RING)
    mask[2, 10] = mask[3, 11] = 2
    ring, island, corners = written(mask, tmp_path)
    assert ring["properties"]["objectType"] == "annotation"
    assert ring["properties"]["classification"]["name"] == island["properties"]["classification"]["name"] == "nucleus"
    assert len(ring["geometry"]["coordinates"]) == 2
    assert corners["properties"]["classification"] == {"name": "gland", "color": [255, 128, 0]}
    assert corners["geometry"]["type"] == "MultiPolygon"


def test_medseg_s_import_draws_the_same(tmp_path: Path) -> None:
    mask = noise(5, 0.5).astype(int)
    back = np.zeros(mask.shape, bool)
    for feature in written(mask, tmp_path):
        geometry = feature["geometry"]
        several = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for polygon in several:
            flat = [[value for point in ring for value in point] for ring in polygon]
            back |= fill_polygons(flat[:1], mask.shape, "here", flat[1:])
    np.testing.assert_array_equal(back, mask.astype(bool))


def test_pages_are_planes(tmp_path: Path) -> None:
    mask = np.zeros((3, 4, 4), int)
    mask[0, 1, 1] = mask[2, 2, 2] = 1
    assert [each["geometry"]["plane"]["z"] for each in written(mask, tmp_path)] == [0, 2]


def test_a_nifti_of_two_axes(tmp_path: Path) -> None:
    """Its first axis is x, its second y: the voxel i = 7, j = 2 is the pixel whose corner is 7, 2."""
    mask = np.zeros((9, 4), int)
    mask[7, 2] = 1
    (feature,) = written(mask, tmp_path, affine=np.eye(4))
    (ring,) = feature["geometry"]["coordinates"]
    assert {tuple(point) for point in ring} == {(7, 2), (8, 2), (8, 3), (7, 3)}


def test_a_nifti_of_two_axes_is_predicted_and_outlined(tmp_path: Path) -> None:
    """Its outlines, drawn, are its mask as nibabel reads that."""
    values = np.kron(np.random.default_rng(0).integers(0, 255, (5, 4)), np.ones((8, 8))).astype(np.uint8)
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, np.diag([-1.0, 1, 1, 1])), tmp_path / "in" / "x.nii.gz")
    model = write_model(tmp_path / "m.pt", "grey")
    done = predict(model, tmp_path / "in", tmp_path / "out", outputs=["geojson"], overrides={"device": "cpu"})
    assert (done.written, done.failures) == (1, [])
    mask = np.squeeze(np.asarray(nibabel.load(tmp_path / "out" / "x.nii.gz").dataobj))
    assert mask.shape == values.shape
    back = np.zeros(mask.T.shape, bool)
    for feature in json.loads((tmp_path / "out" / "x.geojson").read_text())["features"]:
        geometry = feature["geometry"]
        several = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for outer, *holes in several:
            back |= filled([[outer, *holes]], back.shape)
    np.testing.assert_array_equal(back.T, mask > 0)
    assert 0 < back.mean() < 1


def test_volumes_are_refused(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before their forwards: a picture beside them is done, and the network has seen nothing else."""
    forwards: list[Any] = []
    collect = Forward.collect

    def counted(self: Forward, fed: Any) -> Any:
        forwards.extend(fed)
        return collect(self, fed)

    monkeypatch.setattr(Forward, "collect", counted)
    (tmp_path / "in").mkdir()
    volume = np.random.default_rng(0).integers(0, 255, (20, 24, 3)).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "v.nii.gz")
    nibabel.save(nibabel.Nifti1Image(volume[..., 0], np.eye(4)), tmp_path / "in" / "p.nii.gz")
    device = {"device": "cpu"}
    done = predict(models / "slices.pt", tmp_path / "in", tmp_path / "out", outputs=["geojson"], overrides=device)
    assert done.written == 1
    assert [name for name, _ in done.failures] == ["v.nii.gz"]
    assert "it lies in a patient, and --geojson outlines pictures" in done.failures[0][1]
    assert len(forwards) == 1
    with pytest.raises(MedsegError, match="--geojson outlines pictures, and this model takes volumes"):
        Geojson().open(RunInfo(tmp_path, described(3), [Maker("toy", "w", "m")]))


def test_a_picture_of_many_objects_stays_small(tmp_path: Path) -> None:
    mask = np.kron(noise(1, 0.2), np.ones((8, 8), bool))
    written(mask, tmp_path)
    Image.fromarray(mask).save(tmp_path / "x.png")
    assert (tmp_path / "out" / "x.geojson").stat().st_size < 60_000
