"""A whole node: killed, cut off, its archive away; what it shows and what it leaves."""

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest
import yaml
from node_parts import SECRET, SENDER, TITLE, Archive, FakeModel, config_of, objects_below, send, study_files, wait_for

from medseg.node.config import read_config
from medseg.node.service import Node
from medseg.node.status import page, read_status, text
from medseg.runs.lock import LockedError, is_locked

pytest.importorskip("pynetdicom", reason="a node needs pynetdicom; pip install 'medseg[dicom]'")

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # pynetdicom's, where nobody listens

_CHILD = """
import signal, sys, threading
from pathlib import Path
from node_parts import FakeModel
from medseg.node.config import read_config
from medseg.node.service import Node
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
node = Node(read_config(Path(sys.argv[1])), [FakeModel(0.05)])
node.start()
stop.wait()
node.stop()
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def running(config, model):
    """Run a node in this process, on a port that is free."""
    node = Node(config, [model])
    node.start()
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def archive():
    made = Archive()
    yield made
    made.down()


def states(folder):
    return read_status(folder / "queue.sqlite", running=True).states


def test_killed_again_and_again(tmp_path, archive):
    """SIGKILL at moments that nobody chose: each study's result is in the archive, once."""
    port, rng = free_port(), random.Random(0)
    content = {
        **{"folder": "node", "title": TITLE, "port": port, "callers": [{"title": SENDER}]},
        "models": [{"name": "fake", "model": "none", "rules": "none"}],
        "destinations": [{"name": "archive", "title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port}],
        **{"still_seconds": 0.3, "broken_seconds": 20, "sending": {"times": 99, "first_seconds": 0.1}},
    }
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(content))
    config = read_config(tmp_path / "node.yaml")
    studies = [study_files(tmp_path / "in", number) for number in range(5)]

    def start():
        command = [sys.executable, "-c", _CHILD, str(tmp_path / "node.yaml")]
        return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})

    def bring(files):
        while not over.is_set() and send(port, files) != [0, 0, 0]:
            time.sleep(0.2)

    over = threading.Event()
    senders = [threading.Thread(target=bring, args=(files,)) for files in studies]
    process = start()
    try:
        for sender in senders:
            sender.start()
        for _ in range(3):
            wait_for(lambda: is_locked(config.folder), 60)
            time.sleep(rng.uniform(0.05, 0.6))
            process.kill()
            process.wait()
            process = start()
        for sender in senders:
            sender.join(120)
        wait_for(lambda: states(config.folder) == {"done": 5}, 60)
        wait_for(lambda: is_locked(config.folder), 60)  # before, nothing listens to SIGTERM
        process.terminate()
        assert process.wait(30) == 0
    finally:
        over.set()
        process.kill()
        process.wait()
    assert sorted(number for _, number in archive.objects.values()) == [3] * 5
    assert len({study for study, _ in archive.objects.values()}) == 5
    assert not is_locked(config.folder)


def test_the_archive_goes_away_and_the_cable_is_cut(tmp_path, archive):
    """It stores the second object and breaks off without an answer: the object comes again under its UID."""
    archive.cut = {2}
    port = archive.port
    archive.down()
    with running(config_of(tmp_path / "node", port), FakeModel()) as node:
        for study in range(3):
            assert send(node.port, study_files(tmp_path, study)) == [0, 0, 0]
        wait_for(lambda: states(tmp_path / "node") == {"sending": 3})
        wait_for(lambda: "archive cannot be reached" in f"archive {_why(tmp_path)}")
        archive.up(port)
        wait_for(lambda: states(tmp_path / "node") == {"done": 3})
    assert [number for _, number in archive.objects.values()] == [3, 3, 3]
    assert sorted(archive.times.values()) == [1, 1, 2]


def _why(tmp_path):
    return read_status(tmp_path / "node" / "queue.sqlite", running=True).destinations[0][4]


def test_what_is_seen_from_outside(tmp_path, archive, caplog):
    """No name, number or UID of a patient on the page, in the log, in the status; nothing left when all is done."""
    caplog.set_level(logging.DEBUG, logger="medseg")

    def fault(call):
        if call == 1:
            raise ValueError(f"{SECRET}^1")

    config = config_of(tmp_path / "node", archive.port, status_port=free_port(), predicting=config_of(".").predicting)
    with running(config, FakeModel(fault=fault)) as node:
        with pytest.raises(LockedError, match="is in use by process"):
            Node(config, [FakeModel()]).start()
        for study in (1, 2):
            assert send(node.port, study_files(tmp_path, study)) == [0, 0, 0]
        wait_for(lambda: states(config.folder) == {"done": 2})
        wait_for(lambda: not objects_below(config.folder))
        address = f"http://127.0.0.1:{config.status_port}"
        with urllib.request.urlopen(f"{address}/", timeout=10) as answer:
            html, headers = answer.read().decode(), answer.headers
        with urllib.request.urlopen(f"{address}/status.json", timeout=10) as answer:
            status = json.load(answer)
        for request, code in (
            (f"{address}/../queue.sqlite", 404),
            (urllib.request.Request(f"{address}/", headers={"Host": "evil.example"}), 403),
            (urllib.request.Request(f"{address}/", data=b"x"), 501),
        ):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=10)
            assert caught.value.code == code
            caught.value.close()
    assert status["states"] == {"done": 2}
    assert "2 done" in html
    assert headers["Cache-Control"] == "no-store"
    seen = html + json.dumps(status) + text(read_status(config.folder / "queue.sqlite", running=False))
    seen += "\n".join(record.getMessage() for record in caplog.records)
    assert "study 1: series 1 by fake: ValueError" in seen
    for secret in (SECRET, *(study for study, _ in archive.objects.values())):
        assert secret not in seen
    assert [study["state"] for study in status["studies"]] == ["done", "done"]


def test_the_page_is_escaped(tmp_path, archive):
    config = config_of(tmp_path / "node", archive.port)
    with running(config, FakeModel()):
        status = read_status(config.folder / "queue.sqlite", running=True)
    assert "<b>" not in page(status, "<b>A")
    assert "&lt;b&gt;A" in page(status, "<b>A")


def test_told_to_stop(tmp_path, archive):
    """The study in hand is finished where it may be, else done again at the next start."""
    config = config_of(tmp_path / "node", archive.port, stop_seconds=0.1, still_seconds=0.0)
    started, go = threading.Event(), threading.Event()

    def slow(_call):
        started.set()
        go.wait(20)

    model = FakeModel(fault=slow)
    node = Node(config, [model])
    node.start()
    assert send(node.port, study_files(tmp_path, 1)) == [0, 0, 0]
    started.wait(20)
    node.stop()
    assert states(config.folder) == {"claimed": 1}
    go.set()
    wait_for(lambda: not any(thread.is_alive() for thread in node._threads))
    node._queue.close()
    node._lock.release()
    with running(config, FakeModel()):
        wait_for(lambda: states(config.folder) == {"done": 1})
    assert [number for _, number in archive.objects.values()] == [3]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # no library touched it
