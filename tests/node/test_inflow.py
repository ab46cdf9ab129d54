"""What a sender may bring into memory: a large object is passed over as it comes, what has no bounds ends."""

import io
import logging
import socket
import struct
import threading

import pydicom
import pytest
from node_parts import SECRET, SENDER, TITLE, config_of, objects_below, send, study_files, wait_for

from medseg.node import inflow
from medseg.node.queue import Queue
from medseg.node.receive import OUT_OF_RESOURCES, SUCCESS, Receiver
from medseg.node.store import Store

pynetdicom = pytest.importorskip("pynetdicom", reason="a node needs pynetdicom; pip install 'medseg[dicom]'")
MIB = 2**20


@pytest.fixture
def receiver(tmp_path):
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    config = config_of(tmp_path / "node", object_mib=1)
    store = Store(config.folder)
    store.make()
    receiver = Receiver(config, store, Queue(store.queue))
    receiver.start()
    yield receiver
    receiver.stop()
    receiver._queue.close()


@pytest.fixture
def largest(monkeypatch):
    """The most bytes that were kept of an object."""
    held = [0]
    write = inflow._Content.write

    def watched(self, content):
        written = write(self, content)
        held[0] = max(held[0], self.getbuffer().nbytes)
        return written

    monkeypatch.setattr(inflow._Content, "write", watched)
    return held


def large(file, size):
    data = pydicom.dcmread(file)
    data.PixelData = bytes(size)
    return data


def test_a_large_object_is_refused_and_its_sender_goes_on(receiver, largest, tmp_path, caplog):
    files, (other,) = study_files(tmp_path, 1), study_files(tmp_path, 2, slices=1)
    sent = [files[0], large(files[1], 20 * MIB), large(files[2], 3 * MIB), other]
    assert send(receiver.port, sent) == [SUCCESS, OUT_OF_RESOURCES, OUT_OF_RESOURCES, SUCCESS]
    assert largest[0] <= MIB
    assert caplog.text.count("objects of more than 1 MiB (object_mib) are refused") == 1
    assert SECRET not in caplog.text
    assert len(objects_below(tmp_path / "node" / "received")) == 2
    wait_for(lambda: not receiver.held())
    assert (
        receiver._queue.claim(10**10, 0, 10**11).study == 2
    )  # the series that lacks some waits, the other one is done
    assert receiver._queue.claim(10**10, 0, 10**11) is None


def test_as_large_as_may_be(receiver, tmp_path):
    (file,) = study_files(tmp_path, 1, slices=1)
    data = large(file, MIB)
    data.PixelData = bytes(2 * MIB - len(_encoded(data)))
    assert len(_encoded(data)) == MIB
    assert send(receiver.port, [data], contexts=[data.SOPClassUID]) == [SUCCESS]
    assert pydicom.dcmread(objects_below(tmp_path / "node" / "received")[0]) == data
    data.PixelData += bytes(2)
    assert send(receiver.port, [data], contexts=[data.SOPClassUID]) == [OUT_OF_RESOURCES]


def test_what_stands_behind_too_many_tags_is_of_who_knows_what_series(receiver, tmp_path):
    (file,) = study_files(tmp_path, 1, slices=1)
    data = large(file, 16)
    data.add_new(0x00091010, "OB", bytes(2 * MIB))
    data.add_new(0x00090010, "LO", "of a maker")
    assert send(receiver.port, [file, data]) == [SUCCESS, OUT_OF_RESOURCES]
    wait_for(lambda: not receiver.held())
    assert receiver._queue.claim(10**10, 0, 10**11) is None


def ends(connection, content):
    """Send without an end until the other side hangs up; return how much it took."""
    connection.settimeout(20)
    taken = 0
    try:
        while taken < 256 * MIB:
            taken += connection.send(content)
    except (BrokenPipeError, ConnectionResetError):
        connection.close()
        return taken
    pytest.fail("it is taken without an end")


def test_a_unit_without_bounds_from_anybody(receiver, caplog):
    """Before a title was said: its length alone ends it."""
    with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
        connection.sendall(struct.pack(">BBL", 1, 0, 2**32 - 1))
        assert ends(connection, bytes(MIB)) < 64 * MIB
    assert "127.0.0.1 is cut off" in caplog.text
    assert receiver._busy == 0


def associated(receiver, kind):
    ae = pynetdicom.AE(ae_title=SENDER)
    ae.add_requested_context(kind)
    association = ae.associate("127.0.0.1", receiver.port, ae_title=TITLE)
    return association, association.accepted_contexts[0].context_id


def unit(context, control, content):
    inner = struct.pack(">LBB", len(content) + 2, context, control) + content
    return struct.pack(">BBL", 4, 0, len(inner)) + inner


def test_a_command_without_end(receiver, tmp_path, caplog):
    (file,) = study_files(tmp_path, 1, slices=1)
    association, context = associated(receiver, pydicom.dcmread(file).SOPClassUID)
    assert ends(association.dul.socket.socket, unit(context, 1, bytes(16000))) < 64 * MIB
    assert "127.0.0.1 is cut off" in caplog.text
    association.abort()
    assert send(receiver.port, [file]) == [SUCCESS]


def test_objects_without_waiting_for_an_answer(receiver, tmp_path, monkeypatch, caplog):
    (file,) = study_files(tmp_path, 1, slices=1)
    data = pydicom.dcmread(file)
    go = threading.Event()
    write = Store.write
    monkeypatch.setattr(Store, "write", lambda *given: go.wait(60) and write(*given))
    association, context = associated(receiver, data.SOPClassUID)
    try:
        assert ends(association.dul.socket.socket, _message(data, context)) < 64 * MIB
    finally:
        go.set()
    assert "127.0.0.1 is cut off" in caplog.text
    association.abort()


def _encoded(data):
    from pynetdicom.dsutils import encode

    return encode(data, is_implicit_vr=False, is_little_endian=True)


def _message(data, context):
    from pynetdicom.dimse_messages import C_STORE_RQ
    from pynetdicom.dimse_primitives import C_STORE

    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    request.DataSet = io.BytesIO(_encoded(data))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    parts = [value for part in message.encode_msg(context, 16382) for value in part.presentation_data_value_list]
    return b"".join(unit(number, content[0], content[1:]) for number, content in parts)
