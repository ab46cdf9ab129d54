"""Kill a training with SIGKILL again and again, each start a fresh process, and compare with one that was not killed.

A child forked from a warm parent differs from a fresh process in the last digits, so that nothing is forked here.

By hand, with as many kills as wanted::

    python tests/runs/killed_runs.py --kills 25 --workers 0 2
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

EPOCHS = 5
OPERATIONS = 12  # writes, syncs and renames of an epoch with a new best, about


# ------------------------------------------------------------------ the process that is killed


def train(folder: Path, workers: int, die_at: int) -> None:
    """Train, or go on, in ``folder``: dropout, augmentation, averaging, Adam, a cosine schedule, a validation an epoch.

    Args:
        folder: of the run; the images are beside it.
        workers: loading processes.
        die_at: file operation to die in; 0 for none.
    """
    from monai.transforms import RandFlipd, RandGaussianNoised

    from medseg.engines.evaluator import Evaluator
    from medseg.engines.loading import SegmentationDataset
    from medseg.engines.trainer import Trainer
    from medseg.io.load import LoadImagesd
    from medseg.networks.unet import UNet
    from medseg.runs.run import Run

    entries = images(folder.parent / "pairs")
    load = [LoadImagesd(keys=["image", "label"])]
    augment = [RandFlipd(keys=["image", "label"], prob=0.5), RandGaussianNoised(keys=["image"], prob=0.5, std=9.0)]
    torch.manual_seed(0)
    network = UNet(2, 1, 3, channels=(4, 8), dropout=0.3)
    device = torch.device("cpu")
    trainer = Trainer(
        EPOCHS,
        device,
        SegmentationDataset(entries, load, augment, seed=1),
        network,
        lambda logits, label: torch.nn.functional.cross_entropy(logits, label[:, 0].long()),
        torch.optim.Adam(network.parameters(), lr=1e-2),
        Run(folder, tracking=False),
        batch_size=2,
        num_workers=workers,
        evaluator=Evaluator(device, SegmentationDataset(entries[:3], load), network, {0: "a", 1: "b", 2: "c"}),
        schedule="cosine",
        ema_decay=0.9,
        resume=True,
    )
    if die_at:
        die_in_operation(die_at)
    sys.stdout.write("training\n")
    sys.stdout.flush()
    trainer.run()


def images(folder: Path) -> list[dict[str, str]]:
    """Write twelve pairs of 16 x 16, the same each time, where they are not there yet."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        row = {"image": str(folder / f"{number}.png"), "label": str(folder / f"{number}_label.png")}
        label = rng.integers(0, 3, (4, 4)).repeat(4, 0).repeat(4, 1).astype(np.uint8)
        image = (80 * label + rng.integers(0, 40, label.shape)).astype(np.uint8)
        if not Path(row["label"]).exists():
            Image.fromarray(image).save(row["image"])
            Image.fromarray(label).save(row["label"])
        rows.append(row)
    return rows


def die_in_operation(number: int) -> None:
    """Let the process kill itself in the ``number``-th write (half of it done), sync or rename."""
    left = [number]
    write, sync, replace = Path.write_bytes, os.fsync, os.replace

    def last() -> bool:
        left[0] -= 1
        return left[0] == 0

    def half_written(self: Path, data: Any) -> int:
        if last():
            write(self, bytes(data)[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, data)

    def synced(file: int) -> None:
        if last():
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    def renamed(old: Any, new: Any) -> None:
        dies = last()
        if dies and number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(old, new)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)

    Path.write_bytes, os.fsync, os.replace = half_written, synced, renamed  # type: ignore[method-assign,assignment]


# ------------------------------------------------------------------ the process that kills


def start(
    folder: Path, workers: int, *, seconds: float | None = None, epochs: int = 0, die_at: int = 0
) -> tuple[bool, float]:
    """Start a training in a fresh process; returns whether it was killed, and how long it trained.

    Args:
        folder: of the run.
        workers: loading processes.
        seconds: when to kill it, from the start of training; ``None``: not at all.
        epochs: complete ones from which these seconds count instead.
        die_at: file operation that it dies in.
    """
    words = [sys.executable, str(Path(__file__)), "train", str(folder), str(workers), str(die_at)]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    with (
        open(folder.parent / f"{folder.name}.log", "ab") as log,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, env=environment) as child,
    ):
        assert child.stdout is not None
        assert child.stdout.readline() == b"training\n", Path(log.name).read_text()
        began = time.monotonic()
        while child.poll() is None and complete_epochs(folder) < epochs:
            time.sleep(0.02)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds if seconds is not None else 300)
        if child.poll() is None:
            child.kill()
        status = child.wait()
        trained = time.monotonic() - began
    assert status in (0, -signal.SIGKILL), f"status {status}: {Path(log.name).read_text()}"
    return status != 0, trained


def complete_epochs(folder: Path) -> int:
    """Return how many epochs a run has recorded."""
    record = folder / "metrics.jsonl"
    return record.read_bytes().count(b"\n") if record.is_file() else 0


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that a run computed: all weights, the optimiser's state, the losses and scores."""
    found: dict[str, Any] = {}
    for name in ("model.pt", "checkpoints/best.pt", "checkpoints/last.pt"):
        found |= flat(torch.load(folder / name, weights_only=True), name)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        found |= {f"epoch {row['epoch']} {key}": row[key] for key in row if key.startswith(("loss", "val_", "best"))}
    return {name: value for name, value in found.items() if not name.endswith("/seconds")}


def flat(value: Any, name: str) -> dict[str, Any]:
    """Return what a checkpoint holds by its place in it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return {name: value}
    return {place: item for key, inner in pairs for place, item in flat(inner, f"{name}/{key}").items()}


def unequal(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Return the places where two outcomes differ in any bit."""

    def same(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else bool(a == b)

    return sorted(name for name in one.keys() | other.keys() if not same(one.get(name), other.get(name)))


def campaign(folder: Path, kills: int, workers: int, seed: int) -> list[str]:
    """Kill runs at random moments, every other time in a file operation, until there were ``kills``.

    Each run goes on until it is complete and is then compared with the one that was left alone.

    Returns:
        One line a completed run.
    """
    rng = random.Random(seed)
    _, seconds = start(folder / "whole", 0)
    expected = outcome(folder / "whole")
    lines = []
    done = number = 0
    while done < kills:
        number += 1
        broken, here = folder / f"broken{workers}_{number}", 0
        while True:
            in_file = rng.random() < 0.5
            moment = (
                {"die_at": rng.randint(1, 3 * OPERATIONS)} if in_file else {"seconds": rng.uniform(0, 0.7 * seconds)}
            )
            killed, _ = start(broken, workers, **(moment if done < kills else {}))  # type: ignore[arg-type]
            if not killed:
                break
            done, here = done + 1, here + 1
        left = [path.name for path in broken.rglob(".*")]
        differing = unequal(outcome(broken), expected)
        lines.append(
            f"run {number}: {here} kills, {len(differing)} of {len(expected)} values differ, left over: {left}"
        )
        sys.stdout.write(f"workers {workers}: {lines[-1]} {differing[:4]}\n")
        sys.stdout.flush()
        assert not differing
        assert not left
    return lines


def main() -> None:
    if sys.argv[1:2] == ["train"]:
        train(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for workers in given.workers:
        with tempfile.TemporaryDirectory() as folder:
            campaign(Path(folder), given.kills, workers, given.seed)


if __name__ == "__main__":
    main()
