"""The commands that pass on to `medseg.bundle` and `medseg.prediction`: what they parse, hand on and print."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import medseg.bundle
import medseg.prediction
from medseg.cli import main
from medseg.data.check import check_datalist
from medseg.errors import MedsegError
from medseg.resources import bundles_root

NAME = "lfa_unet_drosophila"


@dataclass
class Outcome:
    written: int = 0
    skipped: int = 0
    failures: list = field(default_factory=list)
    left_out: list = field(default_factory=list)
    missed: int = 0
    stored: int = 0
    present: int = 0


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Put recorders in the place of the engine room; return what they were called with."""
    seen = []
    given = {"build": [], "predict": Outcome(written=1), "train": tmp_path / "run"}

    def recorder(name):
        def record(*arguments, **named):
            seen.append((name, arguments, named))
            return given.get(name)

        return record

    def module(package, name, *functions):
        made = ModuleType(f"{package.__name__}.{name}")
        for function in functions:
            setattr(made, function, recorder(function))
        monkeypatch.setitem(sys.modules, made.__name__, made)
        monkeypatch.setattr(package, name, made, raising=False)
        return made

    module(medseg.bundle, "workflow", "train", "evaluate", "check")
    module(medseg.prediction, "predict", "predict")
    library = module(medseg.bundle, "library", "names", "copy", "build")
    library.names = lambda: ["a", "b"]
    library.find = lambda name: bundles_root() / name if (bundles_root() / name).is_dir() else Path(name)
    library.is_ours = lambda folder: folder.is_relative_to(bundles_root())
    return seen, given


def test_train(calls, capsys, tmp_path):
    more = ["--with", "unet", "small", "batch_size=2", "--fold", "1", "--minutes", "30", "network_def#channels=[4,8]"]
    assert main(["train", NAME, "--data", "d", *more, "learning_rate=1e-3", "--output", "123"]) == 0
    overrides = {"fold": 1, "max_minutes": 30.0, "output_dir": "123", "batch_size": 2}
    overrides |= {"network_def#channels": [4, 8], "learning_rate": 0.001}
    named = {"data": Path("d"), "overlays": ["unet", "small"], "overrides": overrides}
    assert calls[0] == [("train", (bundles_root() / NAME,), named)]
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'run'}\n"
    assert said.err == ""


def test_train_without_more(calls):
    assert main(["train", NAME, "--data", "d"]) == 0
    assert calls[0][0][2] == {"data": Path("d"), "overlays": [], "overrides": {}}


