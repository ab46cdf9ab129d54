import json
import shutil

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.data import file_facts
from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, DatalistError
from medseg.io.images import read_image


def pixels(seed, shape=(16, 24)):
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


class DataSet:
    """Eight good pairs in four groups, two groups a fold; tests spoil them."""

    def __init__(self, folder):
        self.folder = folder
        self.training = []
        self.validation = []
        self.test = []
        self.ignore_index = 255
        for n in range(8):
            self.add(f"i{n}.png", f"l{n}.png", group=f"g{n // 2}", fold=n // 4)
            Image.fromarray(pixels(n)).save(folder / f"i{n}.png")
            Image.fromarray(pixels(100 + n) % 3).save(folder / f"l{n}.png")

    def add(self, image, label, split="training", **more):
        getattr(self, split).append({"image": image, "label": label, **more})

    def put(self, name, array):
        if name.endswith(".tif"):
            tifffile.imwrite(self.folder / name, array)
        else:
            Image.fromarray(array).save(self.folder / name)

    def save(self):
        return Datalist(
            name="toy",
            version=1,
            modality=("EM",),
            licence="CC0-1.0",
            source="here",
            labels={0: "back", 1: "cell", 2: "rim"},
            training=self.training,
            validation=self.validation,
            test=self.test,
            ignore_index=self.ignore_index,
            path=self.folder / "datalist.json",
        ).save()

    def check(self, **options):
        return check_datalist(self.save(), **options)


@pytest.fixture
def data(tmp_path):
    return DataSet(tmp_path)


def only(report, code, severity="error"):
    """The single finding of a report, of this kind."""
    assert [(finding.code, finding.severity) for finding in report.findings] == [(code, severity)]
    return report.findings[0]


def test_good(data):
    report = data.check()
    assert report.ok
    assert report.findings == ()
    assert (report.files, report.files_read) == (16, 16)
    report.raise_for_errors()


def test_missing(data):
    (data.folder / "l3.png").unlink()
    finding = only(data.check(), "missing-file")
    assert "l3.png: no such file, but training[3] names it as label" in finding.message
    assert finding.files == (str(data.folder / "l3.png"),)


def test_a_header_whose_values_are_gone(data):
    """It was told as a missing header, which is there."""
    header = "NDims = 2\nDimSize = 24 16\nElementType = MET_UCHAR\nElementDataFile = gone.raw\n"
    (data.folder / "i9.mhd").write_text(header)
    data.training[2]["image"] = "i9.mhd"
    message = only(data.check(), "unreadable-file").message
    assert message.startswith(f"{data.folder / 'i9.mhd'}: takes its values from gone.raw, and there is no such file")


def test_unreadable(data):
    path = data.folder / "i2.png"
    path.write_bytes(path.read_bytes()[:100])
    assert only(data.check(), "unreadable-file").message.startswith(f"{path}: ends too early")


def test_shape_mismatch(data):
    data.put("l1.png", pixels(1, (32, 48)) % 3)
    finding = only(data.check(), "shape-mismatch")
    assert "l1.png: label is 32x48, but its image i1.png is 16x24" in finding.message


def test_label_value(data):
    label = pixels(1) % 3
    label[0, :3] = (7, 9, 255)
    data.put("l1.png", label)
    finding = only(data.check(), "label-value")
    assert "l1.png: label holds values 7, 9, but the datalist names 3 classes (0-2) and the ignore label 255" in (
        finding.message
    )
    data.ignore_index = None
    assert "values 7, 9, 255, but the datalist names 3 classes (0-2);" in only(data.check(), "label-value").message


def test_negative_label(data):
    data.put("l1.tif", (pixels(1) % 3).astype(np.int16) - 1)
    data.training[1]["label"] = "l1.tif"
    assert "holds value -1," in only(data.check(), "label-value").message


def test_palette_label_is_indices_and_colour_label_is_refused(data):
    palette = Image.fromarray(pixels(1) % 3)
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    palette.save(data.folder / "l1.png")
    assert data.check().findings == ()
    palette.convert("RGB").save(data.folder / "l1.png")
    assert "label with 3 channels" in only(data.check(), "label-channels").message


def test_fractional_label(data):
    data.put("l1.tif", (pixels(1) % 3).astype(np.float32) + 0.5)
    data.training[1]["label"] = "l1.tif"
    assert "l1.tif: label holds values that are not integers" in only(data.check(), "label-not-integer").message
    data.put("l1.tif", (pixels(1) % 3).astype(np.float32))
    assert data.check().findings == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(data, value):
    image = pixels(1).astype(np.float32)
    image[2, :3] = value
    data.put("i1.tif", image)
    data.training[1]["image"] = "i1.tif"
    assert "i1.tif: holds 3 values of NaN or infinity" in only(data.check(), "not-finite").message
    data.training[1].update(image="i1.png", label="i1.tif")
    assert "3 NaN or infinite values" in only(data.check(), "label-not-integer").message


def test_empty_and_single_class_labels(data):
    data.put("l1.png", np.full((16, 24), 255, np.uint8))
    assert "l1.png: every pixel has the ignore label" in only(data.check(), "empty-label", "warning").message
    data.put("l1.png", np.full((16, 24), 1, np.uint8))
    assert "l1.png: holds only class 1 (cell)" in only(data.check(), "single-class-label", "warning").message


def test_absent_class(data):
    for n in range(8):
        data.put(f"l{n}.png", pixels(n) % 2)
    assert "no label holds class 2 (rim)" in only(data.check(), "absent-class", "warning").message


def test_one_class_alone_cannot_be_learned(data):
    for n in range(8):
        data.put(f"l{n}.png", np.zeros((16, 24), np.uint8))
    plain, for_network = (
        {(found.code, found.severity, found.message) for found in report.findings if found.code != "single-class-label"}
        for report in (data.check(), data.check(num_classes=3))
    )
    ((code, severity, message),) = plain
    assert (code, severity) == ("one-class", "warning")  # masks of nothing may well be scored
    assert message.endswith("datalist.json: no label holds anything but 0 (back); there is nothing to learn")
    assert for_network == {(code, "error", message)}


def test_group_on_both_sides_of_folds(data):
    data.training[2]["fold"] = 1
    finding = only(data.check(), "group-on-both-sides")
    assert "group 'g1' is on both sides of a split (fold 0, 1" in finding.message
    assert {path.rsplit("/", 1)[1] for path in finding.files} == {"i2.png", "i3.png"}


def test_groups_that_are_spelled_alike_on_both_sides(data):
    before = data.training[0]["group"], data.training[0]["fold"]
    other = next(entry for entry in data.training if entry["fold"] != before[1])
    for entry in data.training:
        if entry["group"] == other["group"] != before[0]:
            entry["group"] = before[0].upper().replace("G", "G_0")
    finding = only(data.check(), "groups-spelled-alike", "warning")
    assert "groups 'G_00' and 'g0' are on different sides of a split (fold; " in finding.message


def test_group_by_another_scheme_and_in_lists(data):
    for n, entry in enumerate(data.training):
        entry["fold_random"] = n % 2
    assert data.check().ok
    report = data.check(fold_keys=["fold_random"])
    assert [finding.code for finding in report.errors] == ["group-on-both-sides"] * 4
    with pytest.raises(DatalistError, match="no fold scheme 'fold_site'; it has fold, fold_random"):
        data.check(fold_keys=["fold_site"])
    data.test.append(data.training.pop(7))
    finding = only(data.check(), "group-on-both-sides")
    assert "the lists test, training" in finding.message


def test_datalist_without_folds(data):
    for entry in data.training:
        del entry["fold"]
    assert data.check(fold_keys=["fold"]).ok
    with pytest.raises(DatalistError, match="carry no folds"):
        data.check(fold_keys=["fold_random"])


def test_duplicates(data):
    shutil.copy(data.folder / "i0.png", data.folder / "i1.png")
    assert "same content as" in only(data.check(), "duplicate-image", "warning").message
    shutil.copy(data.folder / "i0.png", data.folder / "i7.png")
    finding = only(data.check(), "duplicate-image")
    assert "on both sides of a split (folds 0, 1)" in finding.message
    assert len(finding.files) == 3


@pytest.mark.parametrize("suffix", ["png", "nii"])
def test_duplicates_saved_anew(data, suffix):
    """An image that is compressed, named or typed anew is still the same one, on both sides of a split."""
    if suffix == "png":
        Image.open(data.folder / "i0.png").save(data.folder / "i7.png", compress_level=0)
    else:
        values = np.random.default_rng(0).integers(0, 200, (16, 16, 4)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), data.folder / "i0.nii")
        nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), np.eye(4)), data.folder / "i7.nii.gz")
        data.training[0]["image"], data.training[7]["image"] = "i0.nii", "i7.nii.gz"
    (finding,) = [found for found in data.check().findings if found.code == "duplicate-image"]
    assert "on both sides of a split (folds 0, 1)" in finding.message
    assert len(finding.files) == 2


