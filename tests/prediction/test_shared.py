"""A cohort that several processes do: the same files and tables as of one, each case once, whoever dies."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_models import write_model

from medseg.cli import main
from medseg.jobs import job
from medseg.jobs.here import here
from medseg.jobs.job import Done, Job
from medseg.prediction import masks as mask_sink
from medseg.prediction.audit import RUN_RECORD
from medseg.prediction.predict import Outcome, predict
from medseg.prediction.shared import PARTS, Shared

CASES = 12
ROOT = Path(__file__).parents[2]
OUTPUTS = ("measurements", "uncertainty")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a model, pictures in subfolders, one that is damaged, and the outputs of one process."""
    folder = tmp_path_factory.mktemp("cohort")
    write_model(folder / "a.pt", "grey")
    rng = np.random.default_rng(0)
    for number in range(CASES):
        place = folder / "in" / ("a", "b")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(place)
    (folder / "in" / "cut.png").write_bytes(b"\x89PNG")
    assert of(folder, "whole").written == CASES
    return folder


def of(folder: Path, name: str, shared: Shared | None = None, **options: Any) -> Outcome:
    given = {"outputs": OUTPUTS, "overrides": {"device": "cpu"}, **options}
    return predict(folder / "a.pt", folder / "in", folder / name, shared=shared, **given)


def in_this_process(dies: Callable[[int], bool] = lambda number: False) -> job.Executor:
    """Do jobs one after the other, here; one that dies leaves what a kill would leave."""
    counts = iter(range(99))

    def execute(jobs: Sequence[Job]) -> Iterator[Done]:
        for each in jobs:
            with pytest.MonkeyPatch.context() as patch:
                if dies(next(counts)):
                    kill_in_second(patch)
                try:
                    main([word for word in each.words if word != "--tied"])
                except Killed:
                    yield Done(each.name, "its process was ended by signal 9")
                    continue
            yield Done(each.name)

    return execute


class Killed(BaseException):
    """Stands for a SIGKILL."""


def kill_in_second(patch: pytest.MonkeyPatch) -> None:
    write, calls = mask_sink.write_mask, iter(range(99))

    def dies(*arguments: Any, **options: Any) -> None:
        if next(calls) == 1:
            raise Killed
        write(*arguments, **options)

    patch.setattr(mask_sink, "write_mask", dies)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.match(RUN_RECORD)
    }


def assert_the_same(cohort: Path, name: str) -> None:
    """The files of one process, and each case once in the records."""
    assert files(cohort / name) == files(cohort / "whole")
    mine, whole = (recorded(cohort / each) for each in (name, "whole"))
    assert sorted(mine, key=str) == sorted(whole, key=str)


def recorded(folder: Path) -> list[Any]:
    return [case for path in folder.glob(RUN_RECORD) for case in json.loads(path.read_text())["cases"]]


def test_parts_make_what_one_process_makes(cohort: Path) -> None:
    done = of(cohort, "parts", Shared(in_this_process(), 2))
    assert (done.written, len(done.failures), done.skipped) == (CASES, 1, 0)
    assert_the_same(cohort, "parts")
    again = of(cohort, "parts", Shared(in_this_process(), 2))
    assert (again.written, again.skipped, len(again.failures)) == (0, CASES, 1)
    assert files(cohort / "parts") == files(cohort / "whole")


def test_what_a_dead_worker_left_is_done_by_others(cohort: Path, caplog: pytest.LogCaptureFixture) -> None:
    done = of(cohort, "dead", Shared(in_this_process(lambda number: number in (0, 2)), 2))
    assert (done.written, len(done.failures)) == (CASES, 1)
    assert_the_same(cohort, "dead")
    assert re.search(r"2 workers died \(its process was ended by signal 9\): others do \d+ cases", caplog.text)


def test_cases_that_kill_every_worker_are_failures(cohort: Path) -> None:
    shared = Shared(in_this_process(lambda number: True), 2)
    done = of(cohort, "poison", shared)
    reasons = [reason for name, reason in done.failures if name != "cut.png"]
    assert done.written + len(reasons) == CASES
    assert set(reasons) <= {"its worker died, 3 times: its process was ended by signal 9"}
    assert done.written > 0
    rest = of(cohort, "poison")
    assert (rest.written, rest.skipped) == (len(reasons), done.written)
    assert files(cohort / "poison") == files(cohort / "whole")


def test_parts_of_a_run_that_was_killed_are_gathered(cohort: Path) -> None:
    """By a run of one process: what the parts finished is taken, and not done again."""

    def killed(jobs: Sequence[Job]) -> Iterator[Done]:
        main([word for word in jobs[0].words if word != "--tied"])
        raise Killed
        yield

    with pytest.raises(Killed):
        of(cohort, "broken", Shared(killed, 2))
    assert list((cohort / "broken").glob(f"{PARTS}/*/told.json"))
    assert not list((cohort / "broken").glob("?/*.png"))
    of(cohort, "broken")
    assert_the_same(cohort, "broken")


