"""Predict a folder of images: masks out, bad files reported, what this model has finished skipped."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer
from torch import Tensor, nn

from medseg.bundle.description import Description
from medseg.bundle.record import load_described, read_weights
from medseg.caller import spelt
from medseg.engines.precision import network_to_channels_last, resolve_precision
from medseg.engines.prediction_checks import warn_of_one_class
from medseg.errors import MedsegError, counted, one_line, together
from medseg.io.folder import LeftOut, list_images, mask_targets, with_channels
from medseg.io.masks import write_mask
from medseg.prediction.case import Feeder, check_fits, mask_of
from medseg.prediction.mask_record import Maker, MaskRecord, MaskRecordError
from medseg.runs.lock import LockedError
from medseg.runs.processes import pick_device

__all__ = ["ImageFolder", "InputError", "Predictor"]

logger = logging.getLogger(__name__)

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SHOWN = 20
_TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".yaml", ".yml", ".xml", ".html", ".log", ".pdf")


class InputError(MedsegError):
    """Images that cannot be predicted as asked."""


class ImageFolder(torch.utils.data.Dataset[dict[str, Any]]):
    """The images of a folder and its subfolders that have no mask yet.

    Where the network takes several channels, files ``case_0000``, ``case_0001`` ... are the channels of one image.

    Args:
        folder: of images, or one image.
        description: the model, which says how they are fed.
        output_dir: where the masks go.
        overwrite: also do images whose mask is there, whatever made it; `Predictor` refuses another model's without.

    Raises:
        InputError: if the folder is missing or holds no image, or two images would share one mask.
    """

    def __init__(
        self, folder: str | Path, description: Description, output_dir: str | Path, *, overwrite: bool = False
    ) -> None:
        self.output_dir = Path(output_dir)
        listing = with_channels(
            list_images(folder, leave=[output_dir]), int(description.network.get("in_channels") or 1)
        )
        self.folder = listing.folder
        self.left_out = [(each.path.relative_to(listing.folder), each.reason) for each in listing.left_out]
        self.missed = [each.path for each in listing.left_out if not _no_image(each)]
        if self.output_dir.resolve() == self.folder.resolve():
            raise InputError(f"output_dir {output_dir} is the folder of the images; masks would replace them")
        if not listing.images:
            raise InputError(f"{folder} holds no image that can be read; {listing.describe() or 'it is empty'}")
        targets = mask_targets(listing, output_dir)
        self.overwrite = overwrite
        self.targets = list(targets.values())
        self.skipped = 0 if overwrite else sum(target.exists() for target in self.targets)
        self.data: list[dict[str, Any]] = [
            {"image": image, "files": list(listing.channels.get(image, (image,))), "target": target}
            for image, target in targets.items()
            if overwrite or not target.exists()
        ]
        self._feeder = Feeder(description)

    def __len__(self) -> int:
        """Return the number of images to do."""
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the image as it is fed under ``fed``, or what is wrong with it under ``error``."""
        entry = self.data[index]
        try:
            fed = self._feeder.read(entry["files"])
        except Exception as error:  # whatever is wrong with one file must not end the others
            return {**entry, "error": _reason(error)}
        return {**entry, "fed": fed}

    def picture(self, index: int) -> Tensor:
        """Return the image as people are shown it, on the grid of the fed one.

        Raises:
            MedsegError: if it cannot be read.
        """
        return self._feeder.picture(self.data[index]["files"])


