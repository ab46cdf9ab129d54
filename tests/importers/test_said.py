import pytest

from medseg.importers.layout import ImportingError
from medseg.importers.said import class_names, colour_table, read_colours, stored_values

RED = {"#ff0000": "lesion", "#000000": "background"}
BLACK = {"#000000": "background"}


def test_stored_values():
    assert stored_values(["255=1"]) == ({255: 1}, False)
    assert stored_values(["0=skin 1-3=lesion", "-1=ignore", "ascending"]) == (
        {0: "skin", 1: "lesion", 2: "lesion", 3: "lesion", -1: "ignore"},
        True,
    )
    for word in ("255", "a=1", "255=", "3-1=1", "0-99999=1"):
        with pytest.raises(ImportingError, match=rf"--values '{word}' is not VALUE=CLASS"):
            stored_values([word])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "name,r,g,b\nlesion,255,0,0\nbackground,0,0,0\n"),
        ("a.csv", "1,lesion,255,0,0\n0,background,0,0,0\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nlesion:255,0,0::\nbackground:0,0,0::\n"),
        ("a.json", '{"lesion": "#FF0000", "background": [0, 0, 0]}'),
        ("b.json", '{"#ff0000": "lesion", "#000000": "background"}'),
    ],
)
def test_colour_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_colours(tmp_path / name) == RED
    assert list(colour_table([str(tmp_path / name)]).values()) == ["lesion", "background"]


def test_colour_words():
    assert colour_table(["#FF0000=lesion #000000=background"]) == RED
    with pytest.raises(ImportingError, match=r"'#ff00=x' is neither #rrggbb=NAME nor a file"):
        colour_table(["#ff00=x"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,r,g,b\n", "names no colours"),
        ("a.csv", "x,1,2,256\n", "is no colour"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 100_000, "not valid JSON"),
        ("a.json", '{"x": "red"}', "'red' is no colour"),
    ],
)
def test_bad_colour_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportingError, match=message):
        read_colours(tmp_path / name)


def test_class_names(tmp_path):
    (tmp_path / "a.txt").write_text("__ignore__\n_background_\ntv/monitor")
    assert class_names(tmp_path / "a.txt") == ["background", "tv/monitor"]
    (tmp_path / "a.txt").write_text("a\na\n")
    with pytest.raises(ImportingError, match=r"holds no class name, or one twice"):
        class_names(tmp_path / "a.txt")
    with pytest.raises(ImportingError, match=r"none.txt: cannot be read"):
        class_names(tmp_path / "none.txt")


def test_a_comma_separates_values_and_may_be_in_a_name():
    assert stored_values(["0=skin,1=lesion"]) == ({0: "skin", 1: "lesion"}, False)
    assert stored_values(["0=liver, left lobe, 1-2=left kidney"]) == (
        {0: "liver, left lobe", 1: "left kidney", 2: "left kidney"},
        False,
    )
    assert stored_values(["255=ignore, ascending"]) == ({255: "ignore"}, True)
    with pytest.raises(ImportingError, match=r"'skin,lesion' is not VALUE=CLASS.*names .* go with --classes"):
        stored_values(["skin,lesion"])
    assert colour_table(["#ff0000=lesion, old,#000000=background"]) == {"#ff0000": "lesion, old", **BLACK}
