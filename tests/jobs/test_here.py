"""The processes of jobs on this machine: what they end with is told, and they end with who started them."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from jobs.job_programs import COMMAND, jobs_of, seen

from medseg.jobs import job
from medseg.jobs.gpus import VISIBLE
from medseg.jobs.here import here
from medseg.jobs.job import Done, work


@pytest.fixture(autouse=True)
def small_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "COMMAND", COMMAND)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_what_became_of_each_is_told(tmp_path: Path) -> None:
    done = {each.name: each.error for each in here(2)(jobs_of(tmp_path, "good", "refused", "killed", "nothing"))}
    assert done["good"] == ""
    assert done["refused"] == f"fold 9 is not there; choose one of 0, 1; see {tmp_path / 'logs' / 'refused.log'}"
    assert done["killed"].startswith("its process was ended by signal 9; see")
    assert done["nothing"].startswith("its process ended with status 0")  # and made nothing
    assert int((tmp_path / "good").read_text()) == max(1, job.cores() // 2)


def test_an_error_of_before_is_not_told_again(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "killed.log").write_text("medseg: error: of yesterday\n")
    assert work(*jobs_of(tmp_path, "killed")).error.startswith("its process was ended by signal 9")


def test_what_is_complete_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "refused").touch()
    assert list(here()(jobs_of(tmp_path, "refused"))) == [Done("refused")]
    assert work(*jobs_of(tmp_path, "refused")) == Done("refused")
    assert not (tmp_path / "logs").exists()


def test_they_end_with_who_asked_for_them(tmp_path: Path) -> None:
    running = here(2)(jobs_of(tmp_path, "long", "good", "long"))
    assert next(running).name == "good"
    running.close()  # type: ignore[attr-defined]
    assert (tmp_path / "ended").is_file()


def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv(VISIBLE, "3,GPU-ab")


def test_each_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    jobs = jobs_of(tmp_path, "sees_2_a", "sees_2_b", "sees_3_names")
    jobs[2] = replace(jobs[2], names_device=True)
    assert {each.error for each in here(2)(jobs)} == {""}
    found = seen(tmp_path)
    assert found.pop("sees_3_names") == "3,GPU-ab"
    assert sorted(found.values()) == ["3", "GPU-ab"]


def test_more_jobs_than_gpus_share_them_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    assert {each.error for each in here(4)(jobs_of(tmp_path, *(f"sees_4_{number}" for number in range(4))))} == {""}
    assert sorted(seen(tmp_path).values()) == ["3", "3", "GPU-ab", "GPU-ab"]


def test_one_that_is_killed_gives_its_gpu_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    done = {each.name: each.error for each in here(2)(jobs_of(tmp_path, "sees_3_stays", "sees_2_dies", "sees_3_next"))}
    assert [name for name, error in done.items() if error] == ["sees_2_dies"]
    found = seen(tmp_path)
    assert found["sees_3_next"] == found["sees_2_dies"] != found["sees_3_stays"]


def test_without_gpus_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.delenv(VISIBLE, raising=False)
    assert list(here(2)(jobs_of(tmp_path, "sees_1_a"))) == [Done("sees_1_a")]
    assert seen(tmp_path) == {"sees_1_a": "all"}


def test_a_tied_process_ends_when_its_input_closes() -> None:
    code = "from medseg.cli._arguments import end_with_input; end_with_input()\n"
    code += "import time; print(1, flush=True); time.sleep(99)"
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"1\n"
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(timeout=60) == 1
