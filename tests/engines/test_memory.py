"""The allocator's advice."""

import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from medseg.engines import memory
from medseg.engines.memory import keep_feature_maps, keep_freed_memory

USED = """
import os, resource, sys
import torch
from medseg.engines.memory import keep_feature_maps
def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(megabytes * 2**20, dtype=torch.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
before = faults(48)
assert keep_feature_maps(torch.device("cpu"))
faults(48)
resident = held()
torch.ones(128 * 2**20, dtype=torch.uint8)
print(before, faults(48), held() - resident)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library's allocator takes no such advice")
def test_maps_are_kept_and_volumes_are_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", USED], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    before, asked, left = map(float, done.stdout.split())
    assert asked < before / 10  # before, each of ten blocks was asked for anew
    assert left < 100


WAYS = pytest.mark.parametrize("keep", [keep_freed_memory, keep_feature_maps])


@WAYS
def test_glibc_takes_the_advice_on_a_cpu(keep: Callable[[torch.device], bool]) -> None:
    told = keep(torch.device("cpu"))
    assert told == (platform.libc_ver()[0] == "glibc")
    large = torch.ones(9 * 2**20)  # 36 MiB: above the size that glibc would map on its own
    assert float(large.sum()) == 9 * 2**20


@pytest.mark.parametrize(("device", "library"), [("cuda", "glibc"), ("cpu", "")])
@WAYS
def test_nothing_happens_elsewhere(
    keep: Callable[[torch.device], bool], device: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("the C library was asked"))
    assert keep(torch.device(device)) is False


def test_a_refusal_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Library:
        @staticmethod
        def mallopt(option: int, value: int) -> int:
            return 0

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: Library)
    with caplog.at_level("INFO"):
        assert keep_freed_memory(torch.device("cpu")) is False
    assert "takes no advice" in caplog.text