def test_listed_twice(data):
    data.training[1]["image"] = "i0.png"
    assert "i0.png: is the image of training[0], training[1]" in only(data.check(), "listed-twice").message
    data.training[1].update(image="i1.png", label="l0.png")
    assert "l0.png: is the label of 2 images" in only(data.check(), "label-used-twice").message


def test_label_is_image(data):
    data.put("l1.png", pixels(1) % 3)
    data.training[1]["image"] = "l1.png"
    assert "image and as label" in only(data.check(), "label-is-image").message


def test_mixed_channels(data):
    Image.fromarray(pixels(1, (16, 24, 3))).save(data.folder / "i1.png")
    finding = only(data.check(), "mixed-channels")
    assert "images differ in channels: 1 in 7 images; 3 in 1 image (unlike most: " in finding.message
    assert finding.files == (str(data.folder / "i1.png"),)


def test_palette_image(data):
    palette = Image.fromarray(pixels(1)).convert("P")
    palette.save(data.folder / "i1.png")
    assert [f.code for f in data.check().findings] == ["mixed-channels", "palette-image"]


def test_requirements(data):
    assert data.check(in_channels=1, num_classes=3, roi_size=(16, 24)).ok
    report = data.check(in_channels=3)
    finding = only(report, "wrong-channels")
    assert "i0.png and 7 more images: have 1 channel, but the network takes 3; convert them or set" in finding.message
    assert len(finding.files) == 8
    assert "names 3 classes, but the network gives 5" in only(data.check(num_classes=5), "wrong-classes").message
    data.put("i1.png", pixels(1, (16, 12)))
    data.put("l1.png", pixels(2, (16, 12)) % 3)
    data.ignore_index = None
    finding = only(data.check(roi_size=(16, 16)), "smaller-than-window")
    assert "i1.png: 16x12 is smaller than the window 16x16, and without an ignore label padded" in finding.message
    assert "take a smaller roi_size, set the datalist's ignore_index, pad the image or leave it out" in finding.message
    assert only(data.check(roi_size=(16, 16), allow_smaller=True), "smaller-than-window", "warning")
    assert data.check(roi_size=(16, -1)).ok
    finding = only(data.check(roi_size=(8, 8, 8)), "wrong-dimensions")
    assert "i0.png and 7 more images: have 2 spatial axes (16x24), but the window 8x8x8 has 3" in finding.message


