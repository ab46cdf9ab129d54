"""What a run was begun with, and the refusal to go on with something else, which it names."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from datalists import content, write

from medseg.data.datalist import Datalist
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.run import Run
from medseg.runs.run_folder import RunError

NAMES = ("a.png", "a_label.png", "b.png", "b_label.png")


def datalist(folder: Path, **changes: object) -> Datalist:
    training = [{"image": f"{name}.png", "label": f"{name}_label.png"} for name in "ab"]
    return Datalist.load(write(folder, content(**{"training": training, **changes})))


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder of data, with a run in it that has completed an epoch."""
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode())
    run = Run(tmp_path / "run", datalist=datalist(tmp_path), split={"fold": 0}, tracking=False)
    run.open(resume=False)
    run.begin(0)
    save_checkpoint({"identity": run.identity, "network": {"w": torch.zeros(1)}}, run.last_checkpoint)
    run.close("KILLED")
    time.sleep(0.02)  # the clock of file systems ticks every few ms
    return tmp_path


def resume(folder: Path, **changes: object) -> None:
    split = {"fold": changes.pop("fold", 0)}
    run = Run(folder / "run", datalist=datalist(folder, **changes), split=split, tracking=False)
    try:
        assert run.open(resume=True) is not None
    finally:
        run.close("KILLED")


def refusal(folder: Path, **changes: object) -> str:
    with pytest.raises(RunError) as caught:
        resume(folder, **changes)
    assert "\n" not in str(caught.value)
    assert "start a new one with another output_dir" in str(caught.value)
    return str(caught.value)


def test_the_same_run_goes_on(begun: Path) -> None:
    resume(begun)
    os.utime(begun / "a.png")  # touched, as a copy of the data is
    resume(begun)


def test_a_label_edited_in_place_is_named(begun: Path) -> None:
    before = (begun / "b_label.png").stat()
    (begun / "b_label.png").write_bytes(b"B_label.png")
    os.utime(begun / "b_label.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    said = refusal(begun)
    assert "cannot be continued: b_label.png has changed since it began. Give" in said
    assert "fingerprint" not in said


def test_several_files_are_counted(begun: Path) -> None:
    for name in NAMES[1:]:
        (begun / name).write_bytes(b"other")
    assert "a_label.png has changed since it began (and 2 more files)" in refusal(begun)


def test_files_that_come_and_go(begun: Path) -> None:
    (begun / "c.png").write_bytes(b"c")
    said = refusal(begun, training=[{"image": "a.png", "label": "a_label.png"}], test=[{"image": "c.png"}], fold=1)
    assert "c.png is new since it began; 2 files that it began with not named any more; fold was 0 and is 1" in said


def test_a_datalist_with_other_words(begun: Path) -> None:
    assert "datalist.json has changed since it began, the files that it names have not" in refusal(begun, source="far")


def test_without_a_record_of_the_files(begun: Path) -> None:
    (begun / "run" / "checkpoints" / "files.json").unlink()
    (begun / "a.png").write_bytes(b"A.png")
    assert "a file that it names is another one now, or the run was begun by another medseg" in refusal(begun)


def test_the_record_names_no_file(begun: Path) -> None:
    held = json.loads((begun / "run" / "checkpoints" / "files.json").read_text())
    assert len(held) == 4
    assert not any(name in str(held) for name in NAMES)
