import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from medseg.reports.overlays import overlay_sheet
from medseg.reports.palette import WRONG, class_colours
from medseg.reports.views import make_view, richest_slice

NAMES = ["membrane", "mitochondria", "synapse"]


def make_case(shape=(40, 60), channels=1, name="section 3"):
    random = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    label[..., 10:30, 10:30] = 1
    label[..., 12:18, 40:50] = 2
    return {
        "name": name,
        "image": random.random((channels, *shape), np.float32),
        "label": label,
        "prediction": np.roll(label, 4, axis=-1),
    }


def count(sheet, colour):
    return int((np.asarray(sheet) == np.asarray(colour)).all(axis=2).sum())


def test_view_of_a_case():
    case = make_case()
    view = make_view(case, 3, None)
    wrong = case["label"] != case["prediction"]
    assert view.image.shape == (40, 60, 3)
    np.testing.assert_array_equal(view.wrong, wrong)
    assert view.wrong_share == pytest.approx(wrong.mean())


def test_ignored_pixels_do_not_count():
    case = make_case()
    case["label"][:, 30:] = 255
    case["prediction"][:20] = 0
    view = make_view(case, 3, 255)
    labelled = case["label"] != 255
    assert not view.wrong[:, 30:].any()
    assert view.wrong_share == pytest.approx((case["label"] != case["prediction"])[labelled].mean())


def test_nothing_labelled():
    case = make_case()
    case["label"][:] = 255
    assert make_view(case, 3, 255).wrong_share is None
    assert overlay_sheet([case], NAMES, ignore_index=255).height > 200


def test_richest_slice_of_a_volume():
    label = np.zeros((32, 30, 7), np.int64)
    label[4:20, 4:20, 2] = 1
    label[2:6, 2:6, 5] = 1
    label[8:12, 8:12, 5] = 2
    assert richest_slice(label) == (2, 5)
    assert richest_slice(np.zeros((9, 30, 32), np.int64)) == (0, 4)
    assert richest_slice(np.full((8, 8, 8), -1)) in {(2, 3), (2, 4)}


def test_volume_is_turned_so_that_y_points_up():
    label = np.zeros((12, 10, 5), np.uint8)
    label[11, 9, 2] = 1
    view = make_view({"name": "a", "image": label[None], "label": label[None], "prediction": label}, 2, None)
    assert view.name == "a, slice 3 of 5"
    assert view.truth.shape == (10, 12)
    assert np.argwhere(view.truth).tolist() == [[0, 11]]
    assert view.image[0, 11].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    "image", [np.full((1, 4, 4), 7), np.full((1, 4, 4), np.nan), np.array([[[np.inf, 1] * 8]]).reshape(1, 4, 4)]
)
def test_images_without_contrast_or_with_gaps(image):
    view = make_view({"name": "a", "image": image, "label": np.zeros((4, 4)), "prediction": np.zeros((4, 4))}, 2, None)
    assert view.image.dtype == np.uint8


@pytest.mark.parametrize("shape", [(40, 60), (600, 900), (9, 40, 60)])
@pytest.mark.parametrize("channels", [1, 3])
def test_sheet_shows_classes_and_errors(shape, channels):
    sheet = overlay_sheet([make_case(shape, channels)], NAMES, title="Validation")
    for colour in (*class_colours(3), WRONG):
        assert count(sheet, colour) > 300  # a swatch in the legend has about 600
    assert sheet.width == 4 * 384 + 2 * 28 + 3 * 14


def test_a_right_prediction_has_a_clean_error_column():
    case = make_case()
    right = overlay_sheet([{**case, "prediction": case["label"]}], NAMES)
    wrong = overlay_sheet([case], NAMES)

    def red(sheet):
        pixels = np.asarray(sheet).astype(int)
        error = pixels[60:-60, -28 - 384 : -28]
        return int((error[..., 0] - error[..., 1] > 80).sum())

    assert red(right) == 0
    assert red(wrong) / (384 * 256) == pytest.approx((case["label"] != case["prediction"]).mean(), rel=0.1)


def test_background_stays_uncoloured():
    case = {**make_case(), "label": np.zeros((40, 60), int), "prediction": np.zeros((40, 60), int)}
    sheet = np.asarray(overlay_sheet([case], ["background", "lesion"], cell=60))
    rows = slice(28 + 27 + 14 + 35, 28 + 27 + 14 + 35 + 40)
    columns = [sheet[rows, 28 + index * 74 : 28 + index * 74 + 60] for index in range(3)]
    assert columns[0].std() > 10
    np.testing.assert_array_equal(columns[0], columns[1])
    np.testing.assert_array_equal(columns[0], columns[2])


def test_own_colours_many_classes_and_long_names():
    case = make_case(name="a very long name " * 30)
    sheet = overlay_sheet([case], NAMES, colours={"0": "#010203", 2: (4, 5, 6)})
    for colour in ((1, 2, 3), class_colours(3)[1], (4, 5, 6)):
        assert count(sheet, colour) > 300
    names = [f"class number {index} with a long name" for index in range(150)]
    assert overlay_sheet([case], names).height < sheet.height + 200  # the legend lists those that occur
    with pytest.raises(ValueError, match="named for class '3', but the classes are 0 to 2"):
        overlay_sheet([case], NAMES, colours={"3": "#000000"})


def test_same_input_same_pixels(tmp_path):
    case = make_case()
    sheets = [overlay_sheet([case, case], NAMES, title="x") for _ in range(2)]
    np.testing.assert_array_equal(*map(np.asarray, sheets))
    sheets[0].save(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(sheets[1]))


def test_input_stays_as_it_was():
    case = make_case()
    copies = {key: np.copy(value) for key, value in case.items() if key != "name"}
    overlay_sheet([case], NAMES)
    for key, value in copies.items():
        np.testing.assert_array_equal(case[key], value)


def test_bad_cases():
    case = make_case()
    with pytest.raises(ValueError, match="there is no case to show"):
        overlay_sheet([], NAMES)
    with pytest.raises(ValueError, match=r"case section 3: image \(40, 60\), label \(40, 50\)"):
        overlay_sheet([{**case, "label": case["label"][:, :50]}], NAMES)
    with pytest.raises(ValueError, match=r"case section 3: label holds value 2, but there are 2 classes \(0-1\)"):
        overlay_sheet([case], NAMES[:2])
    with pytest.raises(ValueError, match="prediction holds value 9"):
        overlay_sheet([{**case, "prediction": case["label"] + 9}], NAMES)


def test_real_sections(real_data):
    folder = real_data / "drosophila_vnc"
    with Image.open(folder / "raw" / "03.tif") as raw, Image.open(folder / "labels" / "labels00000003.png") as png:
        image, values = np.asarray(raw), np.asarray(png)
    label = np.digitize(values, [129, 192, 224])  # membrane, glia and mitochondria, synapse, intracellular
    case = {"name": "section 03", "image": image, "label": label, "prediction": np.roll(label, 3, axis=0)}
    sheet = overlay_sheet([case], ["membrane", "organelle", "synapse", "intracellular"])
    assert min(count(sheet, colour) for colour in class_colours(4)) > 300


def test_imports_are_lazy():
    modules = "overlays, views, palette, confusion, curves, tables"
    code = (
        f"import sys\nfrom medseg.reports import {modules}\nprint({{'PIL', 'matplotlib', 'torch'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
