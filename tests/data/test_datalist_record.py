"""What a datalist is known by: its path, the order of what is written, and the fingerprint."""

import hashlib
import json
from pathlib import Path

import pytest
from datalists import content, write

from medseg.data.datalist import Datalist

CONTENT = content(
    labels={str(n): f"class {n}" for n in reversed(range(12))},
    training=[{"image": "a.png", "label": "b.png", "fold_b": 0, "folder": 0, "fold": 0, "fold_a": 0}],
    validation=[{"image": "a.png", "label": "b.png"}],
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"123")
    (tmp_path / "b.png").write_bytes(b"12345")
    return write(tmp_path, CONTENT)


def test_the_path_stays_where_the_process_goes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    datalist = Datalist.load("datalist.json")
    monkeypatch.chdir("/")
    assert datalist.path == path
    assert datalist.split()[0][0]["image"] == str(path.parent / "a.png")


def test_classes_are_written_in_their_order(path: Path) -> None:
    saved = Datalist.load(path).save(path.parent / "other.json")
    assert list(json.loads(saved.read_text())["labels"]) == [str(n) for n in range(12)]


def test_the_fingerprint_is_the_documented_one(path: Path) -> None:
    """Worked out here anew: runs of other versions are told apart by it."""
    canonical = json.dumps(CONTENT, sort_keys=True, separators=(",", ":"))
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"123", b"12345"))
    expected = hashlib.sha256(f"{canonical}\0a.png\0{one}\0b.png\0{two}".encode()).hexdigest()
    assert Datalist.load(path).fingerprint() == expected


def test_a_validation_list_is_used_without_a_word(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    datalist = Datalist.load(path)
    assert [len(part) for part in datalist.split()] == [1, 1, 0]
    assert caplog.text == ""
    assert datalist.fold_keys == ["fold", "fold_a", "fold_b", "folder"]
