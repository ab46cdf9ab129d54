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


def test_none_says_what_was_looked_for(make):
    make.picture("a.png")
    with pytest.raises(
        ImportingError,
        match=r"no layout that is known \(bids: dataset_description.json and masks .*voc: .* with --image-suffix",
    ):
        recognise(Folder(make.root))
    with pytest.raises(ImportingError, match=r"there is no layout 'vocc'; choose from bids, cityscapes"):
        recognise(Folder(make.root), "vocc")


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
