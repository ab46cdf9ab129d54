"""Cases -> network -> sinks: read ahead, predicted, written behind; bad files reported, what is finished skipped."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer
from torch import nn

from medseg.bundle.description import Description
from medseg.bundle.record import load_described, read_weights, verified_hash
from medseg.bundle.usual import unlike_mask
from medseg.caller import spelt
from medseg.engines.precision import network_to_channels_last, resolve_precision
from medseg.engines.prediction_checks import warn_of_one_class
from medseg.errors import counted, one_line
from medseg.prediction.audit import Audit
from medseg.prediction.case import Fed, Feeder, PredictionError, check_fits
from medseg.prediction.cases import ImageFolder, InputError
from medseg.prediction.collected import Collected, counts_of
from medseg.prediction.done import files_of, to_do
from medseg.prediction.doubts import Doubts
from medseg.prediction.faults import FailuresError, no_space, reason, said_of
from medseg.prediction.forward import Forward
from medseg.prediction.mask_record import Maker
from medseg.prediction.masks import Masks
from medseg.prediction.overlap import Room, Writer, read_ahead, tried
from medseg.prediction.shared import gather
from medseg.prediction.sinks import VALUES, Case, Refuses, RunInfo, Sink
from medseg.prediction.twins import Group, Results, Twins
from medseg.runs.processes import pick_device

__all__ = ["ImageFolder", "InputError", "Predictor"]

logger = logging.getLogger(__name__)


class Predictor:
    """Predict cases and hand what comes out to sinks: each case's files are there whole, or not at all.

    Args:
        device: where to predict.
        dataset: the cases.
        network: the network, or several of one model: an ensemble.
        inferer: of the model.
        postprocessing: dictionary transforms from ``pred`` logits ``(classes, *S)`` to indices ``(1, *S)``; ``None``
            takes the class of the largest logit.
        description: the model as the configuration describes it; weights trained otherwise are refused.
        ckpt: weights; ``None`` where the networks have them already.
        hashes: of the weights that they have, where known.
        temperatures: that each network's logits are divided by; by default the model's.
        num_workers: threads that read ahead.
        precision: as in ``Trainer``.
        keep_header: keep what names a patient: descriptions, extensions and names that an image's header holds.
        sinks: outputs beside the mask.
        options: what was asked for, for the run's record.
        progress: called as ``progress(cases done, cases in all)``.

    Raises:
        CheckpointError: if the weights do not fit.
        DescriptionError: if they were trained otherwise.
        MaskRecordError: if an output is there that another model made, and may not be replaced.
        MedsegError: if a sink cannot be had of this model.
    """

    def __init__(
        self,
        device: torch.device | str,
        dataset: ImageFolder,
        network: nn.Module | Sequence[nn.Module],
        inferer: Inferer,
        postprocessing: Callable[..., Any] | None,
        *,
        description: Description,
        ckpt: str | Path | None = None,
        hashes: Sequence[str | None] | None = None,
        temperatures: Sequence[float] | None = None,
        num_workers: int = 0,
        precision: str = "auto",
        keep_header: bool = False,
        sinks: Sequence[Sink] = (),
        options: Mapping[str, Any] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.device = pick_device(device)
        networks = [network] if isinstance(network, nn.Module) else list(network)
        known: Sequence[str | None] = hashes or [None] * len(networks)
        described = description
        if ckpt is not None:
            weights = read_weights(ckpt)
            for each in networks:
                described = load_described(each, weights, description)
            known = [verified_hash(each, weights) for each in networks]
        for each in networks:
            network_to_channels_last(each)
        self.description, self.folder = described, dataset
        self.failures: list[tuple[Path, str]] = []
        self.written: list[Path] = []
        self._threads, self._progress, self._began = num_workers, progress, 0.0
        self._doubts = Doubts()
        self.pixels: Counter[int] = Counter()  # by class, over all masks
        self._elsewhere: set[str] = set()  # devices of other processes
        if dataset.output_dir.is_file():
            raise InputError(f"{dataset.output_dir} is a file; name a folder for the masks")
        tempers = temperatures or [described.temperature] * len(networks)
        parts = zip(networks, known, tempers, strict=True)
        makers = [Maker.of(each, replace(described, temperature=by), digest) for each, digest, by in parts]
        self.run_info = RunInfo(dataset.output_dir, described, makers, keep_header)
        self.sinks: list[Sink] = [*sinks, Masks()]  # a mask that is there says that all else is
        for sink in self.sinks:
            sink.open(self.run_info)
        self._files, self.record = files_of(dataset, self.sinks, Maker.joined(makers))
        self.todo, self._of_others = to_do(dataset, self.sinks, self._files, self.record)
        output = dataset.output_dir.absolute()
        self._audit = Audit(self.run_info, options or {})
        wants = frozenset[str]().union(*(sink.wants for sink in self.sinks))
        self._feeder = Feeder(described, values=VALUES in wants)
        self._forward = Forward(
            networks,
            described,
            inferer,
            precision=resolve_precision(precision, self.device),
            device=self.device,
            finish=postprocessing,
            wants=wants,
            scratch=next(path for path in (output, *output.parents) if path.is_dir()),
            temperatures=tempers,
        )

    @property
    def skipped(self) -> int:
        """Cases whose outputs by this model, of this image, are there."""
        return len(self.folder) - self._asked

    @property
    def _asked(self) -> int:
        """Cases that are done, or are said to be wrong."""
        return len(self.todo) + len(self._of_others)

    def run(self, work: Callable[[Sequence[Case]], None] | None = None) -> None:
        """Predict all cases; those that fail, and files that were left out, are listed at the end.

        Args:
            work: does it in place of this process.

        Raises:
            FailuresError: at the end, if a case could not be done, or a file that may be an image was left out; the
                others are done.
            InputError: at once, if the disk is full or cannot be written; those done so far are kept.
        """
        if self.skipped:
            logger.info(
                "%s skipped, masks are there (%s does them again)", counted(self.skipped, "image"), spelt("overwrite")
            )
        self._audit.recover()
        self._began, ended = time.monotonic(), "done"
        for case, why in self._of_others:
            self.failures.append((Path(case.name), why))
            self._audit.took(case, {"failure": why})
        if self._asked:
            try:
                self._all(work or self._work)
            except BaseException as error:
                ended = one_line(error) or type(error).__name__
                for line in self._said() if isinstance(error, InputError) else ():
                    logger.warning("%s", line)
                raise
            finally:
                if self.written or self.failures:
                    self._write_audit(ended, time.monotonic() - self._began)
        logger.info("%s written to %s", counted(len(self.written), "mask"), self.folder.output_dir.name)
        self._warn_of_one_class()
        self._doubts.warn(len(self.todo))
        self._raise_failures()

    def _all(self, work: Callable[[Sequence[Case]], None]) -> None:
        for network in self._forward.networks:
            network.eval()
        try:
            left = gather(self)
            if left:
                work(left)
        except BaseException as error:
            self._close(error)
            raise
        self._close(None)

    def _close(self, stopped: BaseException | None) -> None:
        """End the files of all cases, and the record; where the run was stopped, that is what is said."""
        try:
            try:
                for sink in self.sinks:
                    sink.close()
            finally:
                self.record.finish()
        except OSError as error:
            if stopped is None:
                raise InputError(
                    f"{self.folder.output_dir} cannot be written: {error.strerror}. All masks "
                    f"({len(self.written)}) are whole, but not the files of all cases; make room and run again"
                ) from error
            logger.warning("the files of all cases cannot be written: %s", error.strerror)

    def files(self, case: Case) -> list[Path]:
        """Return the files of a case alone, its mask last."""
        return self._files[case.name]

    def refuse_others(self, folder: Path, cases: Sequence[Case]) -> None:
        """Refuse outputs of cases in another folder that another model made, or of other images.

        Raises:
            MaskRecordError: if there are such.
        """
        masks = [case.target for case in cases]
        others = [file for case in cases for file in self.files(case) if file != case.target]
        self.record.like(folder, masks, others)

    def took(self, case: Case, line: Mapping[str, Any]) -> None:
        """Take note of a case that another process did.

        Args:
            case: whose files are in their places.
            line: of that process's record.
        """
        self._audit.took(case, line)
        self._doubts.add(case.name, line.get("unlike", ()), line.get("notes", ""))
        self._wrote(case)

    def count(self, pixels: Mapping[str, int], device: str) -> None:
        """Take note of what another process counted, and of where it computed."""
        self.pixels.update({int(index): count for index, count in pixels.items()})
        self._elsewhere |= {device} - {""}

    def _work(self, cases: Sequence[Case]) -> None:
        room, twins = Room(), Twins(self._forward)
        ahead = twins.number * self.description.inference.batch
        read = read_ahead(cases, self._read, threads=self._threads, room=room, size=lambda fed: fed.nbytes, ahead=ahead)
        done = twins.each(self._groups(read, twins.number))
        with Writer(room, self._not_written, no_space) as writer, contextlib.closing(done):
            for group, results in done:
                for case, found in self._found(group, results, twins):
                    if isinstance(found, Collected):
                        self.begin()
                        writer.put(case, partial(self._write, case, found), found.nbytes)
                    else:
                        self.failed(case, found)
                for _, fed in group:
                    room.give(fed.nbytes)
                del group, results

    def begin(self) -> None:
        """Take the folder of the outputs, before the first is written."""
        try:
            self.record.begin()
            self._audit.begin()
        except OSError as error:
            raise InputError(
                f"{self.folder.output_dir} cannot be written: {error.strerror}; name another folder"
            ) from error

    def _read(self, case: Case) -> Fed:
        self._audit.reads(case)
        fed = self._feeder.read(case.files)
        check_fits(fed, self.description)
        for sink in self.sinks:
            if isinstance(sink, Refuses):
                sink.refuse(case, fed.grid)
        self._audit.read(case)
        self._doubt(case, fed.unlike, fed.notes)
        return fed

    def _groups(self, read: Iterator[tuple[Case, Fed | Exception]], at_once: int) -> Iterator[Group]:
        """Yield cases one by one, or so many that take one forward together as a forward has windows."""
        group: Group = []
        for case, fed in read:
            if not isinstance(fed, Fed):
                self.failed(case, reason(fed))
                continue
            together = self._forward.one_forward(fed)
            if group and not together:
                yield group
                group = []
            group.append((case, fed))
            del fed
            if not together or len(group) >= max(1, self.description.inference.batch // at_once):
                yield group
                group = []
        if group:
            yield group

    def _found(self, group: Group, results: Results, twins: Twins) -> Iterator[tuple[Case, Collected | str]]:
        """Yield what came of each case of a group, or why there is none."""
        if not isinstance(results, Exception):
            yield from zip((case for case, _ in group), results, strict=True)
            return
        if not isinstance(results, ValueError | RuntimeError | OSError):  # no numbers, too little memory
            raise results
        if no_space(results):  # for what is too large for memory
            self._not_written(group[0][0], results)
        if len(group) == 1:
            yield group[0][0], reason(results)
            return
        for one in group:  # whose fault it is, is found out
            yield from self._found([one], tried(partial(twins.collect, [one])), twins)

    def _write(self, case: Case, collected: Collected) -> None:
        """Finish a case and write all its outputs; called in the thread that writes."""
        if self._audit.changed(case):  # the tags of a series are read again for its objects
            raise PredictionError("its files were replaced or written to while it was predicted; run again")
        result = collected.result()
        counts = counts_of(result.mask)
        self._doubt(case, unlike_mask(counts, result.grid.shape, result.grid.affine, self.description))
        result = replace(result, doubts=self._doubts.of(case.name))
        self.record.writes(case.target)
        self._audit.writes(case, self._files[case.name], result.numbers)
        for sink in self.sinks:
            sink.write(case, result)
        self._audit.wrote(case, self._files[case.name], result.numbers)
        self.pixels.update(counts)
        self._wrote(case)

    def _wrote(self, case: Case) -> None:
        *others, mask = self.files(case)
        self.record.wrote(mask, others, self._audit.sha256(case))
        self.written.append(mask)
        self._report()

    def _not_written(self, case: Case, error: BaseException) -> None:
        if no_space(error):
            assert isinstance(error, OSError)
            raise InputError(
                f"{case.target} cannot be written: {error.strerror}. Masks so far ({len(self.written)}) are "
                "whole; make room and run again, it skips them"
            ) from error
        if not isinstance(error, Exception):
            raise error
        logger.debug("%s", case.name, exc_info=error)
        self.failed(case, reason(error))

    def failed(self, case: Case, reason: str, line: Mapping[str, Any] | None = None) -> None:
        """Take note of a case that could not be done, with what another process recorded of it, if one had it."""
        self.failures.append((Path(case.name), reason))
        self._audit.took(case, {**(line or {}), "failure": reason})
        self._report()

    def _report(self) -> None:
        done = len(self.written) + len(self.failures) - len(self._of_others)
        if self._progress is not None:
            self._progress(done, len(self.todo))
        elif done == len(self.todo) or done % max(1, len(self.todo) // 20) == 0:
            seconds = time.monotonic() - self._began
            left = seconds / done * (len(self.todo) - done)
            logger.info("%d of %d images, %.3g a second, %.0f s left", done, len(self.todo), done / seconds, left)

    def _write_audit(self, ended: str, seconds: float) -> None:
        device = ", ".join(sorted(self._elsewhere)) or self.device.type
        peak = {"gpu_peak_bytes": torch.cuda.max_memory_allocated(self.device)} if self.device.type == "cuda" else {}
        measured: dict[str, Any] = {"seconds": round(seconds, 2), "device": device, **peak}
        left_out = [(path.as_posix(), reason) for path, reason in self.folder.left_out]
        todo = {case.name for case in (*self.todo, *(case for case, _ in self._of_others))}
        skipped = [case.name for case in self.folder.cases if case.name not in todo]
        try:
            self._audit.write(skipped=skipped, left_out=left_out, ended=ended, measured=measured)
        except OSError as error:
            logger.warning("the record of this run cannot be written: %s", error.strerror)

    def _warn_of_one_class(self) -> None:
        if len(self.written) > 1:
            names = dict(enumerate(self.description.classes))  # postprocessing may give further values
            every = sorted({*names, *self.pixels})
            warn_of_one_class([self.pixels[index] for index in every], [names.get(i, str(i)) for i in every])

    def _doubt(self, case: Case, said: Sequence[str], notes: str = "") -> None:
        self._doubts.add(case.name, said, notes)
        self._audit.doubt(case, self._doubts.of(case.name), notes)

    def _said(self) -> list[str]:
        return said_of(self.failures, self._asked, self.folder.left_out)

    def _raise_failures(self) -> None:
        if self.failures or self.folder.missed:
            raise FailuresError("\n".join(self._said()))
        for line in self._said():
            logger.warning("%s", line)
