"""A function in one process and in two that talk to each other: together they must compute what one computes."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 240
IMPORTED = (
    "medseg.engines.parallel",
    "monai.bundle",
    "monai.losses",
    "monai.metrics",
    "monai.networks.nets",
    "ignite.distributed",
    "timm",
)


def alone_and_shared(compute: Callable[[int | None], Any], folder: Path) -> tuple[Any, list[Any]]:
    """Return what a function gives in this process alone, and what in each of two.

    The two are forks of one that has imported what takes long, and nothing else: all tests share it.

    Args:
        compute: of a module; gets its rank, or ``None`` where it is alone, and returns tensors, numbers and text in
            lists and dicts.
        folder: where the two meet.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    workers = [context.Process(target=_work, args=(compute, rank, str(folder))) for rank in range(2)]
    for worker in workers:
        worker.start()
    alone = compute(None)
    for worker in workers:
        worker.join(SECONDS)
    assert [worker.exitcode for worker in workers] == [0, 0]
    return alone, [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _work(compute: Callable[[int | None], Any], rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(compute(rank), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
