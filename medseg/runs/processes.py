"""One process or many: what `torchrun` sets, read in one place. PyTorch is imported by what needs it alone."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from medseg.caller import spelt
from medseg.errors import MedsegError, counted

if TYPE_CHECKING:
    import torch

_SAID, _LEFT = "medseg/said", "medseg/left"  # counts of processes
_PATIENCE = 10.0  # seconds for the others to see that the first one has failed


def rank() -> int:
    """Return this process's number, 0 where there is one process."""
    if not _in_group():
        return 0
    import torch.distributed as dist

    return dist.get_rank()


def world_size() -> int:
    """Return the number of processes."""
    if not _in_group():
        return 1
    import torch.distributed as dist

    return dist.get_world_size()


def _in_group() -> bool:
    """Return whether this process has joined a group, which without PyTorch it cannot."""
    if "torch" not in sys.modules:
        return False
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device to run on: the named one, else this process's GPU, else the CPU.

    Args:
        name: such as ``"cpu"`` or ``"cuda:1"``; ``None`` picks.

    Raises:
        ValueError: if there is no such device.
    """
    import torch

    if name is None or name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MedsegError(f"device {str(name)!r} is none that PyTorch knows; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MedsegError(
            f"device {name} was asked for, but {counted(torch.cuda.device_count(), 'GPU')} can be seen; use "
            f"{spelt('device', 'cpu')}"
        )
    return device


def start_processes() -> None:
    """Join the process group that ``torchrun`` describes (NCCL on GPUs, gloo on the CPU).

    Raises:
        RuntimeError: if the program was not started by ``torchrun``.
    """
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if "WORLD_SIZE" not in os.environ:
        raise RuntimeError(
            "multi_gpu_train.yaml needs several processes: torchrun --nproc_per_node=N -m monai.bundle run"
        )
    if torch.cuda.is_available():
        device = pick_device()
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")


def wait_for_all() -> None:
    """Wait until all processes have come here."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.barrier()


def of_the_first(value: float, device: torch.device) -> float:
    """Return a number of the first process, as all must have it.

    Args:
        value: of this process.
        device: of this process, through which it is exchanged.
    """
    if world_size() == 1:
        return float(value)
    import torch
    import torch.distributed as dist

    told = torch.tensor([float(value)], dtype=torch.float64, device=device)
    dist.broadcast(told, src=0)
    return float(told)


def by_the_first(work: Callable[[], Any]) -> Any:
    """Let the first process do what one can do for all; where it fails, the others end too, without a word.

    Args:
        work: called in the first process alone; gives what can be pickled.

    Returns:
        What it gave, in all processes.

    Raises:
        SystemExit: in the others, if it failed in the first, which has the error.
    """
    if world_size() == 1:
        return work()
    import torch.distributed as dist

    told: list[Any] = [None, True]
    failure: Exception | None = None
    if rank() == 0:
        try:
            told = [work(), False]
        except Exception as error:
            failure = error
    dist.broadcast_object_list(told, src=0)  # else the others would wait for the first at the next step
    if failure is not None:
        raise failure
    if told[1]:
        leave_failed()
        raise SystemExit(1)
    return told[0]


def first_to_say() -> bool:
    """Return whether no other process has said before why all end; a process alone is the first.

    A process that fails takes the others with it: what they see, a connection that is closed, is not what is wrong.
    """
    store = _store()
    if store is None:
        return True
    try:
        return bool(store.add(_SAID, 1) == 1)
    except RuntimeError:  # the first process, which keeps the count, is gone: it had time to say why, if it could
        return rank() == 1


def leave_failed() -> None:
    """Leave the process group for good, so that nobody waits for this process."""
    store = _store()
    if store is None:
        return
    import torch.distributed as dist

    number, others = rank(), world_size() - 1
    if dist.get_backend() == "gloo":  # NCCL would wait for what is under way: there torchrun ends the others
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()
    with contextlib.suppress(RuntimeError):
        gone = store.add(_LEFT, int(number > 0))
        if number == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # the count ends with this process
            until = time.monotonic() + _PATIENCE
            while gone < others and time.monotonic() < until:
                time.sleep(0.1)
                gone = store.add(_LEFT, 0)


def _store() -> Any:
    """Return what all processes read and write, of several; PyTorch has no public name for it."""
    if world_size() == 1:
        return None
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def stop_processes() -> None:
    """Leave the process group, if there is one, together: the first process has the reports to write."""
    if _in_group():
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()