def test_train_resumes(calls, tmp_path, capsys):
    run = tmp_path / "old run"
    assert main(["train", NAME, "--data", "d", "--resume", str(run)]) == 2
    assert "no such folder; give the folder of a run" in capsys.readouterr().err
    run.mkdir()
    assert main(["train", NAME, "--data", "d", "--resume", str(run), "--fold", "all"]) == 0
    assert calls[0][0][2]["overrides"] == {"resume": str(run), "fold": "all"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("3", 3), ("1e-3", 0.001), ("true", True), ("null", None), ("[1, 2]", [1, 2]), ("{a: 1}", {"a": 1})),
        *(("'12'", "12"), ("$@a + 1", "$@a + 1"), ("a=b", "a=b"), ("", None), ("-1", -1), ("'1e-3'", "1e-3")),
    ],
)
def test_values_are_yaml(calls, text, value):
    assert main(["train", NAME, f"key={text}", "--data", "d"]) == 0
    assert calls[0][0][2]["overrides"] == {"key": value}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fold", "-1"], "-1 is no fold"),
        (["--minutes", "0"], "0 is not a number above 0"),
        (["--minutes", "nan"], "nan is not a number above 0"),
        (["--output", "a", "--resume", "b"], "not allowed with argument"),
        (["unet"], "'unet' is not KEY=VALUE"),
        (["=3"], "'=3' is not KEY=VALUE"),
        (["a=[1"], "'[1' is not YAML; quote it"),
        (["-m", "3"], "unrecognized arguments: -m"),
        (["--with"], "expected at least one argument"),
    ],
)
def test_train_usage(calls, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", NAME, "--data", "d", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert calls[0] == []


def test_a_key_given_twice_is_refused(calls, capsys):
    assert main(["train", NAME, "--data", "d", "--fold", "1", "fold=2"]) == 2
    assert capsys.readouterr().err == "medseg: error: fold is given twice, as 1 and 2; give it once\n"
    assert main(["train", NAME, "a=2", "--data", "d", "a=2"]) == 2
    assert calls[0] == []


def test_a_foreign_bundle_is_called_code(calls, tmp_path, capsys):
    assert main(["train", str(tmp_path), "--data", "d"]) == 0
    said = capsys.readouterr().err
    assert said == f"medseg: {tmp_path} is not as medseg wrote it: a bundle is code, and it runs now\n"


def test_evaluate(calls, capsys, monkeypatch):
    monkeypatch.setattr("medseg.reports.summary.summarise", lambda folder: (f"scores of {folder}", {}))
    calls[1]["evaluate"] = SimpleNamespace(folder=Path("runs/a/validation"), scores={"mean_iou": 0.65432})
    assert main(["evaluate", "runs/a", "scored=validation"]) == 0
    named = {"data": None, "output": None, "overlays": [], "overrides": {"scored": "validation"}, "scores": {}}
    named["allow_seen"] = False
    assert calls[0] == [("evaluate", (Path("runs/a"),), named)]
    assert capsys.readouterr().out == "scores of runs/a/validation\n"
    assert main(["evaluate", "runs/a", "--data", "d", "--output", "o", "--json"]) == 0
    assert calls[0][1][2]["data"] == Path("d")
    assert calls[0][1][2]["output"] == Path("o")
    assert json.loads(capsys.readouterr().out) == {"mean_iou": 0.65432}
    more = ["--scores", "lesions", "distances#tolerance=2", "--json", "scored=training"]
    assert main(["evaluate", "runs/a", *more]) == 0
    assert calls[0][2][2]["scores"] == {"lesions": {}, "distances": {"tolerance": 2}}
    behind = ["lesions", "distances#tolerance=2", "scored=validation", "inference#batch=1"]
    assert main(["evaluate", "runs/a", "--json", "--scores", *behind]) == 0
    assert calls[0][3][2]["scores"] == {"lesions": {}, "distances": {"tolerance": 2}}
    assert calls[0][3][2]["overrides"] == {"scored": "validation", "inference#batch": 1}
    capsys.readouterr()
    assert main(["evaluate", "runs/a", "--scores", "distances=2"]) == 2
    assert "NAME#OPTION=VALUE" in capsys.readouterr().err
    assert main(["evaluate", "runs/a", "--choose-postprocessing", "--json"]) == 2
    assert "leave --output, --scores and --json out" in capsys.readouterr().err


def test_predict(calls, capsys):
    assert main(["predict", "runs/a", "in", "out"]) == 0
    named = {
        "overlays": [],
        "overrides": {},
        "overwrite": False,
        "keep_identifiers": False,
        "trust": False,
        "backend": "torch",
        "signed_by": None,
        "archive": None,
        "outputs": (),
        "series": None,
        "codes": None,
        "tta": False,
        "cases": None,
        "shared": None,
    }
    named["progress"] = None  # standard error is no terminal
    assert calls[0] == [("predict", (["runs/a"], "in", Path("out")), named)]
    assert capsys.readouterr().out == "out: 1 written\n"
    assert main(["predict", "runs/a", "in", "out", "--overwrite", "--keep-identifiers", "batch_size=2"]) == 0
    named |= {"overwrite": True, "keep_identifiers": True, "overrides": {"batch_size": 2}}
    assert calls[0][1][2] == named
    more = ["--ensemble", "runs/b", "runs/c", "--tta", "--measurements", "--probabilities"]
    assert main(["predict", "runs/a", "in", "out", *more]) == 0
    _, arguments, asked = calls[0][2]
    assert arguments[0] == ["runs/a", "runs/b", "runs/c"]
    assert (asked["outputs"], asked["tta"]) == (["measurements", "probabilities"], True)
    assert main(["predict", "runs/a", "in", "out", "--ensemble", "runs/b", "device=cpu"]) == 0
    _, arguments, asked = calls[0][3]
    assert (arguments[0], asked["overrides"]) == (["runs/a", "runs/b"], {"device": "cpu"})


@pytest.mark.parametrize(
    ("outcome", "status", "out", "err"),
    [
        (Outcome(2, 3), 0, "2 written, 3 skipped, their masks are there (--overwrite does them again)", ""),
        (Outcome(0, 3), 0, "0 written, 3 skipped, their masks are there (--overwrite does them again)", ""),
        (Outcome(2, stored=2, present=1), 0, "2 written, 2 stored in the archive, 1 in the archive before", ""),
        (Outcome(2, 0, [], [("a.txt", "no image")]), 0, "2 written, 1 left out", "medseg: left out: a.txt: no image\n"),
        (Outcome(0, 0, [], [("a.txt", "no image")]), 1, "0 written, 1 left out", "medseg: left out: a.txt: no image\n"),
        (Outcome(2, 0, [], [("a.webp", "?")], 1), 1, "2 written, 1 left out", "medseg: left out: a.webp: ?\n"),
        (Outcome(2, 0, [("a\n.png", "bad")]), 1, "2 written, 1 failed", "medseg: error: a\\n.png: bad\n"),
        (
            Outcome(0, 0, [(f"{n}.nii", "it has 1 channel") for n in range(9)]),
            1,
            "0 written, 9 failed",
            "medseg: error: 9 images, such as 0.nii: it has 1 channel\n",
        ),
        (Outcome(), 1, "0 written", ""),
    ],
)
def test_predict_tells_what_became_of_each(calls, capsys, outcome, status, out, err):
    calls[1]["predict"] = outcome
    assert main(["predict", "runs/a", "in", "out"]) == status
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"out: {out}\n", err)


