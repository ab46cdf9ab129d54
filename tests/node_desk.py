"""A node by hand, without threads and without a network: its clock goes as it is told."""

import pydicom
from node_parts import QUICK, FakeModel

from medseg.node.queue import Queue
from medseg.node.send import Sender, UnreachableError
from medseg.node.states import Incoming
from medseg.node.status import read_status
from medseg.node.store import Store, stands_for
from medseg.node.upkeep import recover, sweep
from medseg.node.work import work

STILL, BROKEN = 10.0, 100.0


class Shelf:
    """An archive that is a dictionary."""

    name = "archive"

    def __init__(self, objects=(), after=lambda: None, away=0):
        self.objects, self.came, self._after, self.away = dict(objects), [], after, away

    def send(self, files):
        for file in files:
            if self.away:
                self.away -= 1
                raise UnreachableError("archive cannot be reached")
            data = pydicom.dcmread(file)
            self.objects[str(data.SOPInstanceUID)] = int(data.InstanceNumber)
            self.came.append(str(data.SOPInstanceUID))
            self._after()
            yield ""

    def check(self):
        pass


class Desk:
    """A node by hand, whose clock goes as it is told."""

    def __init__(self, folder, model=None, shelf=None):
        self.store = Store(folder)
        self.store.make()
        self.queue = Queue(self.store.queue)
        self.sender = self.retry = None
        self.now, self.model, self.shelf = 1000.0, model or FakeModel(), shelf or Shelf()

    def receive(self, file, released=True):
        content, head = file.read_bytes(), pydicom.dcmread(file, stop_before_pixels=True)
        study, series, sop = map(stands_for, (head.StudyInstanceUID, head.SeriesInstanceUID, head.SOPInstanceUID))
        written = self.store.write(content)
        place = self.store.place
        became, number = self.queue.add(
            Incoming(study, series, sop, stands_for(str(content)), len(content)),
            lambda number: place(written, self.store.file(number, series, sop)),
            self.now,
        )
        written.unlink(missing_ok=True)
        if released:
            self.queue.ended({number}, self.now, whole={(study, series)})
        return became

    def cut(self, file, number=1):
        """End an association that was refused a file, or broke off with it."""
        head = pydicom.dcmread(file, stop_before_pixels=True)
        part = stands_for(head.StudyInstanceUID), stands_for(head.SeriesInstanceUID)
        self.queue.ended({number}, self.now, whole=set(), cut={part})

    def step(self, pause=STILL + 1, retry=QUICK):
        """Let time pass; predict what is still, send what is due; return what was predicted."""
        self.now += pause
        claim = self.queue.claim(self.now, STILL, BROKEN)
        worked = None
        if claim is not None:
            worked = work(claim, self.store, [self.model])
            self.queue.predicted(claim, worked, [self.shelf.name], retry, self.now)
        if self.sender is None or retry is not self.retry:
            self.sender, self.retry = Sender(self.queue, self.store, self.shelf, retry, lambda: self.now), retry
        self.sender.step()
        return worked

    def recover(self):
        return recover(self.queue, self.store, QUICK, self.now)

    def sweep(self, keep=0.0, keep_failed=1e6):
        return sweep(self.queue, keep, keep_failed, self.now, self.store.remove)

    def status(self):
        return read_status(self.store.queue, running=True)

    @property
    def states(self):
        return {each.number: each.state for each in self.status().studies}