def nifti(path, array, spacing):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1])), path)


def test_nifti_spacing(data):
    data.training = []
    for n in range(3):
        nifti(data.folder / f"i{n}.nii.gz", pixels(n, (6, 7, 8)), (1, 1, 2))
        nifti(data.folder / f"l{n}.nii.gz", pixels(9 + n, (6, 7, 8)) % 3, (1, 1, 2))
        data.add(f"i{n}.nii.gz", f"l{n}.nii.gz")
    assert data.check(roi_size=(4, 4, 4)).findings == ()
    nifti(data.folder / "l1.nii.gz", pixels(9, (6, 7, 8)) % 3, (1, 1, 3))
    assert "origin (0, 0, 0) mm, spacing 1 x 1 x 3; image RAS" in only(data.check(), "geometry-mismatch").message
    nifti(data.folder / "i1.nii.gz", pixels(1, (6, 7, 8)), (1, 1, 3))
    finding = only(data.check(), "mixed-spacing", "warning")
    assert "1 x 1 x 2 in 2 images; 1 x 1 x 3 in 1 image" in finding.message


def test_mixed_dimensions(data):
    nifti(data.folder / "i9.nii", pixels(1, (6, 7, 8)), (1, 1, 2))
    nifti(data.folder / "l9.nii", pixels(2, (6, 7, 8)) % 3, (1, 1, 2))
    data.add("i9.nii", "l9.nii", fold=0)
    assert only(data.check(), "mixed-dimensions").files == (str(data.folder / "i9.nii"),)