def test_parts_of_other_images_are_done_again(tmp_path: Path) -> None:
    write_model(tmp_path / "a.pt", "grey")
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(1)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(tmp_path / "in" / f"{number}.png")

    def killed(jobs: Sequence[Job]) -> Iterator[Done]:
        for each in jobs:
            main([word for word in each.words if word != "--tied"])
        raise Killed
        yield

    with pytest.raises(Killed):
        of(tmp_path, "broken", Shared(killed, 1))
    Image.fromarray(rng.integers(0, 256, (24, 24), dtype=np.uint8)).save(tmp_path / "in" / "3.png")
    for name in ("broken", "whole"):
        assert of(tmp_path, name).written == 4
    assert files(tmp_path / "broken") == files(tmp_path / "whole")
    hashes = [{case["name"]: case["sha256"] for case in recorded(tmp_path / name)} for name in ("broken", "whole")]
    assert hashes[0] == hashes[1]


PROGRAM = """
import os, sys, pathlib, time
if sys.argv[3]:
    pathlib.Path(sys.argv[3], f"{os.getpid()}").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
del sys.argv[3]
from medseg.cli import main
from medseg.prediction import masks
write, calls, whom, mark = masks.write_mask, [], sys.argv.pop(1), pathlib.Path(sys.argv.pop(1))
def dies(*given, **options):
    calls.append(1)
    if len(calls) == 2:
        try: mark.touch(exist_ok=False)
        except FileExistsError: pass
        else:
            os.kill(os.getpid() if whom == "job" else os.getppid(), 9)
            time.sleep(600)  # it ends with its worker
    write(*given, **options)
masks.write_mask = dies
sys.exit(main())
"""


def killing(whom: str, mark: Path, seen: Path | None = None) -> tuple[str, ...]:
    """Return a command that is `medseg`, but for the first time that it comes to a second mask: it kills, once.

    Args:
        whom: ``job``, its own process, or ``worker``, the one that started it.
        mark: file that says that it did.
        seen: folder for the GPUs that each process sees.
    """
    return (sys.executable, "-W", "ignore", "-c", PROGRAM, whom, str(mark), "" if seen is None else str(seen))


@pytest.mark.timeout(900)
def test_a_worker_that_is_killed_in_earnest(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of this machine, the first of which kills itself before its second mask; each has a GPU of its own.

    The GPUs are none: a process that sees such a one alone works on the processor.
    """
    seen = cohort / "seen"
    seen.mkdir()
    monkeypatch.setattr(job, "COMMAND", killing("job", cohort / "killed", seen))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-none-a,GPU-none-b")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = of(cohort, "earnest", Shared(here(2), 2), overrides={})
    assert (cohort / "killed").is_file()
    assert (done.written, len(done.failures)) == (CASES, 1)
    assert_the_same(cohort, "earnest")
    assert {path.read_text() for path in seen.iterdir()} == {"GPU-none-a", "GPU-none-b"}


@pytest.mark.timeout(1200)
def test_a_worker_of_submitit_that_is_killed(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that submitit started, whose job ends with it: others do what it left."""
    pytest.importorskip("submitit", reason="the extra submitit is not installed")
    from medseg.jobs import batch

    class _Killing(batch._Work):
        def __init__(self, command: Sequence[str], *given: Any) -> None:
            super().__init__(*given)
            self._command = command

        def __call__(self) -> Done:
            return job.work(self._job, self._share, self._command, self._environment)

    command = killing("worker", cohort / "killed_batch")
    monkeypatch.setattr(batch, "_Work", lambda *given: _Killing(command, *given))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
    done = of(cohort, "submitit", Shared(batch.batch(2, {"cluster": "local"}), 2))
    assert (cohort / "killed_batch").is_file()
    assert (done.written, len(done.failures)) == (CASES, 1)
    assert_the_same(cohort, "submitit")


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # Ray's own
def test_a_worker_of_ray_that_is_killed(
    cohort: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The process that Ray started: Ray gives its job to another, which goes on in the same part."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from medseg.jobs import cluster

    request.getfixturevalue("ray_here")
    command = killing("worker", cohort / "killed_cluster")

    def work(each: Job, environment: Mapping[str, str]) -> Done:
        return job.work(each, command=command, environment=environment)

    monkeypatch.setattr(cluster, "work", work)
    done = of(cohort, "ray", Shared(cluster.cluster(2, {"address": "in this process"}), 2))
    assert (cohort / "killed_cluster").is_file()
    assert (done.written, len(done.failures)) == (CASES, 1)
    assert_the_same(cohort, "ray")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "cannot be read .*name a JSON list"),
        ("[]", "is no list of names; write it as"),
        ('["none.png"]', "holds no case none.png, which --cases names; such as a/0.png is there"),
    ],
)
def test_wrong_cases(cohort: Path, capsys: pytest.CaptureFixture[str], content: str, said: str) -> None:
    (cohort / "cases.json").write_text(content)
    words = ["predict", str(cohort / "a.pt"), str(cohort / "in"), str(cohort / "none")]
    assert main([*words, "device=cpu", "--cases", str(cohort / "cases.json")]) == 2
    assert re.search(said, capsys.readouterr().err)
