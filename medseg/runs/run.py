"""The record of a training run: one folder that holds everything, and MLflow that holds the same."""

from __future__ import annotations

import json
import logging
import shlex
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medseg.atomic import remove_leftovers
from medseg.caller import spelt
from medseg.data.datalist import Datalist
from medseg.errors import counted
from medseg.metrics.score_board import slugs
from medseg.reports.palette import Named, class_colours
from medseg.runs import provenance
from medseg.runs.checkpoint import load_checkpoint, network_weights, save_checkpoint
from medseg.runs.header import write_header
from medseg.runs.identity import changed_files, differences, file_record, identify
from medseg.runs.lock import FolderLock
from medseg.runs.paths import resolve_path
from medseg.runs.processes import by_the_first, rank
from medseg.runs.report import Result, write_report
from medseg.runs.run_folder import FILES, LAST, MODEL, RunError, refuse_taken, to_plain
from medseg.runs.tracking import MLflowTracker, RunFolder, first_line

logger = logging.getLogger(__name__)

_OF_MODEL = ("network", "input")  # of what makes a run, nothing of its data
_ANY_TIME = {
    "bundle_root", "dataset_dir", "datalist", "max_epochs", "max_minutes", "val_interval", "num_workers", "device",
    "resume", "runs_dir", "run_name", "output_dir", "publish", "mlflow", "tracking_uri", "experiment", "register",
    "hide_names", "planned_for",
}  # fmt: skip
"""Keys of a configuration by which a run learns nothing else: they may change while it goes on."""

_DEAD = 3600.0  # seconds without a write after which a temporary file is a dead process's


