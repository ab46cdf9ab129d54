"""Memory and time of a large volume of many classes, from file to file, against its size and its bare forwards.

python -m benchmarks.volume_peak                      512 x 512 x 300, 20 classes, window 128, overlap 0.5

A drawn CT lies obliquely in a NIfTI file of 16 bits. `medseg predict` and `medseg evaluate` read, resample, scale,
predict, bring back and write it (or score it), each in a process of its own, by a network of random weights: with and
without resampling, by either weighting of windows. Memory is the peak of that process less what it holds when all is
imported and built, and a small volume predicted. Time is the processor's, of one thread, for all from file to file. It
is set against the forwards alone: every eighth is done once more at once on the same windows, so that a machine whose
speed drifts treats both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import nibabel.openers
import numpy as np
import torch
from nibabel.openers import Opener
from torch import Tensor, nn

from benchmarks.common import report
from benchmarks.sliding_window import resident_mib
from medseg.bundle import feeding, workflow
from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.inferers.sliding_window import SlidingWindow
from medseg.prediction.model import load
from medseg.prediction.predictor import ImageFolder, Predictor
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

STORED = (0.7, 0.7, 1.0)  # mm, of the file
MODELS = (0.8, 0.8, 1.25)  # of the model that resamples
EVERY = 8  # forwards of which one is replayed
SMALL = 32  # edges of the volume that comes first
ROOM = 1536  # MiB beside input and labels: the target
WAYS = ("gaussian", "constant", "resampled", "evaluate", "evaluate resampled")


def draw(folder: Path, size: tuple[int, ...], classes: int) -> None:
    """Write a volume, its label and a datalist that has them for a test."""
    coarse = torch.rand(1, 1, *(max(2, edge // 24) for edge in size), generator=torch.Generator().manual_seed(0))
    values = torch.nn.functional.interpolate(coarse, size, mode="trilinear")[0, 0].numpy()
    turn = np.deg2rad([12.0, -7.0])
    first = np.array([[np.cos(turn[0]), -np.sin(turn[0]), 0], [np.sin(turn[0]), np.cos(turn[0]), 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, np.cos(turn[1]), -np.sin(turn[1])], [0, np.sin(turn[1]), np.cos(turn[1])]])
    affine = np.eye(4)
    affine[:3, :3] = first @ second @ np.diag([-1.0, -1.0, 1.0]) @ np.diag(STORED)
    affine[:3, 3] = [150, 170, -400]
    bounds = np.quantile(coarse, np.linspace(0, 1, classes + 1)[1:-1])
    label = np.empty(size, np.uint8)
    image = np.empty(size, np.int16)
    generator = np.random.default_rng(0)
    for index in range(size[2]):
        label[..., index] = np.digitize(values[..., index], bounds)
        image[..., index] = 2000 * values[..., index] - 1000 + generator.normal(0, 15, size[:2])
    folder.mkdir(parents=True)
    Opener.default_compresslevel = 1
    for name, array in (("image", image), ("label", label)):
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / f"{name}.nii.gz")
    content: dict[str, Any] = {"name": "drawn", "version": 1, "modality": ["CT"], "licence": "CC0-1.0"}
    content |= {"source": "medseg", "labels": names_of(classes), "ignore_index": None, "training": [], "validation": []}
    content["test"] = [{"image": "image.nii.gz", "label": "label.nii.gz", "group": "0"}]
    (folder / "datalist.json").write_text(json.dumps(content))


def names_of(classes: int) -> dict[int, str]:
    """Return names of classes."""
    return {index: f"class {index}" for index in range(classes)}


def write_run(folder: Path, options: argparse.Namespace, window: int, *, resampled: bool) -> None:
    """Write weights as a run leaves them: random ones, whose classes are about equally frequent."""
    network = create("unet", 3, 1, options.classes, channels=options.channels, norm="instance", seed=0).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv3d))
    with torch.no_grad():
        logits = network(torch.rand(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0)))
        last.bias -= logits.flatten(2).median(2).values[0]
    fed = {"intensity": {"scheme": "zscore"}, "spacing": list(MODELS) if resampled else None}
    inference = {"window": [window] * 3, "overlap": options.overlap, "batch": options.batch}
    described = Description.of(
        {"name": "drawn", "network": network.recipe, "classes": [*names_of(options.classes).values()], "input": fed}
        | {"inference": inference}
    )
    folder.mkdir(parents=True)
    save_checkpoint(write_header(network.state_dict(), header_of(described)), folder / "model.pt")


class Replayed(nn.Module):
    """A network whose forwards are timed, some of which are done once more before, on the same windows.

    Args:
        network: to call.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.forwards = 0
        self.seconds = self.again = 0.0
        self.ratios: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network gives."""
        start = time.process_time()
        replay = self.forwards % EVERY == 0
        again = 0.0
        if replay:
            self.network(x)
            again = time.process_time() - start
            start = time.process_time()
        found: Tensor = self.network(x)
        own = time.process_time() - start
        self.again += again
        self.ratios += [again / own] if replay else []
        self.seconds += own
        self.forwards += 1
        return found

    @property
    def bare(self) -> float:
        """Seconds of all forwards, as the replayed ones took them: by the median, as one may meet another program."""
        return self.seconds * statistics.median(self.ratios)


def grown(work: Callable[[], object]) -> tuple[float, float]:
    """Return processor seconds, and MiB by which the resident memory grew at most."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start = resident_mib("VmRSS"), time.process_time()
    work()
    return time.process_time() - start, resident_mib("VmHWM") - before


