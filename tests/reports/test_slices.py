"""Slices for a page: the patient's right on the left however a volume is stored, few, small, and safe to read."""

import base64
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from medseg.errors import MedsegError
from medseg.reports.slices import load_slices, make_slices, save_slices
from medseg.reports.viewer import make_viewer

PALETTE = [None, (230, 159, 0)]


def stored_as(codes: str, spacing: tuple[float, float, float] = (1, 1, 1)) -> dict[str, Any]:
    """Return a volume with a box on the patient's right, back and foot, as it is stored along other axes."""
    label = np.zeros((20, 24, 12), np.uint8)
    label[15:19, 3:9, 2:5] = 1  # of RAS: x to the right, y to the front, z to the head
    image = nibabel.Nifti1Image(label, np.diag([*spacing, 1]))
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(image.affine), nibabel.orientations.axcodes2ornt(tuple(codes))
    )
    turned = image.as_reoriented(turn)
    values = np.asarray(turned.dataobj)
    return {"name": codes, "image": values * 100.0, "label": values, "prediction": values, "affine": turned.affine}


def box(picture: NDArray[Any]) -> list[int]:
    rows, columns = np.nonzero(picture)
    return [int(each) for each in (rows.min(), rows.max(), columns.min(), columns.max())]


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "AIL", "SLA"])
def test_the_patients_right_is_on_the_left(codes: str) -> None:
    found = make_slices(stored_as(codes))
    assert (found.plane, list(found.letters)) == ("axial", ["R", "L", "A", "P"])
    assert found.image.shape == found.prediction.shape == (5, 24, 20)
    assert box(found.prediction[found.start]) == [15, 20, 1, 4]  # at the back, and on the right: left of the picture
    assert found.prediction.any(axis=(1, 2)).tolist() == [False, True, True, True, False]  # from the foot up
    assert found.image[found.start].max() == 255
    assert found.of == 12
    (number,) = {"RAS": [3], "LPS": [3], "PSR": [3], "AIL": [10], "SLA": [3]}[codes]
    assert list(found.indices)[1] == number  # as the file counts its slices


def test_a_mask_of_nearly_everything_is_shown_where_it_is() -> None:
    """Of a network that has hardly learned: what is most of the case is no background."""
    mask = np.ones((6, 8, 9), np.uint8)
    mask[:3] = 0
    mask[3, :, 1:] = 0
    mask[3, 0, 1:] = 2
    case = {"name": "a", "image": np.zeros((1, 6, 8, 9)), "prediction": np.where(mask == 0, 1, mask)}
    case["prediction"][:2] = 0  # two empty slices, three of the most frequent class
    guess = make_slices(case)
    told = make_slices(case, background=0)
    assert told.prediction[told.start].all()
    assert not told.prediction[0].any()
    assert (guess.prediction[guess.start] == 0).all()  # without a word, the empty ones are what is rare


def test_thick_slices_are_shown_in_their_plane() -> None:
    found = make_slices(stored_as("PSR", (4, 1, 1)))
    assert found.plane == "sagittal"
    assert list(found.letters) == ["A", "P", "S", "I"]
    assert found.pixel == (1, 1)
    axial = make_slices(stored_as("PSR", (1, 1, 1.5)))
    assert (axial.plane, axial.pixel) == ("axial", (1, 1))


def test_few_and_small_and_the_richest_among_them() -> None:
    label = np.zeros((150, 100, 90), np.uint8)
    label[50:100, 25:75, 10:85] = 1
    label[30:120, 10:90, 47] = 1
    case = {"name": "a", "image": label[None], "prediction": label, "affine": np.eye(4)}
    found = make_slices(case, most=10, edge=50)
    assert len(found.image) <= 10
    assert found.image.shape[1:] == (33, 50)
    assert found.indices[found.start] == 48
    assert found.truth is None
    assert found.pixel == pytest.approx((100 / 33, 3))
    viewer = make_viewer(found, PALETTE, title="a", most_bytes=30_000)
    assert viewer.nbytes <= 30_000
    assert viewer.numbers[viewer.start] == 48
    assert viewer.drawn[0] / viewer.drawn[1] == pytest.approx(1.5, rel=0.02)


def test_pictures_colours_and_pages() -> None:
    colour = np.random.default_rng(0).integers(0, 256, (3, 8, 9)).astype(np.uint8)
    label = np.zeros((8, 9), np.uint8)
    label[2:4, 3:5] = 1
    found = make_slices({"name": "a", "image": colour, "label": label[None], "prediction": label, "score": 0.5})
    assert found.image.shape == (1, 8, 9, 3)
    assert (found.plane, found.of, found.score) == ("", 1, 0.5)
    pages = make_slices({"name": "a", "image": np.zeros((1, 4, 8, 9)), "prediction": np.stack([label] * 4)})
    assert (pages.plane, pages.of) == ("page", 4)
    assert list(make_viewer(found, PALETTE, title="a").panels)[-1].title == "error"


def test_more_classes_than_a_palette_has_colours() -> None:
    """Each has an area and a contour: of 256 colours, they are used up at some 130 classes."""
    count, edge = 200, 20
    label = np.kron(np.arange(count).reshape(10, 20), np.ones((edge, edge), int))
    palette = [None, *((index, 255 - index, index // 2) for index in range(1, count))]
    found = make_slices({"name": "a", "image": np.zeros((1, *label.shape)), "prediction": label}, edge=400)
    layers = {layer.name: layer.uri for layer in make_viewer(found, palette, title="a").layers}
    drawn = Image.open(io.BytesIO(base64.b64decode(layers["prediction"].partition(",")[2]))).convert("RGBA")
    middles = np.asarray(drawn)[edge // 2 :: edge, edge // 2 :: edge].reshape(-1, 4)
    assert middles[0, 3] == 0
    assert [tuple(pixel) for pixel in middles[1:, :3].tolist()] == palette[1:]


def test_an_empty_mask_and_a_case_without_contrast() -> None:
    nothing = np.zeros((6, 7, 8), np.uint8)
    found = make_slices({"name": "a", "image": nothing * np.nan, "prediction": nothing, "affine": np.eye(4)})
    assert found.of == len(found.image) == 8


def test_kept_in_a_file(tmp_path: Path) -> None:
    cases = [make_slices(stored_as("PSR")), make_slices({**stored_as("LPS"), "label": None})]
    save_slices(cases, tmp_path / "cases.npz")
    for case, read in zip(cases, load_slices(tmp_path / "cases.npz"), strict=True):
        np.testing.assert_array_equal(case.image, read.image)
        np.testing.assert_array_equal(case.prediction, read.prediction)
        assert (read.truth is None) == (case.truth is None)
        assert (read.name, list(read.indices), list(read.letters)) == (case.name, case.indices, list(case.letters))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", b'{"a": 1}'])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "cases.npz").write_bytes(content)
    with pytest.raises(
        MedsegError, match=r"cases\.npz does not hold the slices of an evaluation .*medseg evaluate RUN"
    ):
        load_slices(tmp_path / "cases.npz")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "cases.npz", facts=np.array([object()], dtype=object))
    with pytest.raises(MedsegError, match="does not hold the slices"):
        load_slices(tmp_path / "cases.npz")


def test_other_sizes() -> None:
    with pytest.raises(MedsegError, match=r"case a: its image is \(4, 4\), its prediction \(4, 5\); they must be one"):
        make_slices({"name": "a", "image": np.zeros((1, 4, 4)), "prediction": np.zeros((4, 5), int)})
