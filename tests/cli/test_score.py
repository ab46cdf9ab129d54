"""``medseg score``: two folders of masks, paired, compared, scored, and what is missing named."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medseg.cli import main
from medseg.errors import MedsegError
from medseg.io.masks import write_mask
from medseg.io.placement import Grid
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.studies.mask_classes import read_classes, read_groups
from medseg.studies.mask_pairs import stem

AFFINE = np.diag([-0.8, 0.9, 2.5, 1.0])
NAMES = ["background", "head", "body"]


def volume(seed: int, *, moved: int = 0) -> Any:
    array = np.zeros((10, 9, 8), np.uint8)
    array[2:6, 2:6, 1:5] = 1
    array[2 + seed % 3 : 6, 6:8, 1:5] = 2
    return np.roll(array, moved, 0)


def save(path: Path, array: Any, affine: Any = AFFINE) -> None:
    write_mask(array, Grid(array.shape, affine), path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six pairs of volumes; the second one's formats differ, the third lies in a subfolder."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for number in range(6):
        name = f"sub/p{number}.v1" if number == 2 else f"p{number}.v1"
        save(theirs / f"{name}.nii.gz", volume(number))
        save(ours / f"{name}.{'nrrd' if number == 1 else 'nii.gz'}", volume(number, moved=1))
    return ours, theirs


Score = Callable[..., tuple[int, str, str]]


@pytest.fixture
def score(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> Score:
    def run(*more: str) -> tuple[int, str, str]:
        status = main(["score", *map(str, folders), *more])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_the_same_scores_and_files_as_an_evaluation(score: Score, tmp_path: Path) -> None:
    groups = tmp_path / "groups.csv"
    groups.write_text("case,group\n" + "".join(f"p{number}.v1.nii.gz,g{number}\n" for number in range(6)))
    more = ["--labels", *NAMES, "--groups", str(groups), "-o", str(tmp_path / "out")]
    status, out, err = score(*more, "--scores", "distances", "distances#tolerance=2", "volumes")
    assert (status, err) == (0, f"medseg: scores, tables and rows per case are in {tmp_path / 'out'}\n")
    board = ScoreBoard(NAMES, None, {"overlap": {}, "distances": {"tolerance": 2}, "volumes": {}})
    for place, number in enumerate([0, 1, 3, 4, 5, 2]):
        name = f"sub/p{number}.v1" if number == 2 else f"p{number}.v1"
        pair = (torch.from_numpy(volume(number, moved=moved)) for moved in (1, 0))
        board.update(ScoredCase(place, name, *pair, group=f"g{number}", affine=AFFINE))
    table = json.loads((tmp_path / "out" / "scores.json").read_text())
    nothing: dict[str, Any] = {"without_prediction": [], "without_truth": [], "failed": []}
    assert rounded(table) == rounded(
        {**board.table(), "title": "ours against theirs", "ignore_index": None, "not_scored": nothing}
    )
    assert table["per_case"]["classes"][1]["hd95"] == pytest.approx(0.8)
    assert table["per_case"]["bootstrap"]["by"] == "group"
    rows = list(csv.DictReader((tmp_path / "out" / "scores_per_case.csv").read_text().splitlines()))
    assert [row["case"] for row in rows if row["class"] == "(all)"] == [row.name for row in board.rows]
    assert {"hd95_mm", "volume_difference_ml", "dice"} <= set(rows[0])
    assert "HD95 (mm)" in out
    assert "NSD within 2 mm." in (tmp_path / "out" / "table.md").read_text()
    assert not (tmp_path / "out" / "overlays.png").exists()


def rounded(value: Any) -> Any:
    """A header keeps float32."""
    return json.loads(json.dumps(value), parse_float=lambda text: round(float(text), 5))


def test_files_without_partner_are_named_and_the_others_scored(score: Score, folders: tuple[Path, Path]) -> None:
    (folders[0] / "p4.v1.nii.gz").unlink()
    save(folders[0] / "other.nii.gz", volume(0))
    (folders[1] / "notes.xyz").write_text("x")
    status, out, err = score("--json")
    assert status == 1
    lines = err.splitlines()
    assert lines[:2] == [
        "medseg: 1 of 6 truths has no prediction: p4.v1",
        "medseg: 1 of 6 predictions has no truth: other",
    ]
    assert "left out 1 of 7: notes.xyz (unknown format .xyz)" in lines[2]
    table = json.loads(out)
    assert table["per_case"]["averaging"] == "mean over 5 of 6 cases; the others have no score"
    assert table["not_scored"] == {"without_prediction": ["p4.v1"], "without_truth": ["other"], "failed": []}
    assert [row["name"] for row in table["classes"]] == ["0", "1", "2"]  # every value of a truth


def test_a_pair_that_does_not_fit_is_named_and_in_no_mean(score: Score, folders: tuple[Path, Path]) -> None:
    ours, _ = folders
    moved = AFFINE.copy()
    moved[0, 3] = 0.2  # a quarter of a voxel
    near = AFFINE.copy()
    near[0, 3] = 0.04  # rounding
    save(ours / "p0.v1.nii.gz", volume(0), moved)
    save(ours / "p3.v1.nii.gz", volume(3), near)
    save(ours / "p4.v1.nii.gz", volume(4)[:-1])
    wrong = volume(5)
    wrong[0, 0, 0] = 7
    save(ours / "p5.v1.nii.gz", wrong)
    status, out, err = score("--json", "--labels", *NAMES)
    assert status == 1
    first, second, third = err.splitlines()
    assert "p0.v1.nii.gz lies elsewhere than" in first
    assert "LAS, origin (0.2, 0, 0) mm, spacing 0.8 x 0.9 x 2.5; truth LAS, origin (0, 0, 0) mm" in first
    assert "(0.25 voxels, allowed 0.1)" in first
    assert "is 9 x 9 x 8, " in second
    assert "p5.v1.nii.gz: holds value 7, which is no class (0 background, 1 head, 2 body); name all" in third
    table = json.loads(out)
    assert table["per_case"]["cases"] == 3
    assert [each["case"] for each in table["not_scored"]["failed"]] == ["p0.v1", "p4.v1", "p5.v1"]


def test_two_files_and_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = volume(0)[:, :, 2]
    Image.fromarray(picture).save(tmp_path / "mine.png")
    Image.fromarray(picture).save(tmp_path / "true.tif")
    assert main(["score", str(tmp_path / "mine.png"), str(tmp_path / "true.tif")]) == 0
    assert "HD95 (pixels)" in capsys.readouterr().out
    Image.fromarray(picture).save(tmp_path / "true.jpg")
    assert main(["score", str(tmp_path / "true.jpg"), str(tmp_path / "true.tif"), "--labels", *NAMES]) == 2
    assert "a lossy format (JPEG) cannot hold class indices" in capsys.readouterr().err
    save(tmp_path / "true.nii.gz", volume(0)[:, :, :1])
    assert main(["score", str(tmp_path / "mine.png"), str(tmp_path / "true.nii.gz"), "--labels", *NAMES]) == 2
    assert "is a picture, " in capsys.readouterr().err
    nibabel.save(nibabel.Nifti1Image(volume(0) * np.float32(0.5), AFFINE), tmp_path / "half.nii.gz")
    assert main(["score", str(tmp_path / "half.nii.gz"), str(tmp_path / "half.nii.gz"), "--labels", *NAMES]) == 2
    assert "holds fractional values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--scores", "hd"], "`scores` names 'hd'; there are boundary, calibration, distances"),
        (["--scores", "tolerance=2"], "options are given as NAME#OPTION=VALUE, such as distances#tolerance=2"),
        (["--scores", "=2"], "'=2' is not KEY=VALUE"),
        (["--labels", "a", "a"], "--labels names the class a twice"),
        (["--labels", "none.json"], "none.json cannot be read (No such file or directory)"),
        (["--labels", "one"], "none of 6 pairs could be scored; p0.v1: "),
        (["--groups", "none.csv"], "none.csv cannot be read as CSV"),
    ],
)
def test_what_cannot_be_scored(score: Score, more: list[str], message: str) -> None:
    status, _, err = score(*more)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_names_that_do_not_fit(score: Score, folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("case,group\np0.v1,a\n")
    assert "5 cases without a group, such as p1.v1" in score("--groups", str(tmp_path / "some.csv"))[2]
    save(folders[1] / "p0.v1.nrrd", volume(0))
    assert "p0.v1.nii.gz and p0.v1.nrrd are both p0.v1; remove one" in score()[2]
    (folders[1] / "p0.v1.nrrd").unlink()
    for path in list(folders[0].rglob("*.n*")):
        path.rename(path.with_name(f"seg_{path.name}"))
    status, _, err = score()
    assert (status, len(err.splitlines())) == (2, 1)
    assert "is called as a truth of" in err
    assert "or give as truths the datalist that pairs images and labels" in err
    for path in list(folders[0].rglob("*.n*")):
        path.unlink()
    assert "there are no masks and p0.v1.nii.gz" in score()[2]


def test_classes_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "liver": 5, "ignore": 9}}))
    found = read_classes([str(path)])
    assert (found.names, found.ignore_index) == (["background", "liver"], 2)
    array = np.array([[0, 5, 9]], np.uint8)
    assert found.indices(array, path, truth=True).tolist() == [[0, 1, 2]]
    with pytest.raises(MedsegError, match=r"holds value 9, which is no class \(0 background, 5 liver\)"):
        found.indices(array, path, truth=False)
    for content, message in (
        ({"labels": {"a": [1, 2]}}, "`labels` maps neither"),
        ({"a": 1}, "holds no `labels`"),
        ([], "holds no `labels`"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(MedsegError, match=message):
            read_classes([str(path)])
    path.write_text("{")
    with pytest.raises(MedsegError, match="is no valid JSON"):
        read_classes([str(path)])


def test_classes_groups_and_stored_values_of_a_datalist(tmp_path: Path) -> None:
    entries = [{"image": f"images/{n}.png", "label": f"labels/{n}.png", "group": f"g{n}", "fold": n} for n in range(2)]
    content = {
        **{"name": "masks", "version": 1, "modality": ["EM"], "licence": "CC0", "source": "here"},
        **{"labels": {"0": "background", "1": "cell"}, "ignore_index": 2, "values": {"0": 0, "255": 1, "7": 2}},
        **{"training": entries, "validation": [], "test": []},
    }
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps(content))
    found = read_classes([str(path)])
    assert found.groups == {"0": "g0", "1": "g1"}
    assert found.indices(np.array([0, 255, 7], np.uint8), path, truth=True).tolist() == [0, 1, 2]
    assert found.indices(np.array([0, 255], np.uint8), path, truth=False).tolist() == [0, 1]
    assert found.indices(np.array([0, 1], np.uint8), path, truth=False).tolist() == [0, 1]  # indices, as medseg writes
    path.write_text(json.dumps({**content, "values": {"0": 1, "1": 0}}))
    with pytest.raises(MedsegError, match="are class indices, or stored values of the datalist that mean other"):
        read_classes([str(path)]).indices(np.array([0, 1], np.uint8), path, truth=False)
    entries[1] |= {"image": "more/0.png"}
    path.write_text(json.dumps(content))
    with pytest.raises(MedsegError, match="files named 0 are of several groups"):
        read_classes([str(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,patient\na,b\n", "a row lacks case or group"),
        ("case,group\na,\n", "a row lacks case or group"),
        ("case,group\na.nii.gz,1\na,2\n", "a is in the groups 1 and 2"),
    ],
)
def test_bad_groups(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(MedsegError, match=message):
        read_groups(tmp_path / "groups.csv")


def test_stems() -> None:
    assert [stem(Path(name)) for name in ("a.nii.gz", "b/a.v1.png", "a.nii", "series")] == [
        "a",
        "b/a.v1",
        "a",
        "series",
    ]
