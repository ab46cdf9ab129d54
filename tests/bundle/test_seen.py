"""What a run was trained on is not called a test: by whichever name, nor its copies, nor others of its group."""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from bundle.test_postprocessing import run_of
from PIL import Image
from pydicom.data import get_testdata_file

from medseg.bundle import workflow
from medseg.bundle.data import load_data
from medseg.bundle.ready import WorkflowError, refuse_unlabelled
from medseg.bundle.seen import Seen, SeenError, refuse_seen, seen_by
from medseg.cli import main
from medseg.data.datalist import Datalist
from medseg.io.parts import known_as


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """The folder of a series of three slices, with a segmentation and a note beside them."""
    folder = tmp_path / "ct"
    folder.mkdir()
    for number in range(3):
        data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{number}"
        data.ImagePositionPatient = [0, 0, 5 * number]
        data.save_as(folder / f"slice{number}.dcm")
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.SegmentationStorage
    data.SeriesInstanceUID = "1.2.4"
    data.save_as(folder / "a_segmentation.dcm")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "note.txt").write_text("no slice")
    return folder


def listed(folder: Path, *entries: dict[str, Any]) -> tuple[Datalist, list[dict[str, Any]]]:
    """Write a datalist of test images; return it, and its entries as a split gives them."""
    content = {"name": "toy", "version": 1, "modality": ["CT"], "licence": "", "source": "", "ignore_index": None}
    content |= {"labels": {"0": "a", "1": "b"}, "training": [], "validation": [], "test": list(entries)}
    (folder / "datalist.json").write_text(json.dumps(content))
    data = Datalist.load(folder / "datalist.json")
    return data, [data.absolute(entry) for entry in data.test]


def trained(folder: Path, data: Datalist, training: Sequence[Any], validation: Sequence[Any] = ()) -> Path:
    """Return a run that was trained on entries of a datalist and validated on others."""
    run = folder / "run"
    run.mkdir(parents=True)
    (run / "model.pt").write_bytes(b"never read")
    seen = seen_by(data, {"training": training, "validation": validation})
    (run / ".place.json").write_text(json.dumps({"datalist": str(data.path), "seen": seen}))
    return run


@pytest.mark.parametrize(
    ("trained_on", "image"),
    [
        ("ct/slice1.dcm", ["ct"]),
        ("ct", ["ct/slice2.dcm"]),
        ("ct/slice1.dcm", ["ct/slice2.dcm"]),
        ("ct", ["ct"]),
        ("ct", ["other", "ct/slice0.dcm"]),
    ],
)
def test_a_series_is_one_image(series: Path, trained_on: str, image: list[str]) -> None:
    folder = series.parent
    run = trained(folder, *listed(folder, {"image": trained_on}))
    listed(folder, {"image": image if len(image) > 1 else image[0], "label": "label.nii"})
    with pytest.raises(SeenError, match=r"run was trained on 1 of the 1 image to score, .*: that is no test"):
        workflow.evaluate(run, data=folder, overrides={"device": "cpu"})


def test_another_series_is_not_that_image(series: Path) -> None:
    for name in ("other", "other/slice1.dcm", "other/note.txt", "gone.nii"):
        for seen in ("ct", "ct/slice1.dcm"):
            assert str(series.parent / seen) not in known_as(series.parent / name)
    assert known_as(series.parent / "other" / "note.txt") == {str(series.parent / "other" / "note.txt")}


