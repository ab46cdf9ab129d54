import contextlib
import hashlib
import re
import socket
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from medseg.releases.download import DownloadError, _SafeRedirect, download

CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; its attributes say how badly."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.drops = []  # bytes after which the next connections end
        self.statuses = []  # errors that the next requests get
        self.ranges = True
        self.etag = '"one"'
        self.shift = 0  # error in Content-Range
        self.redirect = None
        self.requests = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/archive.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        server.requests.append(int(asked[1]) if asked else None)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        if server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            self.end_headers()
            return
        start = 0
        same = self.headers.get("If-Range", server.etag) == server.etag
        if asked and server.ranges and same:
            start = int(asked[1])
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            first = start + server.shift
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client may hang up first
            self.wfile.write(body[: server.drops.pop(0)] if server.drops else body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def fetch(server, folder, **options):
    return download(server.url, folder / "archive.zip", **{"backoff": 0.01, **options})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_whole(server, tmp_path):
    steps = []
    path = fetch(server, tmp_path / "deep", sha256=SHA256.upper(), md5=MD5, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert names(path.parent) == ["archive.zip"]
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_dropped_connection_is_continued(server, tmp_path):
    server.drops = [300_000]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [None, 300_000]


def test_killed_run_is_continued_by_the_next(server, tmp_path):
    server.drops = [300_000]
    with pytest.raises(DownloadError, match=r"ended after 300000 of 1000000 bytes.*run again to continue"):
        fetch(server, tmp_path, retries=0)
    assert names(tmp_path) == ["archive.zip.part", "archive.zip.part.json"]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, 300_000]
    assert names(tmp_path) == ["archive.zip"]


def test_attempts_are_bounded(server, tmp_path):
    server.drops = [100] * 10
    with pytest.raises(DownloadError, match="after 3 attempts; 300 bytes are kept"):
        fetch(server, tmp_path, retries=2)
    assert len(server.requests) == 3


def test_server_without_ranges(server, tmp_path):
    server.ranges = False
    server.drops = [300_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None, 300_000]


def test_file_that_changed_meanwhile_starts_again(server, tmp_path):
    server.drops = [300_000]
    with pytest.raises(DownloadError):
        fetch(server, tmp_path, retries=0)
    server.etag, server.content = '"two"', CONTENT[::-1]
    assert fetch(server, tmp_path).read_bytes() == CONTENT[::-1]


def test_part_of_unknown_origin(server, tmp_path):
    (tmp_path / "archive.zip.part").write_bytes(CONTENT[:5000])
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.requests == [None]
    (tmp_path / "archive.zip").rename(tmp_path / "archive.zip.part")
    with (tmp_path / "archive.zip.part").open("r+b") as file:
        file.truncate(7000)
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [None, 7000]


@pytest.mark.parametrize("surplus", [b"", b"xyz"])
def test_whole_or_overlong_part(server, tmp_path, surplus):
    (tmp_path / "archive.zip.part").write_bytes(CONTENT + surplus)
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests[0] == 1_000_000 + len(surplus)


def test_wrong_range(server, tmp_path):
    server.drops, server.shift = [300_000], 5
    with pytest.raises(DownloadError, match=r"asked for byte 300000, but the server sent 'bytes 300005-"):
        fetch(server, tmp_path)


@pytest.mark.parametrize(("name", "found"), [("sha256", SHA256), ("md5", MD5)])
def test_wrong_checksum(server, tmp_path, name, found):
    with pytest.raises(DownloadError) as error:
        fetch(server, tmp_path, **{name: "0" * len(found)})
    assert f"{server.url}: {name} is {found}, but {'0' * len(found)} was expected" in str(error.value)
    assert names(tmp_path) == []


def test_damaged_part_is_deleted_then_fetched_anew(server, tmp_path):
    (tmp_path / "archive.zip.part").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="the download was deleted"):
        fetch(server, tmp_path, sha256=SHA256)
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_existing_target(server, tmp_path):
    (tmp_path / "archive.zip").write_bytes(b"old")
    assert fetch(server, tmp_path).read_bytes() == b"old"
    assert server.requests == []
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.requests == [None]


