import json

import pytest

from medseg.cli import main


def test_good(datalist, capsys):
    assert main(["check", str(datalist)]) == 0
    assert capsys.readouterr().out.startswith(f"{datalist}: 28 files, 0 errors, 0 warnings, ")
    assert main(["check", str(datalist), "--workers", "1"]) == 0
    assert "28 files (28 known from an earlier check)" in capsys.readouterr().out
    assert main(["check", str(datalist), "--no-cache"]) == 0
    assert "known" not in capsys.readouterr().out


def test_findings_name_files(datalist, capsys):
    (datalist.parent / "i3.png").unlink()
    assert main(["check", str(datalist)]) == 1
    out = capsys.readouterr().out
    assert f"error: missing-file: {datalist.parent / 'i3.png'}: no such file, but training[3] names it" in out
    assert main(["check", str(datalist), "--roi-size", "32", "32"]) == 1
    out = capsys.readouterr().out
    assert out.count("error: smaller-than-window: ") == 10
    assert "... and 3 more smaller-than-window; --json lists all" in out


def test_table_on_a_terminal(datalist, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["check", str(datalist), "--in-channels", "3"]) == 1
    out = capsys.readouterr().out
    assert "file, value and remedy" in out
    assert "have 1 channel, but the network takes 3" in out


def test_json(datalist, capsys):
    arguments = ["check", str(datalist), "--json", "--roi-size", "32", "32", "--num-classes", "3"]
    assert main(arguments) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["errors"], report["files"]) == (False, 15, 28)
    assert {finding["code"] for finding in report["findings"]} == {"smaller-than-window", "wrong-classes"}
    assert main([*arguments[:-2], "--allow-smaller"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.json"], "nowhere.json: no such datalist; correct"),
        (["datalist.json", "--fold-key", "fold_site"], "no fold scheme 'fold_site'; it has fold"),
    ],
)
def test_own_errors_are_one_line(datalist, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(datalist.parent)
    assert main(["check", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("medseg: error: ")
    assert err.count("\n") == 1
    assert message in err
