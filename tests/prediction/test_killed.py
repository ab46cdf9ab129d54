"""A cohort's process killed by SIGKILL at the very points of a case's end: its record says what was done, once."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import write_model
from two_processes import IMPORTED

from medseg.prediction.audit import RUN_RECORD, Audit
from medseg.prediction.masks import Masks
from medseg.prediction.predict import Outcome, predict
from medseg.runs.lock import FolderLock

NAMES = ("a.png", "b.png", "c.png")
SECONDS = 240


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "m.pt", "grey")
    (tmp_path / "in").mkdir()
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    return tmp_path


def run(folder: Path, **options: Any) -> Outcome:
    return predict(folder / "m.pt", folder / "in", folder / "out", overrides={"device": "cpu"}, **options)


def dies(folder: Path, where: str, name: str, options: dict[str, Any]) -> None:
    """Be the process that is killed: before a case's mask is written, or after it and before the journal says so."""
    kind, method = (Masks, "write") if where == "before its mask" else (Audit, "wrote")
    goes_on = getattr(kind, method)

    def killed(self: Any, case: Any, *arguments: Any) -> None:
        if case.name == name:
            os.kill(os.getpid(), signal.SIGKILL)
        goes_on(self, case, *arguments)

    setattr(kind, method, killed)
    run(folder, **options)


def kill(folder: Path, where: str, name: str, **options: Any) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, "medseg.prediction.predictor", "prediction.test_killed"])
    process = context.Process(target=dies, args=(folder, where, name, options))
    process.start()
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the records of the runs by how they ended; two runs may not have ended alike."""
    said = [json.loads(path.read_text()) for path in (folder / "out").glob(RUN_RECORD)]
    by_end = {each["end"]: each for each in said}
    assert len(by_end) == len(said)
    return by_end


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_done(folder: Path, cases: list[dict[str, Any]], names: list[str]) -> None:
    """Check that a record names cases as done, each once, with the hashes of what lies there."""
    assert [case["name"] for case in cases] == names
    for case in cases:
        assert case["sha256"] == sha256(folder / "in" / case["name"])
        assert [output["name"] for output in case["outputs"]][-1] == case["name"]
        for output in case["outputs"]:
            assert output["sha256"] == sha256(folder / "out" / output["name"])


@pytest.mark.parametrize(("name", "left"), [("b.png", ["c.png"]), ("c.png", [])])
def test_between_the_mask_and_its_line(folder: Path, name: str, left: list[str]) -> None:
    """The case is done: its mask is whole. Where it was the last one, nothing is left to do but the record."""
    kill(folder, "after its mask", name, outputs=("geojson",))
    written = {path: path.stat().st_mtime_ns for path in (folder / "out").glob("*.png")}
    done = run(folder, outputs=("geojson",))
    assert (done.written, done.skipped, done.failures) == (len(left), 3 - len(left), [])
    said = records(folder)
    check_done(folder, said["killed"]["cases"], [each for each in NAMES if each not in left])
    if left:
        check_done(folder, said["done"]["cases"], left)
        assert said["done"]["skipped"] == ["a.png", "b.png"]
    else:
        assert said.keys() == {"killed"}
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert not list((folder / "out").glob(".medseg_run_*"))
    assert run(folder, outputs=("geojson",)).skipped == 3
    assert records(folder) == said, "and is said once"


def test_before_the_mask(folder: Path) -> None:
    """Another output is there, its mask is not: the case is the next run's, and that one's alone."""
    kill(folder, "before its mask", "b.png", outputs=("geojson",))
    assert (folder / "out" / "b.geojson").is_file()
    assert run(folder, outputs=("geojson",)).written == 2
    said = records(folder)
    check_done(folder, said["killed"]["cases"], ["a.png"])
    check_done(folder, said["done"]["cases"], ["b.png", "c.png"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_the_power_took_back_is_done_again(folder: Path, overwrite: bool) -> None:
    """The names of masks reach the disk at the end of a run; its journal may have come further."""
    old = folder / "b.png"
    if overwrite:
        run(folder)
        shutil.copy2(folder / "out" / "b.png", old)
        for path in (folder / "out").glob(RUN_RECORD):
            path.unlink()
    kill(folder, "before its mask", "c.png", overwrite=overwrite)
    (folder / "out" / "b.png").unlink()
    if overwrite:
        shutil.copy2(old, folder / "out" / "b.png")
    assert run(folder).written == (0 if overwrite else 2)
    check_done(folder, records(folder)["killed"]["cases"], ["a.png"])


@pytest.mark.parametrize(("where", "names"), [("before its mask", ["a.png"]), ("after its mask", ["a.png", "b.png"])])
def test_while_it_overwrites(folder: Path, where: str, names: list[str]) -> None:
    """An old mask that lies there is not taken for the one that was about to be written."""
    run(folder)
    for path in (folder / "out").glob(RUN_RECORD):
        path.unlink()
    kill(folder, where, "b.png", overwrite=True)
    run(folder)
    check_done(folder, records(folder)["killed"]["cases"], names)


def test_the_journal_of_a_run_that_is_at_work_is_left_to_it(folder: Path) -> None:
    kill(folder, "after its mask", "c.png")
    lock = FolderLock(folder / "out")  # stands for that run
    lock.acquire()
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("medseg.runs.lock._died", lambda file: False)
            assert run(folder).skipped == 3
        assert list((folder / "out").glob(".medseg_run_*"))
    finally:
        lock.release()
    assert run(folder).skipped == 3
    check_done(folder, records(folder)["killed"]["cases"], list(NAMES))
