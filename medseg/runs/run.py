"""The record of a training run: one folder that holds everything, and MLflow that holds the same."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medseg.data.datalist import Datalist
from medseg.errors import MedsegError
from medseg.runs import provenance
from medseg.runs.checkpoint import load_checkpoint, network_weights, save_checkpoint
from medseg.runs.processes import rank, world_size
from medseg.runs.report import Result, write_report
from medseg.runs.tracking import MLflowTracker, RunFolder

logger = logging.getLogger(__name__)


class RunError(MedsegError):
    """A run's folder that cannot be used as asked."""


class Run:
    """Folder and tracking of one training.

    The folder holds ``config.yaml``, ``environment.json``, ``data.json`` (fingerprint and split), ``metrics.jsonl``,
    ``curves.png``, ``checkpoints/{last,best}.pt``, ``model.pt`` (weights alone) and ``report/`` (tables, confusion
    matrix, overlays).

    Args:
        folder: of this run.
        config: returns the resolved configuration, asked when the run opens.
        datalist: whose fingerprint is recorded.
        split: numbers of the fold scheme, for the record.
        publish: file that gets the run's weights at the end (the bundle's ``models/model.pt``); ``None`` or ``False``
            for none.
        tracking: whether MLflow is told.
        tracking_uri: of an MLflow server; by default a database file beside the runs.
        experiment: name of the MLflow experiment.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        config: Callable[[], dict[str, Any]] = dict,
        datalist: Datalist | None = None,
        split: Mapping[str, Any] | None = None,
        publish: str | Path | bool | None = None,
        tracking: bool = True,
        tracking_uri: str | None = None,
        experiment: str = "medseg",
    ) -> None:
        self.folder = Path(folder)
        self.name = self.folder.name
        self.publish = Path(publish) if isinstance(publish, str | Path) else None
        self._config = config
        self._datalist = datalist
        self._split = dict(split or {})
        self._tracking = (tracking, tracking_uri, experiment)
        self._files: RunFolder | None = None
        self._tracker: MLflowTracker | None = None
        self._pending: tuple[int, dict[str, float]] | None = None

    @property
    def last_checkpoint(self) -> Path:
        """The whole training state after the last completed epoch."""
        return self.folder / "checkpoints" / "last.pt"

    @property
    def best_checkpoint(self) -> Path:
        """The weights with the best validation score."""
        return self.folder / "checkpoints" / "best.pt"

    @property
    def files(self) -> RunFolder:
        """The folder as files; made on first use."""
        if self._files is None:
            self._files = RunFolder(self.folder)
        return self._files

    def open(self, *, resume: bool) -> dict[str, Any] | None:
        """Begin or continue; returns the training state to continue from, if there is one.

        Args:
            resume: whether to continue what the folder holds.

        Raises:
            RunError: if the folder holds a run already and ``resume`` is false.
        """
        held = self.last_checkpoint.is_file()
        if held and not resume:
            raise RunError(
                f"{self.folder} already holds a run; continue it with --resume {self.folder}, "
                "or choose another --output_dir"
            )
        if world_size() > 1:
            import torch.distributed as dist

            dist.barrier()
        state = load_checkpoint(self.last_checkpoint) if held else None
        if rank() == 0:
            if resume and not held:
                logger.warning("%s holds no completed epoch; starting from the beginning", self.name)
            if not held:  # left by a run that was killed in its first epoch
                self.best_checkpoint.unlink(missing_ok=True)
            self._open_records(0 if state is None else int(state["epoch"]))
        return state

    def _open_records(self, epoch: int) -> None:
        config = self._config()
        environment = provenance.collect()
        self.files.write_config(config)
        self.files.write_json("environment.json", environment)
        self.files.truncate_metrics(epoch)
        data: dict[str, Any] = dict(self._split)
        if self._datalist is not None:
            data |= {"name": self._datalist.name, "fingerprint": self._datalist.fingerprint()}
        self.files.write_json("data.json", data)
        enabled, uri, experiment = self._tracking
        if not enabled:
            return
        self._tracker = MLflowTracker(uri, experiment, self.name, self.folder)
        self._tracker.start()
        self._tracker.log_params({**config, "data": data, "environment": environment})

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
        save_checkpoint({"format": 1, "network": dict(weights), "best": dict(best)}, self.best_checkpoint)

    def weights_to_use(self) -> tuple[dict[str, Tensor], str]:
        """Return the weights that the training ends with (the best where there are such), and what to call them."""
        source = self.best_checkpoint if self.best_checkpoint.is_file() else self.last_checkpoint
        return network_weights(load_checkpoint(source)), f"checkpoint {source}"

    def finish_training(self, weights: Mapping[str, Tensor], result: Result | None) -> None:
        """Write the weights to use and the report on the validation set.

        Args:
            weights: of `weights_to_use`.
            result: of the validation with them; ``None`` where there is none.
        """
        self._draw_curves()
        if result is not None:
            write_report(self.files, result, "report", title=f"{self.name}, validation")
        else:
            logger.info("no validation samples: the last weights are the result; score them with evaluate.yaml")
        if self.publish is not None:
            save_checkpoint(weights, self.publish)
        save_checkpoint(weights, self.folder / "model.pt")  # last: it marks the run as finished
        logger.info("weights, metrics and pictures of the run are in %s", _short(self.folder))

    def _draw_curves(self) -> None:
        from medseg.reports.curves import save_curves

        save_curves(self.files.read_metrics(), self.folder / "curves.png")

    def close(self, status: str) -> None:
        """End the MLflow run.

        Args:
            status: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``.
        """
        if self._tracker is None:
            return
        if status == "FINISHED":
            for path in sorted(self.folder.rglob("*")):
                if path.is_file() and path.name != "last.pt":
                    self._tracker.log_artifact(path, str(path.parent.relative_to(self.folder)))
        self._tracker.finish(status)
        self._tracker = None


def _short(folder: Path) -> str:
    """Return the folder relative to the working directory where it lies inside it."""
    try:
        return str(folder.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
