"""Objects that arrive: what is answered, and what lies on the disk then."""

import io
import logging
import subprocess
import threading
from types import SimpleNamespace

import pydicom
import pytest
from dicom_tools import run, tool
from node_parts import SECRET, SENDER, TITLE, bytes_of, config_of, objects_below, send, study_files, wait_for
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from medseg.errors import MedsegError
from medseg.io import dicom_heads
from medseg.node import store
from medseg.node.config import Caller
from medseg.node.queue import Queue
from medseg.node.receive import (
    CANNOT_UNDERSTAND,
    DUPLICATE,
    OUT_OF_RESOURCES,
    SUCCESS,
    WRONG_CLASS,
    Receiver,
    _identify,
)
from medseg.node.status import read_status, text
from medseg.node.store import Store

pynetdicom = pytest.importorskip("pynetdicom", reason="a node needs pynetdicom; pip install 'medseg[dicom]'")


@pytest.fixture
def start(tmp_path):
    """Start a receiver without the rest of a node."""
    made = []
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

    def start(**more):
        config = config_of(tmp_path / "node", **more)
        store = Store(config.folder)
        store.make()
        receiver = Receiver(config, store, Queue(store.queue))
        receiver.port = 0
        receiver.start()
        made.append(receiver)
        return receiver

    yield start
    for receiver in made:
        receiver.stop()
        receiver._queue.close()


def stored(tmp_path):
    return objects_below(tmp_path / "node" / "received")


def test_success_means_on_the_disk(start, tmp_path, caplog):
    receiver = start()
    files = study_files(tmp_path, 1)
    with caplog.at_level(logging.DEBUG, logger="medseg"):
        assert send(receiver.port, files) == [SUCCESS] * 3
    found = {pydicom.dcmread(path).SOPInstanceUID: path for path in stored(tmp_path)}
    for file in files:
        sent = pydicom.dcmread(file)
        kept = pydicom.dcmread(found[sent.SOPInstanceUID])
        assert kept == sent
        assert kept.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert not list((tmp_path / "node" / "incoming").iterdir())
    names = "".join(str(path.relative_to(tmp_path)) for path in (tmp_path / "node").rglob("*"))
    database = b"".join(path.read_bytes() for path in (tmp_path / "node").glob("queue.sqlite*"))
    for secret in (SECRET, str(sent.StudyInstanceUID)):
        assert secret not in caplog.text + names
        assert secret.encode() not in database
    assert (tmp_path / "node").stat().st_mode & 0o777 == 0o700


def test_who_is_not_known_is_refused(start, tmp_path, caplog):
    receiver = start(callers=(Caller(SENDER), Caller("ELSEWHERE", "10.9.8.7")))
    files = study_files(tmp_path, 1, slices=1)
    assert send(receiver.port, files, title="STRANGER") == [None]
    assert send(receiver.port, files, called="OTHER") == [None]
    assert send(receiver.port, files, title="ELSEWHERE") == [None]
    wait_for(lambda: caplog.text.count("refused: ") == 3)
    assert "refused: ELSEWHERE at 127.0.0.1, who called NODE" in caplog.text
    assert not stored(tmp_path)
    assert send(receiver.port, files) == [SUCCESS]


def test_echo(start):
    receiver = start()
    ae = pynetdicom.AE(ae_title=SENDER)
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    assert association.send_c_echo().Status == SUCCESS
    association.release()


def test_what_is_no_sound_object(start, tmp_path):
    receiver = start()
    good = pydicom.dcmread(study_files(tmp_path, 1, slices=1)[0])
    bad = pydicom.dcmread(study_files(tmp_path, 2, slices=1)[0])
    bad.StudyInstanceUID = ""
    ae = pynetdicom.AE(ae_title=SENDER)
    ae.add_requested_context(good.SOPClassUID)
    association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    assert association.send_c_store(bad).Status == CANNOT_UNDERSTAND
    from pynetdicom.dimse_primitives import C_STORE

    for uid, content, status in (
        ("1.2.3", _encoded(good), WRONG_CLASS),
        (good.SOPInstanceUID, b"\x08\x00\x18\x00no DICOM at all", CANNOT_UNDERSTAND),
        (good.SOPInstanceUID, _encoded(good), SUCCESS),
    ):
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = good.SOPClassUID, uid
        request.DataSet = io.BytesIO(content)
        context = association.accepted_contexts[0].context_id
        association._reactor_checkpoint.clear()
        wait_for(lambda: association._is_paused)
        association.dimse.send_msg(request, context)
        _, answer = association.dimse.get_msg(block=True)
        association._reactor_checkpoint.set()
        assert answer.Status == status
    association.release()
    assert len(stored(tmp_path)) == 1


