"""The HTML report: what it says, what it hides, and that a browser shows it without asking anybody for anything."""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bundle.test_native_scores import write_cases, write_run
from dicom_series import AXIAL, write_series
from PIL import Image
from reports import chromium
from tiny_models import KINDS, write_model

from medseg.bundle import workflow
from medseg.cli import main
from medseg.errors import MedsegError
from medseg.prediction.predict import predict
from medseg.reports.page import Facts, Page, Section, Sortable, Text
from medseg.reports.tables import Table
from medseg.runs.report import COMPARED, PER_CASE, write_compared
from medseg.studies.report import make_report
from medseg.studies.report_predictions import Predictions, _ranked

pytestmark = pytest.mark.usefixtures("drawn")
SECTIONS = [
    "summary", "asked", "data", "scores", "cases", "pictures", "volumes", "look", "calibration", "origin",
]  # fmt: skip


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its evaluation, its data and predictions of them; a file is called after a patient."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "data").mkdir()
    write_cases(folder / "data", "PSR")
    content = json.loads((folder / "data" / "datalist.json").read_text())
    (folder / "data" / "image0.nii.gz").rename(folder / "data" / "MUELLER^HANS.nii.gz")
    content["test"][0]["image"] = "MUELLER^HANS.nii.gz"
    (folder / "data" / "datalist.json").write_text(json.dumps(content))
    fed = {"intensity": {"scheme": "range"}, "orientation": "RAS"}
    run = write_run(folder / "run", input=fed, inference={"window": [8, 8, 8], "overlap": 0.5})
    workflow.evaluate(run, data=folder / "data", output=run / "test", overrides={"device": "cpu", "mlflow": False})
    (folder / "images").mkdir()
    for name in ("MUELLER^HANS", "image1"):
        shutil.copy(folder / "data" / f"{name}.nii.gz", folder / "images")
    predict(run, folder / "images", folder / "masks", outputs=("uncertainty",), overrides={"device": "cpu"})
    make_report(run, folder / "run.html", data=folder / "data")
    make_report(folder / "masks", folder / "masks.html", data=folder / "images")
    return folder


class Parsed(HTMLParser):
    """Ids, addresses and cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("href", "src", "action", "srcset", "data", "poster", "xlink:href"):
                self.addresses.append(str(value))


def test_a_run(scored: Path) -> None:
    text = (scored / "run.html").read_text()
    page = Parsed(text)
    assert [each for each in page.ids if each in SECTIONS] == SECTIONS
    assert all(each.startswith(("#", "data:")) for each in page.addresses)
    assert {each[1:] for each in page.addresses if each.startswith("#")} <= set(page.ids)
    scores = json.loads((scored / "run" / "test" / "scores.json").read_text())
    row = scores["per_case"]["classes"][1]
    assert f"<td>low</td><td>{row['iou']:.3f}</td>" in re.sub(' class="n"', "", text)
    assert f"{scores['calibration']['error']:.4f}" in text
    weights = json.loads((scored / "run" / "test" / "evaluation.json").read_text())["weights"]
    assert weights["sha256"] in text
    assert weights["values"] in text
    assert weights["values"] in (scored / "masks.html").read_text()  # masks of these weights name them so
    assert "not for clinical decisions" in text
    assert "too few cases for intervals" in text
    assert "IoU: what truth and prediction have in common" in text
    assert "95 % of differences (ml)</th>" in text
    assert "patient&#39;s right on the left" in text


def test_what_a_training_from_data_wrote_stands_for_its_run(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored / "run", tmp_path / "out" / "run")
    (tmp_path / "out" / "run" / "config.yaml").touch()
    path = make_report(tmp_path / "out", data=scored / "data")
    assert path == tmp_path / "out" / "run" / "report.html"
    assert "not for clinical decisions" in path.read_text()


def test_what_was_compared_stands_beside_those_scores_alone(scored: Path, tmp_path: Path) -> None:
    """Of other images, the report had the training's comparison, "on the same images"."""
    run, verdict = tmp_path / "run", "the network is no better than a threshold: do not use it"
    shutil.copytree(scored / "run", run)
    (run / "metrics.jsonl").write_text('{"epoch": 1, "steps": 2, "loss": 1.0}\n')
    shutil.copytree(run / "test", run / "test_other")
    rows = (run / "test" / PER_CASE).read_text()
    (run / "test_other" / PER_CASE).write_text(rows.replace("image1", "other1"))
    write_compared(run, run / "test", [Table(["", "Dice low"], [["a threshold", 0.987]])], verdict)
    ours, other = (
        make_report(folder, tmp_path / f"{folder.name}.html", data=scored / "data").read_text()
        for folder in (run, run / "test_other")
    )
    assert "Beside what needs no network, on the same images" in ours
    assert "0.987" in ours
    assert ours.index('id="summary"') < ours.index(f"T{verdict[1:]}.") < ours.index('id="asked"')
    assert not any(each in other for each in ("0.987", "do not use it", "on the same images"))
    assert "set beside the scores that the training ended with, not these" in other
    (run / COMPARED).write_text("[]")
    with pytest.raises(MedsegError, match=r"compared.json: broken, or of a medseg that did not .*; delete it"):
        make_report(run, tmp_path / "broken.html", data=scored / "data")


