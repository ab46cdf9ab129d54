"""Patches a second of a training by medseg, by nnU-Net's own trainer and by a plain MONAI script, and of the bare step.

    python -m benchmarks.patch_training --work build/hippocampus --nnunet build/nnunet

All train the same network (nnU-Net's PlainConvUNet of 16 to 128 channels where its package is there, MONAI's DynUNet
otherwise; one output) on the same patches (40 x 56 x 40, batch 2) of the volumes that `benchmarks.hippocampus` has laid
out and nnU-Net has prepared, with nnU-Net's augmentation, each by its own code; none has loading processes. The bare
step is the network, cross-entropy and AdamW on tensors that are there. Each runs in a process of its own; the processes
take a step in turn, so that a machine whose speed drifts treats all alike, and ratios are of one round. Besides the
clock's seconds the processor's are taken, of all threads, which a busy machine changes less.
`benchmarks.patch_training_gpu` asks the same of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import report
from benchmarks.hippocampus_monai import BATCH, PATCH, WIDTHS

SIDES = ("bare", "medseg", "monai", "nnunet")
TARGETS = {"nnunet": 1.3, "monai": 1.5}  # times medseg's patches a second
_WARM = 4  # steps that are not counted: memory is still asked for


def network_of(classes: int, widths: Sequence[int] = WIDTHS) -> nn.Module:
    """Return nnU-Net's network, or MONAI's of the same widths where its package is missing."""
    try:
        from dynamic_network_architectures.architectures.unet import PlainConvUNet
    except ImportError:
        from benchmarks.hippocampus_monai import network_of as dynunet

        return dynunet(widths, classes)
    made: nn.Module = PlainConvUNet(
        1, len(widths), list(widths), nn.Conv3d, 3, [1] + [2] * (len(widths) - 1), 2, classes, 2, conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True}, deep_supervision=False,
    )  # fmt: skip
    return made


class Stamps:
    """Seconds of the clock and of the processor of each step, between which the other sides take theirs.

    Args:
        turns: file descriptors: to read a byte from before a step, to write one to after it.
    """

    def __init__(self, turns: Sequence[int]) -> None:
        self.turns = turns
        self.steps: list[tuple[float, float]] = []
        self._began: tuple[float, float] | None = None

    def __call__(self) -> None:
        """Note the time, and wait for the next turn. The first call ends what is no whole step."""
        ended = (time.perf_counter(), time.process_time())
        if self._began is not None:
            self.steps.append((ended[0] - self._began[0], ended[1] - self._began[1]))
        os.write(self.turns[1], b".")
        os.read(self.turns[0], 1)  # empty once the other side is gone
        self._began = (time.perf_counter(), time.process_time())

    def found(self, waited: float | None = None) -> dict[str, float]:
        """Return seconds a patch and, of the seconds waited for data in all steps, the share."""
        counted = self.steps[_WARM:]
        wall, used = (sum(step[n] for step in counted) / (BATCH * len(counted)) for n in (0, 1))
        share = {} if waited is None else {"data_wait_share": waited / sum(step[0] for step in self.steps)}
        return {"seconds": wall, "cpu_seconds": used, **share}


def bare(cases: dict[str, Any], steps: int, stamp: Stamps) -> dict[str, float]:
    """Take steps on tensors that are there."""
    network = network_of(len(cases["classes"])).train()
    optimizer = torch.optim.AdamW(network.parameters())
    x, label = torch.randn(BATCH, 1, *PATCH), torch.randint(len(cases["classes"]), (BATCH, *PATCH))
    for _ in range(steps + _WARM + 1):
        optimizer.zero_grad()
        loss: torch.Tensor = nn.functional.cross_entropy(network(x), label)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        stamp()
    return stamp.found()


def medseg(cases: dict[str, Any], steps: int, stamp: Stamps) -> dict[str, float]:
    """Train by medseg's trainer, with what a plan asks for: AdamW in one pass, clipped gradients, averaged weights."""
    from ignite.engine import Events
    from monai.transforms import NormalizeIntensityd

    from medseg.engines.patches import PatchDataset
    from medseg.engines.trainer import Trainer
    from medseg.io.load import LoadImagesd
    from medseg.losses.focal_iou import FocalIoULoss
    from medseg.runs.run import Run
    from medseg.transforms.augmentation import augmentation

    fixed = [LoadImagesd(keys=["image", "label"]), NormalizeIntensityd(keys="image", channel_wise=True)]
    dataset = PatchDataset(
        cases["training"], fixed, PATCH, [augmentation(PATCH, mirror_axes=[])], foreground=0.33, without=[0], fill=0
    )
    network = network_of(len(cases["classes"]))
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            1, "cpu", dataset, network, FocalIoULoss(gamma=0.0), optimizer, Run(folder, tracking=False),
            batch_size=BATCH, iterations=steps + _WARM + 1, clip_grad_norm=1.0, ema_decay=0.99, process_owner=True,
        )  # fmt: skip
        trainer.add_event_handler(Events.ITERATION_COMPLETED, stamp)
        waits: list[float] = []
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: waits.append(trainer._meter.waited))
        trainer.run()
    return stamp.found(waits[0])


