"""The fingerprint: what is measured of each case, against numpy on the same arrays; the cache; bad data."""

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from datalists import content, write
from PIL import Image

from medseg.data.case_facts import QUANTILES, CaseFacts, measure_case, quantiles
from medseg.data.datalist import Datalist, DatalistError
from medseg.data.fingerprint import Fingerprint, fingerprint
from medseg.io.images import ImageError


def volume(path: Path, array: Any, codes: str = "RAS", spacing: tuple[float, ...] = (1, 1, 1)) -> str:
    """Write a volume whose axes run as ``codes`` say."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, (code, edge) in enumerate(zip(codes, spacing, strict=True)):
        affine["RAS".index(code) if code in "RAS" else "LPI".index(code), axis] = edge if code in "RAS" else -edge
    nibabel.Nifti1Image(np.array(array), affine).to_filename(path)
    return str(path)


def datalist(folder: Path, entries: list[dict[str, Any]], **more: Any) -> Datalist:
    held = {"labels": {"0": "background", "1": "a", "2": "b"}, "modality": ["MR"], "training": entries, **more}
    return Datalist.load(write(folder, content(**held)))


def one(folder: Path, name: str, image: Any, label: Any, **place: Any) -> dict[str, Any]:
    volume(folder / f"{name}.nii", image, **place)
    volume(folder / f"{name}_label.nii", label, **place)
    return {"image": f"{name}.nii", "label": f"{name}_label.nii", "group": name}


def test_a_case_is_measured_as_numpy_says(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    image = draw.normal(100, 30, (6, 7, 5)).astype(np.float32)
    label = np.zeros((6, 7, 5), np.uint8)
    label[0, 0, 0], label[5, 6, 4], label[2:4, 2:4, 2] = 1, 1, 2
    entry = {key: volume(tmp_path / f"{key}.nii", array) for key, array in (("image", image), ("label", label))}
    found = measure_case(entry, 3, background=0)
    assert found.shape == (6, 7, 5)
    assert (found.codes, found.channels, found.dtype) == ("RAS", 1, "float32")
    assert found.voxels == (6 * 7 * 5 - 6, 2, 4)
    assert found.parts == (1, 2, 1)
    np.testing.assert_allclose(found.quantiles[0], np.quantile(image, QUANTILES), rtol=1e-6)
    np.testing.assert_allclose(found.foreground[0], np.quantile(image[label > 0], QUANTILES), rtol=1e-6)


def test_parts_that_touch_at_a_corner_are_one(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = label[3, 3, 3] = 1
    entry = {"image": volume(tmp_path / "i.nii", label * 1.0), "label": volume(tmp_path / "l.nii", label)}
    assert measure_case(entry, 2, 0).parts == (1, 2)


def test_shape_and_spacing_are_along_the_patients_axes(tmp_path: Path) -> None:
    image = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    stored = {"image": volume(tmp_path / "i.nii", image, "PSR", (0.5, 2.0, 3.0))}
    entry = stored | {"label": volume(tmp_path / "l.nii", (image > 4).astype(np.uint8), "PSR", (0.5, 2.0, 3.0))}
    found = measure_case(entry, 2, 0)
    assert found.codes == "PSR"
    assert found.shape == (4, 2, 3)  # R is the file's last axis, A its first, S its second
    assert found.spacing == pytest.approx((3.0, 0.5, 2.0))


def test_grey_pictures_stored_in_colour_are_known(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    grey = np.repeat(draw.integers(0, 255, (8, 9, 1), dtype=np.uint8), 3, axis=2)
    colour = draw.integers(0, 255, (8, 9, 3), dtype=np.uint8)
    Image.fromarray((grey[..., 0] > 9).astype(np.uint8)).save(tmp_path / "label.png")
    for name, array, equal in (("grey", grey, True), ("colour", colour, False)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
        entry = {"image": str(tmp_path / f"{name}.png"), "label": str(tmp_path / "label.png")}
        found = measure_case(entry, 2, 0)
        assert (found.shape, found.channels, found.equal_channels, found.spacing) == ((8, 9), 3, equal, None)


def test_the_set_is_measured_once_and_kept(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    data = datalist(tmp_path, [one(tmp_path, f"c{n}", label * (n + 1.0), label) for n in range(3)])
    seen: list[tuple[int, int | None]] = []
    first = fingerprint(data, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)
    assert first.class_shares() == pytest.approx([56 / 64, 8 / 64, 0])
    assert first.class_cases() == [3, 3, 0]
    monkeypatch.setattr("medseg.data.fingerprint.measure_case", None)
    assert fingerprint(data) == first
    kept = next((own_cache / "fingerprint").iterdir())
    assert "c0" not in kept.read_text()  # names of cases may be those of patients
    kept.write_text("{")
    monkeypatch.undo()
    monkeypatch.setenv("MEDSEG_CACHE", str(own_cache))
    assert fingerprint(data) == first


def test_plain_values_come_back(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    label[1] = 2
    found = fingerprint(datalist(tmp_path, [one(tmp_path, "c", label * 1.5, label)]), cache=False)
    assert Fingerprint.of(json.loads(json.dumps(found.to_dict()))) == found


def test_quantiles_of_the_set_are_those_of_all_its_voxels(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    images = [draw.normal(size=(16, 16, 16)) * scale + shift for scale, shift in ((1, 0), (5, 10), (2, -7))]
    label = np.ones((16, 16, 16), np.uint8)
    entries = [one(tmp_path, f"c{n}", image, label) for n, image in enumerate(images)]
    spread = fingerprint(datalist(tmp_path, entries), cache=False).spread(0, foreground=True)
    whole = np.concatenate([image.ravel() for image in images])
    assert spread[0.0] == pytest.approx(whole.min())
    assert spread[1.0] == pytest.approx(whole.max())
    for share in (0.05, 0.5, 0.95):  # between quantiles that are kept values are taken as evenly spread
        assert abs(spread[share] - np.quantile(whole, share)) < 0.1 * whole.std(), share


def test_a_picture_among_volumes_is_refused_by_name(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    Image.fromarray(label[0]).save(tmp_path / "p.png")
    entries = [one(tmp_path, "c", label * 1.0, label), {"image": "p.png", "label": "p.png", "group": "p"}]
    with pytest.raises(
        DatalistError, match=r"p\.png is a picture, the first image is a volume; make a datalist for ea"
    ):
        fingerprint(datalist(tmp_path, entries), cache=False)


def test_a_fourth_channel_is_opacity_where_the_file_says_so(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (8, 9, 4), dtype=np.uint8)
    Image.fromarray((pixels[..., 0] > 99).astype(np.uint8)).save(tmp_path / "label.png")
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    stains = [str(tmp_path / f"stain_{number}.png") for number in range(4)]
    for number, path in enumerate(stains):
        Image.fromarray(pixels[..., number]).save(path)
    for image, alpha in ((str(tmp_path / "rgba.png"), True), (stains, False)):
        found = measure_case({"image": image, "label": str(tmp_path / "label.png")}, 2, 0)
        assert (found.channels, found.alpha, found.seen) == (4, alpha, 4 - alpha)


def test_mixed_channels_are_refused_by_name(tmp_path: Path) -> None:
    label = np.zeros((4, 4, 4), np.uint8)
    entries = [one(tmp_path, name, label * 1.0, label) for name in ("a", "b")]
    nibabel.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)).to_filename(tmp_path / "b.nii")
    with pytest.raises(DatalistError, match=r"b\.nii has 2 channels, most images have 1; leave it out"):
        fingerprint(datalist(tmp_path, entries), cache=False)


@pytest.mark.parametrize(
    ("image", "message"),
    [(np.zeros((4, 4, 3)), "label of 4 x 4 x 4 for an image of 4 x 4 x 3"), (np.full((4, 4, 4), np.nan), "not finite")],
)
def test_bad_cases_are_refused_by_name(tmp_path: Path, image: Any, message: str) -> None:
    entry = one(tmp_path, "c", image, np.ones((4, 4, 4), np.uint8))
    with pytest.raises(ImageError, match=message):
        fingerprint(datalist(tmp_path, [entry]), cache=False)


def test_nothing_labelled_is_said(tmp_path: Path) -> None:
    entry = one(tmp_path, "c", np.zeros((4, 4, 4)), np.ones((4, 4, 4), np.uint8))
    data = datalist(tmp_path, [entry])
    object.__setattr__(data, "training", [])
    with pytest.raises(DatalistError, match="no image has a label"):
        fingerprint(data)


def test_facts_hold_tuples_after_json() -> None:
    facts = CaseFacts((1, 2), None, "", 1, "uint8", False, ((0.0,),), (), (1,), (1,))
    assert CaseFacts.of(json.loads(json.dumps(facts.__dict__))) == facts


@pytest.mark.parametrize("shape", [(400, 400, 5), (512, 512, 8), (200, 200, 21), (1000, 1000, 1), (7, 400, 400)])
def test_quantiles_are_of_all_slices(shape: tuple[int, ...]) -> None:
    """With a step that is a multiple of the slices, those of the first slice stood for the whole volume."""
    draw = np.random.default_rng(0)
    image = draw.normal(100, 10, shape).astype(np.float32)
    image[..., 0] -= 1000 if shape[-1] > 1 else 0
    image[0] += 5
    (found,) = quantiles(image[None], None, "x")
    whole = np.quantile(image, QUANTILES)
    for place in (4, 5, 6, 7):
        assert found[place] == pytest.approx(whole[place], abs=1)
