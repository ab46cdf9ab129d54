"""What tests of a node share: studies to send, a model that takes no time, an archive that can go away."""

import hashlib
import io
import logging
import os
import threading
import time
from pathlib import Path

import pydicom
from dicom_series import AXIAL, write_series
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

from medseg.io.dicom_rules import rules_of
from medseg.node.config import Caller, Config, ModelRoute, Peer, Retry

SECRET = "Geheim"
QUICK = Retry(times=60, first_seconds=0.05, longest_seconds=0.2)
TITLE, SENDER = "NODE", "SENDER"


def config_of(folder, archive_port=1, port=0, **more):
    """Return a configuration whose pauses are short; port 0 is any."""
    given = {
        "callers": (Caller(SENDER),),
        "models": (ModelRoute("fake", "none", Path("none")),),
        "destinations": (Peer("archive", "ARCHIVE", "127.0.0.1", archive_port),),
        "still_seconds": 0.2,
        "broken_seconds": 30.0,
        "predicting": Retry(times=3, first_seconds=0.05, longest_seconds=0.1),
        "sending": QUICK,
        "disk_gib": 1.0,
        **more,
    }
    return Config(folder, TITLE, port, **given)


def uids(study, number):
    root = f"1.2.826.0.1.3680043.8.498.{int(hashlib.sha256(str(study).encode()).hexdigest()[:12], 16)}"
    return root, f"{root}.1", f"{root}.1.{number + 1}"


def study_files(folder, study, slices=3, change=None, first=0):
    """Write a small CT series under UIDs of its own, with a patient whose name must get nowhere."""

    def named(number, data):
        data.StudyInstanceUID, data.SeriesInstanceUID, sop = uids(study, number + first)
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = sop
        data.PatientName, data.PatientID, data.AccessionNumber = f"{SECRET}^{study}", f"{SECRET}-4711", SECRET[:16]
        data.StudyDescription = data.SeriesDescription = f"{SECRET} {study}"
        if change is not None:
            change(number, data)

    distances = [2 * (each + first) for each in range(slices)]
    return sorted(write_series(folder / f"{study}_{first}", distances, named, turn=AXIAL).iterdir())


def another_series(_number, data):
    """Change slices of `study_files` into those of another series of their study."""
    data.SeriesInstanceUID, data.SOPInstanceUID = f"{data.SeriesInstanceUID}.7", f"{data.SOPInstanceUID}.7"


class FakeModel:
    """Waits a moment and writes an object whose UID follows from the series and its instances."""

    name = "fake"
    rules = rules_of([{"modality": ["CT"]}], "test")
    state = "as it is"

    def __init__(self, seconds=0.0, fault=None):
        self.seconds, self.fault, self.calls = seconds, fault, 0

    def predict(self, series, output):
        self.calls += 1
        if self.fault is not None:
            self.fault(self.calls)
        time.sleep(self.seconds)
        files = sorted(series.iterdir())
        heads = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
        said = "".join(sorted(head.SOPInstanceUID for head in heads))
        made = Dataset()
        made.SOPClassUID, made.SOPInstanceUID = (
            SegmentationStorage,
            f"2.25.{int(hashlib.md5(said.encode()).hexdigest(), 16)}",
        )
        made.StudyInstanceUID, made.SeriesInstanceUID = heads[0].StudyInstanceUID, f"{heads[0].SeriesInstanceUID}.9"
        made.Modality, made.PatientName, made.PatientID = "SEG", heads[0].PatientName, heads[0].PatientID
        made.InstanceNumber = len(files)
        made.file_meta = FileMetaDataset()
        made.file_meta.MediaStorageSOPClassUID, made.file_meta.MediaStorageSOPInstanceUID = (
            made.SOPClassUID,
            made.SOPInstanceUID,
        )
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.save_as(output / "result.seg.dcm", enforce_file_format=True)
        return [output / "result.seg.dcm"]


class Archive:
    """A store SCP in this process: what it has by instance, and how often each came."""

    def __init__(self, port=0, cut=()):
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
        self.objects, self.times, self.cut = {}, {}, set(cut)
        self._count, self._lock = 0, threading.Lock()
        self.ae = AE(ae_title="ARCHIVE")
        self.ae.maximum_associations = 100
        self.ae.supported_contexts = AllStoragePresentationContexts
        self.ae.add_supported_context("1.2.840.10008.1.1")
        self._handlers = [(evt.EVT_C_STORE, self._stored)]
        self.up(port)

    def up(self, port=0):
        self._server = self.ae.start_server(("127.0.0.1", port), block=False, evt_handlers=self._handlers)
        self.port = self._server.server_address[1]

    def down(self):
        self.ae.shutdown()

    def _stored(self, event):
        """Store; at the numbers of ``cut``, store and break off without an answer."""
        data = event.dataset
        with self._lock:
            self._count += 1
            count = self._count
            uid = str(data.SOPInstanceUID)
            self.objects[uid] = (str(data.StudyInstanceUID), int(data.get("InstanceNumber") or 0))
            self.times[uid] = self.times.get(uid, 0) + 1
        if count in self.cut:
            event.assoc.abort()
        return 0x0000


def send(port, files, *, title=SENDER, called=TITLE, abort=False, contexts=None):
    """Send files in one association; return the statuses, ``None`` of those that had no answer."""
    from pynetdicom import AE

    ae = AE(ae_title=title)
    ae.acse_timeout = ae.dimse_timeout = ae.connection_timeout = 10
    for kind in contexts or {pydicom.dcmread(file, specific_tags=["SOPClassUID"]).SOPClassUID for file in files[:1]}:
        ae.add_requested_context(kind)
    association = ae.associate("127.0.0.1", port, ae_title=called)
    if not association.is_established:
        return [None] * len(files)
    statuses = []
    for file in files:
        data = file if isinstance(file, Dataset) else pydicom.dcmread(file)
        try:
            statuses.append(association.send_c_store(data).get("Status"))
        except (RuntimeError, OSError):
            statuses.append(None)
    if abort:
        association.abort()
    elif association.is_established:
        association.release()
    return statuses


def wait_for(what, seconds=20.0):
    """Wait until something is true."""
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)
    return found


def objects_below(folder):
    """Return the DICOM files below a folder, while others make and delete some."""
    return sorted(Path(place) / name for place, _, names in os.walk(folder) for name in names if name.endswith(".dcm"))


def bytes_of(data):
    file = io.BytesIO()
    data.save_as(file)
    return file.getvalue()
