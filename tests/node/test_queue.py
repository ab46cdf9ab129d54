"""The queue without a network: a kill at every step, late instances, pauses, what is deleted and what is forgotten."""

import shutil
import sqlite3
from contextlib import contextmanager

import pydicom
import pytest
from node_desk import BROKEN, STILL, Desk, Shelf
from node_parts import FakeModel, study_files

from medseg.io.dicom_rules import rules_of
from medseg.node import service
from medseg.node.config import Retry
from medseg.node.queue import Queue, QueueError
from medseg.node.states import Added
from medseg.node.status import read_status, text
from medseg.node.store import Store
from medseg.node.upkeep import MOST_CRASHES, forget, forget_study, retry_study


def record(monkeypatch, keep):
    """Call ``keep`` after every step that touches the disk: each is a moment at which a kill may come."""
    for name in ("write", "place", "sync", "remove"):
        whole = getattr(Store, name)

        def after(*arguments, whole=whole):
            found = whole(*arguments)
            keep()
            return found

        monkeypatch.setattr(Store, name, after)
    begin = Queue.transaction

    @contextmanager
    def transaction(self):
        with begin(self) as db:
            yield db
        keep()

    monkeypatch.setattr(Queue, "transaction", transaction)


def test_a_kill_at_every_step(tmp_path, monkeypatch):
    """The folder as a kill would leave it after each step is taken up by another node: all is there, and once."""
    files = [file for study in (1, 2) for file in study_files(tmp_path / "in", study, slices=2)]
    kept = []

    def keep():
        target = tmp_path / "kills" / str(len(kept))
        shutil.copytree(tmp_path / "node", target)
        kept.append((target, dict(shelf.objects)))

    shelf = Shelf(after=keep)
    desk = Desk(tmp_path / "node", FakeModel(fault=lambda _: keep()), shelf)
    with monkeypatch.context() as patched:
        record(patched, keep)
        for file in files:
            desk.receive(file)
        desk.step(), desk.step(), desk.sweep()
    desk.queue.close()
    assert len(kept) > 25
    expected = shelf.objects
    assert sorted(expected.values()) == [2, 2]
    for folder, objects in kept:
        other = Desk(folder, shelf=Shelf(objects))
        other.recover()
        for file in files:  # their senders try again whatever was not answered, and here even what was
            other.receive(file)
        other.now += 1000
        for _ in range(3):
            other.step()
        assert other.shelf.objects == expected, folder.name
        assert set(other.states.values()) == {"done"}
        other.sweep()
        other.queue.close()
        assert not list(folder.rglob("*.dcm"))
        assert not list((folder / "incoming").iterdir())


def test_a_study_is_whole_when_it_is_still(desk, tmp_path):
    first, second, third = study_files(tmp_path, 1)
    desk.receive(first)
    assert desk.step(pause=STILL - 1) is None
    desk.receive(second), desk.receive(third)
    assert desk.step(pause=STILL - 1) is None
    assert desk.queue.claim(desk.now + 2, STILL, BROKEN, held={1}) is None  # somebody is sending it
    assert len(desk.step(pause=2).made) == 1
    assert list(desk.shelf.objects.values()) == [3]


def test_who_broke_off_may_come_back(desk, tmp_path):
    first, *others = study_files(tmp_path, 1)
    desk.receive(first, released=False)
    desk.cut(first)
    assert desk.step(pause=BROKEN - 1) is None
    for file in others:
        desk.receive(file)
    desk.step()
    assert list(desk.shelf.objects.values()) == [3]


def test_who_broke_off_and_does_not_come_back(desk, tmp_path):
    """A part of a study looks like a whole one: it fails, until it is sent again or somebody takes it as it is."""
    files = study_files(tmp_path, 1)
    desk.receive(files[0], released=False)
    desk.cut(files[0])
    assert desk.step(pause=BROKEN + 1) is None
    assert desk.status().studies[0].reason == "its sender broke off or was refused a part; send it again"
    for file in files:
        desk.receive(file)
    desk.step()
    assert (desk.states, list(desk.shelf.objects.values())) == ({1: "done"}, [3])
    desk.receive(study_files(tmp_path, 2)[0], released=False)
    desk.step(pause=BROKEN + 1)
    assert desk.states == {1: "done", 2: "failed"}
    retry_study(desk.queue, 2)
    desk.step()
    assert desk.states == {1: "done", 2: "done"}


def test_a_part_that_was_refused(desk, tmp_path):
    first = study_files(tmp_path, 1)[0]
    desk.receive(first, released=False)
    desk.cut(first)
    assert desk.step(pause=BROKEN - 1) is None
    desk.step(pause=2)
    assert desk.states == {1: "failed"}


def test_a_sender_that_was_done_when_the_node_ended(desk, tmp_path, caplog):
    """Whether it would have come back, nobody knows."""
    for file in study_files(tmp_path, 1):
        desk.receive(file, released=False)
    desk.recover()
    assert desk.step(pause=BROKEN - 1) is None
    assert "not come back" not in caplog.text
    desk.step(pause=2)
    assert list(desk.shelf.objects.values()) == [3]
    assert "study 1: its sender was connected when the node ended, and has not come back; it is taken as" in caplog.text


