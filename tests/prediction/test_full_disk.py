"""A disk that is full ends a run whatever else failed before, and what was made is kept and recorded."""

import ctypes
import errno
import json
import logging
import multiprocessing
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import write_model
from two_processes import IMPORTED

from medseg.errors import MedsegError
from medseg.prediction import collected
from medseg.prediction import masks as mask_sink
from medseg.prediction.audit import RUN_RECORD, Audit
from medseg.prediction.case_table import CaseTable
from medseg.prediction.mask_record import MaskRecord
from medseg.prediction.predict import Outcome, predict
from medseg.prediction.predictor import InputError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
NAMES = ("b.png", "c.png", "d.png")
SECONDS = 240
NEW_MOUNTS = 0x00020000  # CLONE_NEWNS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures after one that cannot be read."""
    write_model(tmp_path / "m.pt", "grey")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"\x89PNG")
    draw(tmp_path, (20, 24))
    return tmp_path


def draw(folder: Path, size: tuple[int, int]) -> None:
    for number, name in enumerate(NAMES):
        pixels = np.random.default_rng(number).integers(0, 256, size).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "in" / name)


def run(folder: Path, output: Path | None = None, **options: Any) -> Outcome:
    output = output or folder / "out"
    return predict(folder / "m.pt", folder / "in", output, overrides={"device": "cpu"}, **options)


def records(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(output.glob(RUN_RECORD))]


def refuse(*_: Any, **__: Any) -> None:
    raise FULL


def test_it_is_said_though_another_case_failed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = mask_sink.write_mask

    def full(mask: Any, grid: Any, target: Path, **options: Any) -> None:
        if target.name != "b.png":
            raise FULL
        write(mask, grid, target, **options)

    with monkeypatch.context() as patched:
        patched.setattr(mask_sink, "write_mask", full)
        with (
            caplog.at_level(logging.WARNING),
            pytest.raises(InputError, match=r"c\.png cannot be written: No space left .* \(1\) are whole; make room"),
        ):
            run(folder)
    assert "1 of 4 images could not be done:\n  a.png: " in caplog.text
    assert [path.name for path in (folder / "out").glob("*.png")] == ["b.png"]
    (said,) = records(folder / "out")
    assert "No space left on device" in said["end"]
    assert [case["name"] for case in said["cases"]] == ["a.png", "b.png"]
    done = run(folder)
    assert (done.written, done.skipped, len(done.failures)) == (2, 1, 1)


@pytest.mark.parametrize("refused", [(CaseTable, "close"), (MaskRecord, "save")])
def test_it_comes_at_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch, refused: tuple[type, str]) -> None:
    begin, kind = MaskRecord.begin, refused[0]

    def begins(self: MaskRecord) -> None:
        begin(self)
        monkeypatch.setattr(*refused, refuse)

    with monkeypatch.context() as patched:
        patched.setattr(MaskRecord, "begin", begins)
        with pytest.raises(InputError, match=r"No space left on device. All masks \(3\) are whole, but not the files"):
            run(folder, outputs=("measurements",))
    monkeypatch.undo()
    assert len(list((folder / "out").glob("*.png"))) == 3, kind
    assert "All masks (3) are whole" in records(folder / "out")[0]["end"]
    with pytest.MonkeyPatch.context() as patched:  # and where another fault ended the run, that one is said
        patched.setattr(mask_sink, "write_mask", refuse)
        patched.setattr(CaseTable, "close", refuse)
        with pytest.raises(InputError, match=r"b\.png cannot be written: No space left on device. Masks so far"):
            run(folder, outputs=("measurements",), overwrite=True)
    assert run(folder, outputs=("measurements",), overwrite=True).written == 3


