"""CT through a window that is said beside the picture, everything else from its own darkest to its own brightest."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.io.images import read_image
from medseg.reports.overlays import overlay_sheet
from medseg.reports.slices import load_slices, make_slices, save_slices
from medseg.reports.viewer import make_viewer
from medseg.reports.views import make_view, make_views
from medseg.reports.windows import SOFT_TISSUE, about, window_of

HOUNSFIELD = np.array([-1000, -160, 40, 240, 3000], np.int16)
GREY = [0, 0, 128, 255, 255]  # 40 is halfway


def scanned(*shape: int) -> np.ndarray[Any, Any]:
    """Return air around a body with a bone in it."""
    values = np.full(shape, -1000, np.int16)
    values[2:-2, 2:-2] = 40
    values[4:6, 4:6] = 900
    return values


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("nifti_ct_totalsegmentator/example_ct_sm.nii.gz", True),
        ("nifti_ct_totalsegmentator/example_ct.nii.gz", True),
        ("nifti_ct_totalsegmentator/example_mr_sm.nii.gz", False),
        ("dicom_ct_dcmqi/ct-3slice", True),
        ("nrrd_mr_pyradiomics/brain1_image.nrrd", False),
        ("nrrd_mr_pyradiomics/breast1_image.nrrd", False),
        ("msd_hippocampus/imagesTr/hippocampus_004.nii.gz", False),
        ("dicom_mr_hippocrop/study1", False),
        ("nifti_mr_spinalcord_sct/t2/t2.nii.gz", False),
        ("covid_semiseg/TestingSet/LungInfection-Test/Imgs/8.jpg", False),
    ],
)
def test_hounsfield_units_are_known_by_their_values(real_data: Path, place: str, found: bool) -> None:
    values = read_image(real_data / place).array
    assert window_of(values) == (SOFT_TISSUE if found else None)
    assert window_of(values, (-1000.0, 400.0)) == (-1000.0, 400.0)  # the model's own goes first
    assert window_of(values, (-1024.0, 1024.0)) == (SOFT_TISSUE if found else None)  # but for one that shows no organ


def test_what_is_said_goes_before_what_is_guessed() -> None:
    assert window_of(scanned(9, 9), modality="MR") is None
    assert window_of(np.zeros((9, 9)), modality="CT") == SOFT_TISSUE
    phase = np.random.default_rng(0).integers(-4096, 4096, (40, 40))  # of an MR: all values alike
    assert window_of(phase) is None
    assert window_of(np.full((9, 9), np.nan)) is None
    assert window_of(np.random.default_rng(0).normal(0, 1e5, (40, 40))) is None


def test_width_and_level() -> None:
    assert about(None) == ""
    assert about(SOFT_TISSUE) == "window 400, level 40 (soft tissue)"
    assert about((-1350, 150)) == "window 1500, level -600"


def test_pictures_show_the_window_and_say_it() -> None:
    values = np.broadcast_to(HOUNSFIELD[:, None, None], (5, 4, 3))
    nothing = np.zeros((5, 4, 3), np.uint8)
    case = {"name": "a", "image": values[None], "label": nothing, "prediction": nothing, "window": [-160, 240]}
    plain = make_view(case, 2, None)
    assert plain.name.endswith(", window 400, level 40 (soft tissue)")
    assert sorted(set(plain.image.ravel().tolist())) == sorted(set(GREY))
    axial, *others = make_views({**case, "affine": np.eye(4)}, 2, None)
    assert axial.image[0, :, 0].tolist() == GREY[::-1]  # the patient's right is on the left
    assert all(each.name.endswith("level 40 (soft tissue)") for each in (axial, *others))
    found = make_slices({**case, "affine": np.eye(4), "window": np.array([-160, 240])})
    assert found.image[0, 0].tolist() == GREY[::-1]
    assert make_viewer(found, [None, (1, 2, 3)], title="a").about.endswith("window 400, level 40 (soft tissue)")
    assert "window" not in make_viewer(make_slices({**case, "window": None}), [None, (1, 2, 3)], title="a").about
    assert overlay_sheet([case], ["background", "b"]).height > 200


def test_slices_keep_their_window(tmp_path: Path) -> None:
    nothing = np.zeros((9, 9, 9), np.uint8)
    cases = [
        {"name": "a", "image": scanned(9, 9, 9), "prediction": nothing, "window": window} for window in ((0, 9), None)
    ]
    save_slices([make_slices(case) for case in cases], tmp_path / "cases.npz")
    assert [tuple(case.window) for case in load_slices(tmp_path / "cases.npz")] == [(0, 9), ()]
