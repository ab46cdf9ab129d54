"""Instance scores beside the class scores of an evaluation, where the data set has instance maps."""

from __future__ import annotations

from typing import Any

import torch
from ignite.engine import Events
from numpy.typing import NDArray

from medseg.engines.evaluator import Evaluator
from medseg.errors import MedsegError
from medseg.io.images import read_image
from medseg.metrics.instances import InstanceMatching, label_instances
from medseg.runs.processes import rank, world_size


class InstanceCounter:
    """Match predicted with true instances while an evaluator runs.

    The predicted foreground (all classes but 0) is split into instances and compared with the map that the entry's
    ``instances`` names, pixel by pixel at the label's size.

    Args:
        evaluator: whose data set's entries name ``instances``.
        method: ``"components"`` or ``"watershed"``, see `medseg.metrics.instances.label_instances`.
        min_size: smallest predicted instance in pixels.

    Raises:
        ValueError: if an entry has no instance map, or a map and the prediction differ in size.
    """

    def __init__(self, evaluator: Evaluator, method: str = "components", min_size: int = 0) -> None:
        missing = [entry for entry in evaluator.dataset.data if "instances" not in entry]
        if missing:
            raise MedsegError(
                f"instance scores were asked for, but {len(missing)} of {len(evaluator.dataset)} entries name no "
                f"`instances`, the first of image {missing[0].get('image')}; prepare the data with instance maps, or "
                "leave `instances` out"
            )
        self.options: dict[str, Any] = {"method": method, "min_size": min_size}
        self.matching = InstanceMatching()
        self._evaluator = evaluator
        evaluator.add_event_handler(Events.EPOCH_STARTED, lambda _: self.matching.reset())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda _: self._count())

    def _count(self) -> None:
        state = self._evaluator.state
        classes = state.output["pred"].max(dim=1).indices.cpu().numpy()  # (B, *S)
        step = (state.iteration - 1) % state.epoch_length
        for number, prediction in enumerate(classes):
            index = rank() + (step * self._evaluator.batch_size + number) * world_size()
            path = self._evaluator.dataset.data[index]["instances"]
            truth = read_image(path, label=True).array
            if truth.shape != prediction.shape:
                raise MedsegError(
                    f"instance map {path} has the size {truth.shape}, its image's prediction {prediction.shape}; they "
                    "must agree: prepare the data set again"
                )
            self.matching.update(self.split(prediction), truth)

    def split(self, classes: NDArray[Any]) -> NDArray[Any]:
        """Return the instances of a map of classes, ``(*S)`` to ``(*S)``."""
        return label_instances(classes > 0, **self.options)

    def scores(self) -> dict[str, Any]:
        """Return the scores over all processes, as `InstanceScores.to_dict` has them, and how they were made."""
        if world_size() > 1:
            everyone: list[Any] = [None] * world_size()
            torch.distributed.all_gather_object(everyone, self.matching)
            self.matching = InstanceMatching(self.matching.thresholds)
            self.matching.take_turns(everyone)  # image k was counted by process k modulo their number
        return {**self.matching.compute().to_dict(), **self.options}
