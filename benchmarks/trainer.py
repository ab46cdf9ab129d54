"""What the trainer costs: against a bare PyTorch loop, and real data against tensors that are already there.

python -m benchmarks.trainer                     the paper's network, batch 2 of 256 x 256
python -m benchmarks.trainer --channels 16 32 64 128 --batch-size 4
python -m benchmarks.trainer --allocator         what keeping freed memory saves (the bare loop without, and with)
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events

from benchmarks.common import report
from medseg.data.datalist import Datalist
from medseg.engines.loading import Draw, SegmentationDataset
from medseg.engines.memory import keep_freed_memory
from medseg.engines.precision import network_to_channels_last
from medseg.engines.trainer import Trainer
from medseg.io.load import LoadImagesd
from medseg.losses.focal_iou import FocalIoULoss
from medseg.networks.lfa_unet import LFAUNet
from medseg.runs.run import Run

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class InMemory(SegmentationDataset):
    """Tensors that are there already: what a trainer costs without any data to load."""

    def __init__(self, samples: list[dict[str, torch.Tensor]]) -> None:
        super().__init__([{} for _ in samples], [], cache=False)
        self.samples = samples

    def __getitem__(self, key: int | tuple[int, int] | Draw) -> dict[str, Any]:
        """Return a sample."""
        return dict(self.samples[key if isinstance(key, int) else key[1]])


def make_network(channels: list[int]) -> tuple[LFAUNet, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = LFAUNet(2, 1, 5, channels=channels).to(DEVICE)
    network_to_channels_last(network)
    return network, torch.optim.Adam(network.parameters(), lr=1e-3)


def train(dataset: SegmentationDataset, options: argparse.Namespace) -> float:
    """Train one epoch with the trainer; returns the seconds between its first and last step."""
    network, optimizer = make_network(options.channels)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            1, DEVICE, dataset, network, FocalIoULoss(), optimizer, Run(folder, tracking=False),
            batch_size=options.batch_size, precision=options.precision,
        )  # fmt: skip
        stamps: list[float] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: stamps.append(time.perf_counter()))
        trainer.run()
    return stamps[-1] - stamps[0]


def bare(samples: list[dict[str, torch.Tensor]], options: argparse.Namespace) -> float:
    """Train on the same tensors with a plain loop; returns the seconds between its first and last step."""
    network, optimizer = make_network(options.channels)
    loss_function = FocalIoULoss()
    stamps = []
    size = options.batch_size
    for first in range(0, len(samples), size):
        batch = samples[first : first + size]
        image = torch.stack([s["image"] for s in batch]).to(DEVICE).contiguous(memory_format=torch.channels_last)
        label = torch.stack([s["label"] for s in batch]).to(DEVICE)
        optimizer.zero_grad()
        loss = loss_function(network(image), label)
        loss.backward()
        optimizer.step()
        stamps.append(time.perf_counter())
    return stamps[-1] - stamps[0]


def sections(folder: Path, count: int) -> list[dict[str, Any]]:
    """Write synthetic sections and return the entries of their crops."""
    script = Path(__file__).parents[1] / "data_scripts" / "synthetic.py"
    command = [sys.executable, str(script), "--output", str(folder), "--sections", str(max(5, -(-count // 4)))]
    subprocess.run(command, check=True, capture_output=True)
    return Datalist.load(folder / "datalist.json").training[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--allocator", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    count = options.steps * options.batch_size
    samples = [
        {"image": torch.rand(1, 256, 256), "label": torch.randint(5, (1, 256, 256)).byte()} for _ in range(count)
    ]
    result: dict[str, Any] = {"channels": options.channels, "batch_size": options.batch_size, "steps": options.steps}
    if options.allocator:
        before = statistics.median(bare(samples, options) for _ in range(options.repeats))
        keep_freed_memory(DEVICE)
        after = statistics.median(bare(samples, options) for _ in range(options.repeats + 1))
        result |= {"seconds_as_it_comes": before, "seconds_keeping_memory": after, "ratio": before / after}
        report("bare loop, allocator as it comes / keeping freed memory", result, options.json)
        return
    keep_freed_memory(DEVICE)
    times: dict[str, list[float]] = {"trainer": [], "bare": [], "real": []}
    with tempfile.TemporaryDirectory() as folder:
        entries = sections(Path(folder) / "data", count)
        root = Path(folder) / "data"
        entries = [{k: str(root / v) for k, v in e.items() if k in ("image", "label")} for e in entries]
        for number in range(options.repeats + 1):
            real = SegmentationDataset(entries, [LoadImagesd(keys=["image", "label"])])
            row = {"trainer": train(InMemory(samples), options), "bare": bare(samples, options)}
            row["real"] = train(real, options)
            for name in times:
                times[name] += [row[name]] * (number > 0)
    median = statistics.median
    result |= {f"seconds_{name}": median(values) for name, values in times.items()}
    result["trainer_over_bare"] = median(a / b for a, b in zip(times["trainer"], times["bare"], strict=True))
    result["real_over_synthetic"] = median(a / b for a, b in zip(times["real"], times["trainer"], strict=True))
    result |= {"target_trainer_over_bare": 1.05, "target_real_over_synthetic": 1.03}
    report("trainer", result, options.json)


if __name__ == "__main__":
    main()
