"""Answers that a server must not give, or gives slowly: each is written out byte by byte, over the loopback only."""

import contextlib
import hashlib
import json
import os
import socket
import threading
import time

import pytest

from medseg.releases.download import DownloadError, download

BODY = b"0123456789" * 100
SHA256 = hashlib.sha256(BODY).hexdigest()


class Script:
    """Gives one answer after the other, each to a connection of its own; the last one stays."""

    def __init__(self):
        self.answers, self.requests, self.pause = [], [], 0.0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/a.zip"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        while True:
            connection, _ = self._socket.accept()
            with connection, contextlib.suppress(OSError):
                request = connection.recv(65536).decode()
                if request == "end":
                    return
                self.requests.append(request)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                step = 1 if self.pause else len(answer)
                for at in range(0, len(answer), step):
                    connection.sendall(answer[at : at + step])
                    time.sleep(self.pause)

    def close(self):
        with socket.create_connection(self._socket.getsockname()) as connection:
            connection.sendall(b"end")
        self._thread.join()
        self._socket.close()


@pytest.fixture
def script():
    made = Script()
    yield made
    made.close()


def answer(body=BODY, status="200 OK", **headers):
    """An answer; a header of ``None`` is left out."""
    lines = {"Content-Length": str(len(body)), "ETag": '"one"', "Connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in lines.items() if value is not None), "", ""]
    return "\r\n".join(head).encode() + body


def rest(start, *, total=1000, body=BODY, **headers):
    return answer(body[start:], "206 Partial Content", Content_Range=f"bytes {start}-{total - 1}/{total}", **headers)


def cut(kept, **headers):
    """An answer that ends after so many bytes of the body."""
    whole = answer(**headers)
    return whole[: len(whole) - len(BODY) + kept]


def fetch(script, folder, *answers, **options):
    script.answers[:] = answers
    return download(script.url, folder / "a.zip", **{"backoff": 0.01, "timeout": 5.0, **options})


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "9" * 5000, "\u0661\u0660"])
def test_lengths_that_are_none(script, tmp_path, length):
    script.answers[:] = [
        answer(Content_Length=None).replace(b"\r\n\r\n", f"\r\nContent-Length: {length}\r\n\r\n".encode(), 1)
    ]
    with pytest.raises(DownloadError, match="the server sent the length '") as error:
        download(script.url, tmp_path / "a.zip", sha256=SHA256)
    assert len(str(error.value)) < 250
    assert len(script.requests) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "br", "identity, gzip"])
def test_compressed_answers(script, tmp_path, encoding):
    with pytest.raises(DownloadError, match="the server sent it in the encoding"):
        fetch(script, tmp_path, answer(Content_Encoding=encoding))
    assert list(tmp_path.iterdir()) == []
    assert "Accept-Encoding: identity" in script.requests[0]
    assert "User-Agent: medseg" in script.requests[0]
    assert fetch(script, tmp_path, answer(Content_Encoding="identity")).read_bytes() == BODY


def test_unasked_range(script, tmp_path):
    for given in (rest(0), rest(500)):
        with pytest.raises(DownloadError, match="asked for the whole file, but the server sent 'bytes"):
            fetch(script, tmp_path, given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sent", ["", "x" * 1000, "bytes 600-999/1000", "bytes 60", "items 300-999/1000", "bytes 300-999/abc"]
)
def test_range_that_was_not_asked_for(script, tmp_path, sent):
    wrong = answer(BODY[300:], "206 Partial Content", Content_Range=sent)
    with pytest.raises(DownloadError, match="asked for byte 300, but the server sent") as error:
        fetch(script, tmp_path, cut(300), wrong)
    assert len(str(error.value)) < 250


def test_range_shorter_than_the_rest_is_no_end(script, tmp_path):
    """A server may send less than was asked for: its length is that of the answer, not of the file."""
    middle = answer(BODY[300:400], "206 Partial Content", Content_Range="bytes 300-399/1000")
    assert fetch(script, tmp_path, cut(300), middle, rest(400)).read_bytes() == BODY
    assert [line for request in script.requests for line in request.splitlines() if line.startswith("Range")] == [
        "Range: bytes=300-",
        "Range: bytes=400-",
    ]