def test_volumes_are_those_of_the_labels(scored: Path) -> None:
    import nibabel

    label = np.asarray(nibabel.load(scored / "data" / "label1.nii.gz").dataobj)
    text = (scored / "run.html").read_text()
    (row,) = re.findall(r"<tr><td>case 2</td>.*?</tr>", text)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    heads = re.findall(r"<th[^>]*>(.*?)</th>", text.split('id="cases"')[1])
    assert float(cells[heads.index("low true, ml")]) == pytest.approx((label == 1).sum() / 1000, abs=6e-4)


def test_no_name_unless_asked(scored: Path) -> None:
    for folder, data in (("run", "data"), ("masks", "images")):
        assert "MUELLER" not in (scored / f"{folder}.html").read_text()
        named = make_report(scored / folder, scored / "named.html", data=scored / data, keep_identifiers=True)
        assert "MUELLER^HANS" in named.read_text()


def test_predictions(scored: Path, tmp_path: Path) -> None:
    text = (scored / "masks.html").read_text()
    assert "<strong>case 1, uncertainty" in text
    assert "low, ml" in text  # the classes are named
    assert "case 3" not in text  # maps of the uncertainty are no masks
    assert "it tells none from another" in text  # the network is not trained
    shutil.copytree(scored / "masks", tmp_path / "masks")
    (tmp_path / "masks" / "uncertainty.csv").write_text(
        "case,model,uncertainty\nMUELLER^HANS.nrrd,a,0.1\nimage1.nii.gz,a,0.75\n"
    )
    assert main(["report", str(tmp_path / "masks")]) == 0
    text = (tmp_path / "masks" / "report.html").read_text()
    assert re.search(r"<td[^>]*>1</td><td>case 2</td><td[^>]*>0.750</td>", text)
    assert "As uncertainty.csv has it" in text
    assert "The images were not named" in text
    assert "unlike the training" not in text


def test_an_image_that_is_another_one_now_is_not_shown(scored: Path, tmp_path: Path) -> None:
    shutil.copytree(scored / "images", tmp_path / "images")
    content = bytearray((tmp_path / "images" / "image1.nii.gz").read_bytes())
    content[4:8] = b"time"  # the header of gzip: the voxels stay as they are
    (tmp_path / "images" / "image1.nii.gz").write_bytes(content)
    shown = "<strong>case %d, uncertainty"
    text = make_report(scored / "masks", tmp_path / "masks.html", data=tmp_path / "images").read_text()
    assert (shown % 1 in text, shown % 2 in text) == (True, False)
    assert "case 2: its mask was made of another image than lies there now" in text
    whole = (scored / "masks.html").read_text()
    assert (shown % 1 in whole, shown % 2 in whole, "another image than" in whole) == (True, True, False)


