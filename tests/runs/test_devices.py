"""GPUs are lent one each, over threads and processes, and come back however a borrower ends. No GPU is needed."""

import contextlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from medseg.runs.devices import VISIBLE, Devices

HOLD = (
    "import sys\nfrom medseg.runs.devices import Devices\n"
    "with Devices(['0', 'GPU-ab'], sys.argv[1]).lend() as lent:\n"
    "    sys.stdout.write(str(dict(lent)) + '\\n'); sys.stdout.flush(); sys.stdin.read()\n"
)


def test_each_of_several_is_lent_once_at_a_time(tmp_path: Path) -> None:
    devices = Devices(["2", "5", "GPU-ab"], tmp_path)
    held: set[str] = set()
    most, guard, all_out = [0], threading.Lock(), threading.Barrier(3)

    def work(number: int) -> str:
        with devices.lend() as lent:
            name = lent[VISIBLE]
            with guard:
                assert name not in held
                held.add(name)
                most[0] = max(most[0], len(held))
            if number < 3:  # the first three have one each at the same moment
                all_out.wait(30)
            with guard:
                held.remove(name)
        return name

    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(work, range(9))) == {"2", "5", "GPU-ab"}
    assert most == [3]


def test_another_process_has_another_one_and_a_killed_one_gives_it_back(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    other = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == "{'CUDA_VISIBLE_DEVICES': '0'}\n"
        devices = Devices(["0", "GPU-ab"], tmp_path)
        with devices.lend() as lent:
            assert lent == {VISIBLE: "GPU-ab"}
            waiting = threading.Event()

            def wait() -> str:
                waiting.set()
                with devices.lend() as late:
                    return late[VISIBLE]

            with ThreadPoolExecutor(1) as pool:
                late = pool.submit(wait)
                waiting.wait(30)
                assert not late.done()
                other.kill()  # it lets go without a word
                assert late.result(60) == "0"
    finally:
        other.kill()
        other.communicate()


def test_an_error_gives_it_back(tmp_path: Path) -> None:
    devices = Devices(["0", "1"], tmp_path)
    for _ in range(3):
        with contextlib.suppress(ZeroDivisionError), devices.lend():
            raise ZeroDivisionError
    with devices.lend() as one, devices.lend() as two:
        assert {one[VISIBLE], two[VISIBLE]} == {"0", "1"}


@pytest.mark.parametrize("names", [[], ["0"]])
def test_one_is_shared(names: list[str], tmp_path: Path) -> None:
    devices = Devices(names, tmp_path)
    with devices.lend() as one, devices.lend() as two:
        assert one == two == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("visible", "number", "names"),
    [("", 2, ["0", "1"]), ("3, GPU-ab", 2, ["3", "GPU-ab"]), ("3,4,-1,5", 2, ["3", "4"]), ("0", 1, ["0"])],
)
def test_those_that_are_seen(visible: str, number: int, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    assert Devices().names == names