def test_range_of_unstated_total(script, tmp_path):
    unstated = answer(BODY[300:], "206 Partial Content", Content_Range="bytes 300-999/*")
    assert fetch(script, tmp_path, cut(300), unstated).read_bytes() == BODY


def test_range_of_unstated_length(script, tmp_path):
    (tmp_path / "a.zip.part").write_bytes(BODY[:300])
    unstated = rest(300, Content_Length=None).replace(b"999/1000", b"999/*")
    assert fetch(script, tmp_path, unstated, sha256=SHA256).read_bytes() == BODY
    assert len(script.requests) == 1


OTHER = BODY[::-1]


@pytest.mark.parametrize(
    "continued",
    [
        rest(300, body=OTHER, ETag='"two"'),
        rest(300, body=OTHER, ETag=None),
        rest(300, body=OTHER + b"more", total=1004),
    ],
    ids=["other-etag", "no-etag", "other-length"],
)
@pytest.mark.parametrize("checksum", [False, True])
def test_two_versions_are_not_joined(script, tmp_path, continued, checksum):
    """Also by a server that overlooks If-Range."""
    options = {"sha256": hashlib.sha256(OTHER).hexdigest()} if checksum else {}
    whole = answer(OTHER, ETag='"two"')
    assert fetch(script, tmp_path, cut(300), continued, whole, **options).read_bytes() == OTHER
    assert 'If-Range: "one"' in script.requests[1]
    assert "Range" not in script.requests[2]


def test_nothing_comes_after_the_part_of_another_version(script, tmp_path):
    """416 to a part as long as the new file: without the ETag the old bytes would be taken for it."""
    with pytest.raises(DownloadError):
        fetch(script, tmp_path, cut(990), retries=0)
    new, none = answer(OTHER[:990], ETag='"two"'), answer(b"", "416 Range Not Satisfiable")
    assert fetch(script, tmp_path, none, new, new).read_bytes() == OTHER[:990]


def test_unasked_range_to_the_question_how_long_it_is(script, tmp_path):
    with pytest.raises(DownloadError):
        fetch(script, tmp_path, cut(990), retries=0)
    with pytest.raises(DownloadError, match="asked for the whole file, but the server sent 'bytes 1-999/1000'"):
        fetch(script, tmp_path, answer(b"", "416 Range Not Satisfiable"), rest(1))


def test_without_checksum_and_etag_a_part_is_not_continued(script, tmp_path):
    with pytest.raises(DownloadError):
        fetch(script, tmp_path, cut(300, ETag=None), retries=0)
    assert json.loads((tmp_path / "a.zip.part.json").read_text()) == {
        "url": script.url,
        "length": 1000,
        "validator": "",
    }
    assert fetch(script, tmp_path, answer(ETag=None)).read_bytes() == BODY
    assert "Range" not in script.requests[1]


def test_weak_etags_do_not_vouch_but_a_date_does(script, tmp_path):
    date = "Thu, 01 Jan 2026 00:00:00 GMT"
    weak = {"ETag": 'W/"one"', "Last_Modified": date}
    assert fetch(script, tmp_path, cut(300, **weak), rest(300, **weak)).read_bytes() == BODY
    assert f"If-Range: {date}" in script.requests[1]


def test_unknown_length(script, tmp_path):
    unknown = answer(Content_Length=None)
    with pytest.raises(DownloadError, match="does not say how long the file is"):
        fetch(script, tmp_path, unknown)
    assert fetch(script, tmp_path, unknown, sha256=SHA256).read_bytes() == BODY
    (tmp_path / "a.zip").unlink()
    chunked = {"Content_Length": None, "Transfer_Encoding": "chunked"}
    frames = b"3e8\r\n" + BODY + b"\r\n0\r\n\r\n"
    broken = answer(frames[:500], **chunked)
    assert fetch(script, tmp_path, broken, answer(frames, **chunked)).read_bytes() == BODY