def test_what_is_too_large_does_not_fill_the_disk(server, tmp_path):
    with pytest.raises(DownloadError, match="is larger than 1000 bytes"):
        fetch(server, tmp_path, max_bytes=1000)
    assert (tmp_path / "archive.zip.part").stat().st_size < len(CONTENT) / 2


def test_error_statuses(server, tmp_path):
    server.statuses = [503, 429]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    (tmp_path / "archive.zip").unlink()
    server.statuses, server.requests = [404], []
    with pytest.raises(DownloadError, match=r"archive\.zip: cannot be downloaded \(HTTP Error 404.*after 1 attempt;"):
        fetch(server, tmp_path)
    assert server.requests == [None]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_faults_that_pass(server, tmp_path, status):
    server.statuses = [status]
    assert fetch(server, tmp_path, retries=1).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 416, 501, 505])
def test_faults_that_stay(server, tmp_path, status):
    server.statuses = [status]
    with pytest.raises(DownloadError, match=f"HTTP Error {status}.*after 1 attempt; 0 bytes are kept"):
        fetch(server, tmp_path)


def test_waits_double_up_to_half_a_minute(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.statuses = [503] * 7
    fetch(server, tmp_path, retries=7, backoff=1.0)
    assert waits == [1, 2, 4, 8, 16, 30, 30]


@pytest.mark.parametrize("url", ["ftp://example.org/a.zip", "data:text/plain,a", "a.zip"])
def test_other_schemes(tmp_path, url):
    with pytest.raises(DownloadError, match="only https, http, file"):
        download(url, tmp_path / "a.zip")


def test_unsafe_redirect(server, tmp_path):
    server.redirect = "ftp://127.0.0.1/a.zip"
    with pytest.raises(DownloadError, match="redirects to ftp://127"):
        fetch(server, tmp_path)


def test_redirect_to_the_same_scheme_is_followed(server, tmp_path):
    other = Server()
    other.redirect = server.url
    thread = threading.Thread(target=other.handle_request)
    thread.start()
    assert download(other.url, tmp_path / "a.zip").read_bytes() == CONTENT
    thread.join()
    other.server_close()


def test_redirect_never_goes_down_to_http():
    handler = _SafeRedirect()

    def follow(old, new):
        return handler.redirect_request(urllib.request.Request(old), None, 302, "Found", {}, new)

    with pytest.raises(DownloadError, match="https://a/b: redirects to http://a/b, which is not safe"):
        follow("https://a/b", "http://a/b")
    for old, new in (("https://a/b", "https://c/d"), ("http://a/b", "https://a/b"), ("http://a/b", "http://a/c")):
        assert follow(old, new).full_url == new


def test_secure_addresses_are_asked_securely(server, tmp_path):
    """The server answers in plain text, which is no handshake."""
    with pytest.raises(DownloadError, match="SSL"):
        download(server.url.replace("http:", "https:"), tmp_path / "a.zip", retries=0)
    assert server.requests == []


def test_silence_ends_with_the_total_time(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/a.zip"
        with pytest.raises(DownloadError, match=r"\(it takes more than 0\.1 s\) after 1 attempt;"):
            download(url, tmp_path / "a.zip", total_timeout=0.1)


def test_silent_server_times_out(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/a.zip"
        with pytest.raises(DownloadError, match="timed out"):
            download(url, tmp_path / "a.zip", timeout=0.1, retries=1, backoff=0.01)


def test_file_url(tmp_path):
    (tmp_path / "source.zip").write_bytes(CONTENT)
    url = (tmp_path / "source.zip").as_uri()
    assert download(url, tmp_path / "target.zip", sha256=SHA256).read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="after 1 attempt"):
        download(url + "x", tmp_path / "other.zip")
