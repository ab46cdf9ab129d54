"""A command that is broken off says with which words it goes on, and these words do."""

import shlex
from pathlib import Path

import pytest
from costs import Device
from studies.test_plan import volumes
from tiny_study import write_data, write_study

from medseg.cli import main
from medseg.engines.trainer import Trainer
from medseg.runs.signals import Terminated
from medseg.studies import complexity, study_run

QUICK = ["iterations=2", "mlflow=false", "device=cpu"]
SMALL = ["network_def#channels=[2,4,4]", "max_epochs=2"]


def broken_off(monkeypatch: pytest.MonkeyPatch, error: BaseException, place: tuple[type | object, str]) -> None:
    def end(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(*place, end)


def goes_on(said: str, event: str = "interrupted") -> list[str]:
    program, *words = shlex.split(said.strip().splitlines()[-1].partition(f"medseg: {event}; go on with: ")[2])
    assert program == "medseg"
    return words


def test_a_training_of_a_bundle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The folder is said where nobody named one, too; Ignite's own line, which is empty, is not."""
    write_data(tmp_path / "my data")
    monkeypatch.chdir(tmp_path)
    given = [
        "train",
        "lfa_unet_drosophila",
        "--data",
        "my data",
        "--fold",
        "1",
        "--with",
        "small",
        "max_epochs=1",
        *QUICK,
    ]
    with monkeypatch.context() as patch:
        broken_off(patch, KeyboardInterrupt(), (Trainer, "_finish_epoch"))
        assert main(given) == 130
    assert "terminating due to exception" not in caplog.text
    words = goes_on(capsys.readouterr().err)
    (run,) = Path("runs").iterdir()
    assert words[words.index("--resume") + 1] == str(run)
    assert main(words) == 0
    assert (run / "model.pt").is_file()
    assert "fold: 1" in (run / "config.yaml").read_text()


def test_a_training_of_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before its run has begun it says nothing but what happened, and the same command begins anew."""
    device = Device()
    monkeypatch.setattr(complexity, "measure", device.measure)
    out = tmp_path / "out"
    given = [
        "train",
        str(volumes(tmp_path / "data")),
        "-o",
        str(out),
        "--minutes",
        "5",
        "--dimensions",
        "3",
        *QUICK,
        *SMALL,
    ]
    with monkeypatch.context() as patch:
        broken_off(patch, KeyboardInterrupt(), (complexity, "measure"))
        assert main(given) == 130
    assert capsys.readouterr().err.endswith("medseg: interrupted\n")
    with monkeypatch.context() as patch:
        broken_off(patch, Terminated(15), (Trainer, "_run"))
        with pytest.raises(Terminated):
            main(given)
    words = goes_on(capsys.readouterr().err, "ended")
    assert words[words.index("--resume") + 1] == str(out)
    assert main(words) == 0
    assert "Dice ball" in capsys.readouterr().out


def test_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(tmp_path / "data")
    study = write_study(tmp_path / "s.yaml")
    given = ["study", "run", str(study), "-o", str(tmp_path / "out dir"), "--no-mlflow"]
    broken_off(monkeypatch, KeyboardInterrupt(), (study_run, "_make_cells"))
    assert main(given) == 130
    assert goes_on(capsys.readouterr().err) == given
