"""The evaluation engine: MONAI's `SupervisedEvaluator` with scores of each case and of the whole set.

Where samples hold labels as they lie in their files, predictions are brought back to them, as a mask is to its image:
scored is what is written. Where labels are on the model's grid, as in validation, so are the scores, and say so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from monai.inferers import Inferer, SimpleInferer
from numpy.typing import NDArray
from torch import Tensor, nn

from medseg.engines.ensemble import OverMembers, joined, members_of
from medseg.engines.loading import SegmentationDataset, make_loader
from medseg.engines.precision import autocast, network_to_device, resolve_precision
from medseg.engines.prediction_checks import warn_of_one_class
from medseg.engines.scores import LOSS, LossScore, WorstCases, affine_of, case_names
from medseg.errors import MedsegError, shown
from medseg.inferers.blocks import Block, blocks_of, check_finite, class_indices, finite, gather, whole
from medseg.inferers.memory_format import to_memory_format
from medseg.inferers.way_back import FILE_AFFINE, IMAGE_AFFINE, WayBack
from medseg.io.labels import read_label
from medseg.metrics.score import ScoredCase
from medseg.metrics.score_board import ScoreBoard
from medseg.reports.palette import object_indices
from medseg.runs.processes import pick_device, rank, world_size
from medseg.runs.report import Result
from medseg.transforms.postprocess import Postprocess

SCORES: Mapping[str, Mapping[str, Any]] = {"overlap": {}}
"""What is scored unless asked for otherwise."""
PREFIX = "val_"

logger = logging.getLogger(__name__)


class Evaluator(SupervisedEvaluator):
    """Score a network on a set of labelled images.

    Args:
        device: where to evaluate.
        dataset: samples with ``image`` ``(C, *S)`` and ``label`` ``(1, *S)``, class indices; or, with ``image_affine``
            and ``affine`` (of the label), a label ``(1, *T)`` on the grid of its file.
        network: the network, which gives logits ``(B, classes, *S)``; or an `Ensemble` of such.
        labels: class names by index.
        inferer: sliding window or MONAI's ``SimpleInferer`` (default).
        ignore_index: label value that counts for nothing.
        batch_size: images a forward; images of different sizes need 1.
        num_workers: loading processes.
        precision: as in ``Trainer``.
        channels_last: as in ``Trainer``.
        shown: cases to keep for pictures: those with the lowest mean over their classes.
        shown_best: likewise, those with the highest.
        scores: options by name, beside ``overlap``; see `medseg.metrics.score`.
        loss_function: of the training, for ``val_loss``; see `medseg.engines.scores.LossScore`.
        hide_names: call cases by a hash of their file's name.

    Raises:
        MedsegError: if an option is out of range, or, when it runs, if the network gives another number of classes, or
            logits that are no numbers.
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
        shown_best: int = 2,
        scores: Mapping[str, Mapping[str, Any] | None] | None = None,
        loss_function: Callable[..., Tensor] | None = None,
        hide_names: bool = False,
    ) -> None:
        device = pick_device(device)
        network_to_device(network)
        self.dataset = dataset
        self.class_names = [labels[index] for index in sorted(labels)]
        self.ignore_index = ignore_index
        self.precision = resolve_precision(precision, device)
        self.channels_last = channels_last
        self.batch_size = batch_size
        self.postprocess: Postprocess | None = None
        self.temperatures = [1.0] * len(members_of(network))  # see `medseg.bundle.temperature`
        self._of_one = inferer or SimpleInferer()
        self._loss = None if loss_function is None else LossScore(loss_function, self.class_names, ignore_index)
        self.use_scores(scores or {})
        self._worst = WorstCases(shown)
        self._best = WorstCases(shown_best)
        self._objects = object_indices(self.class_names)
        self._index_type = torch.uint8 if len(self.class_names) <= 256 else torch.int32
        self._names = case_names(dataset.data, hidden=hide_names)
        self._num_workers = num_workers
        self._returned = False  # whether predictions are classes on their labels' own grids, not logits
        self._grid = "file"
        self._loader_made = False
        super().__init__(
            device=device,
            val_data_loader=[],
            network=network,
            inferer=OverMembers(self._of_one, lambda: self.temperatures),
            prepare_batch=self._prepare,
            non_blocking=True,
            decollate=False,
            amp=False,
        )
        self.add_event_handler(Events.EPOCH_STARTED, Evaluator._reset)
        self.add_event_handler(Events.ITERATION_COMPLETED, Evaluator._count)

    def use_scores(self, scores: Mapping[str, Mapping[str, Any] | None]) -> None:
        """Keep these scores from the next run on, beside ``overlap`` and the loss.

        Args:
            scores: options by name; ``None`` for options leaves a score out.

        Raises:
            MedsegError: if a score is unknown, refuses its options, or needs what the data set's entries lack.
        """
        board = ScoreBoard(self.class_names, self.ignore_index, {**SCORES, **scores})
        if self._loss is not None:
            board.add(LOSS, self._loss)
        board.check(self.dataset.data)
        self.board = board

    @property
    def lower_is_better(self) -> frozenset[str]:
        """Names in what `score` returns of which less is better."""
        return frozenset(f"{PREFIX}{name}" for name in self.board.lower_is_better)

    @property
    def score_names(self) -> frozenset[str]:
        """Names that `score` can return."""
        return frozenset(f"{PREFIX}{name}" for name in self.board.names)

    def score(self, network: nn.Module, epoch: int = 1) -> dict[str, float]:
        """Evaluate ``network`` and return every score of the set, see `ScoreBoard.flat`; undefined ones are left out.

        ``val_mean_iou``, ``val_mean_dice``, ``val_accuracy`` and their like are over all pixels, ``val_iou_<class>``
        too; ``val_case_...`` are means over the images; ``val_loss`` is there with a loss function.

        Args:
            network: in place of the one given at construction.
            epoch: number shown in records.

        Raises:
            MedsegError: if the data set is empty, or nothing in it is labelled.
        """
        self.network = network
        self.run(epoch)
        values = self.board.flat(PREFIX)
        if f"{PREFIX}mean_iou" not in values:
            raise MedsegError(
                f"no image of {len(self.dataset)} has a labelled pixel, so there is nothing to score; check "
                "ignore_index and the split"
            )
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
        self.board.gather()

    def table(self) -> dict[str, Any]:
        """Return the scores of the last evaluation, per class and overall, as plain values.

        ``grid`` is ``"file"`` where labels were scored as they lie in their files, else ``"model"``.
        """
        return {**self.board.table(), "grid": self._grid}

    def warn_of_one_class(self, level: int = logging.WARNING) -> None:
        """Say so if the last evaluation found one class nearly everywhere, or hardly any where it is.

        Args:
            level: of the message.
        """
        matrix = np.asarray(self.table()["overlap"]["confusion_matrix"])
        right = int(matrix.trace())
        warn_of_one_class(matrix.sum(0).tolist(), self.class_names, matrix.sum(1).tolist(), right, level=level)

    def result(self) -> Result:
        """Return everything that the last evaluation found; with several processes, every one must ask."""
        return Result(
            self.table(),
            self.class_names,
            self._worst.cases(self._with_picture),
            [*self.board.lines()],
            self.ignore_index,
            self._best.cases(self._with_picture),
        )

    def _prepare(
        self, batch: dict[str, Tensor], device: torch.device, non_blocking: bool, **_: Any
    ) -> tuple[Tensor, Tensor]:
        image = batch["image"].to(device, non_blocking=non_blocking).float()
        label = batch["label"].to(device, non_blocking=non_blocking)
        return (to_memory_format(image) if self.channels_last else image), label

    def _iteration(self, engine: SupervisedEvaluator, batchdata: dict[str, Any]) -> dict[str, Any]:
        """Predict a batch: logits on the model's grid, or classes on that of the label's file."""
        if IMAGE_AFFINE not in batchdata:
            self._returned = False
            self._grid = "model" if "affine" in batchdata else self._grid
            logits: dict[str, Any] = super()._iteration(engine, batchdata)
            return logits
        image, label = self._prepare(batchdata, self.state.device, self.non_blocking)
        output: dict[str, Any] = {"image": image, "label": label}
        self._returned, found = True, []
        with self.mode(self.network):
            for number, index in enumerate(self._indices(len(image))):
                try:
                    way = self._way(batchdata, number)
                    found.append(self._classes(image[number : number + 1], way, label[number, 0]))
                except MedsegError as error:
                    raise MedsegError(f"{shown(self._names[index])}: {error}") from error
        return {**output, "pred": torch.cat(found)}

    def _indices(self, count: int) -> list[int]:
        """Return which samples of the data set are in the batch at hand."""
        start = (self.state.iteration - 1) % self.state.epoch_length * self.batch_size
        return [rank() + (start + number) * world_size() for number in range(count)]

    def _way(self, batch: Mapping[str, Any], number: int) -> WayBack:
        """Return the way of an image's prediction to its label's own grid."""
        lies = batch.get(FILE_AFFINE, batch.get("affine"))
        if lies is None:
            raise MedsegError("the image says where it lies, its label does not; store both in one format")
        sizes = [batch[key].shape[2:] for key in ("image", "label")]
        return WayBack(sizes[0], batch[IMAGE_AFFINE][number], sizes[1], lies[number])

    def _classes(self, image: Tensor, way: WayBack, label: Tensor) -> Tensor:
        """Return class indices ``(1, *T)`` on a label's own grid ``(*T)``; logits are held block by block."""

        def checked(network: nn.Module) -> Iterator[Block]:
            for block in finite(blocks_of(self._of_one, image, network)):
                self._check_number(block.logits.shape[1])
                yield block

        def seen() -> Iterator[Block]:
            for blocks in zip(*(way.blocks(checked(each)) for each in members_of(self.network)), strict=True):
                logits = joined([block.logits for block in blocks], self.temperatures)
                self.board.see(logits[0], label[blocks[0].at[1:]])
                yield Block(blocks[0].at, logits)

        return class_indices(seen(), (1, *way.target_size))

    def _check_number(self, given: int) -> None:
        named = len(self.class_names)
        if given != named:
            raise MedsegError(
                f"the network gives {given} classes, but the data set names {named}; set the network's out_channels to "
                f"{named}, or score it on the data set that it was trained for"
            )

    def _reset(self) -> None:
        self.board.reset()
        self._grid = "file"
        self._worst.reset()
        self._best.reset()

    def _count(self) -> None:
        output = self.state.output
        labels, found = output["label"], output["pred"]
        indices = self._indices(len(found))
        logits = None
        if not self._returned:
            logits = found
            self._check_number(logits.shape[1])
            check_finite(logits, [self._names[index] for index in indices])
            found = logits.max(dim=1).indices  # several times faster than argmax on a CPU
        for number, index in enumerate(indices):
            entry, affine = self.dataset.data[index], affine_of(self.state.batch, number)
            case = ScoredCase(
                index=index,
                name=self._names[index],
                prediction=self._finished(found[number], affine),
                label=labels[number, 0],
                group=str(entry.get("group", "")),
                affine=affine,
                logits=None if logits is None else logits[number],
                read=lambda key, entry=entry: _read(entry, key),  # type: ignore[misc]
            )
            if logits is not None:
                self.board.see(logits[number], case.label)
            row = self.board.update(case)
            self._offer(case, row.mean("dice", self._objects))

    def _finished(self, prediction: Tensor, affine: NDArray[np.float64] | None) -> Tensor:
        """Return a prediction after the model's postprocessing, as `medseg.prediction.collected` does it."""
        if self.postprocess is None or not self.postprocess.steps:
            return prediction
        done = self.postprocess(prediction.cpu().numpy(), affine)
        return torch.from_numpy(done).to(prediction.device)

    def _offer(self, case: ScoredCase, score: float) -> None:
        def make() -> dict[str, Any]:
            return {
                "name": shown(case.name),
                "score": score,
                "affine": case.affine,
                "label": case.label.cpu().numpy(),
                "prediction": case.prediction.to(self._index_type).cpu().numpy(),
            }

        self._worst.offer(case.index, score, make)
        self._best.offer(case.index, -score, make)

    def _with_picture(self, index: int, case: dict[str, Any]) -> dict[str, Any] | None:
        """Return a case with its image as people are shown it, where its label lies."""
        try:
            sample = self.dataset.picture(index)
            image: Tensor = sample["image"]
            lies = sample.get(FILE_AFFINE, case["affine"])
            if IMAGE_AFFINE in sample and lies is not None:
                size = case["label"].shape
                way = WayBack(image.shape[1:], sample[IMAGE_AFFINE], size, lies)
                image = gather(way.blocks([whole(image[None].float(), image[None].float())]), (1, *size))[0]
        except (MedsegError, RuntimeError) as error:  # it was read before: what is scored stays, without a picture
            logger.warning("%s: there is no picture of it (%s)", case["name"], error)
            return None
        window = sample.get("window")
        return {**case, "image": image.cpu().numpy(), "window": None if window is None else window.tolist()}


def _read(entry: Mapping[str, Any], key: str) -> NDArray[Any]:
    if key not in entry:
        raise MedsegError(f"{shown(entry.get('image'))} names no `{key}`; prepare the data with it")
    return read_label(entry, key).array
