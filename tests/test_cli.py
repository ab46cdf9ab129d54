import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medseg
from medseg.cli import COMMANDS, main
from medseg.data.datalist import Datalist
from medseg.networks.df_dam import DFDAM
from medseg.runs.checkpoint import save_checkpoint
from medseg.studies import complexity

BUNDLE = Path(__file__).parents[1] / "bundles" / "lfa_unet_drosophila"


@pytest.fixture
def datalist(tmp_path):
    rng = np.random.default_rng(0)
    entries = []
    for n in range(14):
        Image.fromarray(rng.integers(0, 255, (16, 16), dtype=np.uint8)).save(tmp_path / f"i{n}.png")
        Image.fromarray(rng.integers(0, 2, (16, 16), dtype=np.uint8)).save(tmp_path / f"l{n}.png")
        entries.append({"image": f"i{n}.png", "label": f"l{n}.png", "group": f"g{n}", "fold": n % 2})
    return Datalist(
        name="toy",
        version=1,
        modality=("EM",),
        licence="CC0-1.0",
        source="here",
        labels={0: "a", 1: "b"},
        training=entries,
        path=tmp_path / "datalist.json",
    ).save()


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
    assert "has 1 channel, but the network takes 3" in out


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
        (["nowhere.json"], "nowhere.json: no such datalist; prepare"),
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


def test_complexity_failure_is_status_1(capsys):
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
    next(command for command in COMMANDS if command.name == "complexity").add_arguments(parser)
    options = parser.parse_args([])
    (action,) = [action for action in parser._actions if action.dest == "measure"]
    assert tuple(action.choices) == complexity.MEASURES
    assert tuple(options.measure) == complexity.QUICK
    assert options.batch_size == complexity.BATCH_SIZE


@pytest.fixture
def bundle(tmp_path):
    """A bundle with a tiny DF-DAM, its weights, and an image."""
    folder = tmp_path / "toy_bundle"
    shutil.copytree(BUNDLE, folder, ignore=shutil.ignore_patterns("models", "runs"))
    options = {"spatial_dims": 2, "in_channels": 1, "out_channels": 5, "encoder": "test_resnet", "channels": 8}
    network = {"_target_": "medseg.networks.df_dam.DFDAM", **options}
    (folder / "configs" / "tiny.yaml").write_text(json.dumps({"network_def": network, "device": "cpu"}))
    save_checkpoint(DFDAM(**options).state_dict(), folder / "models" / "model.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return folder


def test_explain(bundle, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["explain", str(bundle), "--image", str(tmp_path / "x.png"), "--output", str(out)]
    arguments += ["--config", "tiny.yaml"]
    assert main([*arguments, "--roi", "33"]) == 0
    assert capsys.readouterr().out == f"{out}/x.png: dafm_3_high, dafm_3_low, confidence\n"
    assert main(arguments) == 0
    assert capsys.readouterr().out == "1 skipped: their files are there (--overwrite does them again)\n"
    (tmp_path / "y.png").write_bytes(b"no picture")
    more = ["--image", str(tmp_path / "y.png"), "--overwrite", "--json"]
    assert main([*arguments, *more, "--maps", "confidence"]) == 1
    said = capsys.readouterr()
    done = json.loads(said.out)
    assert done["written"][0]["maps"]["confidence"]["shape"] == [1, 10, 14]
    assert [failure["image"] for failure in done["failures"]] == [str(tmp_path / "y.png")]
    assert said.err.startswith(f"medseg: error: {tmp_path}/y.png: image {tmp_path}/y.png cannot be read")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--maps", "confidense"], "DFDAM gives no map 'confidense'; did you mean confidence?"),
        (["--config", "networks/unet.yaml"], "UNet has no attention to show; these networks have: "),
        (["--ckpt", "nowhere.pt"], "checkpoint nowhere.pt does not exist; train the bundle to make it"),
    ],
)
def test_explain_refuses(bundle, tmp_path, capsys, arguments, message):
    start = ["explain", str(bundle), "--image", str(tmp_path / "x.png"), "--output", str(tmp_path / "out")]
    assert main([*start, "--config", "tiny.yaml", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"medseg: error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["chekc"], ["check"], ["check", "a.json", "--workers", "0"]])
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: medseg" in capsys.readouterr().err


def test_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"medseg {medseg.__version__}\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\n"
        "from medseg.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'PIL', 'rich', 'nibabel', 'scipy', 'tifffile', 'mlflow', 'matplotlib'}\n"
        "sys.stderr.write(','.join(sorted(heavy & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "check" in done.stdout
    assert done.stderr == ""


def test_as_a_process(datalist):
    (datalist.parent / "l1.png").write_bytes(b"nothing")
    done = subprocess.run([sys.executable, "-m", "medseg.cli", "check", str(datalist)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "unreadable-file" in done.stdout
    assert done.stderr == ""