def test_quiet_time_begins_anew_with_the_node(desk, tmp_path):
    """Its sender could not reach the node, which was not there."""
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.now += 500
    desk.recover()
    assert desk.step(pause=STILL - 1) is None
    assert desk.step(pause=2) is not None


def test_instances_that_come_again(desk, tmp_path):
    files = study_files(tmp_path, 1)
    assert [desk.receive(file) for file in files] == [Added.STORED] * 3
    assert desk.receive(files[0]) == Added.KNOWN
    data = pydicom.dcmread(files[1])
    data.PixelData = bytes(len(data.PixelData))
    data.save_as(tmp_path / "other.dcm")
    assert desk.receive(tmp_path / "other.dcm") == Added.OTHER
    desk.step(), desk.sweep()
    assert [desk.receive(file) for file in files] == [Added.KNOWN] * 3  # done and deleted
    desk.step()
    assert (desk.states, len(desk.shelf.came), desk.status().known) == ({1: "done"}, 1, 4)


def test_a_late_instance_makes_a_new_result(desk, tmp_path):
    files = study_files(tmp_path, 1, slices=4)
    for file in files[:3]:
        desk.receive(file)
    desk.step()
    desk.receive(files[3])
    desk.step()
    assert sorted(desk.shelf.objects.values()) == [3, 4]
    assert desk.states == {1: "done"}


@pytest.mark.parametrize("fewest", [1, 3])  # a rule takes the late instance alone, or does not
def test_a_late_instance_after_the_others_were_deleted(desk, tmp_path, fewest):
    desk.model.rules = rules_of([{"modality": ["CT"], "slices": [fewest, 600]}], "test")
    files = study_files(tmp_path, 1, slices=4)
    for file in files[:3]:
        desk.receive(file)
    desk.step(), desk.sweep()
    desk.receive(files[3])
    desk.step()
    (study,) = desk.status().studies
    assert study.state == "failed"
    assert "1 instance came after 3 of it were done and deleted; send the whole series again" in study.reason
    for file in files:
        desk.receive(file)
    desk.step()
    assert (desk.states, sorted(desk.shelf.objects.values())) == ({1: "done"}, [3, 4])


def test_an_instance_that_comes_while_its_study_is_predicted(desk, tmp_path):
    files = study_files(tmp_path, 1, slices=4)
    for file in files[:3]:
        desk.receive(file)
    desk.model.fault = lambda call: desk.receive(files[3]) if call == 1 else None
    desk.step(), desk.step()
    assert list(desk.shelf.objects.values()) == [4]  # nothing of the part was sent


def test_what_is_not_sent_yet_is_withdrawn(desk, tmp_path):
    files = study_files(tmp_path, 1, slices=4)
    for file in files[:3]:
        desk.receive(file)
    desk.shelf.away = 1
    desk.step()
    desk.receive(files[3])
    desk.step(), desk.step()
    assert list(desk.shelf.objects.values()) == [4]


def test_another_series_leaves_the_first_alone(desk, tmp_path):
    """Such as the node's own result, which an archive sends on to it."""
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.step()

    def other(number, data):
        data.SeriesInstanceUID, data.Modality = f"{data.SeriesInstanceUID}.5", "SEG"
        data.SOPInstanceUID = f"{data.SOPInstanceUID}.5"
        del data.Rows, data.PixelData

    for file in study_files(tmp_path / "more", 1, slices=1, change=other):
        desk.receive(file)
    desk.step()
    assert (desk.states, desk.model.calls, len(desk.shelf.came)) == ({1: "done"}, 1, 1)


def test_a_study_that_fails_stops_no_other(desk, tmp_path):
    def fault(call):
        if len(list((desk.store.received / "1").rglob("*.dcm"))) and call in (1, 3, 4):
            raise RuntimeError("Geheim^Gerda is in this text")

    desk.model.fault = fault
    retry = Retry(times=3, first_seconds=20, longest_seconds=30)
    for study in (1, 2):
        for file in study_files(tmp_path, study):
            desk.receive(file)
        desk.now += 1
    desk.step(retry=retry), desk.step(pause=0, retry=retry)
    assert desk.states == {1: "waiting", 2: "done"}
    assert desk.step(pause=10, retry=retry) is None  # its pause is not over
    desk.step(pause=11, retry=retry)
    assert desk.step(pause=21, retry=retry) is None  # the second pause is longer
    desk.step(pause=10, retry=retry)
    (failed, _) = desk.status().studies
    assert (failed.number, failed.state, failed.reason) == (1, "failed", "series 1 by fake: RuntimeError")
    with pytest.raises(QueueError, match="study 2 is done; one that failed"):
        retry_study(desk.queue, 2)
    retry_study(desk.queue, 1)
    desk.step(retry=retry)
    assert desk.states == {1: "done", 2: "done"}