def test_a_copied_series_is_known_by_its_bytes(series: Path) -> None:
    folder = series.parent
    (series / "a_segmentation.dcm").unlink()
    run = trained(folder, *listed(folder, {"image": "ct"}))
    for number, path in enumerate(sorted((folder / "other").glob("slice*"), reverse=True)):
        path.rename(path.with_name(f"IM{number}"))  # another order of names
    data, entries = listed(folder, {"image": "other/IM0"})
    with pytest.raises(SeenError, match=r"such as .*IM0 \(the same bytes as .*ct\): that is no test; leave copies out"):
        refuse_seen([run], data, entries)
    (folder / "other" / "IM0").unlink()  # two slices of three are another image
    assert refuse_seen([run], *listed(folder, {"image": "other/IM1"})) == Seen(1)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 9), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_copies_and_groups(pictures: Path, tmp_path: Path) -> None:
    held = [{"image": f"{number}.png", "group": f"patient {number // 2}"} for number in range(4)]
    run = trained(tmp_path, *listed(pictures, *held[:3]))
    shutil.copy(pictures / "1.png", pictures / "renamed.png")
    both = {"image": ["4.png", "renamed.png"]}
    for entries, message in (
        ([{"image": "4.png"}, {"image": "renamed.png"}], r"1 of the 2 .*renamed.png \(the same bytes as .*1.png\)"),
        (
            [{"image": "4.png"}, held[3]],
            r"1 of the 2 .*3.png \(of group 'patient 1', as .*2.png\).*call them otherwise",
        ),
        ([both], r"1 of the 1 image to score, such as .*4.png \(the same bytes as .*1.png\)"),
        ([{"image": "2.png"}, held[3]], r"1 of the 2 .*2.png: that is no test; choose the fold that was left out"),
    ):
        data, placed = listed(pictures, *entries)
        with pytest.raises(SeenError, match=rf"run was trained on {message}.*allow_seen, which the scores then say"):
            refuse_seen([run], data, placed)
        found = refuse_seen([run], data, placed, allowed=True)
        assert found.seen == {"training": 2 if held[3] in entries and "2.png" in str(entries) else 1}
    data, placed = listed(pictures, {"image": "4.png", "group": "patient 9"}, held[3])
    assert refuse_seen([run], data, placed, groups=False) == Seen(2)  # a split that divides groups by design
    assert refuse_seen([run], data, placed[:1]) == Seen(1)
    assert refuse_seen([run], data, placed, "training") == Seen(2)


