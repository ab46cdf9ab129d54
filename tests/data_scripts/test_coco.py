import json
import shutil

import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist

SIZE = (40, 50)
# COCO's identities of the 20 kinds, in the order of VOC's classes 1 to 20
COCO_IDS = [5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72]
COCO_NAMES = (
    *("airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
    *("horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv"),
)
VOC_NAMES = [
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]
PERSON, DOG, BANANA = 1, 18, 52


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("coco")


def box(top, left, bottom, right):
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(mask):
    """Encode a mask by counting, column by column."""
    counts, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"counts": counts, "size": list(mask.shape)}


def annotation(image, category, segmentation, crowd=0):
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


def crowd_mask():
    mask = np.zeros(SIZE, bool)
    mask[5:35, 20:45] = True
    return mask


ANNOTATIONS = {
    1: [
        annotation(1, DOG, box(0, 0, 10, 10)),
        annotation(1, PERSON, box(2, 2, 6, 7)),
        annotation(1, BANANA, box(20, 0, 30, 10)),
        annotation(1, PERSON, box(10, 25, 20, 35)),
        annotation(1, PERSON, runs(crowd_mask()), crowd=1),
        annotation(1, BANANA, runs(~crowd_mask()), crowd=1),
    ],
    2: [annotation(2, 3, box(5, 5, 25, 25) + box(30, 30, 40, 60))],
    3: [annotation(3, BANANA, box(0, 0, 40, 50))],
    4: [annotation(4, 72, box(0, 0, 39, 49))],
    5: [],
}


def make_release(folder):
    rng = np.random.default_rng(0)
    categories = [{"id": index, "name": name} for index, name in zip(COCO_IDS, COCO_NAMES, strict=True)]
    categories.append({"id": BANANA, "name": "banana"})
    for name, numbers in (("train2017", (1, 2, 3)), ("val2017", (4, 5))):
        (folder / name).mkdir(parents=True)
        images, annotations = [], []
        for number in numbers:
            file = f"{number:012d}.jpg"
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(folder / name / file)
            images.append({"id": number, "file_name": file, "height": SIZE[0], "width": SIZE[1]})
            annotations += [{**item, "id": 100 * number + n} for n, item in enumerate(ANNOTATIONS[number])]
        content = {"images": images[::-1], "annotations": annotations, "categories": categories}
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/instances_{name}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def release(tmp_path):
    return make_release(tmp_path / "coco")


def run(script, source, output, *more):
    sources = source if isinstance(source, list) else [source]
    return script.main(["--source", *map(str, sources), "--output", str(output), "--allow-partial", *more])


def pixels(path):
    return np.asarray(Image.open(path))


def crosses(polygon, x, y):
    """Even-odd rule for one point, by counting the edges to its right."""
    corners = list(zip(polygon[::2], polygon[1::2], strict=True))
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def test_polygons_cover_pixel_centres(script):
    rng = np.random.default_rng(0)
    for corners in (3, 4, 7):
        polygon = (rng.random(2 * corners) * 30 - 4).tolist()
        other = (rng.random(6) * 24).tolist()
        expected = [
            [any(crosses(shape, x + 0.5, y + 0.5) for shape in (polygon, other)) for x in range(25)] for y in range(21)
        ]
        found = script.fill_polygons([polygon, other], (21, 25), "here")
        np.testing.assert_array_equal(found, expected)
        assert found.any()
        assert not found.all()
    assert not script.fill_polygons([[1, 1, 5, 5]], (9, 9), "here").any(), "two points enclose nothing"


def test_boxes_are_exact(script):
    expected = np.zeros((8, 12), bool)
    expected[2:5, 3:9] = True
    np.testing.assert_array_equal(script.fill_polygons(box(2, 3, 5, 9), (8, 12), "here"), expected)
    assert script.fill_polygons(box(-5, -5, 50, 50), (8, 12), "here").all()


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths(script, seed):
    mask = np.random.default_rng(seed).random((7, 9)) < 0.5
    mask[0, 0] = seed == 1
    np.testing.assert_array_equal(script.decode_rle(runs(mask), (7, 9), "here"), mask)


