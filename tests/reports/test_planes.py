"""Volumes as radiologists hang them, whatever order and direction the file's axes have."""

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from medseg.reports.names import hidden_name
from medseg.reports.overlays import overlay_sheet, worst_first
from medseg.reports.planes import anatomical_planes, tilt
from medseg.reports.views import make_views

SHAPE = (9, 7, 5)  # x, y, z
EDGES = (1.0, 2.0, 8.0)


def patient(axes, corner):
    """A volume stored in some axis order, in which one corner of the body is marked; and its affine.

    The corner is named by letters such as RAS: the marked voxel is the one farthest right, front and up.
    """
    body = np.zeros(SHAPE, np.uint8)
    body[4, 3, 2] = 1  # the planes go through the middle
    body[tuple(edge - 1 if letter in "RAS" else 0 for edge, letter in zip(SHAPE, corner, strict=True))] = 2
    affine = np.diag([*EDGES, 1.0])
    affine[:3, 3] = (-4, 3, 50)
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axes))
    stored = nibabel.orientations.apply_orientation(body, turn)
    return stored, affine @ inv_ornt_aff(turn, SHAPE)


def views_of(stored, affine, **more):
    case = {"name": "v", "image": stored.astype(float), "label": stored, "prediction": stored, "affine": affine}
    return make_views({**case, **more}, 3, None)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PSR", "ASL", "IRP", "SAL"])
def test_every_storage_order_gives_the_same_pictures(axes):
    stored, affine = patient(axes, "RAS")
    assert nibabel.aff2axcodes(affine) == tuple(axes)
    expected = views_of(*patient("RAS", "RAS"))
    views = views_of(stored, affine)
    assert [view.name.split(", slice")[0] for view in views] == ["v, axial", "coronal", "sagittal"]
    for view, other in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view.truth, other.truth)
        np.testing.assert_array_equal(view.image, other.image)
        assert view.pixel == pytest.approx(other.pixel)
        assert view.letters == other.letters


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR"])
@pytest.mark.parametrize("corner", ["RAS", "LAS", "RPS", "LPI", "RAI"])
def test_letters_stand_where_they_say(axes, corner):
    """The marked corner of the body is at the edges whose letters name it, in all three planes."""
    stored, affine = patient(axes, corner)
    marked = stored == 2
    for plane in anatomical_planes(affine, marked):  # through the marked voxel
        picture = plane.cut(marked)
        ((row, column),) = np.argwhere(picture)
        left, right, top, bottom = plane.letters
        assert column == (0 if left in corner else picture.shape[1] - 1)
        assert row == (0 if top in corner else picture.shape[0] - 1)
        assert {left, right} in ({"R", "L"}, {"A", "P"})
        assert (left, right, top, bottom) == {
            "axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I"),
        }[plane.name]  # fmt: skip


def test_planes_are_to_scale():
    axial, coronal, sagittal = views_of(*patient("PSR", "RAS"))
    assert (axial.truth.shape, axial.pixel) == ((7, 9), pytest.approx((2, 1)))
    assert (coronal.truth.shape, coronal.pixel) == ((5, 9), pytest.approx((8, 1)))
    assert (sagittal.truth.shape, sagittal.pixel) == ((5, 7), pytest.approx((8, 2)))


def test_each_plane_goes_through_most_foreground_or_error():
    truth = np.zeros((20, 20, 20), np.uint8)
    truth[3, 5:9, 5:9] = 1
    prediction = truth.copy()
    prediction[5:15, 12, 8] = 1  # a false line along x
    names = [view.name for view in views_of(truth, np.diag([1.0, 1, 1, 1]), prediction=prediction)]
    assert names == ["v, axial, slice 9 of 20", "coronal, slice 13 of 20", "sagittal, slice 4 of 20"]


def test_slices_are_counted_as_the_file_counts_them():
    stored, affine = patient("LPS", "LPI")
    volume = np.zeros_like(stored)
    volume[1, 2, 3] = 1
    names = [view.name for view in views_of(volume, affine)]
    assert names == ["v, axial, slice 4 of 5", "coronal, slice 3 of 7", "sagittal, slice 2 of 9"]


