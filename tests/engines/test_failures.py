"""A training that runs out of memory says what to lower, and goes on with it."""

import gc
import traceback
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.test_trainer import Entries, build, loss_function, rows

from medseg.engines.failures import TrainingError, out_of_memory
from medseg.runs.checkpoint import load_checkpoint


def scarce(steps: int) -> Any:
    """Return a loss whose device is full after so many steps."""
    done = []

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        done.append(1)
        if len(done) > steps:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return loss_function(logits, label)

    return loss


def test_it_goes_on_with_smaller_batches(entries: Entries, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(TrainingError) as caught:
        build(entries, folder, batch_size=4, loss_function=scarce(3), max_epochs=3).run()
    said = str(caught.value)
    assert "\n" not in said
    parts = ["epoch 2, iteration 4: cpu has no memory left for batch_size 4 of 16x16", "lower batch_size", "or patch"]
    parts += [f"resume={folder} goes on after the last completed epoch", "A narrower network"]
    for part in parts:
        assert part in said
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    build(entries, folder, batch_size=2, resume=True, max_epochs=3).run()
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3]
    assert [row["batch_size"] for row in rows(folder)] == [4, 2, 2]  # which epochs were trained with which
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["epoch"] == 3
    assert (folder / "model.pt").is_file()


def test_what_the_failed_step_held_is_let_go(entries: Entries, tmp_path: Path) -> None:
    """While error and trainer are looked at, as in a notebook: the network's output and what comes of it."""
    held: list[weakref.ref[torch.Tensor]] = []

    def loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        large = logits.exp()
        held.extend(weakref.ref(each) for each in (logits, large))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def prepared(batch: dict[str, torch.Tensor], *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        copies = batch["image"].clone(), batch["label"].clone()  # as a device gets them
        held.extend(map(weakref.ref, copies))
        return copies

    trainer = build(entries, tmp_path / "run", loss_function=loss)
    trainer.prepare_batch = prepared
    gc.disable()
    try:
        with pytest.raises(TrainingError) as caught:
            trainer.run()
        assert [each() is None for each in held] == [True] * 4
    finally:
        gc.enable()
    assert "in loss" in "".join(traceback.format_exception(caught.value.__cause__))


def test_in_the_first_epoch_there_is_nothing_to_go_on_from(entries: Entries, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"epoch 1, iteration 2: .* or patch: and start again"):
        build(entries, tmp_path / "run", loss_function=scarce(1)).run()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("std::bad_alloc"), True),
        (MemoryError(), True),
        (RuntimeError("shape '[2]' is invalid"), False),
        (KeyboardInterrupt(), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_a_lack_of_memory(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) is expected