def predicted(run: Path, image: Path, masks: Path, mode: str) -> tuple[float, float, float, float]:
    """Predict a volume as `medseg predict` does; return seconds, of its forwards and of bare ones, and the MiB."""
    trained = load(run, device="cpu")
    described = trained.description
    wanted = described.inference
    inferer = feeding.inferer(described)
    if mode == "constant":
        assert wanted.window is not None
        inferer = SlidingWindow(wanted.window, wanted.batch, wanted.overlap, mode)
    folder = ImageFolder(image, described, masks, overwrite=True)
    (network,) = trained.networks
    replayed = Replayed(network)
    predictor = Predictor("cpu", folder, replayed, inferer, None, description=described, precision="fp32")
    seconds, mib = grown(predictor.run)
    return seconds - replayed.again, replayed.seconds, replayed.bare, mib


def evaluated(run: Path, data: Path, output: Path) -> tuple[float, float, float, float]:
    """Score a volume as `medseg evaluate` does; return as `predicted`, but for the forwards."""
    options = {"device": "cpu", "mlflow": False}
    seconds, mib = grown(lambda: workflow.evaluate(run, data=data, output=output, overrides=options))
    return seconds, 0.0, 0.0, mib


def one(way: str, folder: Path) -> None:
    """Do it one way in this process, and print what it took."""
    torch.set_num_threads(1)
    kind = "resampled" if "resampled" in way else "native"
    for size in ("small", "large"):
        run, data, output = folder / f"run_{kind}_{size}", folder / size, folder / way.replace(" ", "_") / size
        if way.startswith("evaluate"):
            found = evaluated(run, data, output)
        else:
            found = predicted(run, data / "image.nii.gz", output, "constant" if "constant" in way else "gaussian")
    sys.stdout.write("found " + json.dumps(found) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--channels", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=4, help="windows a forward")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--way", help=argparse.SUPPRESS)  # of the process that is measured
    parser.add_argument("--folder", type=Path, help="where files are kept")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.way:
        one(options.way, options.folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        size = tuple(options.size)
        for name, edges, window in (("small", (SMALL,) * 3, 16), ("large", size, options.window)):
            if not (folder / name).is_dir():
                draw(folder / name, edges, options.classes)
                for kind in ("native", "resampled"):
                    write_run(folder / f"run_{kind}_{name}", options, window, resampled=kind == "resampled")
        voxels = float(np.prod(size))
        result: dict[str, Any] = {"size": size, "classes": options.classes, "window": options.window}
        result |= {"overlap": options.overlap, "channels": options.channels, "windows_a_forward": options.batch}
        result |= {"input_mib": 4 * voxels / 2**20, "labels_mib": voxels / 2**20}
        result |= {"logits_mib": 4 * options.classes * voxels / 2**20, "target_ratio": 1.10}
        result["target_peak_mib"] = result["input_mib"] + result["labels_mib"] + ROOM
        result["target_peak_mib_evaluate"] = result["target_peak_mib"] + result["labels_mib"]  # the true ones too
        for way in options.ways:
            command = [sys.executable, "-W", "ignore", "-m", "benchmarks.volume_peak", "--way", way]
            done = subprocess.run([*command, "--folder", str(folder)], check=True, stdout=subprocess.PIPE, text=True)
            line = next(line for line in done.stdout.splitlines() if line.startswith("found "))
            seconds, forwards, bare, mib = json.loads(line.removeprefix("found "))
            key = way.replace(" ", "_")
            result |= {f"peak_mib_{key}": mib, f"seconds_{key}": seconds}
            if bare:
                result |= {f"seconds_forwards_{key}": forwards, f"seconds_bare_{key}": bare}
                result[f"ratio_{key}"] = seconds / bare
    report("a large volume from file to file", result, options.json)


if __name__ == "__main__":
    main()
