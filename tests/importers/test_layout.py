from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.importers.folder import Folder, stem_of
from medseg.importers.layout import ImportingError, layouts, recognise

HERE = Path(__file__).parent


def test_every_layout_is_one_file_and_has_a_test():
    known = layouts()
    assert len(known) >= 12
    for name, layout in known.items():
        assert layout.name == name
        assert layout.looks_for
        assert (HERE / "layouts" / f"test_{name}.py").is_file()


def test_two_layouts_are_refused_by_name(make):
    make.picture("a/JPEGImages/1.jpg", "b/1_leftImg8bit.png")
    make.label("a/SegmentationClass/1.png", "b/1_gtFine_labelIds.png")
    with pytest.raises(ImportingError) as error:
        recognise(Folder(make.root))
    assert "could be cityscapes (1 names end in _leftImg8bit.png, 1 in" in str(error.value)
    assert "say which with --as cityscapes or --as voc" in str(error.value)
    assert recognise(Folder(make.root), "voc")[0].name == "voc"


NONE = [
    (["a1.png", "b2.png"], "2 pictures found, no labels; put them beside the images, such as images/a.png and masks"),
    (["stage1_train.zip", "x.txt"], "1 archive found, no images; unpack stage1_train.zip first"),
    (["notes.txt"], "nothing found, no images; name the folder"),
    (
        ["ct.nii.gz", "seg_fast.nii.gz", "mr.nii"],
        "3 volumes found, 1 name as of labels, such as seg_fast.nii.gz, which",
    ),
    (
        ["masks/a.png", "masks/b.png", "a.json"],
        "2 pictures, 1 JSON or XML file found, all called as labels, such as a.",
    ),
    (
        [f"{n}/{place}.png" for n in "ab" for place in (f"images/{n}", "masks/1", "masks/2")],
        "6 pictures found, several masks for one image, as in a: merge them .*medseg data dsb2018",
    ),
]


@pytest.mark.parametrize(("files", "message"), NONE)
def test_none_says_what_was_found_and_what_is_missing(make, files, message):
    for name in files:
        make.text(name, "x")
    with pytest.raises(ImportingError, match=f"source: {message}") as error:
        recognise(Folder(make.root))
    said = str(error.value).removeprefix(str(make.root))
    assert len(said) < 300
    assert said.endswith("known layouts: medseg import --as list")


def test_slices_without_segmentation(make):
    for number in range(3):
        make.place(f"series/{number}.dcm").write_bytes(b"\0" * 128 + b"DICM")
    with pytest.raises(ImportingError, match=r"3 DICOM files found, no labels: none is a SEG or RTSTRUCT"):
        recognise(Folder(make.root))


def test_a_layout_that_is_not_there(make):
    make.picture("a.png")
    with pytest.raises(ImportingError, match=r"there is no layout 'vocc'; choose from bids, cityscapes"):
        recognise(Folder(make.root), "vocc")


def test_an_archive_is_to_be_unpacked(make):
    make.text("all.tar.gz", "x")
    with pytest.raises(MedsegError, match=r"all.tar.gz: is an archive; unpack it first"):
        Folder(make.root / "all.tar.gz")


def test_names_alone_count_only_without_a_mark(make):
    make.picture("images/1.png", "JPEGImages/1.jpg")
    make.label("masks/1.png", "SegmentationClass/1.png")
    assert recognise(Folder(make.root))[0].name == "voc"


def test_folder(make):
    make.picture("a.png", "sub/b.png", ".hidden/c.png")
    make.text("sub/notes.TXT", "hello")
    folder = Folder(make.root)
    assert list(map(folder.rel, folder.images)) == ["a.png", "sub/b.png"]
    assert list(map(folder.rel, folder.named("*.txt"))) == ["sub/notes.TXT"]
    assert folder.called("b.png") == [make.root / "sub/b.png"]
    assert folder.peek_json(make.root / "sub/notes.TXT") == {}
    assert list(map(folder.rel, Folder(make.root, [make.root / "sub"]).files)) == ["a.png"]
    assert stem_of(Path("a/b.nii.gz")) == "b"
    with pytest.raises(MedsegError, match=r"a.png: is a file; name the folder"):
        Folder(make.root / "a.png")
    with pytest.raises(MedsegError, match=r"no such folder; name one below .* with --labels"):
        folder.subfolder("none", "labels")
