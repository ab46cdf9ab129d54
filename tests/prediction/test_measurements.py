"""Sizes in millimetres of the file: against scikit-image's regionprops, marching cubes and plain counting."""

import csv
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from skimage.measure import label, marching_cubes, regionprops

from medseg.bundle.description import Description
from medseg.errors import MedsegError
from medseg.io.placement import Grid
from medseg.prediction.mask_record import Maker
from medseg.prediction.measurements import Measured, Measurements, measure, parts_of
from medseg.prediction.sinks import Case, Result, RunInfo

EDGES = np.array([0.7, 0.9, 3.0])
NAMES = ["background", "liver", "tumour"]


def oblique() -> NDArray[np.float64]:
    """Return an affine of turned axes, one of them flipped, of voxels of ``EDGES``."""
    c, s = np.cos(0.4), np.sin(0.4)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1, -1, 1]) @ np.diag(EDGES)
    affine[:3, 3] = [-40, 20, 100]
    return affine


def scene() -> NDArray[np.uint8]:
    """Return two classes in several parts: balls, a single voxel, one at the border."""
    mask = np.zeros((40, 32, 14), np.uint8)
    at = np.stack(np.meshgrid(*(np.arange(edge) for edge in mask.shape), indexing="ij"), -1)
    for centre, radius, index in (((12, 10, 6), 8, 1), ((30, 22, 8), 6, 2), ((0, 30, 1), 5, 1), ((38, 2, 12), 0.5, 2)):
        mask[(((at - centre) * (1, 1, 2)) ** 2).sum(-1) <= radius**2] = index
    return mask


def by_hand(part: NDArray[np.bool_], affine: NDArray[np.float64]) -> float:
    """Return the largest distance of two vertices of the surface at half height, in mm."""
    vertices = marching_cubes(np.pad(part, 1).astype(np.float32), 0.5)[0] - 1
    return float(pdist(vertices @ affine[:3, :3].T).max())


def test_volumes_against_scikit_image() -> None:
    mask, affine = scene(), oblique()
    values = np.random.default_rng(0).normal(40, 10, (1, *mask.shape)).astype(np.float32)
    found = list(measure(mask, values, affine, [1, 2]))
    assert [(each.index, each.part) for each in found] == [(1, 1), (1, 2), (1, None), (2, 1), (2, 2), (2, None)]
    for index in (1, 2):
        parts = {each.voxels: each for each in found if each.index == index and each.part is not None}
        for region in regionprops(label(mask == index, connectivity=3), values[0], spacing=tuple(EDGES)):
            part = parts[int(region.num_pixels)]
            assert part.row(NAMES)["volume_ml"] == pytest.approx(region.area / 1000, rel=1e-5)
            assert part.mean == (pytest.approx(region.intensity_mean, rel=1e-5),)
            whole = np.zeros_like(mask, bool)
            whole[tuple(region.coords.T)] = True
            assert part.diameter == pytest.approx(by_hand(whole, affine))
            # the axis of 3 mm lies across the largest cross-section
            assert part.area == pytest.approx(whole.sum((0, 1)).max() * EDGES[0] * EDGES[1])
        every = next(each for each in found if each.index == index and each.part is None)
        assert every.voxels == (mask == index).sum()
        assert every.diameter == pytest.approx(by_hand(mask == index, affine))
        assert every.mean[0] == pytest.approx(values[0][mask == index].mean(), rel=1e-5)


def test_a_sheared_affine() -> None:
    """A tilted gantry: the volume is the determinant's, the diameter that of the points in the patient."""
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[1, 2] = 2.0
    mask = np.zeros((3, 3, 3), np.uint8)
    mask[1, 1, :] = 1
    (part, _) = measure(mask, None, affine, [1])
    assert part.size == pytest.approx(12)
    points = [
        (1 + x, 1 + y, z) for x, y, z in itertools.product((-0.5, 0, 0.5), (-0.5, 0, 0.5), np.arange(-0.5, 3, 0.5))
    ]
    ends = [p for p in points if sum(v % 1 for v in p) == 0.5]  # midway along one axis alone
    assert part.diameter == pytest.approx(pdist(np.array(ends) @ affine[:3, :3].T).max())


def test_pictures_are_measured_in_pixels() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[2:6, 3:13] = 1
    mask[10, 20] = mask[11, 21] = 2  # joined at a corner
    image = np.arange(2 * mask.size, dtype=np.float32).reshape(2, *mask.shape)
    found = {(each.index, each.part): each for each in measure(mask, image, None, [1, 2])}
    (region,) = regionprops(label(mask == 1), np.moveaxis(image, 0, -1))
    row = found[1, 1].row(["a", "b", "c"])
    assert row["area_px"] == region.area == 40
    assert row["mean_intensity"] == ";".join(f"{value:.6g}" for value in region.intensity_mean)
    assert row["longest_diameter_px"] == pytest.approx(region.feret_diameter_max, rel=1e-5)
    assert row["volume_ml"] is None
    assert "area_mm2" not in row
    assert (2, 2) not in found
    assert found[2, 1].diameter == pytest.approx(np.hypot(1, 2))  # from the left of one to the right of the other


