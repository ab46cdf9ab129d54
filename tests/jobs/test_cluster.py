"""Jobs through a real Ray of this machine: what becomes of each, and of one whose worker is killed."""

import fnmatch
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from jobs.job_programs import COMMAND, jobs_of, pid_in, seen
from ray_here import TRIES

from medseg.errors import MedsegError
from medseg.jobs import cluster as module
from medseg.jobs import job
from medseg.jobs.cluster import cluster, sharing
from medseg.jobs.gpus import VISIBLE

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
ROOT = Path(__file__).parents[2]
TOKENS = importlib.util.find_spec("ray._private.authentication") is not None
TOKEN = secrets.token_hex(16)
pytestmark = [  # of Ray's own files and processes
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ADDRESS = {"address": "in this process"}  # which has joined already


@pytest.fixture
def joined(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a worker starts be a few lines of Python; the command goes with the job, into another process."""
    monkeypatch.setattr(module, "work", small)


def small(each: job.Job, environment: Mapping[str, str]) -> job.Done:
    return job.work(each, command=COMMAND, environment=environment)


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
    os.kill(pid_in(tmp_path / "twice.pid"), signal.SIGKILL)
    assert list(running) == [job.Done("twice")]


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
def test_a_job_that_may_not_be_tried_again_is_told(tmp_path: Path) -> None:
    running = cluster(2, {**ADDRESS, "max_retries": 0})(jobs_of(tmp_path, "long", "good"))
    assert next(running) == job.Done("good")
    os.kill(pid_in(tmp_path / "long.pid"), signal.SIGKILL)
    (done,) = running
    assert "in the cluster: " in done.error
    assert done.error.endswith(f"see {tmp_path / 'logs' / 'long.log'}")


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
def test_gpus_of_a_ray_of_this_machine_are_divided_between_workers(tmp_path: Path) -> None:
    given = {**ADDRESS, **module._gpus_each(3, ours=True)}
    assert given["num_gpus"] == 0.5
    jobs = jobs_of(tmp_path, "sees_3_a", "sees_3_b", "sees_3_c")
    assert {each.error for each in cluster(3, given)(jobs)} == {""}
    found = sorted(seen(tmp_path).values())
    assert found in (["0", "0", "1"], ["0", "1", "1"])


@pytest.mark.usefixtures("joined")
def test_jobs_that_would_see_no_gpu_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert list(cluster(2, {**ADDRESS, "num_gpus": 1})([])) == []
    assert caplog.text == ""
    assert list(cluster(2, ADDRESS)([])) == []
    assert "the Ray cluster has 2 GPUs, of which jobs see none; --job num_gpus=1 gives each one" in caplog.text


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize("options", [{}, {"num_gpus": 0}])
def test_jobs_that_are_given_no_gpu_see_none(tmp_path: Path, options: dict[str, int]) -> None:
    """Ray 2.60 shows them all; one that names its device is left that."""
    jobs = jobs_of(tmp_path, "sees_1_a", "sees_1_names")
    jobs[1] = replace(jobs[1], names_device=True)
    assert {each.error for each in cluster(1, {**ADDRESS, **options})(jobs)} == {""}
    found = seen(tmp_path)
    assert found.pop("sees_1_a") == ""
    assert found["sees_1_names"] == "all" or tuple(map(int, ray.__version__.split(".")[:2])) < (2, 60)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
def test_jobs_see_as_many_gpus_as_were_asked_for(tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, "sees_1_a")
    assert [each.error for each in cluster(2, {**ADDRESS, "num_gpus": 2})(jobs)] == [""]
    assert seen(tmp_path) == {"sees_1_a": "0,1"}


@pytest.mark.parametrize("given", [[], ["1"], ["GPU-ab", "3"]])
@pytest.mark.parametrize("names_device", [False, True])
def test_what_a_job_sees_is_not_left_to_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], names_device: bool
) -> None:
    """As with RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES, with which Ray tells what was given but shows all."""
    context = SimpleNamespace(get_accelerator_ids=lambda: {"GPU": given, "TPU": ["7"]})
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setenv(VISIBLE, "0,1,2,3")
    (each,) = jobs_of(tmp_path, "sees_1_a")
    assert module._in_cluster(small, replace(each, names_device=names_device)) == job.Done("sees_1_a")
    assert seen(tmp_path) == {"sees_1_a": "0,1,2,3" if names_device and not given else ",".join(given)}


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("joined")
@pytest.mark.parametrize(
    ("workers", "options", "number"),
    [
        (3, {}, 3),  # of processors, of which the machine has four
        (8, {}, 4),
        (8, {"num_cpus": 2}, 2),
        (8, {"num_cpus": 0}, 8),
        (8, {"num_gpus": 0}, 4),
        (8, {"num_gpus": 1}, 1),
        (8, {"num_gpus": 2}, 1),
        (8, {"num_gpus": 0.25}, 4),
        (2, {"num_gpus": 0.25}, 2),
    ],
)
def test_how_many_share_a_machine_of_a_cluster(workers: int, options: dict[str, float], number: int) -> None:
    assert sharing(workers, {**ADDRESS, **options}) == number
    if "num_cpus" not in options:
        assert sharing(workers, {**ADDRESS, **options}, names_device=True) == min(workers, 4)


@pytest.mark.parametrize(
    ("options", "number"), [({}, 2), ({"num_gpus": 1}, 1), ({"num_gpus": 0.5}, 2), ({"num_gpus": 0}, 3)]
)
def test_how_many_share_a_gpu_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, float], number: int
) -> None:
    """Of a Ray that is not started for it."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr(ray, "init", None)
    assert sharing(3, {"address": "local", **options}) == number
    assert sharing(3, {"address": "local", **options}, names_device=True) == 3


@pytest.mark.parametrize(("name", "value"), [("num_gpus", "two"), ("num_gpus", -1), ("memory", "4G")])
def test_options_that_ray_does_not_take_are_refused_before_it_is_joined(name: str, value: object) -> None:
    with pytest.raises(MedsegError, match=rf"--job {name}={value}: Ray refuses it: .*{name}"):
        cluster(1, {**ADDRESS, name: value})


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


def test_a_ray_of_its_own_listens_on_the_loopback_alone() -> None:
    """Ray binds to every interface of a machine, but where it takes the loopback's address for the machine's."""
    code = (
        "from medseg.jobs.cluster import cluster\n"
        "cluster(1, {'address': 'local'})\n"
        "from ray._private.services import get_node_ip_address\n"
        "print(get_node_ip_address())"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, env=environment)
    assert done.stdout.split() == ["127.0.0.1"]


HEAD = """
import sys
import ray
ray.init(
    address="local", num_cpus=2, include_dashboard=False,
    object_store_memory=80 * 2**20, logging_level="ERROR", log_to_driver=False,
)
sys.stdout.write(ray.get_runtime_context().gcs_address + "\\n")
sys.stdout.flush()
sys.stdin.read()
ray.shutdown()
"""

JOINS = """
import sys
from pathlib import Path
from jobs.test_cluster import small
from jobs.job_programs import jobs_of
from medseg.errors import MedsegError
from medseg.jobs import cluster

address, folder, name = sys.argv[1:]
cluster.work = small
try:
    done = list(cluster.cluster(1, {"address": address})(jobs_of(Path(folder), name)))
    sys.stdout.write(f"{[each.error for each in done]}\\n")
except MedsegError as error:
    sys.stdout.write(f"{error}\\n")
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray that asks for a token, in a process of its own: Ray reads the mode when it is imported. Yields its address
    and the environment that has no token, with a home in which none lies."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "HOME": str(tmp_path_factory.mktemp("home")),
    }
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    words = [sys.executable, "-W", "ignore", "-c", HEAD]
    for _ in range(TRIES):
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "RAY_AUTH_TOKEN": TOKEN},
        ) as head:
            assert head.stdout is not None
            if address := head.stdout.readline().strip():
                yield address, environment
                head.communicate()
                return
    raise AssertionError("Ray could not be started")


@pytest.mark.timeout(1200)
@pytest.mark.skipif(not TOKENS, reason=f"Ray {ray.__version__} knows no tokens")
@pytest.mark.skipif("MEDSEG_TEST_WHOLE" not in os.environ, reason="a Ray of its own: MEDSEG_TEST_WHOLE=1 starts it")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"RAY_AUTH_TOKEN": TOKEN}, "['']"),
        ({"RAY_AUTH_TOKEN": "0" * 32}, "the Ray cluster {address} asks for a token (* InvalidAuthToken: *): set RAY_*"),
        (
            {"RAY_AUTH_MODE": "disabled"},
            "the Ray cluster {address} asks for a token (* InvalidAuthToken: *): set RAY_*",
        ),
        ({}, "the Ray cluster {address} asks for a token (* no authentication token was found): set RAY_AUTH_MODE=*"),
    ],
    ids=["right", "wrong", "disabled", "none"],
)
def test_a_cluster_with_a_token(
    tmp_path: Path, guarded: tuple[str, dict[str, str]], given: dict[str, str], said: str
) -> None:
    address, environment = guarded
    words = [sys.executable, "-W", "ignore", "-c", JOINS, address, str(tmp_path), "good"]
    done = subprocess.run(words, capture_output=True, text=True, env={**environment, **given})
    assert fnmatch.fnmatchcase(done.stdout.strip(), said.format(address=address).replace("[", "[[]")), done
    assert (tmp_path / "good").is_file() == (said == "['']")


def refused() -> Exception:
    """What Ray 2.60 raises for a token that is not the cluster's, without the lines of its trace."""
    error = ConnectionError("Failed to connect to Ray cluster at 127.0.0.1:6379")
    error.__cause__ = RuntimeError(
        "Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n"
        "ray.exceptions.AuthenticationError: RPC error: InvalidAuthToken: Authentication token is missing or incorrect."
        " Ensure that the token for the cluster is available in a local file (e.g., ~/.ray/auth_token)\n"
    )
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(), r"asks for a token \(.*InvalidAuthToken: .* incorrect\): set RAY_AUTH_MODE=token and"),
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
