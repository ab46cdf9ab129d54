"""GPUs are shared out evenly between jobs, and come back however a job ends. No GPU is needed."""

import contextlib
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from jobs.job_programs import jobs_of

from medseg.jobs.gpus import VISIBLE, Gpus
from medseg.jobs.job import Job, names_device

JOB = Job("a", (), Path("a.log"), Path("a"))
NAMED = Job("b", (), Path("b.log"), Path("b"), names_device=True)


def test_jobs_share_as_few_as_can_be() -> None:
    gpus = Gpus(["2", "5", "GPU-ab"])
    with ExitStack() as stack:
        lent = [stack.enter_context(gpus.lend(JOB))[VISIBLE] for _ in range(7)]
        assert set(lent[:3]) == set(lent[3:6]) == {"2", "5", "GPU-ab"}
    assert [gpus.sharing(workers) for workers in (1, 3, 4, 7)] == [1, 1, 2, 3]
    with gpus.lend(JOB) as one, gpus.lend(JOB) as two:
        with gpus.lend(JOB) as three:
            assert Counter(each[VISIBLE] for each in (one, two, three)) == Counter(gpus.names)
        with gpus.lend(JOB) as again:
            assert again == three  # what was given back


def test_an_error_gives_it_back() -> None:
    gpus = Gpus(["0", "1"])
    for _ in range(3):
        with contextlib.suppress(ZeroDivisionError), gpus.lend(JOB):
            raise ZeroDivisionError
    with gpus.lend(JOB) as one, gpus.lend(JOB) as two:
        assert {one[VISIBLE], two[VISIBLE]} == {"0", "1"}


def test_one_that_names_its_device_is_left_alone() -> None:
    gpus = Gpus(["0", "1"])
    with gpus.lend(NAMED) as none, gpus.lend(JOB) as one, gpus.lend(JOB) as two:
        assert none == {}
        assert {one[VISIBLE], two[VISIBLE]} == {"0", "1"}


@pytest.mark.parametrize(
    ("device", "named"),
    [(None, False), ("auto", False), ("cuda", False), ("cpu", True), ("cuda:1", True)],
)
def test_what_names_a_device(device: str | None, named: bool) -> None:
    assert names_device({} if device is None else {"device": device}) is named


def test_without_gpus_nothing_is_lent() -> None:
    with Gpus([]).lend(*jobs_of(Path(), "good")) as lent:
        assert lent == {}
    assert Gpus([]).sharing(4) == 4


@pytest.mark.parametrize(
    ("visible", "number", "names"),
    [
        ("", 2, ("0", "1")),
        ("3, GPU-ab", 2, ("3", "GPU-ab")),
        ("3,4,-1,5", 2, ("3", "4")),
        ("0", 1, ("0",)),
        ("", 0, ()),
    ],
)
def test_those_that_are_seen(
    visible: str, number: int, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    assert Gpus().names == names