def monai(cases: dict[str, Any], steps: int, stamp: Stamps) -> dict[str, float]:
    """Train by the plain script."""
    from benchmarks import hippocampus_monai
    from benchmarks.common import Budget

    network = network_of(len(cases["classes"]))
    network.register_full_backward_hook(lambda *_: stamp())
    budget = Budget(1.0, steps + _WARM + 1)
    found = hippocampus_monai.train(cases["training"], network, PATCH, budget)
    return stamp.found(found["data_wait_share"] * found["seconds"])


def nnunet(cases: dict[str, Any], steps: int, stamp: Stamps) -> dict[str, float]:
    """Train by nnU-Net's trainer, without deep supervision."""
    from benchmarks import hippocampus_nnunet

    trainer = hippocampus_nnunet.trainer_of(hippocampus_nnunet.fitted(WIDTHS), 0, deep_supervision=False)
    waited = 0.0
    for step in range(steps + _WARM + 1):
        asked = time.perf_counter()
        batch = next(trainer.dataloader_train)
        waited += time.perf_counter() - asked if step else 0.0
        trainer.train_step(batch)
        stamp()
    return stamp.found(waited)


RUN: dict[str, Callable[[dict[str, Any], int, Stamps], dict[str, float]]] = {
    "bare": bare, "medseg": medseg, "monai": monai, "nnunet": nnunet,
}  # fmt: skip


def ratios(rounds: Sequence[dict[str, dict[str, float]]], key: str) -> dict[str, float]:
    """Return how many times as many patches medseg does as each other side, the median over rounds."""
    others = [side for side in rounds[0] if side != "medseg"]
    return {f"over_{side}": statistics.median(r[side][key] / r["medseg"][key] for r in rounds) for side in others}


def take_turns(sides: Sequence[str], words: Sequence[str], environment: dict[str, str]) -> dict[str, dict[str, float]]:
    """Start a process for each side, let them take a step in turn, and return what each found.

    Args:
        sides: by name.
        words: of the command line, the same for all.
        environment: of the processes.
    """
    running: dict[str, subprocess.Popen[bytes]] = {}
    ours: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in sides:
            (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
            line = [sys.executable, "-m", "benchmarks.patch_training", "--side", side, *words]
            line += ["--json", f"{folder}/{side}.json", "--turns", str(their_read), str(their_write)]
            running[side] = subprocess.Popen(line, env=environment, pass_fds=(their_read, their_write))
            os.close(their_read)
            os.close(their_write)
            ours[side] = (our_read, our_write)
            os.read(our_read, 1)  # its first step is over
        going = list(sides)
        while going:
            for side in list(going):
                os.write(ours[side][1], b".")
                if not os.read(ours[side][0], 1):  # it has ended
                    going.remove(side)
        for side, process in running.items():
            if process.wait():
                raise SystemExit(f"{side} ended with status {process.returncode}")
            for end in ours[side]:
                os.close(end)
        return {side: json.loads(Path(folder, f"{side}.json").read_text()) for side in sides}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/hippocampus"), help="of benchmarks.hippocampus")
    parser.add_argument("--nnunet", type=Path, help="folder that holds nnunetv2, where it is not installed")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=20, help="volumes that are loaded")
    parser.add_argument("--side", choices=SIDES, help="run this one here, and write what it took to --json")
    parser.add_argument("--turns", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.side:
        cases = json.loads((options.work / "cases.json").read_text())
        cases["training"] = cases["training"][: options.cases]
        options.json.write_text(json.dumps(RUN[options.side](cases, options.steps, Stamps(options.turns))))
        return
    environment = dict(os.environ)
    for name in ("raw", "preprocessed", "results"):
        environment[f"nnUNet_{name}"] = str((options.work / "nnunet" / name).absolute())
    if options.nnunet is not None:
        paths = [str(options.nnunet.absolute()), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["nnUNet_n_proc_DA"] = "0"
    rounds: list[dict[str, dict[str, float]]] = []
    words = ["--work", str(options.work), "--steps", str(options.steps), "--cases", str(options.cases)]
    for _ in range(options.rounds):
        rounds.append(take_turns(options.sides, words, environment))
        for side, found in rounds[-1].items():
            sys.stderr.write(f"{side}: {found}\n")
    result: dict[str, Any] = {"patch": PATCH, "batch": BATCH, "widths": WIDTHS, "steps": options.steps}
    result |= {f"patches_per_second_{s}": 1 / statistics.median(r[s]["seconds"] for r in rounds) for s in options.sides}
    waits = {s: [r[s]["data_wait_share"] for r in rounds if "data_wait_share" in r[s]] for s in options.sides}
    result |= {f"data_wait_share_{side}": statistics.median(found) for side, found in waits.items() if found}
    if "medseg" in options.sides:
        result |= ratios(rounds, "seconds") | {f"cpu_{k}": v for k, v in ratios(rounds, "cpu_seconds").items()}
    result |= {f"target_over_{side}": target for side, target in TARGETS.items()}
    result |= {"rounds": rounds, "load": os.getloadavg()[0]}
    report("patches a second of a training", result, options.json)


if __name__ == "__main__":
    main()
