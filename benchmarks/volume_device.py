"""A large volume of many classes on a GPU: prediction against its bare forwards and MONAI's, time and memory.

    python -m benchmarks.volume_device --json docs/results/volume_gpu.json

A 512 x 512 x 300 volume, 20 classes, windows of 128 with overlap 0.5, a U-Net of nnU-Net's widths in bfloat16. Timed is
what `medseg predict` does with an image that was read (it lies in the computer's memory) until its classes are there
again; against it stand the forwards of as many windows that lie on the device already, and MONAI's sliding window with
the classes taken of all logits, put together on the device or in the computer's memory. Memory is the device's peak
beside the network's weights. Some copies of the volume go from file to file, reading and writing beside the device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from nibabel.openers import Opener
from torch import Tensor

from benchmarks.gpu_device import DEVICE, wait
from benchmarks.volume_peak import MODELS, STORED, names_of
from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.engines.precision import autocast, network_to_channels_last, resolve_precision
from medseg.inferers.windows import WindowGrid
from medseg.io.placement import Grid
from medseg.prediction.case import Fed
from medseg.prediction.forward import Forward
from medseg.prediction.predictor import ImageFolder, Predictor
from medseg.runs.provenance import collect

TARGET = 1.10
_CL = torch.channels_last_3d
_TIGHT = 0.9  # share of what an image takes on the device that it is left with, where it is not to fit


def described(options: argparse.Namespace, network: Any, *, resampled: bool) -> Description:
    """Return the model."""
    fed = {"intensity": {"scheme": "zscore"}, "spacing": list(MODELS) if resampled else None}
    inference = {"window": [options.window] * 3, "overlap": options.overlap, "batch": options.batch}
    content = {"name": "drawn", "network": network.recipe, "classes": [*names_of(options.classes).values()]}
    return Description.of({**content, "input": fed, "inference": inference})


def drawn(size: Sequence[int]) -> Tensor:
    """Return a volume of smooth values and noise ``(*S)``."""
    numbers = torch.Generator(DEVICE).manual_seed(0)
    coarse = torch.rand(1, 1, *(max(2, edge // 24) for edge in size), generator=numbers, device=DEVICE)
    smooth = torch.nn.functional.interpolate(coarse, tuple(size), mode="trilinear")[0, 0]
    return (smooth + 0.02 * torch.randn(*size, generator=numbers, device=DEVICE)).cpu()


def fed_of(image: Tensor, size: Sequence[int], *, resampled: bool) -> Fed:
    """Return a volume as it is fed: what was read, or of the model's voxels and to be brought back to the file's."""
    grid = np.diag([*STORED, 1.0])
    affine = np.diag([*MODELS, 1.0]) if resampled else grid
    return Fed(MetaTensor(image[None], affine=torch.from_numpy(affine)), Grid(tuple(size), grid))


def timed(work: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Return the median seconds of some repeats after one that is not counted, and the device's peak in MiB."""
    work()
    wait()
    seconds = []
    before = 0
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - start)
    found: dict[str, Any] = {"seconds": statistics.median(seconds), "each": seconds}
    if DEVICE.type == "cuda":
        found["device_peak_mib"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return found


def _timed(make: Callable[[], Callable[[], Any]], repeats: int) -> dict[str, Any]:
    return timed(make(), repeats)


class Volume:
    """The network, the volume, and the ways it is predicted.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.size = tuple(options.size)
        self.network = create("unet", 3, 1, options.classes, channels=options.channels, norm="instance", seed=0)
        self.network.to(DEVICE).eval()
        network_to_channels_last(self.network)
        self.precision = resolve_precision("auto", DEVICE)
        self.image = drawn(self.size)
        ratio = [stored / model for stored, model in zip(STORED, MODELS, strict=True)]
        self.model_size = tuple(round(edge * r) for edge, r in zip(self.size, ratio, strict=True))
        self.windows = {kind: self._windows(kind) for kind in (False, True)}

    def _windows(self, resampled: bool) -> int:
        size = self.model_size if resampled else self.size
        return len(WindowGrid(size, (self.options.window,) * 3, (self.options.overlap,) * 3))

    def bare(self, windows: int) -> None:
        """Do the forwards of so many windows, which lie on the device."""
        batch = torch.rand(self.options.batch, 1, *(self.options.window,) * 3, device=DEVICE).to(memory_format=_CL)
        with torch.inference_mode(), autocast(self.precision, DEVICE):
            for first in range(0, windows, self.options.batch):
                self.network(batch[: windows - first])

    def medseg(self, *, resampled: bool = False, wants: Sequence[str] = ()) -> Callable[[], Any]:
        """Return what predicts the volume as `medseg predict` does."""
        model = described(self.options, self.network, resampled=resampled)
        forward = Forward(
            [self.network], model, feeding.inferer(model), precision=self.precision, device=DEVICE, wants=wants
        )
        image = self.image
        if resampled:
            image = torch.nn.functional.interpolate(image[None, None], self.model_size, mode="trilinear")[0, 0]
        fed = fed_of(image, self.size, resampled=resampled)
        self.held = forward._held(fed)
        return lambda: forward.collect([fed])[0].result().mask

    def monai(self, device: torch.device) -> Callable[[], Any]:
        """Return what predicts it by MONAI's sliding window, windows put together on a device."""

        def work() -> Tensor:
            with torch.inference_mode(), autocast(self.precision, DEVICE):
                logits = sliding_window_inference(
                    self.image[None, None].to(device), (self.options.window,) * 3, self.options.batch, self.network,
                    overlap=self.options.overlap, mode="gaussian", sw_device=DEVICE, device=device,
                )  # fmt: skip
                found: Tensor = logits.argmax(1).to(torch.uint8).cpu()
                return found

        return work

    def tight(self) -> Callable[[], Any]:
        """Return what predicts it where the device's memory holds forwards, but not the volume beside them."""
        work = self.medseg()
        free = (int(_TIGHT * self.held), self.held)

        def limited() -> Any:
            with patch("medseg.prediction.forward.device_memory", lambda _: free):
                return work()

        return limited

    def files(self, copies: int, folder: Path) -> dict[str, Any]:
        """Predict copies from file to file; return seconds a volume, with reading and writing beside the device."""
        model = described(self.options, self.network, resampled=False)
        Opener.default_compresslevel = 1
        (folder / "images").mkdir()
        values = (1000 * self.image).to(torch.int16).numpy()
        image = nibabel.Nifti1Image(values, np.diag([*STORED, 1.0]))
        for number in range(copies):
            nibabel.save(image, folder / "images" / f"{number}.nii.gz")
        cases = ImageFolder(folder / "images", model, folder / "masks")
        predictor = Predictor(
            DEVICE, cases, self.network, feeding.inferer(model), None, description=model, num_workers=4
        )
        start = time.perf_counter()
        predictor.run()
        return {"seconds": (time.perf_counter() - start) / copies, "copies": copies}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 300])
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 256, 320])
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=4, help="windows a forward")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--copies", type=int, default=4, help="from file to file")
    parser.add_argument("--seconds", type=float, default=150, help="after which no further row is begun")
    parser.add_argument("--profile", type=Path, help="text file for where the device's time of one prediction goes")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    volume = Volume(options)
    voxels = float(np.prod(volume.size))
    result: dict[str, Any] = {
        "size": volume.size, "classes": options.classes, "window": options.window, "overlap": options.overlap,
        "channels": options.channels, "windows_a_forward": options.batch, "precision": volume.precision,
        "windows": volume.windows[False], "windows_resampled": volume.windows[True], "target_ratio": TARGET,
        "logits_mib": 4 * options.classes * voxels / 2**20, "rows": {},
    }  # fmt: skip
    work: dict[str, Callable[[], Callable[[], Any]]] = {
        "bare forwards": lambda: lambda: volume.bare(volume.windows[False]),
        "medseg": volume.medseg,
        "bare forwards of the resampled": lambda: lambda: volume.bare(volume.windows[True]),
        "medseg, resampled": lambda: volume.medseg(resampled=True),
        "MONAI, put together on the device": lambda: volume.monai(DEVICE),
        "medseg, put together in the computer's memory": volume.tight,
        "medseg, uncertainty too": lambda: volume.medseg(wants=["uncertainty"]),
        "MONAI, put together in the computer's memory": lambda: volume.monai(torch.device("cpu")),
        "bare forwards, cuDNN tries": lambda: lambda: volume.bare(volume.windows[False]),
        "medseg, cuDNN tries": volume.medseg,
    }

    def keep(name: str, measure: Callable[[], dict[str, Any]]) -> None:
        if time.monotonic() - began > options.seconds:
            result["rows"][name] = {"error": "no time was left"}
        else:
            try:
                result["rows"][name] = measure()
            except Exception as error:
                result["rows"][name] = {"error": f"{type(error).__name__}: {error}"[:300]}
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()
        sys.stdout.write(f"{name}: {result['rows'][name]}\n")
        sys.stdout.flush()
        _write(result, options)

    def each(names: Sequence[str], repeats: int) -> None:
        for name in names:
            keep(name, partial(_timed, work[name], repeats))

    each(list(work)[:6], options.repeats)
    with tempfile.TemporaryDirectory() as folder:
        keep("medseg, from file to file", lambda: volume.files(options.copies, Path(folder)))
    each(list(work)[6:8], 1)
    torch.backends.cudnn.benchmark = True
    each(list(work)[8:], options.repeats)
    torch.backends.cudnn.benchmark = False
    if options.profile is not None:
        profile(volume.medseg(), options.profile)


def profile(work: Callable[[], Any], path: Path) -> None:
    """Write what takes the device's time."""
    from torch.profiler import ProfilerActivity, profile

    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if DEVICE.type == "cuda" else [])]
    start = time.perf_counter()
    with profile(activities=kinds) as found:
        work()
        wait()
    seconds = time.perf_counter() - start
    kind = "self_device_time_total" if DEVICE.type == "cuda" else "self_cpu_time_total"
    path.write_text(f"{seconds} s\n" + found.key_averages().table(sort_by=kind, row_limit=40, max_name_column_width=60))


def _write(result: dict[str, Any], options: argparse.Namespace) -> None:
    rows = result["rows"]
    ratios = {}
    for name, row in rows.items():
        kind = {"resampled": " of the resampled", "tries": ", cuDNN tries"}
        against = rows.get("bare forwards" + next((kind[word] for word in kind if word in name), ""), {})
        if "seconds" in row and "seconds" in against and "bare" not in name:
            ratios[name] = row["seconds"] / against["seconds"]
    record = {
        "benchmark": "a large volume on a GPU", "command": "python -m benchmarks.volume_device",
        "result": {**result, "ratios": ratios}, "environment": collect(),
    }  # fmt: skip
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
