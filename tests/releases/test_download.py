import contextlib
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from medseg.releases.download import DownloadError, download

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


def test_error_statuses(server, tmp_path):
    server.statuses = [503, 429]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    (tmp_path / "archive.zip").unlink()
    server.statuses, server.requests = [404], []
    with pytest.raises(DownloadError, match=r"archive\.zip: cannot be downloaded \(HTTP Error 404.*after 1 attempt;"):
        fetch(server, tmp_path)
    assert server.requests == [None]


@pytest.mark.parametrize("url", ["ftp://example.org/a.zip", "data:text/plain,a", "a.zip"])
def test_other_schemes(tmp_path, url):
    with pytest.raises(DownloadError, match="only https, http, file"):
        download(url, tmp_path / "a.zip")


def test_unsafe_redirect(server, tmp_path):
    server.redirect = "ftp://127.0.0.1/a.zip"
    with pytest.raises(DownloadError, match="redirects to ftp://127"):
        fetch(server, tmp_path)


def test_silent_server_times_out(tmp_path):
    import socket

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