class Run:
    """Folder and tracking of one training.

    The folder holds ``config.yaml``, ``environment.json``, ``data.json`` (fingerprint, labels, split),
    ``metrics.jsonl``, ``curves.png``, ``checkpoints/{last,best}.pt`` and ``checkpoints/files.json`` (tells which file
    of the data has changed), ``model.pt`` (weights alone, with a header) and ``report/`` (tables, confusion matrix,
    overlays); where a training measured on which device to augment, ``augmentation.json``. While the run goes on it is
    locked.

    Args:
        folder: of this run; see `resolve_path`.
        config: returns the resolved configuration, asked when the run opens.
        datalist: whose fingerprint is recorded.
        split: numbers of the fold scheme, for the record.
        fed: how images are brought to the network's input; a run goes on only as it began.
        publish: file that gets the run's weights at the end (the bundle's ``models/model.pt``); ``None`` or ``False``
            for none.
        header: plain data for the header of the weights, such as the description of the model. Run name, commit,
            versions, fingerprint and hash are added.
        tracking: whether MLflow is told.
        tracking_uri: of an MLflow server; by default a database file beside the runs.
        experiment: name of the MLflow experiment.
        command: words of the command that started the run, for MLflow.
        overlays: names of the overlays that were chosen, for MLflow.
        register_name: name under which the finished model is registered in MLflow, with its signature; ``None``: it is
            not.
        colours: that classes name, by index, for the pictures.
    """

    def __init__(
        self,
        folder: str | Path | int,
        *,
        config: Callable[[], dict[str, Any]] = dict,
        datalist: Datalist | None = None,
        split: Mapping[str, Any] | None = None,
        fed: Mapping[str, Any] | None = None,
        publish: str | Path | bool | None = None,
        header: Mapping[str, Any] | Callable[[], Mapping[str, Any]] | None = None,
        tracking: bool = True,
        tracking_uri: str | None = None,
        experiment: str = "medseg",
        command: Sequence[str] = (),
        overlays: Sequence[str] = (),
        register_name: str | None = None,
        colours: Named | None = None,
    ) -> None:
        self.folder = resolve_path(folder, "output_dir")
        self.name = self.folder.name
        self.publish = resolve_path(publish, "publish") if isinstance(publish, str | Path) else None
        self._config = config
        self._datalist = datalist
        self._split = dict(split or {})
        self._fed = fed
        self._header = header or {}
        self._tracking = (tracking, tracking_uri, experiment)
        self._tags = {"command": shlex.join(command), "overlays": " ".join(overlays)}
        self._register_name = register_name
        self._colours = dict(colours or {})
        self.identity: dict[str, Any] = {}
        self._lock: FolderLock | None = None
        self._files: RunFolder | None = None
        self._tracker: MLflowTracker | None = None
        self._pending: tuple[int, dict[str, float]] | None = None

    @property
    def last_checkpoint(self) -> Path:
        """The whole training state after the last completed epoch."""
        return self.folder / LAST

    @property
    def best_checkpoint(self) -> Path:
        """The weights with the best validation score."""
        return self.folder / "checkpoints" / "best.pt"

    @property
    def model(self) -> Path:
        """The weights that the run ends with."""
        return self.folder / MODEL

    @property
    def files(self) -> RunFolder:
        """The folder as files; made on first use."""
        if self._files is None:
            self._files = RunFolder(self.folder)
        return self._files

    def open(self, *, resume: bool, network: nn.Module | None = None) -> dict[str, Any] | None:
        """Lock the folder and return the training state to continue from, if there is one; nothing is written yet.

        Args:
            resume: whether to continue what the folder holds.
            network: to train. Its ``recipe``, where it has one, is compared with the recorded one, as are data, labels
                and split.

        Raises:
            LockedError: if another process works in the folder.
            RunError: if the folder holds a run already and ``resume`` is false, or another run than this.
        """
        held: list[dict[str, Any] | None] = []

        def claim() -> tuple[dict[str, Any], bool]:
            held.append(self._claim(resume, network))
            return self.identity, held[0] is not None

        self.identity, goes_on = by_the_first(claim)
        if rank() == 0:
            return held[0]
        if goes_on and not self.last_checkpoint.is_file():
            raise RunError(
                f"process {rank()} does not see {self.last_checkpoint}, from which the first one goes on; give all "
                f"machines one folder with {spelt('output_dir')}"
            )
        return load_checkpoint(self.last_checkpoint) if goes_on else None

    def _claim(self, resume: bool, network: nn.Module | None) -> dict[str, Any] | None:
        self.identity = identify(self._datalist, self._split, network, self._fed)
        lock = FolderLock(self.files.path)
        lock.acquire()
        try:
            state = self._held_state(resume)
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        self._resumed = resume
        return state

    def _held_state(self, resume: bool) -> dict[str, Any] | None:
        held = self.last_checkpoint.is_file()
        if not resume:
            refuse_taken(self.folder)
        if not held and self.model.is_file():
            raise RunError(
                f"{self.folder} holds a finished model.pt, but no checkpoints/last.pt to continue from; choose another "
                f"{spelt('output_dir')}"
            )
        if not held:
            return None
        state = load_checkpoint(self.last_checkpoint)
        if "identity" not in state:
            raise RunError(
                f"{self.last_checkpoint} was not written by this version of medseg and cannot be continued; start "
                f"a new run with another {spelt('output_dir')}"
            )
        if different := self._differences(state["identity"]):
            raise RunError(
                f"{self.folder} cannot be continued: {'; '.join(different)}. Give what the run began with, or start a "
                f"new one with another {spelt('output_dir')}"
            )
        return state

    def _differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """Return what makes another run of this one, the files that have changed by their names."""
        if self._datalist is None or recorded.get("fingerprint") == self.identity["fingerprint"]:
            return differences(recorded, self.identity)
        path = self.last_checkpoint.with_name(FILES)
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        before, now = ({k: v for k, v in each.items() if k != "fingerprint"} for each in (recorded, self.identity))
        return [*changed_files(held, self._datalist), *differences(before, now)]

    def begin(self, epoch: int) -> None:
        """Begin or continue the records, once it is clear that the training can start; on the first process alone.

        Args:
            epoch: the last completed one; 0 for a new run.
        """
        if rank() != 0:
            return
        if removed := remove_leftovers(self.folder):
            number = counted(removed, "unfinished file")
            logger.info("%s: removed %s of a process that was killed", self.name, number)
        if epoch == 0:  # what a run that was killed in its first epoch left
            if self._resumed:
                logger.warning("%s holds no completed epoch; starting from the beginning", self.name)
            self.best_checkpoint.unlink(missing_ok=True)
        config = self._config()
        if epoch:
            self._say_changes(config, epoch)
        self._environment = provenance.collect()
        self.files.write_config(config)
        self.files.write_json("environment.json", self._environment)
        self.files.truncate_metrics(epoch)
        data: dict[str, Any] = {key: value for key, value in self.identity.items() if key not in _OF_MODEL}
        if self._datalist is not None:
            data |= {"name": self._datalist.name, "modality": list(self._datalist.modality)}
            data |= {"fold": self._datalist.fold_on_record(data["fold"])} if "fold" in data else {}
            self.files.write_json(f"checkpoints/{FILES}", file_record(self._datalist))
        self.files.write_json("data.json", data)
        enabled, uri, experiment = self._tracking
        if not enabled:
            return
        self._tracker = MLflowTracker(uri, experiment, self.name, self.folder, resume=self._resumed)
        self._tracker.start()
        self._tracker.log_params({**config, "data": data, "environment": self._environment})
        self._tracker.log_tags(self._tags)
        if self._datalist is not None:
            self._tracker.log_dataset(self._datalist.name, str(data["fingerprint"]), len(self._datalist.training))

    def _say_changes(self, config: Mapping[str, Any], epoch: int) -> None:
        """Warn of what the configuration has otherwise from now on, and keep what it was."""
        before, now = (
            {key: value for key, value in each.items() if key not in _ANY_TIME}
            for each in (self.files.config_before(), to_plain(config))
        )
        if not before or not (changed := differences(before, now)):
            return
        kept = self.files.keep_config(epoch)
        said = "; ".join(changed)
        logger.warning("%s goes on otherwise from epoch %d: %s (before: %s)", self.name, epoch + 1, said, kept.name)

    def headed(self, weights: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
        """Return the weights with the header of this run."""
        found = {
            "run": self.name,
            "commit": (self._environment["git"] or {}).get("commit"),
            "packages": self._environment["packages"],
            "fingerprint": self.identity.get("fingerprint"),
        }
        if callable(self._header):
            self._header = self._header()
        return write_header(weights, {**self._header, **found})

    def record_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Append the epoch's values to ``metrics.jsonl``."""
        self.files.append_metrics(epoch, dict(values))
        self._pending = (epoch, dict(values))

    def publish_epoch(self) -> None:
        """Tell MLflow of the epoch that was just committed."""
        if self._tracker is not None and self._pending is not None:
            epoch, values = self._pending
            self._tracker.log_metrics(values, step=epoch)
        self._pending = None

    def save_best(self, weights: Mapping[str, Tensor], best: Mapping[str, Any]) -> None:
        """Save the best weights so far and their score."""
        save_checkpoint({"format": 2, "network": self.headed(weights), "best": dict(best)}, self.best_checkpoint)

    def weights_to_use(self) -> tuple[OrderedDict[str, Tensor], str]:
        """Return the weights that the training ends with (the best where there are such), and what to call them."""
        source = self.best_checkpoint if self.best_checkpoint.is_file() else self.last_checkpoint
        return network_weights(load_checkpoint(source)), f"checkpoint {source}"

    def finish_training(
        self, weights: Mapping[str, Tensor], result: Result | None, network: nn.Module, image_shape: Sequence[int]
    ) -> None:
        """Write the weights to use and the report on the validation set.

        Args:
            weights: of `weights_to_use`.
            result: of the validation with them; ``None`` where there is none.
            network: with these weights.
            image_shape: ``(C, *S)`` of an image as the network takes it, for the signature of a registered model.
        """
        self._draw_curves()
        if result is not None:
            grid = " on the model's grid" if result.table.get("grid") == "model" else ""
            title = f"{self.name}, validation{grid}"
            logger.info("%s", write_report(self.files, result, "report", title=title, colours=self._colours))
        else:
            logger.info("no validation samples: the last weights are the result; medseg evaluate scores them")
        headed = self.headed(weights)
        if self.publish is not None:
            if self.publish.is_file():
                logger.warning("%s is replaced by the weights of this run", self.publish)
            if self.publish.parent.is_dir():  # young ones may be another process's, at work just now
                remove_leftovers(self.publish.parent, self.publish.name, seconds=_DEAD)
            save_checkpoint(headed, self.publish)
        if self._tracker is not None and self._register_name is not None and image_shape:
            self._tracker.register(self._register_name, network, image_shape)
        save_checkpoint(headed, self.model)  # last: it marks the run as finished
        logger.info("weights, metrics and pictures of the run are in %s", _short(self.folder))

    def _draw_curves(self) -> None:
        from medseg.reports.curves import save_curves

        names = [] if self._datalist is None else slugs(self._datalist.class_names)
        colours = dict(zip(names, class_colours(len(names), self._colours), strict=True)) if names else None
        save_curves(self.files.read_metrics(), self.folder / "curves.png", colours=colours)

    def close(self, status: str, error: BaseException | None = None) -> None:
        """End the MLflow run and unlock the folder.

        Args:
            status: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``.
            error: what the run failed of.
        """
        try:
            if self._tracker is not None:
                if status == "FINISHED":
                    self._tracker.log_folder()
                if error is not None:
                    self._tracker.log_tags({"error": f"{type(error).__name__}: {first_line(error)}"})
                self._tracker.finish(status)
                self._tracker = None
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None


def _short(folder: Path) -> str:
    """Return the folder relative to the working directory where it lies inside it."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