def test_a_study_that_ends_the_node_is_given_up(desk, tmp_path):
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.now += STILL
    for _ in range(MOST_CRASHES):
        desk.now += 10
        assert desk.queue.claim(desk.now, STILL, BROKEN) is not None
        desk.recover()
    assert desk.step() is None
    assert desk.status().studies[0].reason == f"the node ended {MOST_CRASHES} times with it in hand"


def test_a_study_that_no_model_takes(desk, tmp_path):
    def to_mr(_number, data):
        data.Modality = "MR"

    for file in study_files(tmp_path, 1, change=to_mr):
        desk.receive(file)
    desk.step()
    (study,) = desk.status().studies
    assert (study.state, study.reason) == ("refused", "series 1 by fake: modality MR, wanted CT")
    assert desk.sweep() == [1]
    assert not list(desk.store.root.rglob("*.dcm"))


def test_a_series_that_is_no_volume_is_a_fault(desk, tmp_path):
    files = study_files(tmp_path, 1, slices=6)
    for number, file in enumerate(files):
        if number != 2:
            desk.receive(file)
    desk.step()
    (study,) = desk.status().studies
    assert study.state == "failed"
    assert "series 1 is no volume" in study.reason
    assert str(desk.store.root) not in study.reason


def test_an_archive_that_is_away(desk, tmp_path):
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.shelf.away = 3
    retry = Retry(times=4, first_seconds=30, longest_seconds=1000)
    desk.step(retry=retry)
    for pause in (29, 2, 58, 3, 118):
        desk.step(pause=pause, retry=retry)
    assert (desk.states, desk.status().destinations[0][4]) == ({1: "sending"}, "cannot be reached")
    desk.step(pause=3, retry=retry)
    assert (desk.states, len(desk.shelf.came)) == ({1: "done"}, 1)


def test_an_archive_that_stays_away(desk, tmp_path):
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.shelf.away = 2
    retry = Retry(times=2, first_seconds=1, longest_seconds=1)
    desk.step(retry=retry), desk.step(retry=retry)
    assert desk.status().studies[0].reason == "archive: cannot be reached"
    assert desk.sweep() == []  # what failed is kept longer
    with pytest.raises(QueueError, match="study 1 is not known, or not ended and deleted yet"):
        forget_study(desk.queue, 1)
    retry_study(desk.queue, 1)
    desk.step()
    assert (desk.states, desk.model.calls) == ({1: "done"}, 1)


def test_files_that_somebody_took_away(desk, tmp_path):
    for study in (1, 2):
        for file in study_files(tmp_path, study):
            desk.receive(file)
    next(desk.store.instances()).unlink()
    (desk.store.received / "2" / "x").mkdir()
    (desk.store.received / "2" / "x" / "y.dcm").write_bytes(b"nobody's")
    (desk.store.results / "lost+found").mkdir()  # nobody's, too, and no study's
    said = desk.recover().lines()
    assert [line.split(";")[0] for line in said] == [
        "1 file was of nothing in the queue (done, or not answered)",
        "1 received file is gone from the folder",
    ]
    assert sorted(desk.states.values()) == ["failed", "receiving"]
    desk.shelf.away = 1
    desk.step()
    next(desk.store.results.rglob("*.dcm")).unlink()
    assert desk.recover().unmade == 1
    desk.step(), desk.step()
    assert len(desk.shelf.came) == 1


def test_what_is_kept_and_what_is_forgotten(desk, tmp_path):
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.step()
    assert desk.sweep(keep=50) == []
    assert desk.queue.held > 0
    desk.now += 51
    assert desk.sweep(keep=50) == [1]
    assert desk.queue.held == 0
    assert forget(desk.queue, desk.now - 100) == 0
    assert forget(desk.queue, desk.now) == 1
    for _ in range(2):
        for file in study_files(tmp_path, 2):
            assert desk.receive(file) == Added.STORED
        desk.step(), desk.sweep()
        forget_study(desk.queue, next(iter(desk.states)))
    assert text(desk.status()).startswith("running; no study yet")


def test_a_queue_that_is_damaged_or_of_another_version(tmp_path):
    (tmp_path / "queue.sqlite").write_bytes(b"no database at all, but long enough to be one" * 100)
    with pytest.raises(QueueError, match=r"queue cannot be read \(file is not a database\); move it"):
        Queue(tmp_path / "queue.sqlite")
    with sqlite3.connect(tmp_path / "b.sqlite") as db:
        db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(QueueError, match=r"another version \(9\)"):
        Queue(tmp_path / "b.sqlite")
    with pytest.raises(QueueError, match="there is no queue; start the node"):
        read_status(tmp_path / "c.sqlite", running=False)


def test_a_step_that_raises_is_taken_again(monkeypatch, caplog):
    node = service.Node.__new__(service.Node)
    node._stop = service.threading.Event()
    monkeypatch.setattr(service, "_AFTER_ERROR", 0.0)
    calls = []

    def step():
        calls.append(1)
        if len(calls) == 1:
            raise sqlite3.OperationalError("database or disk is full")
        node._stop.set()
        return True

    node._loop("predicting", step, 0.0)
    assert len(calls) == 2
    assert "predicting: the queue cannot be used (database or disk is full); tried again every 5 s" in caplog.text
