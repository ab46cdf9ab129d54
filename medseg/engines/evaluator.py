"""The evaluation engine: MONAI's `SupervisedEvaluator` with scores from one confusion matrix over the whole set."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from medseg.engines.loading import SegmentationDataset, make_loader
from medseg.engines.memory import keep_freed_memory
from medseg.engines.precision import autocast, resolve_precision, to_memory_format
from medseg.errors import MedsegError
from medseg.metrics.confusion_matrix import ConfusionMatrix
from medseg.runs.processes import pick_device
from medseg.runs.report import Result

logger = logging.getLogger(__name__)


class Evaluator(SupervisedEvaluator):
    """Score a network on a set of labelled images.

    Args:
        device: where to evaluate.
        dataset: samples with ``image`` ``(C, *S)`` and ``label`` ``(1, *S)``, class indices.
        network: the network, which gives logits ``(B, classes, *S)``.
        labels: class names by index.
        inferer: sliding window or MONAI's ``SimpleInferer`` (default).
        ignore_index: label value that counts for nothing.
        batch_size: images a forward; images of different sizes need 1.
        num_workers: loading processes.
        precision: as in ``Trainer``.
        channels_last: as in ``Trainer``.
        shown: cases to keep for pictures, evenly over the set.

    Raises:
        ValueError: if an option is out of range, or, when it runs, if the network gives another number of classes.
    """

    def __init__(
        self,
        device: torch.device | str,
        dataset: SegmentationDataset,
        network: nn.Module,
        labels: Mapping[int, str],
        *,
        inferer: Inferer | None = None,
        ignore_index: int | None = None,
        batch_size: int = 1,
        num_workers: int = 0,
        precision: str = "auto",
        channels_last: bool = True,
        shown: int = 4,
    ) -> None:
        device = pick_device(device)
        keep_freed_memory(device)
        self.dataset = dataset
        self.class_names = [labels[index] for index in sorted(labels)]
        self.precision = resolve_precision(precision, device)
        self.channels_last = channels_last
        self.shown = shown
        self.matrix = ConfusionMatrix(len(self.class_names), ignore_index=ignore_index, device=device)
        self.cases: list[dict[str, Any]] = []
        self.batch_size = batch_size
        self._num_workers = num_workers
        self._loader_made = False
        super().__init__(
            device=device,
            val_data_loader=[],
            network=network,
            inferer=inferer or SimpleInferer(),
            prepare_batch=self._prepare,
            non_blocking=True,
            decollate=False,
            amp=False,
        )
        self.add_event_handler(Events.EPOCH_STARTED, Evaluator._reset)
        self.add_event_handler(Events.ITERATION_COMPLETED, Evaluator._count)

    def score(self, network: nn.Module, epoch: int = 1) -> dict[str, float]:
        """Evaluate ``network`` and return ``val_mean_iou`` and ``val_iou_<class>`` (absent classes left out).

        Args:
            network: in place of the one given at construction.
            epoch: number shown in records.

        Raises:
            ValueError: if the data set is empty, or nothing in it is labelled.
        """
        self.network = network
        self.run(epoch)
        table = self.table()
        if table["mean_iou"] is None:
            raise MedsegError(
                f"none of the {len(self.dataset)} images has a labelled pixel, so there is nothing to score; check "
                "ignore_index and the split"
            )
        values = {"val_mean_iou": float(table["mean_iou"])}
        for row in table["classes"]:
            if row["iou"] is not None:
                values[f"val_iou_{row['name'].replace(' ', '_')}"] = float(row["iou"])
        return values

    def run(self, global_epoch: int = 1) -> None:
        """Go once over the set.

        Args:
            global_epoch: epoch of the training that asks.
        """
        if not self._loader_made:
            self._loader_made = True
            pinned = self.state.device.type == "cuda"
            self.data_loader = make_loader(
                self.dataset, self.batch_size, shuffle=False, num_workers=self._num_workers, pin_memory=pinned
            )
            self.state.epoch_length = len(self.data_loader)
        if len(self.data_loader):
            with autocast(self.precision, self.state.device):
                super().run(global_epoch)
        else:  # fewer images than processes
            self._reset()
        self.matrix.all_reduce()

    def table(self) -> dict[str, Any]:
        """Return the scores of the last evaluation, per class and overall, as plain values."""
        return self.matrix.compute().to_dict(self.class_names)

    def result(self, more: Mapping[str, Any] | None = None) -> Result:
        """Return everything that the last evaluation found.

        Args:
            more: further scores by name, such as ``instances``.
        """
        return Result(
            {**self.table(), **(more or {})},
            self.matrix.matrix.cpu().numpy(),
            self.class_names,
            self.cases,
            self.matrix.ignore_index,
        )

    def _prepare(
        self, batch: dict[str, Tensor], device: torch.device, non_blocking: bool, **_: Any
    ) -> tuple[Tensor, Tensor]:
        image = batch["image"].to(device, non_blocking=non_blocking).float()
        label = batch["label"].to(device, non_blocking=non_blocking)
        return (to_memory_format(image) if self.channels_last else image), label

    def _reset(self) -> None:
        self.matrix.reset()
        self.cases = []
        length = max(1, self.state.epoch_length or 1)
        self._picked = set(np.linspace(0, length - 1, min(self.shown, length)).round().astype(int).tolist())

    def _count(self) -> None:
        output = self.state.output
        given, named = output["pred"].shape[1], len(self.class_names)
        if given != named:
            raise MedsegError(
                f"the network gives {given} classes, but the data set names {named}; set the network's out_channels to "
                f"{named}, or score it on the data set that it was trained for"
            )
        prediction = output["pred"].max(dim=1, keepdim=True).indices
        self.matrix.update(prediction, output["label"])
        if (self.state.iteration - 1) % self.state.epoch_length in self._picked:
            number = (self.state.iteration - 1) % self.state.epoch_length * self.batch_size
            self.cases.append(
                {
                    "name": f"case {number}",
                    "image": output["image"][0].float().cpu().numpy(),
                    "label": output["label"][0, 0].cpu().numpy(),
                    "prediction": prediction[0, 0].to(torch.uint8).cpu().numpy(),
                }
            )