def test_bundle(calls, capsys, tmp_path):
    assert main(["bundle", "list"]) == 0
    assert capsys.readouterr().out == "a\nb\n"
    assert main(["bundle", "copy", NAME, "-o", str(tmp_path / "mine")]) == 0
    assert main(["bundle", "check", NAME]) == 0
    assert main(["bundle", "build", str(tmp_path)]) == 0
    assert calls[0] == [
        ("copy", (NAME, tmp_path / "mine"), {}),
        ("build", (bundles_root() / NAME,), {"check": True}),
        ("build", (tmp_path,), {"check": False}),
    ]
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{tmp_path / 'mine'}",
        f"{bundles_root() / NAME}: up to date",
        f"{tmp_path}: up to date",
    ]
    assert said.err.count("a bundle is code") == 1


def test_bundle_files_that_are_not_current(calls, capsys):
    calls[1]["build"] = ["configs/train.yaml"]
    file = bundles_root() / NAME / "configs" / "train.yaml"
    assert main(["bundle", "check", NAME]) == 1
    said = capsys.readouterr().out
    assert said == f"{file}: not what its bundle.yaml gives; medseg bundle build writes it\n"
    assert main(["bundle", "build", NAME]) == 0
    assert capsys.readouterr().out == f"{file}: written\n"


@pytest.mark.parametrize(("problems", "status"), [([], 0), (["3 channels, but the network takes 1"], 1)])
def test_check_for_a_bundle(calls, capsys, datalist, problems, status):
    report = check_datalist(datalist)
    calls[1]["check"] = report, problems
    assert main(["check", NAME, str(datalist), "--with", "small", "patch=[8,8]"]) == status
    named = {"data": datalist, "overlays": ["small"], "overrides": {"patch": [8, 8]}}
    assert calls[0] == [("check", (bundles_root() / NAME,), named)]
    said = capsys.readouterr().out
    assert "28 files, 0 errors" in said
    assert [line for line in said.splitlines() if line.startswith("error")] == [
        f"error: {NAME}: {problem}" for problem in problems
    ]
    assert main(["check", NAME, str(datalist), "--json"]) == status
    assert json.loads(capsys.readouterr().out)["problems"] == problems


def test_what_is_a_bundle_s_needs_a_bundle(datalist, capsys):
    assert main(["check", str(datalist), "--with", "small"]) == 2
    assert "name it: medseg check BUNDLE DATALIST" in capsys.readouterr().err


def test_an_error_of_the_engine_room_is_one_line(calls, monkeypatch, capsys):
    def fail(*arguments, **named):
        try:
            raise MedsegError("d/datalist.json: no such datalist; make it")
        except MedsegError as error:
            raise RuntimeError("Failed to evaluate ConfigExpression") from error  # as MONAI does

    monkeypatch.setattr(sys.modules["medseg.bundle.workflow"], "train", fail)
    assert main(["train", NAME, "--data", "d"]) == 2
    assert capsys.readouterr().err == "medseg: error: d/datalist.json: no such datalist; make it\n"