def test_parts_stand_by_size_and_numbers_have_six_digits(tmp_path: Path) -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[0, 0, 0] = mask[4, 4, 4:6] = 1
    mask[8, 0, :5] = mask[0, 8, 8] = 1
    numbered, count = parts_of(mask == 1)
    assert (count, numbered[8, 0, 0], numbered[4, 4, 4], numbered[0, 0, 0], numbered[0, 8, 8]) == (4, 1, 2, 3, 4)
    np.testing.assert_array_equal(numbered > 0, mask == 1)
    values = np.full((1, *mask.shape), 1234.5678, np.float32)
    *parts, every = measure(mask, values, np.diag([1 / 3, 1 / 3, 7.7, 1]), [1])
    assert [(part.part, part.voxels) for part in parts] == [(1, 5), (2, 2), (3, 1), (4, 1)]
    assert every.row(NAMES)["volume_ml"] == 0.0077
    assert every.row(NAMES)["mean_intensity"] == "1234.57"
    picture = Measured(1, None, 1234567, 1234567.0, 1234567.0, (1.0,), 2.0, volume=False)
    assert picture.row(NAMES)["area_px"] == picture.row(NAMES)["voxels"] == 1234567  # counts are whole


def test_what_is_doubtful_of_a_case_stands_in_its_rows(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    plain = result_of(scene())
    sink.write(case_of("a.nii", tmp_path), plain)
    sink.write(case_of("b.nii", tmp_path), replace(plain, doubts=("too large", "too thick")))
    sink.close()
    assert {(row["case"], row["unlike_training"]) for row in rows(tmp_path)} == {
        ("a.nii", ""),
        ("b.nii", "too large; too thick"),
    }


def test_pages_of_a_stack() -> None:
    mask = np.zeros((3, 8, 8), np.uint8)
    mask[0, 1, 1:7] = mask[1, 1, 1:3] = mask[1, 5, 5] = 1
    *parts, every = measure(mask, None, None, [1])
    assert [(part.part, part.voxels) for part in parts] == [(1, 8), (2, 1)]
    assert (parts[0].area, parts[0].diameter) == (6, 6)
    assert every.diameter == pytest.approx(np.hypot(4, 5))  # the second page has both ends


# ---------------------------------------------------------------------------------------------- the table


def run_of(folder: Path, weights: str = "w") -> RunInfo:
    network = {"name": "toy", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    described = Description.of({"name": "toy", "network": network, "classes": NAMES})
    return RunInfo(folder, described, [Maker("toy", weights, "m")])


def case_of(name: str, folder: Path) -> Case:
    return Case(name, (folder / name,), folder / "out" / name)


def result_of(mask: NDArray[np.uint8]) -> Result:
    return Result(mask, Grid(mask.shape, oblique()), values=np.ones((1, *mask.shape), np.float32))


def opened(folder: Path, weights: str = "w") -> Measurements:
    sink = Measurements()
    sink.open(run_of(folder, weights))
    return sink


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "measurements.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_not_found_has_a_row_of_zeros(tmp_path: Path) -> None:
    sink = opened(tmp_path)
    sink.write(case_of("a.nii", tmp_path), result_of(np.zeros((4, 4, 4), np.uint8)))
    sink.close()
    first, second = rows(tmp_path)
    assert [first["class_name"], second["class_name"]] == ["liver", "tumour"]
    assert (first["part"], first["voxels"], first["volume_ml"], first["mean_intensity"]) == ("all", "0", "0.0", "")


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    cases = [case_of(f"{name}.nii", tmp_path) for name in "cab"]
    sink = opened(tmp_path)
    for case in cases:
        sink.write(case, result_of(scene()))  # and killed: no close
    assert all(opened(tmp_path).has(case) for case in cases)
    table = tmp_path / "measurements.csv"
    whole = table.read_bytes()
    for cut in (1, 30, 200):  # a line that was cut off, one that lacks its end, rows of parts alone
        table.write_bytes(whole[:-cut])
        again = opened(tmp_path)
        assert [again.has(case) for case in cases] == [True, True, False]
        again.write(cases[2], result_of(scene()))
        again.close()
        assert [row["case"] for row in rows(tmp_path)] == ["a.nii"] * 6 + ["b.nii"] * 6 + ["c.nii"] * 6
        table.write_bytes(whole)


def test_rows_of_another_model_are_not_this_one_s(tmp_path: Path) -> None:
    first, case = opened(tmp_path), case_of("a.nii", tmp_path)
    first.write(case, result_of(scene()))
    first.close()
    other = opened(tmp_path, "other")
    assert not other.has(case)
    other.write(case, result_of(scene()))
    other.close()
    assert len(rows(tmp_path)) == 6
    assert {row["model"] for row in rows(tmp_path)} == {run_of(tmp_path, "other").model}


def test_another_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "measurements.csv").write_text("a,b\n1,2\n")
    with pytest.raises(MedsegError, match=r"measurements\.csv is there and has other columns .* move it away, or name"):
        opened(tmp_path)


def test_names_are_no_formulas(tmp_path: Path) -> None:
    sink, case = opened(tmp_path), case_of("=1+1.nii", tmp_path)
    sink.write(case, result_of(scene()))
    sink.close()
    assert rows(tmp_path)[0]["case"] == "'=1+1.nii"
    assert opened(tmp_path).has(case)


def test_units() -> None:
    each = Measured(1, None, 8, 8.0, 4.0, (1.0,), 2.0, True)
    assert each.row(NAMES)["longest_diameter_mm"] == 2.0