def test_no_room_for_what_is_too_large_for_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for before it is used: a page without room under it ends a process by a signal."""
    with monkeypatch.context() as patched:
        patched.setattr(collected, "_IN_MEMORY", 0)
        assert run(folder, folder / "roomy", outputs=("probabilities",)).written == 3
        patched.setattr(os, "posix_fallocate", refuse)
        with pytest.raises(InputError, match=r"b\.png cannot be written: No space left on device. Masks so far \(0\)"):
            run(folder, outputs=("probabilities",))
    assert run(folder, outputs=("probabilities",)).written == 3
    for name in NAMES:
        roomy = (folder / "roomy" / name).with_suffix(".probabilities.tif")
        assert roomy.read_bytes() == (folder / "out" / roomy.name).read_bytes()


def test_the_journal_is_kept_as_far_as_it_came(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its second line a case nor the record finds room: the next run makes the record of what there is."""
    keep, wrote = Audit._keep, Audit.wrote

    def torn(self: Audit, case: Any, *arguments: Any) -> None:
        if case.name != "c.png":
            wrote(self, case, *arguments)
            return
        assert self._journal is not None
        with self._journal.open("ab") as file:
            file.write(b'{"name": "c.p')
        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", refuse)
            keep(self, {"name": case.name})

    with monkeypatch.context() as patched:
        patched.setattr(Audit, "wrote", torn)
        patched.setattr(Audit, "write", refuse)
        with caplog.at_level(logging.WARNING):
            run(folder)
    assert "c.png cannot be entered in the journal of this run: No space left on device" in caplog.text
    assert "the record of this run cannot be written: No space left on device" in caplog.text
    run(folder)
    by_end = {said["end"]: said for said in records(folder / "out")}
    assert [case["name"] for case in by_end["killed"]["cases"]] == ["a.png", *NAMES]
    assert all(len(case["outputs"]) == 1 for case in by_end["killed"]["cases"][1:])


def fills(folder: Path, size: int) -> None:
    """Run on a file system of few bytes, and say what came of it elsewhere; 7 where none can be had."""
    output = folder / "small"
    output.mkdir()
    small = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(output)]
    if ctypes.CDLL(None).unshare(NEW_MOUNTS) != 0 or any(
        subprocess.run(words, capture_output=True, check=False).returncode
        for words in (["mount", "--make-rprivate", "/"], small)
    ):
        os._exit(7)
    said: dict[str, Any] = {}
    try:
        run(folder, output, outputs=("probabilities",))
        said["error"] = "none"
    except MedsegError as error:
        said["error"] = str(error)
    said["masks"] = sorted(path.name for path in output.glob("*.png"))
    said["parts"] = [path.name for path in output.glob(".*.png")]
    subprocess.run(["mount", "-o", "remount,size=64m", str(output)], check=True)
    done = run(folder, output, outputs=("probabilities",))
    said["again"] = [done.written, done.skipped, [name for name, _ in done.failures]]
    recorded = {name for record in records(output) for name in (str(case["name"]) for case in record["cases"])}
    said["recorded"] = sorted(recorded)
    (folder / "said.json").write_text(json.dumps(said))


def said_by(target: Any, folder: Path, *args: Any) -> dict[str, Any]:
    """Run a function of the folder in a process that may mount, and return what it wrote down."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, "medseg.prediction.predictor", "prediction.test_full_disk"])
    process = context.Process(target=target, args=(folder, *args))
    process.start()
    process.join(SECONDS)
    if process.exitcode == 7:
        pytest.skip("no file system can be mounted here")
    assert process.exitcode == 0
    said: dict[str, Any] = json.loads((folder / "said.json").read_text())
    return said


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="a file system can be mounted by root alone")
def test_a_disk_that_is_full_indeed(folder: Path) -> None:
    draw(folder, (200, 240))  # whose masks have about 12 kB, and probabilities 54
    said = said_by(fills, folder, 120_000)
    assert "cannot be written: No space left on device. Masks so far" in said["error"]
    assert said["masks"] == ["b.png"]
    assert said["parts"] == []
    assert said["again"] == [2, 1, ["a.png"]]
    assert said["recorded"] == ["a.png", *NAMES]


def reads_only(folder: Path) -> None:
    """Run with images and a model that nobody may write beside, then onto a disk that is read-only; 7 where none is."""
    output, source = folder / "small", folder / "source"
    output.mkdir()
    source.mkdir()
    if ctypes.CDLL(None).unshare(NEW_MOUNTS) != 0 or any(
        subprocess.run(words, capture_output=True, check=False).returncode
        for words in (
            ["mount", "--make-rprivate", "/"],
            ["mount", "-t", "tmpfs", "tmpfs", str(source)],
            ["cp", "-r", str(folder / "in"), str(folder / "m.pt"), str(source)],
            ["mount", "-o", "remount,ro", str(source)],
            ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(output)],
        )
    ):
        os._exit(7)
    said: dict[str, Any] = {"written": run(source, folder / "out", outputs=("measurements",)).written}
    for name, place in (("disk", output), ("beside", source / "masks")):
        try:
            run(folder, place, outputs=("measurements",))
            said[name] = "none"
        except MedsegError as error:
            said[name] = str(error)
    (folder / "said.json").write_text(json.dumps(said))


def test_a_disk_that_is_read_only(folder: Path) -> None:
    said = said_by(reads_only, folder)
    assert said["written"] == 3
    for name, place in (("disk", folder / "small"), ("beside", folder / "source" / "masks")):
        assert said[name].startswith(f"{place} cannot be written: Read-only file system; name another folder"), said
