import numpy as np
import pytest

from medseg.data.datalist import Datalist, DatalistError
from medseg.io.images import read_image
from medseg.releases.sections import Layout, Section, SectionSource, is_complete, remove_layout, write_layout

SOURCE = SectionSource("toy", "CC0-1.0", "here")
LAYOUT = Layout(sections=5, crop_size=8, folds=5)


def sections(count=5, shape=(16, 24)):
    rng = np.random.default_rng(0)
    for number in range(count):
        yield Section(number, rng.integers(0, 255, shape, dtype=np.uint8), rng.integers(0, 5, shape, dtype=np.uint8))


def test_layout(tmp_path):
    datalist = write_layout(sections(), tmp_path, SOURCE, LAYOUT)
    assert len(datalist.training) == 5 * 6
    assert datalist.training[7]["image"] == "images/01_0_1.png"
    assert datalist.training[7]["group"] == "section_01"
    again = list(sections())
    for entry in datalist.training:
        number, row, column = (int(part) for part in entry["image"][7:-4].split("_"))
        window = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        np.testing.assert_array_equal(read_image(tmp_path / entry["image"]).array, again[number].image[window])
        np.testing.assert_array_equal(read_image(tmp_path / entry["label"]).array, again[number].label[window])
        assert entry["fold"] == number
    whole = Datalist.load(tmp_path / "sections.json")
    assert whole.name == "toy_sections"
    assert [entry["fold"] for entry in whole.training] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(read_image(tmp_path / whole.training[2]["image"]).array, again[2].image)


def test_folds():
    layout = Layout(sections=20, folds=5)
    assert [layout.fold_of(number) for number in range(20)] == [n // 4 for n in range(20)]
    uneven = Layout(sections=7, folds=3)
    assert sorted({uneven.fold_of(number) for number in range(7)}) == [0, 1, 2]
    with pytest.raises(ValueError, match="folds is 1; with 20 sections give 2 to 20"):
        Layout(sections=20, folds=1)
    with pytest.raises(ValueError, match="crop_size is 0"):
        Layout(sections=20, crop_size=0)


def test_random_folds_depend_on_the_seed_alone(tmp_path):
    folds = [
        [e["fold_random"] for e in write_layout(sections(), tmp_path / name, SOURCE, layout).training]
        for name, layout in (("a", LAYOUT), ("b", LAYOUT), ("c", Layout(5, 8, 5, seed=1)))
    ]
    assert folds[0] == folds[1] != folds[2]
    assert np.bincount(folds[0]).tolist() == [6] * 5


def test_complete_or_not(tmp_path):
    assert not is_complete(tmp_path, LAYOUT)
    write_layout(sections(), tmp_path, SOURCE, LAYOUT)
    assert is_complete(tmp_path, LAYOUT)
    with pytest.raises(DatalistError, match=r"was prepared with .*'crop_size': 8.* choose another output"):
        is_complete(tmp_path, Layout(5, 4, 5))
    (tmp_path / "images/02_1_1.png").unlink()
    assert not is_complete(tmp_path, LAYOUT)
    (tmp_path / "notes.txt").write_text("mine")
    remove_layout(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes.txt"]


def test_bad_sections(tmp_path):
    with pytest.raises(ValueError, match="16x20 cannot be cut into whole crops of 8"):
        write_layout(sections(shape=(16, 20)), tmp_path, SOURCE, LAYOUT)
    zeros = np.zeros((16, 16), np.uint8)
    with pytest.raises(ValueError, match=r"label is \(8, 8\), image \(16, 16\)"):
        write_layout([Section(0, zeros, zeros[:8, :8])], tmp_path, SOURCE, LAYOUT)
    with pytest.raises(ValueError, match="label holds 7; classes end at 4"):
        write_layout([Section(0, zeros, zeros + 7)], tmp_path, SOURCE, LAYOUT)
    assert not (tmp_path / "datalist.json").exists()
