"""What a GPU does, shown on one; skipped where there is none.

``MEDSEG_TEST_DEVICE=cpu`` goes through the same tests on a CPU, with little data and a lack of memory that is made up.
"""

import gc
import os
from collections.abc import Callable, Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """The GPU that is tested."""
    if os.environ.get("MEDSEG_TEST_DEVICE") == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("no GPU; MEDSEG_TEST_DEVICE=cpu goes through these tests on a CPU")
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def on_gpu(device: torch.device) -> bool:
    """Whether it is one."""
    return device.type == "cuda"


@pytest.fixture
def exact() -> Iterator[None]:
    """Convolve in full precision, and in the same order each time."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


@pytest.fixture
def limit(device: torch.device) -> Iterator[Callable[[int], None]]:
    """What leaves a process so many more bytes of the GPU than its tensors take now; without effect on a CPU."""

    def leave(more: int) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(device).total_memory
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + more) / total, device)

    yield leave
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        gc.collect()
        torch.cuda.empty_cache()
