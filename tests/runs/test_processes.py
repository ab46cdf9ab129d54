"""One process or many."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from medseg.engines.parallel import parallel
from medseg.runs import processes as distributed
from medseg.runs.processes import pick_device, rank, start_processes, stop_processes, world_size


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return monkeypatch


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for name in (None, "auto", "cpu", torch.device("cpu")):
        assert pick_device(name) == torch.device("cpu")
    for name in ("cuda", "cuda:0", torch.device("cuda:1")):
        with pytest.raises(ValueError, match=rf"device {name} was asked for, but 0 GPUs can be seen; use device=cpu"):
            pick_device(name)


def test_each_process_has_its_gpu(gpus: pytest.MonkeyPatch) -> None:
    assert pick_device() == torch.device("cuda", 0)
    gpus.setenv("LOCAL_RANK", "1")
    assert pick_device("auto") == torch.device("cuda", 1)
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"device cuda:2 was asked for, but 2 GPUs can be seen"):
        pick_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "cpu0"])
def test_a_device_that_does_not_exist(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{name}' is none that PyTorch knows; use cpu, cuda or cuda:N"):
        pick_device(name)


def test_one_process() -> None:
    assert (rank(), world_size()) == (0, 1)
    stop_processes()


def test_torchrun_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError, match="torchrun --nproc_per_node=N"):
        start_processes()


def test_a_group_of_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The whole way through one gloo process: join, wrap, differentiate, leave."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    join = dist.init_process_group
    monkeypatch.setattr(dist, "init_process_group", lambda kind: join(kind, store=store, rank=0, world_size=1))
    start_processes()
    try:
        start_processes()  # a second call joins nothing
        assert (rank(), world_size()) == (0, 1)
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
        torch.manual_seed(0)
        wrapped = parallel(
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)), torch.device("cpu")
        )
        assert isinstance(wrapped, nn.parallel.DistributedDataParallel)
        image = torch.rand(2, 2, 8, 8).contiguous(memory_format=torch.channels_last)
        for network in (plain, wrapped):
            network(image).square().mean().backward()
        for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad)
    finally:
        stop_processes()
    assert not dist.is_initialized()
    assert distributed.world_size() == 1