def test_second_check_reads_nothing(data, monkeypatch):
    steps = []
    first = data.check(progress=lambda done, total: steps.append((done, total)))
    assert steps == [(n, 16) for n in range(17)]
    reads = []
    real = file_facts.read_image
    monkeypatch.setattr(file_facts, "read_image", lambda *a, **k: reads.append(a) or real(*a, **k))
    second = data.check()
    assert (second.files_read, reads, second.findings) == (0, [], first.findings)
    data.put("l3.png", np.full((16, 24), 9, np.uint8))
    assert "l3.png" in only(data.check(), "label-value").message
    assert [path.name for (path,) in reads] == ["l3.png"]
    assert data.check(cache=False).files_read == 16


def test_unreadable_files_are_read_again(data):
    path = data.folder / "i2.png"
    path.write_bytes(path.read_bytes()[:100])
    data.check()
    assert data.check().files_read == 1


def test_damaged_and_unwritable_caches_are_reported(data, own_cache, caplog):
    data.check()
    (cache,) = (own_cache / "check").iterdir()
    cache.write_text(json.dumps({"version": file_facts.CHECKER_VERSION, "files": {"a": {"nonsense": 1}}}))
    assert data.check().files_read == 16
    assert "damaged cache" in caplog.text
    shutil.rmtree(own_cache)
    own_cache.write_text("a file, not a folder")
    assert data.check().ok
    assert "cannot keep what was found of the data" in caplog.text
    assert data.check(workers=1).errors == []
    assert caplog.text.count("cannot keep what was found of the data") == 1


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MEDSEG_CACHE", "/somewhere")
    assert str(file_facts.cache_folder()) == "/somewhere"
    monkeypatch.delenv("MEDSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert file_facts.cache_folder() == tmp_path / "medseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert file_facts.cache_folder() == tmp_path / ".cache" / "medseg"


def test_raise_and_json(data):
    for n in range(6):
        (data.folder / f"i{n}.png").unlink()
        (data.folder / f"l{n}.png").unlink()
    report = data.check()
    with pytest.raises(DatalistError) as error:
        report.raise_for_errors()
    lines = str(error.value).splitlines()
    assert lines[0] == f"{data.folder / 'datalist.json'}: 12 errors in the data"
    assert lines[1].startswith("  missing-file: ")
    assert len(lines) == 12
    assert lines[-1].startswith("  ... and 2 more; `medseg check ")
    plain = json.loads(json.dumps(report.to_dict()))
    assert (plain["ok"], plain["errors"], plain["files"]) == (False, 12, 4)
    assert plain["findings"][0]["files"] == [str(data.folder / "i0.png")]


def test_folders_of_one_image_are_channels_and_a_spread_series_is_told_apart(tmp_path, real_data):
    series = real_data / "dicom_mr_hippocrop" / "study1"
    for name in ("t1", "t2"):
        shutil.copytree(series, tmp_path / name)
    for number, file in enumerate(sorted(series.iterdir())):
        half = tmp_path / ("first" if number % 2 else "second")
        half.mkdir(exist_ok=True)
        shutil.copy(file, half)
    image = read_image(series)
    label = np.zeros(image.shape, np.uint8)
    label[:9] = 1
    nibabel.Nifti1Image(label, image.affine).to_filename(tmp_path / "l.nii.gz")
    content = {"name": "x", "labels": {"0": "a", "1": "b"}, "modality": {"0": "T1", "1": "T2"}, "test": []}
    told = {}
    for folders in (["t1", "t2"], ["first", "second"]):
        entry = {"image": folders, "label": "l.nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps({**content, "training": [entry]}))
        told[folders[0]] = [each.message for each in check_datalist(tmp_path / "dataset.json", in_channels=2).errors]
    assert told["t1"] == []
    assert len(told["first"]) == 1
    assert "each of the 2 folders is a channel; of a series that is spread over them, put all files" in told["first"][0]