class Predictor(SupervisedEvaluator):
    """Predict the images of a folder one after the other and write their masks.

    Args:
        device: where to predict.
        dataset: the images.
        network: the network.
        inferer: of the model.
        postprocessing: dictionary transforms from ``pred`` logits ``(classes, *S)`` to indices ``(1, *S)``; ``None``
            takes the class of the largest logit.
        description: the model as the configuration describes it; weights trained otherwise are refused.
        ckpt: weights; ``None`` where the network has them already.
        num_workers: processes that read ahead.
        precision: as in ``Trainer``.
        keep_header: keep the description, extensions and names that an image's header holds in its mask's.

    Raises:
        CheckpointError: if the weights do not fit.
        DescriptionError: if they were trained otherwise.
        MaskRecordError: if a mask is there that another model made, and may not be replaced.
    """

    def __init__(
        self,
        device: torch.device | str,
        dataset: ImageFolder,
        network: nn.Module,
        inferer: Inferer,
        postprocessing: Callable[..., Any] | None,
        *,
        description: Description,
        ckpt: str | Path | None = None,
        num_workers: int = 0,
        precision: str = "auto",
        keep_header: bool = False,
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        device = pick_device(device)
        self.description = description if ckpt is None else load_described(network, read_weights(ckpt), description)
        network_to_channels_last(network)
        self.precision = resolve_precision(precision, device)
        self.keep_header = keep_header
        self.failures: list[tuple[Path, str]] = []
        self.written: list[Path] = []
        self.folder = dataset
        maker = Maker.of(network, self.description)
        self.record = MaskRecord(dataset.output_dir, maker, dataset.targets, overwrite=dataset.overwrite)
        self.finish = postprocessing
        self._pixels: Counter[int] = Counter()  # by class, over all masks
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
        """Predict all images; those that fail, and files that were left out, are listed at the end.

        Raises:
            InputError: at the end, if a file could not be done, or one that may be an image was left out; the others
                are done. At once, if the disk is full.
        """
        if self.folder.skipped:
            logger.info(
                "%s skipped, masks are there (%s does them again)",
                counted(self.folder.skipped, "image"),
                spelt("overwrite"),
            )
        self.network.eval()
        if len(self.folder):
            try:
                super().run(global_epoch)
            finally:
                self.record.finish()
        logger.info("%s written to %s", counted(len(self.written), "mask"), self.folder.output_dir.name)
        if len(self.written) > 1:
            names = dict(enumerate(self.description.classes))  # postprocessing may give further values
            every = sorted({*names, *self._pixels})
            warn_of_one_class([self._pixels[index] for index in every], [names.get(i, str(i)) for i in every])
        said = []
        if self.failures:
            lines = "\n".join(f"  {line}" for line in together(self.failures, "image"))
            said.append(f"{len(self.failures)} of {len(self.folder)} images could not be done:\n{lines}")
        if self.folder.left_out:
            lines = "\n".join(f"  {line}" for line in together(self.folder.left_out)[:_SHOWN])
            said.append(f"left out {counted(len(self.folder.left_out), 'file')}:\n{lines}")
        if self.failures or self.folder.missed:
            raise InputError("\n".join(said))
        for line in said:
            logger.warning("%s", line)

    def _predict(self, case: dict[str, Any]) -> dict[str, Any]:
        if "error" in case:
            self._fail(case["image"], case["error"])
            return {}
        try:
            check_fits(case["fed"], self.description)
            mask = mask_of(
                case["fed"],
                self.description,
                self.network,
                self.inferer,
                precision=self.precision,
                device=self.state.device,
                finish=self.finish,
            )
            self.record.begin()
            write_mask(
                mask,
                case["fed"].grid or case["image"],
                case["target"],
                source=case["image"],
                class_names=self.description.classes,
                colours=self.description.colours,
                keep_header=self.keep_header,
            )
        except (LockedError, MaskRecordError):
            raise  # the folder is another's: no mask of it is ours to write
        except (ValueError, RuntimeError, OSError) as error:  # wrong channels, too little memory, a file has changed
            if isinstance(error, OSError) and error.errno in _NO_SPACE:
                raise InputError(
                    f"{case['target']} cannot be written: {error.strerror}. Masks so far ({len(self.written)}) are "
                    "whole; make room and run again, it skips them"
                ) from error
            self._fail(case["image"], _reason(error))
            return {}
        values, counts = np.unique(mask, return_counts=True)
        self._pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        self.record.wrote(case["target"])
        self.written.append(case["target"])
        return {}

    def _fail(self, image: Path, reason: str) -> None:
        self.failures.append((image.relative_to(self.folder.folder), reason))

    def _report(self) -> None:
        done = len(self.written) + len(self.failures)
        if done == len(self.folder) or done % max(1, len(self.folder) // 20) == 0:
            logger.info("%d of %d images", done, len(self.folder))


def _no_image(left_out: LeftOut) -> bool:
    """Return whether nobody would take something for an image: hidden, medseg's own, or text beside the images."""
    return left_out.ours or left_out.path.name.startswith(".") or left_out.path.suffix.lower() in _TEXTS


def _reason(error: BaseException) -> str:
    """Return the first line of what is wrong, not of MONAI's "applying transform ..." around it."""
    said = one_line(error)
    if said is None:
        while isinstance(error, RuntimeError) and error.__cause__ is not None:
            error = error.__cause__
        said = str(error).strip()
    lines = said.splitlines()
    return lines[0] if lines else type(error).__name__
