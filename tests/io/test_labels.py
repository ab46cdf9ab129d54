import time

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.class_weights import count_pixels
from medseg.data.datalist import Datalist
from medseg.data.file_facts import measure
from medseg.errors import MedsegError
from medseg.io.images import ImageError
from medseg.io.labels import map_values, read_label
from medseg.io.load import LoadImagesd

DTYPES = ("bool", "u1", "i1", "<u2", ">u2", "<i2", ">i2", "<u4", "i4", "u8", ">i8", "f2", "<f4", ">f4", "f8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_against_a_loop(dtype):
    mapping = {0: 1, 1: 0} if dtype == "bool" else {0: 1, 3: 0, 100: 2}
    stored = np.random.default_rng(0).choice(list(mapping), (5, 6, 3)).astype(dtype)
    mapped = map_values(stored, mapping, "a.png")
    assert mapped.dtype == np.uint8
    assert mapped.tolist() == [[[mapping[int(v)] for v in row] for row in plane] for plane in stored]
    if dtype != "bool":
        with pytest.raises(
            ImageError, match=r'^a\.png: label holds value 0, which "values" .* does not name \(3, 100\)'
        ):
            map_values(stored, {3: 0, 100: 2}, "a.png")


def test_results_beyond_a_byte():
    mapped = map_values(np.array([[0, 9]], np.uint8), {0: -1, 9: 300}, "a")
    assert (mapped.dtype, mapped.tolist()) == (np.int32, [[-1, 300]])


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.array([255.0, 254.5]), "254.5"),
        (np.array([255.0, 254.999]), "254.999"),
        (np.array([255.0, np.nan]), "nan"),
        (np.array([0.0, -np.inf]), "-inf"),
        (np.array([0.0, 1e300]), "1e\\+300"),
        (np.array([2**64 - 1], np.uint64), str(2**64 - 1)),
        (np.array([2**63], np.uint64), str(2**63)),
        (np.array([-1], np.int8), "-1"),
        (np.array([256 + 255], np.uint16), "511"),
        (np.array([2**32 + 255]), str(2**32 + 255)),
    ],
)
def test_near_misses_are_no_hits(values, found):
    """Nothing wraps, rounds or truncates into a value that is named."""
    with pytest.raises(ImageError, match=f"label holds value {found},"):
        map_values(values, {0: 0, 255: 1}, "a.tif")


def test_rounding_of_float_files_is_forgiven():
    assert map_values(np.array([254.99995, -0.00001], np.float32), {0: 0, 255: 1}, "a").tolist() == [1, 0]


def test_many_wrong_values_make_a_short_message():
    with pytest.raises(ImageError) as caught:
        map_values(np.arange(100_000), dict.fromkeys(range(50_000), 0), "a\nb.tif")
    assert str(caught.value).startswith(
        "a\\nb.tif: label holds values 50000, 50001, 50002, 50003, 50004 and 49995 more"
    )
    assert len(str(caught.value)) < 300


def test_many_values_are_linear():
    stored = np.random.default_rng(0).integers(0, 70_000, (512, 512, 8))
    start = time.perf_counter()
    mapped = map_values(stored, {n: n % 256 for n in range(70_000)}, "a")
    assert time.perf_counter() - start < 10
    assert np.array_equal(mapped, stored % 256)


@pytest.fixture
def masks(tmp_path):
    """Two images, one mask of 0 and 255 as PNG, one as NIfTI, and their datalist's content."""
    mask = np.zeros((6, 8), np.uint8)
    mask[1:3] = 255
    Image.fromarray(mask).save(tmp_path / "l0.png")
    Image.fromarray(255 - mask).save(tmp_path / "l1.png")
    for n in range(2):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (6, 8), dtype=np.uint8)).save(tmp_path / f"i{n}.png")
    return {
        "name": "masks", "version": 1, "modality": ("photograph",), "licence": "CC0-1.0", "source": "tests",
        "labels": {0: "back", 1: "front"}, "path": tmp_path / "datalist.json",
        "training": [{"image": f"i{n}.png", "label": f"l{n}.png"} for n in range(2)],
    }  # fmt: skip


def test_check_names_the_one_option(masks, tmp_path):
    with pytest.raises(MedsegError, match="label-value") as caught:
        check_datalist(Datalist(**masks)).raise_for_errors()
    assert 'add "values": {"0": 0, "255": 1} to the datalist' in str(caught.value)
    report = check_datalist(Datalist(**masks, values={0: 0, 255: 1}))
    assert (report.ok, report.files_read) == (True, 2)  # images come from the cache, labels are read anew
    assert check_datalist(Datalist(**masks, values={0: 0, 255: 1})).files_read == 0
    (finding, other) = check_datalist(Datalist(**masks, values={0: 0})).errors
    assert f'{tmp_path / "l0.png"}: label holds value 255, which "values" of the datalist does not' in finding.message
    assert "l1.png" in other.message


def test_one_mapping_for_all_who_read_labels(masks):
    datalist = Datalist(**masks, values={0: 0, 255: 1})
    entry = datalist.split()[0][0]
    expected = np.zeros((6, 8), int)
    expected[1:3] = 1
    assert np.array_equal(read_label(entry).array, expected)
    assert np.array_equal(read_label({**entry, "instances": entry["label"]}, "instances").array, expected * 255)
    loaded = LoadImagesd(keys=["image", "label"])(entry)
    assert np.array_equal(loaded["label"][0].numpy(), expected)
    assert loaded["image"].max() > 1
    assert count_pixels([entry], 2).tolist() == [[32, 16]]
    assert measure(datalist.root / "l0.png", label=True, mapping=datalist.values).values == (0, 1)
    for reader in (lambda e: count_pixels([e], 2), LoadImagesd(keys=["label"]), read_label):
        with pytest.raises(MedsegError, match="does not name"):
            reader(Datalist(**masks, values={0: 0}).absolute(masks["training"][0]))


def test_volumes(tmp_path):
    volume = np.zeros((4, 5, 6), np.int16)
    volume[1] = 255
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2.0, 1.0, 1.0, 1.0])), tmp_path / "a.nii.gz")
    loaded = LoadImagesd(keys=["label"])({"label": str(tmp_path / "a.nii.gz"), "label_values": {0: 0, 255: 1}})["label"]
    assert np.array_equal(loaded[0].numpy(), volume // 255)
    assert np.allclose(np.abs(np.diag(loaded.affine)), [2, 1, 1, 1])
