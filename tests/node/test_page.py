"""A status page under clients that go away, come slowly or ask for what is not there: no fault of the node."""

import contextlib
import errno
import socket
import struct
import threading
import time

import pytest

from medseg.node import page as module
from medseg.node.page import StatusPage
from medseg.node.status import Status

ASKED = b"GET / HTTP/1.0\r\nHost: localhost:1\r\n\r\n"


def status():
    return Status(True, {"done": 1}, 0, [], 0, [], [])


@contextlib.contextmanager
def shown(made=status):
    page = StatusPage(0, "NODE", made)
    try:
        yield page.port
    finally:
        page.stop()


def answer(port, asked):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(asked)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


@pytest.mark.parametrize("asked", [ASKED, ASKED[:8]])
def test_who_goes_away_leaves_no_trace(capfd, asked):
    asking, gone = threading.Event(), threading.Event()

    def made():
        asking.set()
        assert gone.wait(20)
        return status()

    with shown(made) as port:
        before = threading.active_count()
        client = socket.create_connection(("127.0.0.1", port), timeout=20)
        client.sendall(asked)
        if asked == ASKED:
            assert asking.wait(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # as a window that is closed
        client.close()
        gone.set()
        until = time.monotonic() + 20
        while threading.active_count() > before and time.monotonic() < until:
            time.sleep(0.02)
        assert b"1 done" in answer(port, ASKED)  # it goes on
    assert capfd.readouterr().err == ""


def test_a_disk_that_fails_is_said(capfd):
    def made():
        raise OSError(errno.EIO, "Input/output error")

    with shown(made) as port:
        assert answer(port, ASKED).startswith(b"HTTP/1.0 503 ")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("asked", [b"<b>SECRET /SECRET", b"GET / SECRET", b"GET /SECRET HTTP/1.0\r\nHost: localhost:1"])
def test_nothing_of_a_request_is_in_an_answer(asked):
    with shown() as port:
        got = answer(port, asked + b"\r\n\r\n")
    assert b"SECRET" not in got
    assert got.endswith((b"ask by GET\n", b"there is / and /status.json\n"))


def test_a_request_that_comes_slowly_is_ended(monkeypatch):
    """A byte at a time had kept a thread for as long as its sender liked."""
    monkeypatch.setattr(module, "_SECONDS", 0.5)
    with shown() as port, socket.create_connection(("127.0.0.1", port), timeout=0.1) as client:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < began + 20:
                client.sendall(b"G")
                with contextlib.suppress(TimeoutError):
                    if not client.recv(100):
                        break
        assert time.monotonic() < began + 15
