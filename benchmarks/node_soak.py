"""Many studies at once through a node that is killed, with cut cables and an archive that is down: what arrives?

Studies are made of one real series under new UIDs and sent by dcmtk's ``storescu``, several at a time, each until it is
told of success. Meanwhile the node is killed (SIGKILL) and started again, all connections are cut now and then, and the
archive (pynetdicom's, or Orthanc) is away for a while. The model is a threshold, written by medseg as DICOM SEG. At the
end every study must have one result in the archive, about all its instances, and none a second one.

    python -m benchmarks.node_soak --series ../shared/data/dicom_mr_hippocrop/study1
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import yaml
from pydicom.uid import generate_uid

from benchmarks.common import report
from benchmarks.orthanc import Orthanc, free_port, program
from medseg.bundle.description import Description
from medseg.io.dicom import read_slices
from medseg.io.dicom_rules import ANY
from medseg.io.images import read_image
from medseg.node.child import PredictingProcess
from medseg.node.config import read_config
from medseg.node.service import Node
from medseg.node.status import read_status, text
from medseg.prediction.dicom_objects import Algorithm, save, segments_of
from medseg.prediction.dicom_seg import segmentation

_SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
_HOST = "127.0.0.1"


class Threshold:
    """Stands for a model: the bright voxels, as DICOM SEG."""

    name = "threshold"
    rules = ANY
    state = "a threshold"

    def predict(self, series: Path, output: Path) -> Sequence[Path]:
        """Write a segmentation."""
        values = read_image(series).array
        mask = (values > np.percentile(values, 90)).astype(np.uint8)
        network = {"name": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
        content = {"name": "threshold", "network": network, "classes": ["background", "liver"]}
        about = segments_of(Description.of(content)), Algorithm("threshold", "0" * 64)
        save(segmentation(mask, read_slices(series), *about, where="a series"), output / "result.seg.dcm")
        return [output / "result.seg.dcm"]


class Cable:
    """A port that leads to another, until it is cut."""

    def __init__(self, target: int) -> None:
        self._target, self._lock = target, threading.Lock()
        self._ends: set[socket.socket] = set()
        self._server = socket.create_server((_HOST, 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            near, _ = self._server.accept()
            try:
                far = socket.create_connection((_HOST, self._target), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._ends |= {near, far}
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._forward, args=(a, b), daemon=True).start()

    def _forward(self, a: socket.socket, b: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        with self._lock:
            self._ends -= {a, b}
        for end in (a, b):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()


class Archive:
    """A store SCP that counts."""

    name = "pynetdicom's SCP"

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, int]] = {}
        self.came: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.port = 0
        self.up()

    def up(self) -> None:
        """Listen."""
        from pynetdicom import AE, evt

        self._ae = AE(ae_title="ARCHIVE")
        self._ae.maximum_associations = 100
        self._ae.add_supported_context(_SEGMENTATION)
        server = self._ae.start_server((_HOST, self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)])
        assert server is not None
        self.port = server.server_address[1]

    def down(self) -> None:
        """Go away, in the middle of whatever it is doing."""
        self._ae.shutdown()

    def _store(self, event: Any) -> int:
        data = event.dataset
        instances = len(data.ReferencedSeriesSequence[0].ReferencedInstanceSequence)
        with self._lock:
            self.held[str(data.SOPInstanceUID)] = (str(data.StudyInstanceUID), instances)
            self.came[str(data.SOPInstanceUID)] += 1
        return 0


class Killed:
    """The node in a process of its own, which can be killed and comes back."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (config.parent / "node.log").open("ab")

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "benchmarks.node_soak", "--node", str(self._config)]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def listens(self, port: int) -> None:
        """Wait until it does: a kill before is none."""
        for _ in range(1200):
            with contextlib.suppress(OSError), socket.create_connection((_HOST, port), timeout=5):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the node does not listen; see {self._log.name}")

    def end(self, number: signal.Signals) -> int:
        """Send it a signal and wait for its end."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the node ended by itself with {self._process.returncode}; see {self._log.name}")
        self._process.send_signal(number)
        return self._process.wait(120)


def _serve(config: Path) -> None:
    """Be the node."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    with PredictingProcess(_threshold, 3600.0) as models:  # as `medseg node run` has them
        node = Node(read_config(config), models.routes)
        node.start()
        stop.wait()
        node.stop()


def _threshold() -> Sequence[Threshold]:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    return [Threshold()]


def _copy(series: Path, target: Path) -> int:
    """Write the series again under UIDs of its own; return how many instances it has."""
    target.mkdir(parents=True)
    study, own = generate_uid(), generate_uid()
    files = sorted(path for path in series.iterdir() if path.is_file())
    for number, file in enumerate(files):
        data = pydicom.dcmread(file)
        data.StudyInstanceUID, data.SeriesInstanceUID = study, own
        data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        data.save_as(target / f"{number:03d}.dcm")
    return len(files)


