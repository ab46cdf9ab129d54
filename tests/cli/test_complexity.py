import argparse
import json
import re

from medseg.cli import complexity as command
from medseg.cli import main
from medseg.studies import complexity


def test_complexity(capsys):
    assert main(["complexity", "UNet", "lfa_unet", "--size", "64"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"UNet +31,036,741 +3\.01\n", out)
    assert re.search(r"LFAUNet +28,950,661 +2\.\d\d\n", out)
    assert "element-wise work" in out


def test_complexity_json(capsys):
    assert main(["complexity", "FocusNetPP", "--table", "3", "--measure", "parameters", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"settings", "rows", "environment"}
    assert result["rows"][0]["kwargs"] == {"configuration": "light"}
    assert result["rows"][0]["parameters"] < 1e6


def test_complexity_failure_is_status_1(capsys, monkeypatch):
    """In this process; tests/studies lets a real one want more memory than there is."""

    def fail(*_):
        raise MemoryError

    monkeypatch.setitem(complexity._SLOW, "memory", fail)
    monkeypatch.setattr(complexity, "isolated", lambda function, *arguments: function(*arguments))
    size = ["--size", str(2**20), "--device", "cpu"]
    assert main(["complexity", "UNet", "--measure", "parameters", "memory", *size]) == 1
    assert "UNet: no memory: a batch of 2, 1048576 x 1048576 pixels, does not fit" in capsys.readouterr().out


def test_complexity_wrong_question(capsys):
    assert main(["complexity", "LFAUnett"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("medseg: error: there is no network 'LFAUnett'; the nearest is LFAUNet; choose from ")
    assert err.count("\n") == 1


def test_complexity_measures_what_the_studies_can():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = parser.parse_args([])
    (action,) = [action for action in parser._actions if action.dest == "measure"]
    assert tuple(action.choices) == complexity.MEASURES
    assert tuple(options.measure) == complexity.QUICK
    assert options.batch_size == complexity.BATCH_SIZE
