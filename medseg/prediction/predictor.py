"""Predict a folder of images: masks out, bad files reported, finished ones skipped."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import Tensor, nn

from medseg.bundle.start import InputError
from medseg.engines.memory import keep_freed_memory
from medseg.engines.precision import autocast, network_to_channels_last, resolve_precision
from medseg.errors import MedsegError
from medseg.io.load import PIXEL_SUFFIXES
from medseg.io.masks import image_suffix, mask_path, write_mask
from medseg.runs.checkpoint import load_weights
from medseg.runs.processes import pick_device

logger = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SUFFIXES = (*PIXEL_SUFFIXES, ".nii", ".nii.gz")


class ImageFolder(torch.utils.data.Dataset[dict[str, Any]]):
    """The images of a folder and its subfolders that have no mask yet.

    Args:
        folder: of images (PNG, JPEG, BMP, TIFF, NIfTI), or one image.
        transform: dictionary transforms on ``image``.
        output_dir: where the masks go.
        overwrite: also do images whose mask is there.

    Raises:
        InputError: if the folder is missing or holds no image, or two images would share one mask.
    """

    def __init__(
        self, folder: str | Path, transform: Callable[..., Any], output_dir: str | Path, *, overwrite: bool = False
    ) -> None:
        root = Path(folder).resolve()
        if not root.exists():
            raise InputError(f"{folder} does not exist; name a folder of images with --dataset_dir")
        files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
        self.folder = root.parent if root.is_file() else root
        self.output_dir = Path(output_dir).resolve()
        if self.folder in self.output_dir.parents:  # masks are no images
            files = [p for p in files if self.output_dir not in p.parents]
        images = [p for p in files if image_suffix(p) in _SUFFIXES and not p.name.startswith(".")]
        if not images:
            raise InputError(f"{folder} holds no image; read are {', '.join(_SUFFIXES)}")
        if self.output_dir == self.folder:
            raise InputError(f"output_dir {output_dir} is the folder of the images; masks would replace them")
        self.transform = transform
        targets: dict[Path, Path] = {}
        for image in images:
            target = mask_path(image, self.folder, self.output_dir)
            if target in targets:
                raise InputError(f"{image.name} and {targets[target].name} would both write {target.name}; rename one")
            targets[target] = image
        if replaced := sorted(set(targets) & set(images)):
            raise InputError(f"output_dir {output_dir} would replace the image {replaced[0]} by a mask; name another")
        self.skipped = 0 if overwrite else sum(target.exists() for target in targets)
        self.data = [{"image": i, "target": t} for t, i in targets.items() if overwrite or not t.exists()]

    def __len__(self) -> int:
        """Return the number of images to do."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the transformed image, or what is wrong with it under ``error``."""
        entry = self.data[index]
        try:
            image = self.transform({"image": str(entry["image"])})["image"]
            if not bool(torch.isfinite(image).all()):
                raise MedsegError("it holds NaN or infinite values")
        except Exception as error:  # whatever is wrong with one file must not end the others
            return {**entry, "error": _reason(error)}
        return {**entry, "image_tensor": image}


class Predictor(SupervisedEvaluator):
    """Predict the images of a folder one after the other and write their masks.

    Args:
        device: where to predict.
        dataset: the images.
        network: the network.
        inferer: usually a sliding window.
        postprocessing: dictionary transforms from ``pred`` logits ``(classes, *S)`` to indices ``(1, *S)``.
        ckpt: weights; ``None`` where the network has them already.
        num_workers: processes that read ahead.
        precision: as in ``Trainer``.

    Raises:
        CheckpointError: if the weights do not fit.
    """

    def __init__(
        self,
        device: torch.device | str,
        dataset: ImageFolder,
        network: nn.Module,
        inferer: Inferer,
        postprocessing: Callable[..., Any],
        *,
        ckpt: str | Path | None = None,
        num_workers: int = 0,
        precision: str = "auto",
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = pick_device(device)
        keep_freed_memory(device)
        if ckpt is not None:
            load_weights(network, ckpt)
        network_to_channels_last(network)
        self.precision = resolve_precision(precision, device)
        self.failures: list[tuple[Path, str]] = []
        self.written: list[Path] = []
        self.folder = dataset
        self.finish = postprocessing
        loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=num_workers)
        super().__init__(
            device=device,
            val_data_loader=loader,
            network=network,
            inferer=inferer,
            iteration_update=Predictor._predict,
            decollate=False,
            val_handlers=val_handlers,
        )
        self.add_event_handler(Events.ITERATION_COMPLETED, Predictor._report)

    def run(self, global_epoch: int = 1) -> None:
        """Predict all images; those that fail are listed at the end.

        Raises:
            InputError: at the end, if a file could not be done; the others are. At once, if the disk is full.
        """
        if self.folder.skipped:
            logger.info(
                "%d images have masks already and are skipped (--overwrite does them again)", self.folder.skipped
            )
        self.network.eval()
        if len(self.folder):
            super().run(global_epoch)
        logger.info("%d masks written to %s", len(self.written), self.folder.output_dir.name)
        if self.failures:
            lines = "\n".join(f"  {path}: {reason}" for path, reason in self.failures)
            raise InputError(f"{len(self.failures)} of {len(self.folder)} images could not be done:\n{lines}")

    def _predict(self, case: dict[str, Any]) -> dict[str, Any]:
        if "error" in case:
            self._fail(case["image"], case["error"])
            return {}
        image: Tensor = case["image_tensor"]
        try:
            with torch.inference_mode(), autocast(self.precision, self.state.device):
                batch = image[None].to(self.state.device).float()
                logits = self.inferer(batch, self.network)[0].float()
            mask = self.finish({"image": image, "pred": logits.cpu()})["pred"]
            write_mask(mask[0].cpu().numpy(), case["image"], case["target"])
        except (ValueError, RuntimeError, OSError) as error:  # wrong channels, too little memory, a file has changed
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise InputError(
                    f"{case['target']} cannot be written: {error.strerror}. The {len(self.written)} masks so far are "
                    "whole; make room and run again, it skips them"
                ) from error
            self._fail(case["image"], _reason(error))
            return {}
        self.written.append(case["target"])
        return {}

    def _fail(self, image: Path, reason: str) -> None:
        self.failures.append((image.relative_to(self.folder.folder), reason))

    def _report(self) -> None:
        done = len(self.written) + len(self.failures)
        if done == len(self.folder) or done % max(1, len(self.folder) // 20) == 0:
            logger.info("%d of %d images", done, len(self.folder))


def _reason(error: BaseException) -> str:
    """Return the first line of what is wrong, not of MONAI's "applying transform ..." around it."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