def _send(folder: Path, port: int) -> int:
    """Send a study until its receiver has said success of all of it; return how often that took."""
    command = [program("storescu"), "-aet", "SENDER", "-aec", "NODE", "-to", "10", "+sd", _HOST, str(port), str(folder)]
    for attempt in range(1, 200):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return attempt
        time.sleep(random.uniform(0.5, 2))
    raise RuntimeError(f"{folder} could not be sent")


def _wait(done: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Do it.

    Args:
        options: of the command.
        folder: for everything.
    """
    rng = random.Random(options.seed)
    (instances,) = {_copy(options.series, folder / "in" / str(each)) for each in range(options.studies)}
    archive = Orthanc(folder / "orthanc") if options.orthanc else Archive()
    port, out = free_port(), Cable(archive.port)
    within = Cable(port)
    config = folder / "node.yaml"
    content = {
        **{"folder": "node", "title": "NODE", "port": port, "callers": [{"title": "SENDER"}]},
        "models": [{"name": "threshold", "model": "none", "rules": "none"}],
        "destinations": [{"name": "archive", "title": "ARCHIVE", "host": _HOST, "port": out.port}],
        **{"still_seconds": options.still, "broken_seconds": 120, "associations": 40},
        "sending": {"times": 1000, "first_seconds": 1, "longest_seconds": 10},
    }
    config.write_text(yaml.safe_dump(content))
    node = Killed(config)
    node.start()
    began = time.monotonic()
    studies = sorted((folder / "in").iterdir())
    kills = cuts = 0
    away = [0.0, 0.0]
    with ThreadPoolExecutor(options.senders) as pool:
        sent = [pool.submit(_send, each, within.port) for each in studies]
        while kills < options.kills:
            node.listens(port)
            time.sleep(rng.uniform(*options.between))
            if kills == options.kills // 2 and not away[1] and options.away:
                archive.down()
                away = [time.monotonic(), time.monotonic() + options.away]
            node.end(signal.SIGKILL)
            kills += 1
            if rng.random() < 0.5:
                within.cut()
                cuts += 1
            node.start()
            if away[1] and time.monotonic() > away[1] and away[0]:
                archive.up()
                away[0] = 0.0
            out.cut()
            cuts += 1
        if away[0]:
            time.sleep(max(0.0, away[1] - time.monotonic()))
            archive.up()
        attempts = [each.result() for each in sent]
    queue = folder / "node" / "queue.sqlite"
    whole = _wait(lambda: read_status(queue, running=True).states == {"done": options.studies}, options.patience)
    seconds = time.monotonic() - began
    time.sleep(5)  # what is done is deleted
    status = node.end(signal.SIGTERM)
    sys.stdout.write(text(read_status(queue, running=False, most=5)))
    held, name = dict(archive.held), archive.name
    archive.down()
    by_study = Counter(study for study, _ in held.values())
    left = sum(1 for place in ("received", "results", "incoming") for path in (folder / "node" / place).rglob("*.dcm"))
    return {
        **{"studies": options.studies, "instances": instances * options.studies, "kills": kills, "cuts": cuts},
        **{"archive_away_s": options.away, "seconds": round(seconds, 1), "queue_done": whole},
        "sent_in_attempts": dict(sorted(Counter(attempts).items())),
        "results_in_archive": len(by_study),
        "studies_with_more_than_one": sum(number > 1 for number in by_study.values()),
        "results_of_part_of_a_study": sum(number != instances for _, number in held.values()),
        "came_again_under_their_uid": archive.came and sum(number > 1 for number in archive.came.values()),
        **{"archive": name, "files_left": left, "exit_status_after_sigterm": status},
    }


def main() -> int:
    """Run it; the exit status is 1 where a result is missing or double."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=Path, default=Path("../shared/data/dicom_mr_hippocrop/study1"))
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--between", type=float, nargs=2, default=(4.0, 10.0), help="seconds between two kills")
    parser.add_argument("--away", type=float, default=60.0, help="seconds that the archive is away")
    parser.add_argument("--senders", type=int, default=8, help="studies that are sent at one time")
    parser.add_argument("--still", type=float, default=4.0)
    parser.add_argument("--patience", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--orthanc", action="store_true", help="Orthanc as the archive, see benchmarks/orthanc.py")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="folder that is kept")
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node is not None:
        _serve(options.node)
        return 0
    program("storescu")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(exist_ok=True)
        found = soak(options, folder)
    good = found["results_in_archive"] == options.studies and found["studies_with_more_than_one"] == 0
    report("studies through a node that is killed", found, options.json)
    sys.stdout.write(f"{found['results_in_archive']} of {options.studies}, ")
    sys.stdout.write(f"{found['studies_with_more_than_one'] or 'none'} twice\n")
    return 0 if good else 1


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