def test_an_object_that_unpacks_to_far_more(tmp_path, monkeypatch):
    """It is refused before anything holds it unpacked."""
    monkeypatch.setattr(dicom_heads, "_INFLATED", 1 << 20)
    data = pydicom.dcmread(study_files(tmp_path, 1, slices=1)[0])
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    asked = SimpleNamespace(AffectedSOPInstanceUID=data.SOPInstanceUID, AffectedSOPClassUID=data.SOPClassUID)
    assert _identify(asked, bytes_of(data))[0] == SUCCESS
    data.PixelData = bytes(30 << 20)
    assert _identify(asked, bytes_of(data)) == (CANNOT_UNDERSTAND, None)


def _encoded(data: Dataset) -> bytes:
    from pynetdicom.dsutils import encode

    encoded = encode(data, is_implicit_vr=True, is_little_endian=True)
    assert encoded is not None
    return encoded


def test_the_same_again_and_another_under_its_name(start, tmp_path):
    receiver = start()
    files = study_files(tmp_path, 1, slices=2)
    other = pydicom.dcmread(files[0])
    other.PixelData = b"\1" * len(other.PixelData)
    assert send(receiver.port, [files[0], files[0], other, files[1]]) == [SUCCESS, SUCCESS, DUPLICATE, SUCCESS]
    assert pydicom.dcmread(stored(tmp_path)[0]).PixelData != other.PixelData
    assert len(stored(tmp_path)) == 2


def test_the_disk_is_bounded(start, tmp_path, caplog):
    files = study_files(tmp_path, 1)
    receiver = start(disk_gib=2.5 * files[0].stat().st_size / 2**30)
    assert send(receiver.port, files) == [SUCCESS, SUCCESS, OUT_OF_RESOURCES]
    assert len(stored(tmp_path)) == 2
    assert "GiB (disk_gib) are held; objects are refused" in caplog.text
    queue, most = tmp_path / "node" / "queue.sqlite", receiver._config.disk_gib
    assert "running; full: 0.00 of " in text(read_status(queue, running=True, disk_gib=most))
    assert read_status(queue, running=True, disk_gib=2 * most).full == ""
    wait_for(lambda: not receiver.held())
    assert receiver._queue.claim(10**10, 0, 10**11) is None  # the sender is to come back with the rest


def test_a_disk_that_is_full(start, tmp_path, monkeypatch, caplog):
    receiver = start()
    files = study_files(tmp_path, 1, slices=1)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(store.shutil, "disk_usage", lambda _: SimpleNamespace(free=250 * 2**20))
        assert send(receiver.port, files) == [OUT_OF_RESOURCES]
        assert "full: 250 MiB of the disk are left, of which 256 are kept; objects are refused" in caplog.text
        status = read_status(tmp_path / "node" / "queue.sqlite", running=True, disk_gib=20)
        assert status.full.startswith("250 MiB of the disk are left")
    with monkeypatch.context() as patched:
        patched.setattr(Store, "place", full)
        assert send(receiver.port, files) == [OUT_OF_RESOURCES]
    assert "could not be stored: No space left on device" in caplog.text
    assert not stored(tmp_path)
    assert not list((tmp_path / "node" / "incoming").iterdir())
    assert send(receiver.port, files) == [SUCCESS]


def test_a_study_that_is_being_sent_is_held_and_one_broken_off_waits(start, tmp_path):
    receiver = start()
    files = study_files(tmp_path, 1)
    assert send(receiver.port, files[:1], abort=True) == [SUCCESS]
    wait_for(lambda: not receiver.held())
    queue, later = receiver._queue, 10**10
    assert queue.claim(later, 0, 10**11) is None
    ae = pynetdicom.AE(ae_title=SENDER)
    ae.add_requested_context(pydicom.dcmread(files[0]).SOPClassUID)
    association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    assert association.send_c_store(pydicom.dcmread(files[1])).Status == SUCCESS
    assert receiver.held() == {1}
    association.release()
    wait_for(lambda: not receiver.held())
    wait_for(lambda: queue.claim(later, 0, 10**11) is not None)


