import errno
import logging
from pathlib import Path

import pytest

from medseg.errors import MedsegError, counted, few, near_path, one_line, shown, together


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain name.png", "plain name.png"),
        ("é 日本\u3000語 😀 ß", "é 日本\u3000語 😀 ß"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x00\x7f\x85\x9b31m", r"\x00\x7f\x85\x9b31m"),
        ("gnp.\u202egnp.exe\u2066\u200f", r"gnp.\u202egnp.exe\u2066\u200f"),
        ("\u2028\u2029", r"\u2028\u2029"),
        ("\udc80 \ud800", r"\udc80 \ud800"),
        ("\U000e0041\ufeff\u200b", r"\U000e0041\ufeff\u200b"),
        (r"C:\new", r"C:\new"),
    ],
)
def test_shown(text, expected):
    assert shown(text) == expected
    shown(text).encode("utf-8")


def test_a_message_keeps_its_lines_and_nothing_else(caplog):
    error = MedsegError("two errors\n  a\x1b[31m.png\n  b\u202e.png\r")
    assert str(error) == "two errors\n  a\\x1b[31m.png\n  b\\u202e.png\\r"
    assert error.args == ("two errors\n  a\x1b[31m.png\n  b\u202e.png\r",)
    with caplog.at_level(logging.ERROR):
        logging.getLogger("medseg").error("%s", error)
    assert "\x1b" not in caplog.text


def test_counted():
    assert [counted(n, "image") for n in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(1, "axis", "axes") == "1 axis"
    assert counted(3, "axis", "axes") == "3 axes"


def test_many_files_of_one_fault_are_one_line():
    faults = [("a.nii", "1 channel"), ("b\x1b.nii", "cut off"), ("c.nii", "1 channel"), ("d.nii", "1 channel")]
    assert together(faults, "image") == ["3 images, such as a.nii: 1 channel", "b\\x1b.nii: cut off"]
    assert together(faults[:3]) == ["a.nii: 1 channel", "c.nii: 1 channel", "b\\x1b.nii: cut off"]
    values = [(f"{number}.nii", f"goes from -{number}.5 to 1e+0{number}") for number in range(3)]
    assert together(values) == ["3 files, such as 0.nii: goes from -0.5 to 1e+00"]
    named = [(f"sub/{number}.nii", f"/in/sub/{number}.nii: cut off") for number in range(3)]
    assert len(together(named)) == 3


def test_few_names_and_how_many_more() -> None:
    assert few(["a", "b"], 2) == "a, b"
    assert few([Path("a"), Path("b"), Path("c")], 1) == "a and 2 more"
    assert few([]) == ""


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("runs/isik", "runs/isic"),
        ("rnus/isik", "runs/isic"),
        ("hipo", "hippocampus"),
        ("runs/nothing", None),
        ("elsewhere/isic", None),
        ("runs/isic/mdel.pt", "runs/isic/model.pt"),
        ("runs/isic/model.pt/x", None),
        ("runs/secret", None),
    ],
)
def test_what_is_called_nearly_so(tmp_path, monkeypatch, asked, expected):
    for folder in ("runs/isic", "hippocampus", "runs/.secret"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/isic/model.pt").write_text("x")
    monkeypatch.chdir(tmp_path)
    assert near_path(Path(asked)) == (expected and Path(expected))
    assert near_path(tmp_path / asked) == (expected and tmp_path / expected)


def test_what_is_named_can_be_taken(tmp_path):
    (tmp_path / "isic.txt").write_text("x")
    assert near_path(tmp_path / "isik.txt", Path.is_dir) is None
    assert near_path(tmp_path / "isik.txt") == tmp_path / "isic.txt"
    assert near_path(tmp_path / "isik.txt", lambda path: path.suffix == ".txt") == tmp_path / "isic.txt"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full", "a.png"), OSError("no number"), KeyError("a"), None])
def test_what_is_no_fault_of_the_input_has_no_line(error):
    assert one_line(error) is None
