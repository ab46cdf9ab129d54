"""Typical mistakes: each is one line that names the way out, and is said before PyTorch is imported."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.cli import main

ROOT = Path(__file__).parents[2]
LFA = "lfa_unet_drosophila"
TRAIN = ["train", LFA, "--data", "data"]

MISTAKES = [
    (["train", LFA, "--data", "nowhere"], "nowhere/datalist.json: no such datalist; correct the path"),
    (["train", "lfa_unet_drosofila", "--data", "data"], f"there is no run, weights or bundle .*did you mean {LFA}"),
    (["train", LFA, "--data", "broken"], "broken/datalist.json: not valid JSON"),
    ([*TRAIN, "--minuts", "8"], r"minuts: the configuration has no 'minuts', .* did you mean --minutes\?"),
    ([*TRAIN, "minuts=8"], r"did you mean --minutes\?"),
    ([*TRAIN, "max_minuts=8"], r"did you mean --minutes\?"),
    ([*TRAIN, "batch_siz=2"], r"did you mean batch_size\?"),
    ([*TRAIN, "--ouput", "x"], r"did you mean --output\?"),
    ([*TRAIN, "input#size=[8,8]"], r"did you mean model#input#size\?"),
    ([*TRAIN, "train.lerning_rate=1"], r"did you mean learning_rate\?"),
    ([*TRAIN, "network_def#chanels=[4,8]"], r"network lfa_unet takes no 'chanels'; did you mean 'channels'\?"),
    (
        [*TRAIN, "--with", "unet", "network_def#window_size=3"],
        r"network unet takes no 'window_size'; it takes channels",
    ),
    ([*TRAIN, "model#input#siz=[8,8]"], "model#input#siz: the configuration has no such key; there are .*size"),
    ([*TRAIN, "model#inference#windw=[8,8]"], "the configuration has no such key; there are window, overlap"),
    ([*TRAIN, "batch_size=two"], "batch_size is 'two'; give a whole number of at least 1"),
    ([*TRAIN, "--with", "smal"], f"bundle {LFA} has no overlay 'smal'; there are .*small"),
    ([*TRAIN, "--with", "odd.yaml"], "odd.yaml: is no YAML"),
    ([*TRAIN, "--fold", "7"], "fold 7 is not in scheme 'fold'; choose one of 0, 1, 2, or all"),
    ([*TRAIN, "-o", "taken"], "taken already holds a run; continue it with --resume .*taken, or .* another --output"),
    ([*TRAIN, "-o", "odd.yaml"], "odd.yaml is a file; name a folder for the run"),
    (["train", LFA, "--resume", "taken"], f"{LFA} is a bundle; say what it is trained on with --data DIR"),
    (["train", "nowhere"], "there is no bundle or folder of data 'nowhere'; the bundles are"),
    (["train", "lfa_unet_drosofila"], f"did you mean {LFA}"),
    (["train", "data", "--network", "unett"], "there is no network 'unett'; the nearest is 'unet'"),
    (["train", "data", "minuts=8"], r"train has no option 'minuts'; did you mean --minutes\?"),
    (
        ["train", "data", "--fold", "all"],
        "no labelled image is left to score; name one .* with --fold N, or",
    ),
    (["evaluate", "nowhere"], "nowhere: no such folder; name the folder of a run"),
    (["evaluate", "data"], "data has no weights .*; name the folder of a run, a bundle with weights, or weights"),
    (
        ["evaluate", "taken", "minuts=8"],
        "evaluate has no option 'minuts'; it takes scored, .*, device, .*and inference#",
    ),
    (["evaluate", "taken", "sored=test"], r"evaluate has no option 'sored'; did you mean scored\?"),
    (["evaluate", "taken", "inference#windw=[8,8]"], r"inference: .*'windw'.*window"),
    (["predict", "taken", "data", "masks", "inference#overlap=2"], "inference overlap is 2; it must be in"),
    (["evaluate", "taken", "--data", "nowhere"], "nowhere/datalist.json: no such datalist"),
    (["evaluate", "taken"], "taken does not say where its data lie; name their folder with --data"),
    (["predict", "nowhere", "data", "masks"], "there is no run, weights or bundle 'nowhere'"),
    (["predict", "takn", "data", "masks"], r"there is no run, weights or bundle 'takn'; did you mean taken\?"),
    (["predict", "takn/modle.pt", "data", "masks"], r"did you mean taken/model.pt\?"),
    (["predict", "taken", "dtaa", "masks"], r"dtaa: no such file or folder; did you mean .*data\?"),
    (["train", "dtaa"], r"there is no bundle or folder of data 'dtaa'; did you mean data\?"),
    (["evaluate", "takn"], r"takn: no such folder; did you mean taken\?"),
    (["predict", "taken", "nowhere", "masks"], "nowhere: no such file or folder; name an image or a folder of images"),
    (["predict", "taken", "data", "masks", "--overwrte"], r"did you mean --overwrite\?"),
    (["check", LFA, "broken"], "broken/datalist.json: not valid JSON"),
    (["check", LFA, "data", "max_minuts=8"], r"did you mean max_minutes\?"),
    (["plan", "nowhere", "-o", "p"], "nowhere/datalist.json: no such datalist"),
    (["plan", "data", "-o", "taken"], "taken exists already; name a new folder for the bundle"),
    (["export", "taken", "--to", "tensorrt"], "trtexec --onnx=model.onnx .* --shapes=image:BATCHxCHANNELSxSIZE"),
    (["explain", "nowhere", "--image", "data", "-o", "s"], "there is no run, weights or bundle 'nowhere'"),
    (["compare", "nowhere"], "nowhere holds no evaluation .*; score the run first: medseg evaluate RUN"),
    (["report", "nowhere"], "nowhere: no such folder; name a run, an evaluation or a folder of predictions"),
    (["score", "nowhere", "data"], "nowhere: no such file or folder"),
    (["bundle", "copy", "lfa_unet_drosofila", "-o", "x"], f"did you mean {LFA}"),
    (["import", "nowhere", "-o", "out"], "nowhere: no such file or folder"),
]

CODE = """
import json, sys
from medseg.cli import main
for words in json.load(sys.stdin):
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    loaded = sorted({"torch", "monai", "mlflow"}.intersection(sys.modules))
    sys.stdout.write(json.dumps([words, status, loaded]) + "\\n")
    sys.stderr.write("\\0")
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Make every mistake in one process; return by its words the status, what was imported by then, and the lines."""
    place = tmp_path_factory.mktemp("mistakes")
    entries = [{"image": f"i{n}.png", "label": f"l{n}.png", "fold": n % 3} for n in range(6)]
    content = {"name": "toy", "version": 1, "modality": ["EM"], "licence": "", "source": "", "ignore_index": None}
    content |= {"labels": {"0": "a", "1": "b"}, "training": entries, "validation": [], "test": []}
    for name, text in (("data", json.dumps(content)), ("broken", '{"name": ')):
        (place / name).mkdir()
        (place / name / "datalist.json").write_text(text)
    (place / "taken").mkdir()
    (place / "taken" / "model.pt").write_bytes(b"never read")
    (place / "odd.yaml").write_text("a: [1\n")
    given = json.dumps([words for words, _ in MISTAKES])
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", CODE]
    done = subprocess.run(command, input=given, capture_output=True, text=True, cwd=place, env=environment, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    lines = done.stderr.split("\0")
    assert len(rows) == len(MISTAKES), done.stderr[-3000:]
    return {" ".join(words): (status, loaded, line) for (words, status, loaded), line in zip(rows, lines, strict=False)}


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_line_at_once(said, words, message):
    status, loaded, line = said[" ".join(words)]
    assert status == 2
    assert re.search(message, line), line
    assert line.startswith("medseg: error: ")
    assert line.count("\n") == 1
    assert loaded == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "a", "b", "--jsn"], "unrecognized arguments: --jsn; did you mean --json?"),
        (["compare", "a", "--fromat", "text"], "unrecognized arguments: --fromat text; did you mean --format?"),
        (["train", "a", "--fold", "x"], "x is no fold; folds count from 0, or all"),
        (["train", "a", "--minutes", "x"], "x is not a number above 0"),
        (["check", "a", "--workers", "x"], "x is not a whole number above 0"),
    ],
)
def test_what_no_command_has(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["bundle copy", "evaluate", "explain", "export-data", "import", "plan", "score", "train"]
)
def test_every_command_that_writes_a_folder_takes_o(name, capsys):
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert "-o" in capsys.readouterr().out.split("--output")[0]


@pytest.mark.parametrize(
    "words",
    [["plan", "hipocampus", "-o", "new"], ["report", "hipocampus"], ["train", "hippocampus", "--resume", "hipocampus"]],
)
def test_what_is_not_there_is_near_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    (tmp_path / "hippocampus").mkdir()
    (tmp_path / "hippocampus" / "dataset.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert "did you mean" in (said := capsys.readouterr().err)
    assert "hippocampus" in said.split("did you mean")[1]