def test_who_brings_a_part_does_not_make_up_for_who_breaks_off(start, tmp_path):
    """A series over two associations at one time: one breaks off, the other is released; then somebody brings it."""
    receiver = start()
    files = study_files(tmp_path, 1)
    ae = pynetdicom.AE(ae_title=SENDER)
    ae.add_requested_context(pydicom.dcmread(files[0]).SOPClassUID)
    association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    assert association.send_c_store(pydicom.dcmread(files[1])).Status == SUCCESS
    assert send(receiver.port, files[:1], abort=True) == [SUCCESS]
    wait_for(lambda: len(receiver._over) == 1)
    association.release()
    wait_for(lambda: not receiver.held())
    assert receiver._queue.claim(10**10, 0, 10**11) is None
    assert send(receiver.port, files) == [SUCCESS] * 3
    wait_for(lambda: receiver._queue.claim(10**10, 0, 10**11) is not None)


def test_an_object_of_who_knows_what_series(start, tmp_path):
    receiver = start()
    good, bad = (pydicom.dcmread(file) for file in study_files(tmp_path, 1, slices=2))
    bad.StudyInstanceUID = ""
    assert send(receiver.port, [bad, good], contexts=[good.SOPClassUID]) == [CANNOT_UNDERSTAND, SUCCESS]
    wait_for(lambda: not receiver.held())
    assert receiver._queue.claim(10**10, 0, 10**11) is None


def test_a_sender_that_goes_away_while_its_object_is_written(start, tmp_path, monkeypatch):
    """Its end is told before its study is known to be in its hands: the study is not held for ever."""
    receiver = start()
    place, ended, in_time = Store.place, threading.Event(), []
    closed = receiver._let_go

    def let_go(association, *, whole):
        closed(association, whole=whole)
        ended.set()

    def slow(*arguments):
        place(*arguments)
        in_time.append(ended.wait(20))

    monkeypatch.setattr(receiver, "_let_go", let_go)
    monkeypatch.setattr(Store, "place", slow)
    (file,) = study_files(tmp_path, 1, slices=1)
    ae = pynetdicom.AE(ae_title=SENDER)
    ae.add_requested_context(pydicom.dcmread(file).SOPClassUID)
    ae.dimse_timeout = 0.5  # then it breaks off
    association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    association.acse_timeout = 0.5  # and hangs up: it would wait 30 s for the other side to do so
    assert "Status" not in association.send_c_store(pydicom.dcmread(file))
    assert stored(tmp_path)
    wait_for(lambda: receiver._busy == 0)
    assert in_time == [True]
    wait_for(lambda: not receiver.held())
    assert receiver._queue.claim(10**10, 0, 10**11) is None


def test_compressed_syntaxes_that_can_be_read_are_taken(start):
    receiver = start()
    ae = pynetdicom.AE(ae_title=SENDER)
    kind = "1.2.840.10008.5.1.4.1.1.2"
    for syntax in ("1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"):
        ae.add_requested_context(kind, syntax)
    ae.add_requested_context(kind, "1.2.840.10008.1.2.4.102")  # a film
    association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    assert len(association.accepted_contexts) == 3
    association.release()


def test_a_port_that_is_taken(start):
    receiver = start()
    second = Receiver(receiver._config, receiver._store, receiver._queue)
    second.port = receiver.port
    with pytest.raises(MedsegError, match=rf"127\.0\.0\.1:{receiver.port} cannot be listened on \(Address already"):
        second.start()


def test_by_storescu(start, tmp_path):
    """dcmtk's sender."""
    program = tool("storescu")
    assert "dcmtk" in run("storescu", "--version")
    receiver = start()
    files = study_files(tmp_path, 1, slices=5)
    command = [program, "-aet", SENDER, "-aec", TITLE, "127.0.0.1", str(receiver.port), *map(str, files)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0
    assert len(stored(tmp_path)) == 5
    refused = subprocess.run([*command[:2], "STRANGER", *command[3:]], capture_output=True, timeout=60, check=False)
    assert refused.returncode != 0
    assert read_status(tmp_path / "node" / "queue.sqlite", running=True).studies[0].instances == 5