def test_a_single_slice_has_one_plane_and_a_line_none():
    stored, affine = patient("RAS", "RAS")
    (view,) = views_of(stored[:, :, 2:3], affine)
    assert view.name == "v, axial, slice 1 of 1"
    (flat,) = views_of(stored[:, :, 2], affine)  # a NIfTI of two axes
    np.testing.assert_array_equal(flat.truth, view.truth)
    (line,) = views_of(stored[:, :1, :1], affine)
    assert line.letters is None


def test_oblique_volumes_say_so():
    angle = np.radians(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    stored, affine = patient("LPS", "RAS")
    assert tilt(turn @ affine) == pytest.approx(20)
    assert tilt(affine) == 0
    assert views_of(stored, turn @ affine)[0].name.endswith("oblique by 20°")
    assert "oblique" not in views_of(stored, affine)[0].name


def test_the_worst_case_comes_first():
    cases = [{"name": n, "score": s} for n, s in (("a", 0.9), ("b", None), ("c", 0.2), ("d", float("nan")), ("e", 0.5))]
    assert [case["name"] for case in worst_first(cases)] == ["c", "e", "a", "b", "d"]
    assert [case["name"] for case in worst_first(cases, lower_is_better=True)] == ["a", "e", "c", "b", "d"]
    assert [case["name"] for case in worst_first([{"name": n} for n in "zay"])] == ["z", "a", "y"]


def drawn_texts(monkeypatch, *args, **options):
    from PIL import ImageDraw

    texts = []
    draw = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, xy, text, *a, **k: (texts.append(text), draw(self, xy, text, *a, **k))
    )
    sheet = overlay_sheet(*args, **options)
    return sheet, texts


def test_a_sheet_of_volumes(monkeypatch):
    stored, affine = patient("PSR", "LPI")
    case = {"image": stored[None], "label": stored, "prediction": np.zeros_like(stored), "affine": affine}
    cases = [{**case, "name": "good.nii", "score": 0.9}, {**case, "name": "bad.nii", "score": 0.25}]
    names = ["background", "a", "b"]
    _, texts = drawn_texts(monkeypatch, cases, names, cell=300, score_name="Dice")
    captions = [text for text in texts if "slice" in text]
    assert [text.split(",")[0] for text in captions] == [
        "bad.nii",
        "coronal",
        "sagittal",
        "good.nii",
        "coronal",
        "sagittal",
    ]
    assert any(text.startswith("Dice 0.250, ") for text in texts)
    assert [text for text in texts if text in ("R", "L", "A", "P", "S", "I")][:12] == [*"RLAP", *"RLSI", *"APSI"]
    _, texts = drawn_texts(monkeypatch, cases, names, cell=300, most=1, hide_names=True)
    captions = [text for text in texts if "slice" in text]
    assert len(captions) == 3
    assert captions[0].startswith(f"{hidden_name('bad.nii')}, axial")
    assert not any("bad" in text or "good" in text for text in texts)


def test_a_sheet_is_to_scale_and_letters_are_seen():
    stored, affine = patient("RAS", "RAS")
    case = {"name": "v", "image": stored[None] * 0, "label": stored, "prediction": stored, "affine": affine}
    tall = overlay_sheet([case], ["background", "a", "b"], cell=120)
    flat = overlay_sheet([{**case, "affine": np.diag([1.0, 1, 1, 1])}], ["background", "a", "b"], cell=120)
    # axial 14 x 9 mm against 7 x 9, coronal 40 x 9 (at most twice as high as wide) against 5 x 9,
    # sagittal 40 x 14 against 5 x 7
    heights = [round(120 * 14 / 9), 240, 240], [round(120 * 7 / 9), round(120 * 5 / 9), round(120 * 5 / 7)]
    assert tall.height - flat.height == sum(heights[0]) - sum(heights[1])
    image = np.asarray(tall)[100:300, 28:148]
    assert (image == 255).all(axis=2).any(axis=0)[4:20].any()  # the R on the left


def test_names_are_hashed_the_same_every_time():
    assert hidden_name("a") == hidden_name("a") != hidden_name("b")
    assert hidden_name("patient \udcff").startswith("case ")
