"""Jobs through a real Ray of this machine: what becomes of each, and of one whose worker is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs.job_programs import COMMAND, jobs_of

from medseg.errors import MedsegError
from medseg.jobs import cluster as module
from medseg.jobs import job
from medseg.jobs.cluster import cluster

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
ROOT = Path(__file__).parents[2]
pytestmark = [  # of Ray's own files and processes
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ADDRESS = {"address": "in this process"}  # which has joined already


@pytest.fixture
def joined(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a worker starts be a few lines of Python; the command goes with the job, into another process."""
    monkeypatch.setattr(module, "work", small)


def small(each: job.Job) -> job.Done:
    return job.work(each, command=COMMAND)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
def test_what_became_of_each_is_told(tmp_path: Path) -> None:
    given = jobs_of(tmp_path, "good", "refused", "killed")
    done = {each.name: each.error for each in cluster(2, ADDRESS)(given)}
    assert done["good"] == ""
    assert done["refused"].startswith("fold 9 is not there; choose one of 0, 1; see ")
    assert done["killed"].startswith("its process was ended by signal 9; see ")


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
def test_the_job_of_a_worker_that_is_killed_is_done_by_another(tmp_path: Path) -> None:
    running = cluster(2, ADDRESS)(jobs_of(tmp_path, "twice", "good"))
    assert next(running) == job.Done("good")
    os.kill(wait_for(tmp_path / "twice.pid"), signal.SIGKILL)
    assert list(running) == [job.Done("twice")]


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
def test_a_job_that_may_not_be_tried_again_is_told(tmp_path: Path) -> None:
    running = cluster(2, {**ADDRESS, "max_retries": 0})(jobs_of(tmp_path, "long", "good"))
    assert next(running) == job.Done("good")
    os.kill(wait_for(tmp_path / "long.pid"), signal.SIGKILL)
    (done,) = running
    assert "in the cluster: " in done.error
    assert done.error.endswith(f"see {tmp_path / 'logs' / 'long.log'}")


def wait_for(path: Path) -> int:
    until = time.monotonic() + 300
    while not path.is_file() or not path.read_text():
        assert time.monotonic() < until, f"{path.name} is not there"
        time.sleep(0.05)
    return int(path.read_text())


def test_no_cluster_is_started_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(MedsegError, match=r"no Ray cluster is named: give --job address=HOST:6379 or set RAY_ADDRESS"):
        cluster(1)
    with pytest.raises(MedsegError, match=r"--job num_cpu: of a Ray cluster there are address, accelerator_type"):
        cluster(1, {"address": "local", "num_cpu": 1})


def test_without_ray_the_line_says_what_to_install() -> None:
    """In a process of its own, where no package of that name can be imported."""
    code = (
        "import sys; sys.modules['ray'] = sys.modules['submitit'] = None\n"
        "from medseg.jobs.batch import batch; from medseg.jobs.cluster import cluster\n"
        "for each in (batch, cluster):\n"
        "    try: each(1, {})\n"
        "    except ValueError as error: sys.stdout.write(f'{error}\\n')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines() == [
        "the executor submitit needs the package submitit: pip install medseg[submitit]",
        "the executor ray needs the package ray: pip install medseg[ray]",
    ]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("InvalidAuthToken: no"),
            "asks for a token .*RAY_AUTH_MODE=token and",
        ),
        (ConnectionError("no answer"), r"cannot be joined \(no answer\); see that it runs"),
    ],
)
def test_why_a_cluster_cannot_be_joined(monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def refuse(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(MedsegError, match=said):
        list(cluster(1, {"address": "10.0.0.1:6379"})([]))