def test_cases_whose_masks_are_called_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file a channel, and a name that a spreadsheet would run: their uncertainty was told not to be there."""
    monkeypatch.setitem(KINDS, "two", (2, 2, {"intensity": {"scheme": "image"}}, None))
    model = write_model(tmp_path / "model.pt", "two")
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("@a", "b")):
        for channel in range(2):
            pixels = np.random.default_rng(number).integers(0, 255, (24, 32), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "in" / f"{name}_{channel:04d}.png")
    predict(model, tmp_path / "in", tmp_path / "masks", outputs=("uncertainty",), overrides={"device": "cpu"})
    with (tmp_path / "masks" / "uncertainty.csv").open() as file:
        expected = [float(row["uncertainty"]) for row in csv.DictReader(file)]
    masks = Predictions(tmp_path / "masks", None, keep_identifiers=True).masks
    assert [(mask.name, mask.uncertainty) for mask in masks] == list(zip(("@a.png", "b.png"), expected, strict=True))
    (tmp_path / "masks" / "uncertainty.csv").write_text("case,model,uncertainty\nb_0000.png,a,high\n")
    with pytest.raises(MedsegError, match=r"uncertainty\.csv cannot be read \(ValueError\); take it away"):
        make_report(tmp_path / "masks", tmp_path / "report.html")


def test_predictions_of_a_class_that_is_in_no_mask(scored: Path, tmp_path: Path) -> None:
    import nibabel

    masks = tmp_path / "masks"
    shutil.copytree(scored / "masks", masks)
    said = re.compile(r"found in no case</\w+>\s*<\w+[^>]*>([^<]*)<")
    record = json.loads((masks / "medseg_masks.json").read_text())
    images = [masks / name for each in record["made_by"] for name in each["masks"]]
    for values, names in ((([0, 1], [2]), None), (([0, 2], [2]), "low"), (([0], [0]), "low, high")):
        for image, value in zip(images, values, strict=True):
            stored = nibabel.load(image)
            mask = np.resize(np.array(value, np.uint8), stored.shape)
            nibabel.Nifti1Image(mask, stored.affine).to_filename(image)
        assert main(["report", str(masks)]) == 0
        found = said.search((masks / "report.html").read_text())
        assert (None if found is None else found[1]) == names


def test_cases_whose_names_differ_by_the_suffix(tmp_path: Path) -> None:
    """Each has its own uncertainty; both had that of the later row."""
    import nibabel

    model = write_model(tmp_path / "model.pt", "grey")
    (tmp_path / "in").mkdir()
    first, second = np.random.default_rng(0).integers(0, 255, (2, 24, 32), dtype=np.uint8)
    Image.fromarray(first).save(tmp_path / "in" / "a.png")
    nibabel.save(nibabel.Nifti1Image(second, np.eye(4)), tmp_path / "in" / "a.nii.gz")
    predict(model, tmp_path / "in", tmp_path / "masks", outputs=("uncertainty",), overrides={"device": "cpu"})
    expected = {"a.nii.gz": 0.25, "a.png": 0.75}
    rows = "".join(f"{case},a,{value}\n" for case, value in expected.items())
    (tmp_path / "masks" / "uncertainty.csv").write_text(f"case,model,uncertainty\n{rows}")
    found = Predictions(tmp_path / "masks", None, keep_identifiers=True).masks
    assert {mask.name: mask.uncertainty for mask in found} == expected


def test_predictions_of_two_models_with_other_classes(scored: Path, tmp_path: Path) -> None:
    """One value is two things: volumes of the one had stood under names of the other."""
    masks = tmp_path / "masks"
    shutil.copytree(scored / "masks", masks)
    record = json.loads((masks / "medseg_masks.json").read_text())
    first, second = sorted(record["made_by"][0]["masks"])
    one, other = ({**record["made_by"][0], "masks": [name]} for name in (first, second))
    other |= {"weights": "0" * 64, "classes": ["background", "spleen", "left kidney", "right kidney"]}
    (masks / "medseg_masks.json").write_text(json.dumps({**record, "made_by": [one, other]}))
    with pytest.raises(MedsegError, match=r"whose classes are not the same \(nothing, low, high; background, spleen"):
        make_report(masks, tmp_path / "report.html")
    (masks / second).unlink()  # masks that are gone are of no class
    assert "spleen" not in make_report(masks, tmp_path / "report.html").read_text()
    (masks / "medseg_masks.json").write_text(json.dumps({**record, "made_by": [one, {**other, "classes": []}]}))
    make_report(masks, tmp_path / "report.html")


def test_predictions_unlike_the_training_are_looked_at_first(scored: Path, tmp_path: Path) -> None:
    """Before the most unsure ones, in words that name no patient; a later run that finds nothing takes it back."""
    masks = tmp_path / "masks"
    shutil.copytree(scored / "masks", masks)
    (masks / "uncertainty.csv").write_text("case,model,uncertainty\nMUELLER^HANS.nrrd,a,0.1\nimage1.nii.gz,a,0.75\n")
    name = min(
        name for each in json.loads((masks / "medseg_masks.json").read_text())["made_by"] for name in each["masks"]
    )

    def ranked() -> list[int]:
        return [mask.number for mask in _ranked(Predictions(masks, None, keep_identifiers=False))]

    assert ranked() == [2, 1]
    for year, unlike, order in ((2998, {"unlike": ["its size is 9 mm", "<b>"]}, [1, 2]), (2999, {}, [2, 1])):
        case = {"name": "MUELLER^HANS.nrrd", **unlike, "outputs": [{"name": name}]}
        (masks / f"medseg_run_{year}0101T000000Z.json").write_text(json.dumps({"cases": [case]}))
        assert ranked() == order
        text = make_report(masks, tmp_path / "report.html").read_text()
        assert ("its size is 9 mm; &lt;b&gt;" in text) == bool(unlike)
        assert "MUELLER" not in text
    (masks / "medseg_run_29990101T000000Z.json").write_text("{")
    with pytest.raises(
        MedsegError, match=r"a record medseg_run_\*\.json cannot be read \(JSONDecodeError\); restore it"
    ):
        make_report(masks, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("kind", "said"), [("ct", "window 500, level 50"), ("mr", "window 400, level 40 (soft tissue)")]
)
def test_predictions_of_a_ct_are_shown_through_a_window(tmp_path: Path, kind: str, said: str) -> None:
    """That of the model; or that of soft tissue, which the modality tells where no air is in the image."""
    model = write_model(tmp_path / "model.pt", kind)
    write_series(tmp_path / "in" / "a", range(0, 32, 2), shape=(20, 24), turn=AXIAL)
    predict(model, tmp_path / "in", tmp_path / "masks", overrides={"device": "cpu"})
    text = make_report(tmp_path / "masks", tmp_path / "a.html", data=tmp_path / "in").read_text()
    assert f"patient&#39;s right on the left, {said}" in text


def test_one_hundred_cases_without_their_data_are_small(scored: Path, tmp_path: Path) -> None:
    place = tmp_path / "run" / "test"
    shutil.copytree(scored / "run" / "test", place)
    head, *rows = (place / "scores_per_case.csv").read_text().splitlines()
    lines = [f"c{n}{row[row.index(',') :]}" for n in range(50) for row in rows]
    (place / "scores_per_case.csv").write_text("\n".join([head, *lines]))
    path = make_report(tmp_path / "run", tmp_path / "a" / "b.html")
    assert path.read_text().count("<td>case ") >= 100
    assert "name their folder with --data DIR" in path.read_text()
    assert path.stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("folder", "output", "message"),
    [
        ("nowhere", None, "nowhere: no such folder; name a run, an evaluation or a folder of predictions"),
        ("data", None, "data holds no scores.json"),
        ("run", "data", "data is a folder; name a file for the report, such as report.html"),
    ],
)
def test_what_cannot_be_reported(
    scored: Path, capsys: pytest.CaptureFixture[str], folder: str, output: str | None, message: str
) -> None:
    words = [] if output is None else ["-o", str(scored / output)]
    assert main(["report", str(scored / folder), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_broken_record_of_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "medseg_masks.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 2
    assert "medseg_masks.json cannot be read (JSONDecodeError)" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Chromium]:
    if chromium.FOUND is None:
        pytest.skip(chromium.MISSING)
    opened = chromium.Chromium(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


def test_in_a_browser(scored: Path, browser: chromium.Chromium) -> None:
    """No request but the file itself, nothing in the console, and pictures that are there; it sorts and leafs."""
    page = scored / "run.html"
    browser.open(page)
    assert [url for url in browser.requests if not url.startswith("data:")] == [page.as_uri()]
    shot = np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("L"))
    assert shot.shape[1] == 1100
    assert 0.02 < (shot < 128).mean() < 0.5
    assert browser.value("[...document.images].every((each) => each.naturalWidth > 0)")
    view = "document.querySelector('.viewer .window').getAttribute('viewBox')"
    height = int(str(browser.value("document.querySelector('.viewer').dataset.height")))
    last = int(str(browser.value("document.querySelector('input').max")))
    assert last > 0
    for place in (last, 0):
        told = f"s.value = {place}; s.dispatchEvent(new Event('input')); 0"
        browser.value(f"{{ const s = document.querySelector('input'); {told} }}")
        assert str(browser.value(view)).split()[:2] == ["0", str(place * height)]
    cells = "[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[0].textContent)"
    head = "document.querySelector('.sortable th button')"
    browser.value(f"{head}.click()")
    assert browser.value(cells) == ["case 1", "case 2"]
    browser.value(f"{head}.click()")
    assert browser.value(cells) == ["case 2", "case 1"]
    assert browser.printed()[:4] == b"%PDF"
    assert browser.console == []


def test_names_from_outside_do_nothing(tmp_path: Path, browser: chromium.Chromium) -> None:
    nasty = "<img src=x onerror=alert(1)><script>document.title='bad'</script>\"'{{ 7 * 7 }}</style>\u202e"
    table = Table([nasty, "n"], [[nasty, 1.0], ["-", None], ["b", 10.0]], notes=[nasty], title=nasty)
    items = [Text(nasty), Facts([(nasty, nasty)]), table, Sortable(table)]
    path = tmp_path / "page.html"
    path.write_text(Page(nasty, nasty, nasty, [Section("a", nasty, items)], nasty).to_html(), encoding="utf-8")
    browser.open(path)
    assert browser.requests == [path.as_uri()]
    assert browser.console == []
    assert browser.value("document.images.length") == 0
    assert str(browser.value("document.title")).startswith("<img src=x")
    assert "{{ 7 * 7 }}" in str(browser.value("document.querySelector('h1').textContent"))
    browser.value("document.querySelectorAll('.sortable th button')[1].click()")
    second = "[...document.querySelectorAll('.sortable tbody tr')].map((row) => row.cells[1].textContent)"
    assert browser.value(second) == ["1.000", "10.000", "-"]
