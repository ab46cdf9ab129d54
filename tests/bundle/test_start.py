"""What a bundle's YAML calls before work starts."""

import importlib.metadata
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from medseg.bundle import start as bundle
from medseg.bundle.config import ConfigError
from medseg.bundle.options import Options
from medseg.data.datalist import DatalistError
from medseg.engines.precision import resolve_precision

CONFIG = {
    "imports": ["$import medseg.bundle.start as bundle"],
    "bundle_root": "$bundle.root()",
    "output_dir": "$@bundle_root + '/out'",
    "rate": 0.5,
    "half": "$@rate / 2",
    "copy": "@half",
    "channels": [2, "$@rate * 8"],
    "network_def": {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 3, "kernel_size": 1},
    "network": "$@network_def.to('cpu')",
    "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": "@rate"},
    "initialize": ["$bundle.start()"],
    "train": {"trainer": "$@network"},  # options are those of a training
    "seed": 3,
    "run": ["$(@optimizer, @output_dir, @channels, @copy, bundle.resolved_config())"],
}
METADATA = {"version": "0.1.0", "required_packages_version": {"medseg": "0.0.1"}}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Undo what `start` changes in the process."""
    hook, level = sys.excepthook, logging.getLogger().level
    names = [name for name in logging.root.manager.loggerDict if name.startswith(("medseg", "monai", "ignite"))]
    levels = {name: logging.getLogger(name).level for name in (*names, "medseg", "ignite", "alembic", "monai.engines")}
    yield
    sys.excepthook = hook
    logging.getLogger().setLevel(level)
    for name, value in levels.items():
        logging.getLogger(name).setLevel(value)


def make(folder: Path, config: dict[str, Any] = CONFIG, metadata: dict[str, Any] = METADATA) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    path = folder / "configs" / "train.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def workflow(config: Path, **overrides: Any) -> ConfigWorkflow:
    meta = str(config.parent / "metadata.json")
    return ConfigWorkflow(str(config), meta_file=meta, workflow_type="train", logging_file=False, **overrides)


def test_a_bundle_runs_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make(tmp_path / "a bundle")
    (tmp_path / "elsewhere" / "configs").mkdir(parents=True)  # another bundle's folder leads nobody astray
    monkeypatch.chdir(tmp_path / "elsewhere")
    running = workflow(config, rate=0.25)
    running.initialize()
    ((_, output_dir, channels, copy, resolved),) = running.run()
    assert output_dir == str(tmp_path / "a bundle" / "out")
    assert (channels, copy) == ([2, 2.0], 0.125)
    defaults = {name: getattr(Options(), name) for name in Options.names()}
    assert resolved == {
        **defaults,
        "seed": 3,
        "train": CONFIG["train"],
        "bundle_root": str(tmp_path / "a bundle"),
        "output_dir": output_dir,
        "rate": 0.25,
        "half": 0.125,
        "copy": 0.125,
        "channels": [2, 2.0],
        "network_def": CONFIG["network_def"],
        "network": "$@network_def.to('cpu')",
        "optimizer": {**CONFIG["optimizer"], "lr": 0.25},  # type: ignore[dict-item]
    }


def test_the_seed_decides_the_first_weights(tmp_path: Path) -> None:
    config = make(tmp_path / "b")
    weights = []
    for _ in range(2):
        torch.rand(5)
        running = workflow(config)
        running.initialize()
        weights.append(running.parser.get_parsed_content("network").weight)
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_root_outside_a_workflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="pass --bundle_root"):
        bundle.root()
    (tmp_path / "configs").mkdir()
    assert bundle.root() == str(tmp_path)


def test_a_plain_parser_is_found(tmp_path: Path) -> None:
    make(tmp_path)
    parser = ConfigParser({"imports": CONFIG["imports"], "rate": 0.5, "run": ["$bundle.resolved_config()"]})
    assert parser.get_parsed_content("run") == [{"rate": 0.5}]
    assert bundle.resolved_config() == {}


def test_options_are_no_unknown_keys(tmp_path: Path) -> None:
    workflow(make(tmp_path / "b"), schedule="poly").initialize()
    with pytest.raises(RuntimeError) as caught:
        workflow(make(tmp_path / "c"), schedul="poly").initialize()
    assert "unknown configuration key `schedul`: nothing reads it; did you mean `schedule`?" in str(
        caught.value.__cause__
    )


def test_unknown_override_is_an_error(tmp_path: Path) -> None:
    running = workflow(make(tmp_path / "b"), ratte=0.1)
    with pytest.raises(RuntimeError) as caught:
        running.initialize()
    assert "unknown configuration key `ratte`: nothing reads it; did you mean `rate`?" in str(caught.value.__cause__)


def test_start_needs_a_configuration() -> None:
    with pytest.raises(ConfigError, match="no configuration is running"):
        bundle.start()


def test_start_reads_the_requirements(tmp_path: Path) -> None:
    metadata = {**METADATA, "required_packages_version": {"medseg": "99.1"}}
    running = workflow(make(tmp_path / "b", metadata=metadata))
    with pytest.raises(RuntimeError) as caught:
        running.initialize()
    assert "this bundle needs medseg>=99.1" in str(caught.value.__cause__)


def test_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"medseg": "0.3.1.dev4", "monai": "1.6.1+cpu"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    bundle.check_requirements({})
    bundle.check_requirements({"required_packages_version": {"medseg": "0.3.1", "monai": "1.6.1"}})
    bundle.check_requirements({"required_packages_version": {"medseg": "0.3"}})
    wanted = {"medseg": "0.10", "monai": "1.6.1", "nibabel": "5.2"}
    with pytest.raises(ConfigError) as caught:
        bundle.check_requirements({"required_packages_version": wanted})
    assert str(caught.value) == (
        "this bundle needs medseg>=0.10 (installed: 0.3.1.dev4), nibabel>=5.2 (not installed): "
        "pip install 'medseg>=0.10' 'nibabel>=5.2'"
    )


def asked(expression: str, **config: Any) -> Any:
    """Evaluate an expression in a running configuration."""
    parser = ConfigParser({"imports": CONFIG["imports"], **config, "run": f"${expression}"})
    return parser.get_parsed_content("run")


def test_options() -> None:
    assert bundle.options() == Options()
    options = asked("bundle.options()", half=0.5, fold="$1 + 2", clip_grad_norm="@half", schedule="cosine")
    assert options == Options(fold=3, clip_grad_norm=0.5, schedule="cosine")
    assert options.only("fold", "seed") == {"fold": 3, "seed": 0}


def test_datalist_path(tmp_path: Path) -> None:
    assert bundle.datalist_path(tmp_path) == str(tmp_path / "datalist.json")
    assert asked(f"bundle.datalist_path({str(tmp_path)!r})", datalist="/other.json") == "/other.json"


def test_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lfa" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "lfa")
    names = {Path(bundle.run_folder()) for _ in range(3)}
    assert all(name.parent == tmp_path / "lfa" / "runs" and name.name.startswith("lfa_20") for name in names)
    assert len(names) > 1  # two runs begun in one second
    assert asked("bundle.run_folder()", runs_dir=str(tmp_path), run_name="a") == str(tmp_path / "a")
    assert asked("bundle.run_folder()", runs_dir=str(tmp_path), output_dir="/run") == "/run"


def test_resume_takes_the_newest_unfinished_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def run(name: str, last: int | None, model: int | None = None) -> None:
        for file, age in (("checkpoints/last.pt", last), ("model.pt", model)):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if age is not None:
                path.touch()
                os.utime(path, (10**9 + age, 10**9 + age))

    assert bundle.resume_folder(False, tmp_path, "new") == str(tmp_path / "new")
    assert bundle.resume_folder("/some/run", tmp_path, "new") == "/some/run"
    run("no_epoch", None)
    assert bundle.resume_folder(True, tmp_path, "new") == str(tmp_path / "new")
    assert "no unfinished run in" in caplog.text
    run("older", 10)
    run("killed", 20)
    run("finished", 30, 31)
    assert bundle.resume_folder(True, tmp_path, "new") == str(tmp_path / "killed")
    run("prolonged", 50, 40)  # finished once, then continued with more epochs and killed
    assert bundle.resume_folder(True, tmp_path, "new") == str(tmp_path / "prolonged")


@pytest.fixture
def datalist(entries: list[dict[str, Any]], tmp_path: Path) -> Path:
    rows = []
    for number, entry in enumerate(entries):
        files = {key: str(Path(path).relative_to(tmp_path)) for key, path in entry.items()}
        rows.append({**files, "group": f"g{number // 2}", "fold": number // 2, "fold_random": number % 2})
    content = {
        "name": "squares", "version": 1, "modality": ["none"], "licence": "CC0-1.0", "source": "drawn by the tests",
        "labels": {"0": "none", "1": "bright", "2": "dark"}, "ignore_index": None,
        "training": rows, "validation": [], "test": [],
    }  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return tmp_path / "datalist.json"


def test_data_are_compared_with_the_network(datalist: Path) -> None:
    def check(**network: int) -> None:
        parser = ConfigParser(
            {
                "imports": CONFIG["imports"],
                "network_def": network,
                "roi_size": [8, 8],
                "run": [f"$bundle.check_data({str(datalist.parent)!r})"],
            }
        )
        parser.get_parsed_content("run")

    check(in_channels=1, out_channels=3)
    for network, message in (({"in_channels": 3}, "channel"), ({"out_channels": 2}, "class")):
        with pytest.raises(RuntimeError) as caught:
            check(**network)
        assert isinstance(caught.value.__cause__, DatalistError)
        assert message in str(caught.value.__cause__)


def test_data_are_checked(datalist: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = str(datalist.parent)
    bundle.check_data(folder)
    asked(f"bundle.check_data({folder!r})", fold_key="fold_random")
    assert "folds by fold_random may split a group" in caplog.text
    for options, message in (({"roi_size": [64, 64]}, "64"), ({"datalist": f"{folder}/none.json"}, r"none\.json")):
        with pytest.raises(RuntimeError) as caught:
            asked(f"bundle.check_data({folder!r})", **options)
        assert isinstance(caught.value.__cause__, DatalistError)
        assert re.search(message, str(caught.value.__cause__))


# ---------------------------------------------------------------------------------------------- short errors


def raised(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("no error")


def wrapped(cause: BaseException) -> BaseException:
    def fail() -> None:
        raise RuntimeError("Failed to instantiate `evaluator`") from cause

    return raised(fail)


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: bundle.check_requirements({"required_packages_version": {"no_such_package": "1"}}), "needs no_such_p"),
        (lambda: resolve_precision("fp8", torch.device("cpu")), "precision is 'fp8'; choose one of"),
    ],
)
def test_errors_of_the_input_are_one_line(
    call: Callable[[], Any], line: str, wrap: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    error = raised(call)
    error = wrapped(error) if wrap else error
    bundle._short_errors(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert line in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize("call", [lambda: int("x"), lambda: bundle.resume_folder(True, 5, "x"), lambda: 1 / 0])  # type: ignore[arg-type]
def test_other_errors_keep_their_trace(call: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    error = raised(call)
    bundle._short_errors(type(error), error, error.__traceback__)
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert type(error).__name__ in shown
