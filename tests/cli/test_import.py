import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from medseg.cli import main
from medseg.data.datalist import Datalist


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    source = tmp_path / "source"
    for n in range(8):
        for kind, values in (("images", range(256)), ("masks", (0, 255))):
            path = source / kind / f"case{n // 2}_slice{n % 2}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.choice(np.array(values, np.uint8), (8, 9))).save(path)
    for n in range(5):
        (source / f"note{n}.txt").write_text("x")
    return source


def test_it_says_what_it_did(pairs, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["import", str(pairs), "-o", str(out), "--values", "255=lesion", "--modality", "EM", "--folds", "2"]
    assert main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not out.exists()
    assert "nothing written" in said
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "layout  pairs: names of images and labels agree" in said
    assert "note    pairs images/* with masks/* (8 pairs)" in said
    assert "cases   8 training" in said
    assert "classes 0 background, 1 lesion; stored values 0 is 0, 255 is 1" in said
    assert "groups  4, proposed from the names, such as case0 of case0_slice0" in said
    assert re.search(r"folds   0: 4, 1: 4 \(cases\)\nleft    5 files out\n        ./: 5 files, not part of pairs", said)
    assert said.endswith(f"{out / 'datalist.json'}\n")
    assert Datalist.load(out / "datalist.json").modality == ("EM",)
    assert main(["check", str(out)]) == 0


def test_the_message_names_the_option(pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["import", str(pairs), "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "labels hold 2 values, 0, 255, which do not count 0, 1, 2 ...; say which class each one is" in said
    assert "--values 255=1" in said
    assert not (tmp_path / "out").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("typed", "name"), [("255=tumour\n", "tumour"), ("\n", "class_1")])
def test_a_terminal_is_asked(pairs, tmp_path, monkeypatch, typed, name):
    shown = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    monkeypatch.setattr(sys, "stderr", shown)
    assert main(["import", str(pairs), "-o", str(tmp_path / "out")]) == 0
    assert "--values [255=1]: " in shown.getvalue()
    assert Datalist.load(tmp_path / "out/datalist.json").class_names == ["background", name]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--values", "x"], "--values 'x' is not VALUE=CLASS"),
        (["--as", "vocs"], "there is no layout 'vocs'"),
        (["--colours", "red"], "--colours 'red' is neither"),
        (["--values", "255=1", "--group-pattern", "("], "is no regular expression"),
        (["--values", "255=1", "--classes", "a,b,b"], "--classes names 2"),
        (["--images", "nowhere", "--as", "pairs"], "nowhere: no such folder"),
    ],
)
def test_bad_options(pairs, tmp_path, capsys, more, message):
    assert main(["import", str(pairs), "-o", str(tmp_path / "out"), *more]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_out_again(pairs, tmp_path, capsys):
    assert main(["import", str(pairs), "-o", str(tmp_path / "in"), "--values", "255=1"]) == 0
    assert "note    classes that nothing names are called by their number: --classes background,NAME" in (
        capsys.readouterr().out
    )
    target = tmp_path / "Dataset001_x"
    assert main(["export-data", str(tmp_path / "in"), "-o", str(target), "--to", "nnunet"]) == 0
    assert "dataset.json: 8 cases" in capsys.readouterr().out
    assert main(["export-data", str(tmp_path / "in"), "-o", str(target), "--to", "decathlon"]) == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert main(["import", str(target), "-o", str(tmp_path / "back")]) == 0
    assert "layout  nnunet: imagesTr holds 8 cases with channel numbers" in capsys.readouterr().out
    assert main(["export-data", str(tmp_path), "-o", str(target), "--to", "nnunet"]) == 2
    assert "no such datalist" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["train"], ["compare-networks", "--minutes", "30", "-o"]])
def test_a_command_that_imports_by_itself_says_which_one_is_told(pairs, tmp_path, capsys, monkeypatch, command):
    """The option that answers is none of `medseg train`: what the message says is typed as it stands, and works."""
    monkeypatch.chdir(tmp_path)
    first, *more = command
    words = [first, *more, "out", "source"] if more else [first, "source", "-o", "out"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "such as --values 255=1" in said
    assert "give that option to `medseg import source -o DIR`, then DIR in place of source" in said
    told = re.search("`medseg (import source -o DIR)`", said)[1].split()
    assert main([*told, "--values", "255=1"]) == 0
    assert main(["check", "DIR"]) == 0
    capsys.readouterr()
    assert main([*words, "--values", "255=1"]) == 2  # what it was not told to do
    said = capsys.readouterr().err
    assert "has no option 'values'" in said
    assert said.endswith("; what a folder of images and labels holds is said to `medseg import FOLDER -o DIR`\n")


def test_layouts_are_listed(capsys):
    with pytest.raises(SystemExit) as end:
        main(["import", "anything", "--as", "list"])
    assert end.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 12
    assert [line.split()[0] for line in lines][:2] == ["bids", "cityscapes"]
    assert "folders JPEGImages and SegmentationClass beside each other" in lines[-1]