def test_several_runs_and_parts(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One member of an ensemble that saw a case is enough, and what one validated is no test of any."""
    data, entries = listed(pictures, *({"image": f"{number}.png"} for number in range(5)))
    first = trained(tmp_path / "a", data, entries[:1])
    second = trained(tmp_path / "b", data, entries[1:2], entries[2:3])
    with pytest.raises(SeenError, match=r"run picked the weights by 1 of the 3 images to score, such as .*2.png"):
        refuse_seen([first, second], data, entries[2:])
    assert refuse_seen([first, second], data, entries[2:], "validation") == Seen(3)
    found = refuse_seen([first, second], data, entries, allowed=True)
    assert found == Seen(5, {"training": 2, "validation": 1})
    assert found.said() == ", 2 of 5 seen in training, 1 of 5 seen in validation"
    assert not caplog.records
    for content in ({}, {"seen": {"training": ["0.png"], "validation": []}}, {"seen": {"training": []}}):
        (second / ".place.json").write_text(json.dumps(content))
        with caplog.at_level(logging.WARNING):
            found = refuse_seen([first, second], data, entries[3:])
        assert found.plain() == {"training": 0, "validation": 0, "runs_that_do_not_say": 1}
        assert "run does not say which cases it has seen" in caplog.records[-1].message


def test_what_a_run_started_from_is_seen_with_it(pictures: Path, tmp_path: Path) -> None:
    data, entries = listed(pictures, {"image": "0.png"}, {"image": "1.png"})
    first = trained(tmp_path / "a", data, entries[:1])
    used = {"training": entries[1:], "validation": []}
    said = seen_by(data, used, first)
    assert [Path(case["path"][0]).name for case in said["training"]] == ["0.png", "1.png"]
    (first / ".place.json").write_text(json.dumps({"seen": said}))
    assert seen_by(data, used, first) == said  # resumed


def test_weights_of_unknown_history_leave_a_gap(
    pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that began with weights which do not say what they have seen cannot say that it has seen no more."""
    data, entries = listed(pictures, *({"image": f"{number}.png"} for number in range(3)))
    place = tmp_path / "unknown"
    place.mkdir()
    run = trained(tmp_path, data, entries[:1])
    for before in (place, run):  # what goes on from a gap has one too
        seen = seen_by(data, {"training": entries[:1], "validation": []}, before)
        (run / ".place.json").write_text(json.dumps({"seen": seen}))
        with caplog.at_level(logging.WARNING):
            assert refuse_seen([run], data, entries[1:]) == Seen(2, {}, ("run",))
        assert "the weights that it began with do not say" in caplog.records[-1].getMessage()
        with pytest.raises(SeenError, match=r"1 of the 3 .*0\.png"):
            refuse_seen([run], data, entries)


def test_a_channel_that_all_cases_share_names_none_of_them(pictures: Path, tmp_path: Path) -> None:
    for number in range(4):
        shutil.copy(pictures / "5.png", pictures / f"atlas{number}.png")
    data, entries = listed(pictures, *({"image": [f"{n}.png", f"atlas{n}.png"]} for n in range(4)))
    run = trained(tmp_path, data, entries[:2])
    assert refuse_seen([run], data, entries[2:]) == Seen(2)
    shutil.copy(pictures / "1.png", pictures / "copy.png")
    data, entries = listed(pictures, {"image": ["copy.png", "atlas3.png"]})
    with pytest.raises(SeenError, match=r"the same bytes as .*1\.png"):
        refuse_seen([run], data, entries)


def test_what_has_no_label_is_not_scored(pictures: Path) -> None:
    data, entries = listed(pictures, {"image": "0.png", "label": "1.png"}, {"image": "2.png"})
    refuse_unlabelled(data, entries[:1], "test")
    with pytest.raises(WorkflowError, match=r"1 of 2 test images have no label, such as .*2\.png: give labels"):
        refuse_unlabelled(data, entries, "test")


def test_other_data_with_copies_are_scored_only_if_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every image of the run copied under another name, in another folder, all of them a test or a validation."""
    run = run_of(tmp_path, lambda guess, _: guess)
    told = ["device=cpu", "mlflow=false"]
    for part in ("test", "validation"):
        other = tmp_path / part
        entries = []
        for number in range(6):
            for kind in ("images", "labels"):
                (other / kind).mkdir(parents=True, exist_ok=True)
                shutil.copy(tmp_path / "data" / kind / f"{number}.png", other / kind / f"{9 - number}.png")
            entries.append({"image": f"images/{9 - number}.png", "label": f"labels/{9 - number}.png"})
        content = json.loads((tmp_path / "data" / "datalist.json").read_text())
        content |= {"training": [], "validation": [], "test": [], part: entries}
        content |= {"training": [] if part == "test" else entries[:1]}
        (other / "datalist.json").write_text(json.dumps(content))
    words = ["evaluate", str(run), "--data", str(tmp_path / "test"), *told]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "run was trained on 2 of the 6 images to score, such as" in said
    assert "images/7.png (the same bytes as" in said
    assert "or score them all the same with --allow-seen, which the scores then say" in said
    assert not list(run.glob("test*"))
    assert main([*words, "--allow-seen"]) == 0
    assert ", 2 of 6 seen in training, 2 of 6 seen in validation" in capsys.readouterr().out
    record = json.loads((run / "test_specks" / "evaluation.json").read_text())
    assert record["data"]["seen"] == {"training": 2, "validation": 2, "runs_that_do_not_say": 0}

    kept = (run / "model.pt").read_bytes()
    for asked in ("--calibrate", "--choose-postprocessing"):
        assert main(["evaluate", str(run), "--data", str(tmp_path / "validation"), asked, *told]) == 2
        assert "run was trained on 2 of the 6 images to score, such as" in capsys.readouterr().err
    assert (run / "model.pt").read_bytes() == kept
    words = ["evaluate", str(run), "--data", str(tmp_path / "validation"), "--choose-postprocessing", "--allow-seen"]
    assert main([*words, *told]) == 0
    assert json.loads((run / "postprocessing.json").read_text())["seen"]["training"] == 2


def test_the_own_split_and_one_that_divides_groups(tmp_path: Path) -> None:
    run = run_of(tmp_path, lambda guess, _: guess)
    content = json.loads((tmp_path / "data" / "datalist.json").read_text())
    for entry in content["training"]:
        entry |= {"group": "all", "fold_random": entry["fold"]}
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(content))
    data = load_data(tmp_path / "data")
    used = dict(zip(("training", "validation"), data.split(0)[:2], strict=True))
    held = {"datalist": str(data.path), "seen": seen_by(data, used)}
    (run / ".place.json").write_text(json.dumps(held))
    told = {"device": "cpu"}
    with pytest.raises(SeenError, match=r"2 of the 2 images to score, such as .* \(of group 'all', as "):
        workflow.evaluate(run, overrides=told)
    folder = workflow.evaluate(run, overrides={**told, "fold_key": "fold_random"}).folder
    assert json.loads((folder / "evaluation.json").read_text())["title"] == "specks, test fold 0 of fold_random"