@pytest.mark.parametrize("where", ["body", "headers"])
def test_a_drip_has_a_total_time(script, tmp_path, where):
    """Every byte comes in time, but the whole would take minutes."""
    script.pause = 0.02
    given = answer(Connection="close" if where == "body" else "x" * 20_000)
    start = time.monotonic()
    with pytest.raises(
        DownloadError, match=r"cannot be downloaded \(it takes more than 1\.2 s\) after 1 attempt; [0-9]+ b"
    ):
        fetch(script, tmp_path, given, total_timeout=1.2)
    assert time.monotonic() - start < 6
    script.pause = 0.0


def test_a_drip_of_unknown_length_is_not_taken_for_whole(script, tmp_path):
    script.pause = 0.02
    with pytest.raises(DownloadError, match="it takes more than"):
        fetch(script, tmp_path, answer(Content_Length=None), total_timeout=1.2, sha256=SHA256)
    script.pause = 0.0


def test_endless_answers(script, tmp_path):
    with pytest.raises(DownloadError, match="is larger than 999 bytes"):
        fetch(script, tmp_path, answer(), max_bytes=999)
    assert fetch(script, tmp_path, answer(), max_bytes=1000).read_bytes() == BODY


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,a", "FILE:/etc/passwd", "gopher://a"])
def test_redirects_to_other_schemes(script, tmp_path, to):
    with pytest.raises(DownloadError, match=r"redirects to .*, which is not safe|Redirection to url .* is not allowed"):
        fetch(script, tmp_path, answer(b"", "302 Found", Location=to))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digits", [SHA256[:-1] + ("0" if SHA256[-1] != "0" else "1"), SHA256[:8] + "0" * 56])
def test_every_digit_of_a_checksum_counts(script, tmp_path, digits):
    with pytest.raises(DownloadError, match=f"sha256 is {SHA256}, but {digits} was expected"):
        fetch(script, tmp_path, answer(), sha256=digits)
    (tmp_path / "a.zip").write_bytes(BODY)
    with pytest.raises(DownloadError, match="was expected"):
        fetch(script, tmp_path, answer(), sha256=digits)


@pytest.mark.parametrize("given", [{"sha256": SHA256[:8]}, {"sha256": ""}, {"sha256": "g" * 64}, {"md5": "0" * 64}])
def test_checksums_that_are_none(script, tmp_path, given):
    with pytest.raises(DownloadError, match=r"is not one; it has (64|32) hexadecimal digits"):
        fetch(script, tmp_path, answer(), **given)
    assert script.requests == []


def test_both_checksums_must_hold(script, tmp_path):
    with pytest.raises(DownloadError, match="md5 is"):
        fetch(script, tmp_path, answer(), sha256=SHA256, md5="0" * 32)


def test_content_reaches_the_disk_before_the_name(script, tmp_path, monkeypatch):
    """A crash after the rename must not leave a file of the right name and of zeros."""
    steps = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor):
        steps.append(("sync", os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))
        real_sync(descriptor)

    def replace(source, target):
        steps.append(("name", os.stat(source).st_ino, os.path.basename(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    fetch(script, tmp_path, answer())
    inode = (tmp_path / "a.zip").stat().st_ino
    named = steps.index(("name", inode, "a.zip"))
    assert ("sync", inode, len(BODY)) in steps[:named]
    assert (tmp_path.stat().st_ino) in [step[1] for step in steps[named:] if step[0] == "sync"]


def test_names_from_outside_are_shown_not_obeyed(script, tmp_path):
    with pytest.raises(DownloadError) as error:
        download("ftp://a/\x1b[2J\n", tmp_path / "a.zip")
    assert str(error.value).startswith("ftp://a/\\x1b[2J\\n: only https")
    (tmp_path / "a\nb").mkdir()
    with pytest.raises(DownloadError, match=r"a\\nb is a folder; name the file"):
        download(script.url, tmp_path / "a\nb")
