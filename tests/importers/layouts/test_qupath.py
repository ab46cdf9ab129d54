import json

import pytest

from medseg.importers.layout import ImportingError
from medseg.io.images import read_image

OUTER = [[1, 1], [9, 1], [9, 9], [1, 9], [1, 1]]
HOLE = [[3, 3], [6, 3], [6, 6], [3, 6], [3, 3]]
ISLAND = [[4, 4], [5, 4], [5, 5], [4, 5], [4, 4]]


@pytest.fixture
def qupath(make):
    def write(*features, name="a.geojson", collected=True):
        make.picture("a.png")
        make.text(
            name, json.dumps({"type": "FeatureCollection", "features": features} if collected else list(features))
        )

    return write


def feature(kind, coordinates, name="Tumor", **more):
    classification = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {}
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": classification,
        **more,
    }


@pytest.mark.parametrize(("name", "collected"), [("a.geojson", True), ("a.png.geojson", False)])
def test_polygons_with_holes_and_islands(qupath, bring, left_out, name, collected):
    without = feature("Polygon", [OUTER], "")
    qupath(feature("MultiPolygon", [[OUTER, HOLE], [ISLAND]]), without, name=name, collected=collected)
    made = bring()
    assert made.found.layout == "qupath"
    assert (made.datalist.labels, made.datalist.colours) == ({0: "background", 1: "Tumor"}, {1: "#c80000"})
    found = read_image(made.datalist.absolute(made.datalist.training[0])["label"], label=True).array
    assert found.sum() == 64 - 9 + 1
    assert (found[4, 4], found[3, 3], found[2, 2], found[0, 0]) == (1, 0, 1, 0)
    assert made.found.notes == [f"{name}: 1 object without a classification not drawn"]
    assert left_out(made) == {}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (feature("LineString", [[1, 1], [2, 2]]), "is a LineString, which has no area"),
        (feature("Polygon", [[["a", 1]]]), "its coordinates are no pairs"),
        ({"type": "Feature"}, "holds no GeoJSON features"),
    ],
)
def test_bad_features(qupath, bring, bad, message):
    qupath(bad)
    with pytest.raises(ImportingError, match=message):
        bring()


def test_no_json(qupath, make, bring):
    qupath()
    make.text("a.geojson", "{")
    with pytest.raises(ImportingError, match=r"a.geojson: not valid JSON"):
        bring()


def test_two_pictures_of_one_name(qupath, make, bring, left_out):
    """Which of them was drawn on, the file does not say; the last one was taken without a word."""
    square = feature("Polygon", [OUTER])
    qupath(square)
    make.picture("a.bmp")
    qupath(square, name="b.geojson")
    make.picture("b.png")
    made = bring()
    assert [case.name for case in made.found.cases] == ["b"]
    assert left_out(made)["a.geojson"] == "called as a.bmp, a.png; call it as one of them with its suffix"
    (make.root / "a.geojson").rename(make.root / "a.png.geojson")
    assert [entry["image"] for entry in bring(output="two").datalist.training] == ["../source/a.png", "../source/b.png"]


def test_what_qupath_ignores_counts_nowhere(qupath, bring):
    """It was a class to learn; an object on it stays."""
    qupath(feature("Polygon", [OUTER], "Ignore*"), feature("Polygon", [HOLE]))
    made = bring()
    assert (made.datalist.labels, made.datalist.ignore_index) == ({0: "background", 1: "Tumor"}, 255)
    found = read_image(made.datalist.absolute(made.datalist.training[0])["label"], label=True).array
    assert (found[1, 1], found[4, 4], found[0, 0]) == (255, 1, 0)
