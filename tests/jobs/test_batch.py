"""Jobs through submitit, by its executor of this machine: what becomes of each, and of one whose worker is killed."""

import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from jobs.job_programs import COMMAND, jobs_of, pid_in, seen, wait_for

from medseg.errors import MedsegError
from medseg.jobs import batch as module
from medseg.jobs import job
from medseg.jobs.batch import batch, sharing
from medseg.jobs.gpus import VISIBLE

pytest.importorskip("submitit", reason="the extra submitit is not installed")
LOCAL = {"cluster": "local"}
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(1200)  # two processes are started for each job, which a busy machine does slowly


@pytest.fixture(autouse=True)
def small_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a worker starts be a few lines of Python; the command goes with the job, into another process."""
    monkeypatch.setattr(module, "_Work", lambda *given: _Small(*given))
    monkeypatch.setattr(module, "_POLL", 0.1)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))


class _Small(module._Work):
    def __call__(self) -> job.Done:
        return job.work(self._job, self._share, COMMAND, self._environment)


def test_what_became_of_each_is_told(tmp_path: Path) -> None:
    done = {each.name: each.error for each in batch(2, LOCAL)(jobs_of(tmp_path, "good", "refused", "killed"))}
    assert done["good"] == ""
    assert done["refused"].startswith("fold 9 is not there; choose one of 0, 1; see ")
    assert done["killed"].startswith("its process was ended by signal 9; see ")
    assert (tmp_path / "logs" / "submitit").is_dir()


def test_the_folder_of_a_job_that_is_done_may_go(tmp_path: Path) -> None:
    """As a part of a cohort does, whose log lies in it, while other parts are still worked on."""
    given = []
    for name in ("good1", "good2", "good3"):
        (each,) = jobs_of(tmp_path, name)
        given.append(replace(each, log=tmp_path / "parts" / name / "log.txt"))
    for done in batch(1, LOCAL)(given):
        assert done.error == ""
        shutil.rmtree(tmp_path / "parts" / done.name)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["submitit"]


def test_a_worker_that_is_killed_takes_its_job_along_and_is_told(tmp_path: Path) -> None:
    """The process of the job ends with it, so that whoever is given the job next finds it free."""
    running = batch(2, LOCAL)(jobs_of(tmp_path, "long", "good"))
    assert next(running).name == "good"
    os.kill(pid_in(tmp_path / "long.pid"), signal.SIGKILL)
    (done,) = running
    assert done.name == "long"
    assert done.error.startswith("job ")
    assert "ended before it was done" in done.error
    wait_for(tmp_path / "ended")


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["", "ignored"])
def interrupt(request: pytest.FixtureRequest) -> Iterator[object]:
    """What this process does of SIGINT; a script's shell lets what it puts into the background ignore it."""
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_jobs_end_with_who_asked_for_them(tmp_path: Path, interrupt: object) -> None:
    running = batch(2, LOCAL)(jobs_of(tmp_path, "long", "good"))
    assert next(running).name == "good"
    assert signal.getsignal(signal.SIGINT) == interrupt
    pid_in(tmp_path / "long.pid")
    running.close()  # type: ignore[attr-defined]
    wait_for(tmp_path / "ended")


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # which a worker that imports this file need not import
    monkeypatch.setenv(VISIBLE, "GPU-ab,3")


@pytest.mark.usefixtures("two_gpus")
def test_jobs_of_this_machine_have_a_gpu_each(tmp_path: Path) -> None:
    """Submitit by itself hides all GPUs."""
    jobs = jobs_of(tmp_path, "sees_3_a", "sees_3_b", "sees_3_names")
    jobs[2] = replace(jobs[2], names_device=True)
    assert {each.error for each in batch(3, LOCAL)(jobs)} == {""}
    assert seen(tmp_path) == {"sees_3_a": "GPU-ab", "sees_3_b": "3", "sees_3_names": "GPU-ab,3"}


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("cluster", "given", "shares"),
    [
        ("local", {}, {VISIBLE: "GPU-ab"}),
        ("local", {"gpus_per_node": 1}, {}),  # submitit does what it was told
        ("slurm", {}, {}),  # whose machine is another
    ],
)
def test_who_says_which_gpus(tmp_path: Path, cluster: str, given: dict[str, int], shares: dict[str, str]) -> None:
    (each,) = jobs_of(tmp_path, "good")
    found = module._Shares.of(cluster, given, 3)
    assert found.processors == (3 if cluster == "local" else 1)
    with found.lend(each) as lent:
        assert lent == shares


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("settings", "number", "named"),
    [
        (LOCAL, 3, 5),
        ({**LOCAL, "gpus_per_node": 1}, 5, 5),  # submitit shows the first one to all
        ({"cluster": "debug"}, 1, 1),  # one after the other
    ],
)
def test_how_many_share_a_gpu_of_this_machine(settings: dict[str, object], number: int, named: int) -> None:
    assert sharing(5, settings) == number
    assert sharing(5, settings, names_device=True) == named


def test_each_has_its_share_of_the_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [each.error for each in batch(2, LOCAL)(jobs_of(tmp_path, "good1"))] == [""]
    assert int((tmp_path / "good1").read_text()) == max(1, job.cores() // 2)
    assert module._Shares.of("debug", {}, 2).processors == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cluster": "slrum"}, "--job cluster=slrum: submitit refuses it: .*any executor named slrum"),
        ({"cluster": "local", "timeout": 3}, "--job cluster=local timeout=3: submitit refuses it: .*timeout"),
        ({"cluster": "local", "timeout_min": "long"}, '"timeout_min" expected type'),
    ],
)
def test_wrong_settings(settings: dict[str, object], said: str) -> None:
    with pytest.raises(MedsegError, match=said):
        batch(1, settings)


def test_slurm_is_given_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that Slurm would get, of a machine that has the names of its programs alone."""
    for name in ("srun", "sbatch", "sacct", "scancel"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    assert sharing(4, {"cluster": "slurm"}) == sharing(4) == 1  # its jobs have what it gives them
    executor = module._executor(tmp_path / "logs", {"cluster": "slurm", "timeout_min": 90, "slurm_partition": "gpu"})
    text = executor._executor._make_submission_file_text("work", "1")
    assert "#SBATCH --time=90\n" in text
    assert "#SBATCH --partition=gpu\n" in text
