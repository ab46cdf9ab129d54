"""What identifies a data set: its datalist and the contents of its files, each hashed once."""

import hashlib
import os
import time

import numpy as np
import pytest
from datalists import ENTRY, content, write
from PIL import Image

from medseg.data import file_facts
from medseg.data.check import check_datalist
from medseg.data.datalist import Datalist, DatalistError
from medseg.io import parts


def test_fingerprint(tmp_path):
    data = content(training=[{"image": "a.png", "label": "b.png"}])
    datalist = Datalist.load(write(tmp_path, data))
    with pytest.raises(DatalistError, match=r"names a\.png, but .* cannot be read"):
        datalist.fingerprint()
    (tmp_path / "a.png").write_bytes(b"12")
    (tmp_path / "b.png").write_bytes(b"34")
    first = datalist.fingerprint()
    assert len(first) == 64
    assert first == Datalist.load(tmp_path / "datalist.json").fingerprint()
    assert datalist.contents()["b.png"] == hashlib.sha256(b"34").hexdigest()
    (tmp_path / "b.png").write_bytes(b"345")
    assert datalist.fingerprint() != first
    edit(tmp_path / "b.png", b"43")
    assert datalist.fingerprint() != first, "an edit that keeps the size"
    edit(tmp_path / "b.png", b"34")
    assert datalist.fingerprint() == first
    assert Datalist.load(write(tmp_path, {**data, "labels": {"0": "x"}})).fingerprint() != first


def edit(path, content):
    """Write in place, with the modification time as it was: the change time is the system's."""
    before = path.stat()
    time.sleep(0.02)  # the clock of file systems ticks every few ms
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_unchanged_files_are_hashed_once(tmp_path, monkeypatch):
    datalist = Datalist.load(write(tmp_path, content(training=[{"image": "a.png", "label": "b.png"}])))
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    hashed = []
    real = parts.file_hash
    monkeypatch.setattr(parts, "file_hash", lambda path: hashed.append(path.name) or real(path))
    first = datalist.fingerprint()
    assert sorted(hashed) == ["a.png", "b.png"]
    assert datalist.fingerprint() == first
    assert len(hashed) == 2
    edit(tmp_path / "b.png", (tmp_path / "b.png").read_bytes()[:-1] + b"!")
    assert datalist.fingerprint() != first
    assert hashed[2:] == ["b.png"]
    hashes = next((file_facts.cache_folder() / "hashes").iterdir())
    hashes.write_text('{"files": 3}')
    assert datalist.fingerprint() != first
    assert len(hashed) == 5, "a damaged cache is made anew"


def test_what_the_check_has_read_is_not_read_again(tmp_path, monkeypatch):
    datalist = Datalist.load(write(tmp_path, content(training=[{"image": "a.png", "label": "b.png"}])))
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / name)
    expected = {name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in ("a.png", "b.png")}
    check_datalist(datalist)
    monkeypatch.setattr(parts, "file_hash", lambda path: pytest.fail(f"{path} is read again"))
    assert datalist.contents() == expected


def test_fingerprint_knows_the_mapping_of_values(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"1")
    prints = {
        Datalist.load(write(tmp_path, content(training=[ENTRY], **changes))).fingerprint()
        for changes in (
            {},
            {"values": {"0": 0, "255": 1}},
            {"values": {"0": 1, "255": 0}},
            {"colours": {"1": "#ff0000"}},
        )
    }
    assert len(prints) == 4
