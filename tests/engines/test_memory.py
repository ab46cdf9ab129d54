"""The allocator's advice."""

import platform

import pytest
import torch

from medseg.engines import memory
from medseg.engines.memory import keep_freed_memory


def test_glibc_takes_the_advice_on_a_cpu() -> None:
    told = keep_freed_memory(torch.device("cpu"))
    assert told == (platform.libc_ver()[0] == "glibc")
    large = torch.ones(9 * 2**20)  # 36 MiB: above the size that glibc would map on its own
    assert float(large.sum()) == 9 * 2**20


@pytest.mark.parametrize(("device", "library"), [("cuda", "glibc"), ("cpu", "")])
def test_nothing_happens_elsewhere(device: str, library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: (library, ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: pytest.fail("the C library was asked"))
    assert keep_freed_memory(torch.device(device)) is False


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