def as_the_author_draws(items, shape):
    """The author's rule: kinds by fixed numbers, each object only where nothing lies yet, crowds like any other."""
    label = np.zeros(shape, np.uint8)
    for item in items:
        if item["category_id"] not in COCO_IDS:
            continue
        if item["iscrowd"]:
            mask = crowd_mask()
        else:
            mask = np.zeros(shape, bool)
            for left, top, _, _, right, bottom, _, _ in item["segmentation"]:
                mask[top:bottom, left:right] = True
        label += (label == 0) * mask * np.uint8(COCO_IDS.index(item["category_id"]) + 1)
    return label


def test_classes_overlaps_and_crowds(script, release, tmp_path, capsys):
    assert run(script, release, tmp_path / "out", "--min-pixels", "1") == 0
    said = capsys.readouterr().out
    assert "3 of 118287 training and 2 of 5000 validation images, of which 2 and 1 have 1 pixels or more" in said
    datalist = Datalist.load(tmp_path / "out/datalist.json")
    assert datalist.class_names == VOC_NAMES
    assert datalist.ignore_index == 255
    assert [entry["group"] for entry in datalist.training] == ["000000000001", "000000000002"]
    assert [entry["group"] for entry in datalist.validation] == ["000000000004"]
    first = pixels(tmp_path / "out/labels/000000000001.png")
    np.testing.assert_array_equal(first, as_the_author_draws(ANNOTATIONS[1], SIZE))
    assert (first[2:6, 2:7] == 12).all(), "the dog comes first, the person on it is hidden"
    assert first[34, 44] == 15, "a crowd is drawn"
    second = np.zeros(SIZE, np.uint8)
    second[5:25, 5:25] = second[30:40, 30:50] = 7
    np.testing.assert_array_equal(pixels(tmp_path / "out/labels/000000000002.png"), second)
    image = tmp_path / "out" / datalist.training[0]["image"]
    assert image.samefile(release / "train2017/000000000001.jpg")
    assert len(list((tmp_path / "out/images").iterdir())) == 3, "images that are left out leave nothing"
    assert check_datalist(datalist, in_channels=3, num_classes=21, roi_size=SIZE).errors == []


def test_every_kind_has_its_class(script, release, tmp_path):
    path = release / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    cells = [(4 * (n // 5), 4 * (n % 5)) for n in range(20)]
    content["annotations"] = [
        {**annotation(4, kind, box(top, left, top + 4, left + 4)), "id": kind}
        for kind, (top, left) in zip(COCO_IDS, cells, strict=True)
    ]
    path.write_text(json.dumps(content))
    assert run(script, release, tmp_path / "out", "--min-pixels", "320") == 0
    label = pixels(tmp_path / "out/labels/000000000004.png")
    for index, (top, left) in enumerate(cells, start=1):
        np.testing.assert_array_equal(label[top : top + 4, left : left + 4], index)


def test_least_number_of_pixels(script, release, tmp_path, capsys):
    for least, kept in (("0", (3, 2)), ("600", (2, 1)), ("601", (1, 1)), ("851", (0, 1))):
        assert run(script, release, tmp_path / "out", "--min-pixels", least, "--overwrite") == 0
        datalist = Datalist.load(tmp_path / "out/datalist.json")
        assert (len(datalist.training), len(datalist.validation)) == kept
        assert len(list((tmp_path / "out/images").iterdir())) == sum(kept)
    assert script.parser().parse_args(["--source", ".", "--output", "."]).min_pixels == 1001, "more than 1,000"
    assert run(script, release, tmp_path / "out") == 1
    assert "choose another output folder or overwrite" in capsys.readouterr().err
    assert run(script, release, tmp_path / "none", "--min-pixels", "2000") == 1
    assert "no image has 2000 pixels of the 20 classes; lower --min-pixels" in capsys.readouterr().err
    assert run(script, release, tmp_path / "none", "--min-pixels", "-1") == 1
    assert "--min-pixels is -1; give a number" in capsys.readouterr().err


def test_official_counts(script, release, tmp_path, capsys, monkeypatch):
    assert script.OFFICIAL == {"training": 118287, "validation": 5000}
    arguments = ["--source", str(release), "--output", str(tmp_path / "out")]
    assert script.main(arguments) == 1
    assert "has 3 of 118287 training and 2 of 5000 validation images; complete it" in capsys.readouterr().err
    monkeypatch.setattr(script, "OFFICIAL", {"training": 3, "validation": 2})
    assert script.main(arguments) == 0
    assert "3 training and 2 validation images, of which 0 and 1 have 1001" in capsys.readouterr().out
    assert script.main(["--source", "/nowhere", "--output", str(tmp_path / "out")]) == 0
    assert "complete already" in capsys.readouterr().out


def change_json(change):
    def damage(folder):
        path = folder / "annotations/instances_train2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def segment(value):
    return change_json(lambda content: content["annotations"][0].update(segmentation=value))


def resize(folder):
    Image.new("RGB", (30, 20)).save(folder / "train2017/000000000001.jpg")


@pytest.mark.parametrize(
    ("damage", "place", "message"),
    [
        (segment([[1, 2, 3, 4, 5]]), "json: annotation 100", "pairs x, y of finite numbers"),
        (segment([[1, 2, 3, 4, 5, float("nan")]]), "json: annotation 100", "pairs x, y of finite numbers"),
        (segment([["a", 2]]), "json: annotation 100", "must be a list of numbers"),
        (segment("text"), "json: annotation 100", "its segmentation is text, not polygons or run lengths"),
        (segment({"counts": "PPYo0", "size": list(SIZE)}), "json: annotation 100", "run lengths do not fill 40x50"),
        (segment({"counts": [2000], "size": [50, 40]}), "json: annotation 100", "for the size [50, 40], but the image"),
        (segment({"counts": [1999], "size": list(SIZE)}), "json: annotation 100", "do not fill 40x50 pixels"),
        (segment({"counts": [2001, -1], "size": list(SIZE)}), "json: annotation 100", "do not fill 40x50 pixels"),
        (segment(None), "instances_train2017.json", "annotations[0] lacks 'segmentation', or of another type"),
        (
            change_json(lambda content: content.pop("categories")),
            "instances_train2017.json",
            "lacks the list 'categories'; take the instances",
        ),
        (
            change_json(lambda content: content["categories"].pop(0)),
            "instances_train2017.json",
            "has no category 'airplane'; take instances",
        ),
        (
            change_json(lambda content: content["images"][0].update(file_name="../val2017/000000000004.jpg")),
            "instances_train2017.json",
            "which leads elsewhere",
        ),
        (
            change_json(lambda content: content["images"].pop()),
            "json: annotation 100",
            "is of image 1, which the file does not list",
        ),
        (
            lambda folder: (folder / "annotations/instances_train2017.json").write_text("{"),
            "instances_train2017.json",
            "damaged or no JSON",
        ),
        (
            lambda folder: (folder / "train2017/000000000001.jpg").unlink(),
            "000000000001.jpg",
            "no such file, but",
        ),
        (resize, "000000000001.jpg", "is 20x30, but its annotations are for 40x50"),
        (lambda folder: shutil.rmtree(folder / "val2017"), "coco", "no folder val2017; --source is the folder"),
        (
            lambda folder: (folder / "annotations/instances_val2017.json").unlink(),
            "coco",
            "no file instances_val2017.json; --source is",
        ),
    ],
)
def test_damaged_release(script, release, tmp_path, capsys, damage, place, message):
    damage(release)
    assert run(script, release, tmp_path / "out", "--min-pixels", "0") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {release}")
    assert f"{place}: " in said
    assert message in said
    assert not (tmp_path / "out/datalist.json").exists()


def test_three_archives(script, release, tmp_path):
    archives = [
        shutil.make_archive(str(tmp_path / name), "zip", release, name)
        for name in ("train2017", "val2017", "annotations")
    ]
    assert run(script, archives, tmp_path / "out", "--min-pixels", "1") == 0
    shutil.rmtree(release)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["datalist.json", "images", "labels"]
    assert check_datalist(tmp_path / "out/datalist.json").errors == []


def test_one_list_alone(script, release, tmp_path, capsys):
    shutil.rmtree(release / "train2017")
    (release / "annotations/instances_train2017.json").unlink()
    assert run(script, release, tmp_path / "out") == 0
    assert "0 of 118287 training and 2 of 5000 validation images" in capsys.readouterr().out


def test_nothing_at_all(script, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert script.main(["--source", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]) == 1
    assert f"{tmp_path}/empty: no folder train2017; --source is the folder" in capsys.readouterr().err
    assert run(script, tmp_path / "empty", tmp_path / "out") == 1
    assert "has 0 of 118287 training and 0 of 5000 validation images" in capsys.readouterr().err


def test_hostile_archives(script, assert_refused):
    assert_refused(script)
