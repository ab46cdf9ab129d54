"""One run in an MLflow store; every method raises where the store refuses.

Only MLflow's client is used: its fluent functions keep a process-wide active run, into which the next training would
merge, and record user name, git remote and system metrics that nobody asked for.
"""

from __future__ import annotations

import json
import logging
import math
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.runs.mlflow_store import artifact_path, how_to_look, open_database, resolve_store
from medseg.runs.privacy import scrub
from medseg.runs.provenance import git_state
from medseg.runs.run_folder import CONFIG, FILES, RunFolder, config_of, to_plain

if TYPE_CHECKING:
    from torch import nn

logger = logging.getLogger(__name__)

RECORD = "mlflow_run.json"
_BEGUN, _START = ".mlflow_begun.json", "medseg.start"  # note of a run without a record yet, and the tag it has
_MAX_METRICS, _MAX_PARAMS, _MAX_KEY = 1000, 100, 250  # limits of one MLflow request, and of a name
_MAX_VALUE, _MAX_DIGEST = 500, 36  # characters of a parameter, of a data set's digest
_TEXT = {".yaml", ".json", ".jsonl", ".md", ".csv", ".txt", ".log", ".html"}


class MLflowRun:
    """A run in MLflow, new or continued.

    Args:
        tracking_uri: as in `resolve_store`.
        experiment: name; made if missing.
        run_name: wanted name; a number is added where the experiment has it already.
        folder: of the run. ``mlflow_run.json`` in it names the MLflow run to continue.
        store: folder for the embedded database.

        resume: whether to continue it; otherwise the run is a new one in any case.
        parent: id of the MLflow run that this one belongs to, in the same store.

    Raises:
        ImportError: if MLflow is not installed.
        ValueError: if the URI is no MLflow store.
        Exception: whatever MLflow, the database or the network raise.
    """

    def __init__(
        self,
        tracking_uri: str | None,
        experiment: str,
        run_name: str,
        folder: str | Path,
        store: str | Path,
        *,
        resume: bool = True,
        parent: str | None = None,
    ) -> None:
        self.uri, self._artifacts = resolve_store(tracking_uri, Path(store))
        self._files = RunFolder(folder)
        open_database(self.uri)
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self.uri)
        run = self._unrecorded()
        if run is None and resume:
            run = self._held()
        self.continued = run is not None
        run = self._made(scrub(experiment), scrub(run_name), parent) if run is None else self._running(run)
        self.run_id: str = run.info.run_id
        self.name: str = run.info.run_name
        self.experiment_id: str = run.info.experiment_id
        self._place = artifact_path(self.uri, run.info.artifact_uri)
        self._params: dict[str, str] = dict(run.data.params)
        names = {"run_id": self.run_id, "run_name": self.name, "experiment": experiment}
        self._files.write_json(RECORD, {**names, "tracking_uri": self.uri, "look": how_to_look(self.uri)})
        (self._files.path / _BEGUN).unlink(missing_ok=True)

    def _made(self, experiment: str, run_name: str, parent: str | None) -> Any:
        """Return a new run; until its record is written, a note in the folder says by which tag it is found again."""
        owner = None if parent is None else self._parent(parent)
        identity = self._experiment(experiment) if owner is None else owner.info.experiment_id
        tags = _tags() if owner is None else {**_tags(), "mlflow.parentRunId": owner.info.run_id}
        start = uuid.uuid4().hex
        self._files.write_json(_BEGUN, {"start": start, "experiment_id": identity})
        return self._client.create_run(
            identity, run_name=self._free_name(identity, run_name), tags={**tags, _START: start}
        )

    def _unrecorded(self) -> Any:
        """Return the run that a start made which was killed, or got no answer, before it wrote its record."""
        path = self._files.path / _BEGUN
        if not path.is_file():
            return None
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
            start, identity = str(begun["start"]), str(begun["experiment_id"])
        except (ValueError, LookupError, TypeError):
            return None  # damaged: as if nothing had been made
        found = self._client.search_runs([identity], f"tags.`{_START}` = '{start}'")
        return found[0] if found else None

    def _running(self, run: Any) -> Any:
        self._client.update_run(run.info.run_id, status="RUNNING")
        return run

    def _held(self) -> Any:
        """Return the MLflow run of an earlier start of this run, or ``None``."""
        record = self._files.path / RECORD
        if not record.is_file():
            return None
        try:
            run_id = str(json.loads(record.read_text(encoding="utf-8"))["run_id"])
        except (ValueError, LookupError, TypeError):
            logger.warning("%s: is damaged and names no MLflow run; a new one is made", record)
            return None
        run = self._known(run_id)
        if run is None:
            logger.info("MLflow has no run %s (any more); a new one is made", run_id)
        return run

    def _parent(self, run_id: str) -> Any:
        run = self._known(run_id)
        if run is None:
            logger.info("the training's MLflow run %s is not in this store; the new run stands alone", run_id)
        return run

    def _known(self, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._artifact_folder(name)))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another run may have made it just now
                    raise
                found = self._client.get_experiment_by_name(name)
        elif self._artifacts is not None and not found.artifact_location.startswith(self._artifacts):
            logger.warning(
                "MLflow experiment %r keeps its files in %s, not beside its database; choose another experiment name "
                "to have them beside it",
                name,
                found.artifact_location,
            )
        return str(found.experiment_id)

    def _artifact_folder(self, experiment: str) -> str | None:
        if self._artifacts is None:
            return None
        return f"{self._artifacts}/{re.sub(r'[^A-Za-z0-9._-]', '_', experiment)}"

    def _free_name(self, experiment_id: str, name: str) -> str:
        name = re.sub(r"[\"'`%]", "_", name)
        found = self._client.search_runs([experiment_id], f"attributes.run_name LIKE '{name}%'")
        taken = {run.info.run_name for run in found}
        number, free = 1, name
        while free in taken:
            number += 1
            free = f"{name}-{number}"
        return free

    def log_params(self, config: Mapping[str, Any]) -> None:
        """Log the scalars of a configuration under dotted keys, and ``config.yaml`` whole.

        MLflow's parameters cannot change. Where a continued run has other values, they become tags ``resumed.<key>``.
        """
        from mlflow.entities import Param

        values = flatten(config)
        changed = {key: value for key, value in values.items() if self._params.get(key, value) != value}
        params = [Param(key, value) for key, value in values.items() if key not in self._params]
        for part in _parts(params, _MAX_PARAMS):
            self._client.log_batch(self.run_id, params=part)
        self._set_tags({f"resumed.{key}": value for key, value in changed.items()})
        self._params = values | self._params
        if (self._files.path / CONFIG).is_file():
            self.log_artifact(self._files.path / CONFIG)

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags ``medseg.<name>``; empty ones are left out."""
        self._set_tags({f"medseg.{name}": scrub(value) for name, value in tags.items() if value})

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag
        from mlflow.utils.validation import MAX_TAG_VAL_LENGTH

        each = [RunTag(clean_key(name), value[:MAX_TAG_VAL_LENGTH]) for name, value in tags.items()]
        for part in _parts(each, _MAX_PARAMS):
            self._client.log_batch(self.run_id, tags=part)

    def log_dataset(self, name: str, fingerprint: str, images: int) -> None:
        """Log a data set as input of the run.

        Args:
            name: of the data set.
            fingerprint: of its files; MLflow's digest is its beginning, the whole of it stands in the profile.
            images: how many it has.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name = scrub(name)
        dataset = Dataset(
            name,
            fingerprint[:_MAX_DIGEST],
            "medseg",
            json.dumps({"datalist": name}),
            profile=json.dumps({"images": images, "fingerprint": fingerprint}),
        )
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    def log_metrics(self, values: Mapping[str, float], step: int, seconds: float) -> None:
        """Log the finite values of one epoch.

        Args:
            values: by name.
            step: epoch.
            seconds: when, since 1970.
        """
        from mlflow.entities import Metric

        stamp = round(seconds * 1000)
        finite = {clean_key(key): float(value) for key, value in values.items() if math.isfinite(value)}
        for part in _parts([Metric(key, value, stamp, step) for key, value in finite.items()], _MAX_METRICS):
            self._client.log_batch(self.run_id, metrics=part)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts, into ``folder`` there; text is scrubbed of names."""
        place = None if folder in (None, "", ".") else folder
        text = path.read_text(encoding="utf-8") if path.suffix in _TEXT else ""
        clean = scrub_lines(text)
        if clean == text:
            self._store_file(path, place)
            return
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / path.name
            copy.write_text(clean, encoding="utf-8")
            self._store_file(copy, place)

    def _store_file(self, path: Path, folder: str | None) -> None:
        if self._place is None:
            self._client.log_artifact(self.run_id, str(path), folder)
            return
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        LocalArtifactRepository(str(self._place)).log_artifact(str(path), folder)

    def log_folder(self) -> None:
        """Copy every file of the run folder that is worth keeping into the artifacts."""
        for path in artifact_files(self._files.path):
            self.log_artifact(path, path.parent.relative_to(self._files.path).as_posix())

    def replay_metrics(self) -> None:
        """Log the epochs that the run folder holds and MLflow does not."""
        rows = self._files.read_metrics()
        known: dict[str, set[int]] = {}
        for key in {key for row in rows for key in row} - {"epoch", "time"}:
            history = self._client.get_metric_history(self.run_id, clean_key(key)) if self.continued else []
            known[key] = {point.step for point in history}
        for row in rows:
            epoch = int(row["epoch"])
            values = {key: value for key, value in row.items() if key in known and epoch not in known[key]}
            self.log_metrics(values, epoch, row["time"])

    def replay(self) -> None:
        """Log what the run folder holds and MLflow does not: parameters, metrics and every file."""
        self.log_params(recorded_params(self._files.path))
        self.replay_metrics()
        self.log_folder()

    def register(self, name: str, network: nn.Module, image_shape: Sequence[int]) -> str:
        """Log the network as a model with its signature, and register it; returns the version.

        Args:
            name: of the registered model.
            network: to keep.
            image_shape: ``(C, *S)`` of an image that it takes.
        """
        from medseg.runs.mlflow_model import save_model

        model = self._client.create_logged_model(
            self.experiment_id, name=re.sub(r"[/:.%\"']", "_", name), source_run_id=self.run_id
        )
        state = "FAILED"
        try:
            with tempfile.TemporaryDirectory() as scratch:
                save_model(network, image_shape, Path(scratch) / "model")
                self._store_model(model, Path(scratch) / "model")
            state = "READY"
        finally:
            self._client.finalize_logged_model(model.model_id, state)
        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name)
        version = self._client.create_model_version(
            name, model.artifact_location, run_id=self.run_id, model_id=model.model_id
        )
        return str(version.version)

    def _store_model(self, model: Any, folder: Path) -> None:
        place = artifact_path(self.uri, model.artifact_location)
        if place is None:
            self._client.log_model_artifacts(model.model_id, str(folder))
            return
        from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

        LocalArtifactRepository(str(place)).log_artifacts(str(folder))

    def finish(self, status: str) -> None:
        """End the run with ``status``."""
        self._client.set_terminated(self.run_id, status)


def recorded_params(folder: Path) -> dict[str, Any]:
    """Return the configuration of a run folder, with ``data`` and ``environment`` where it has them."""
    params = config_of(folder)
    for name in ("data", "environment"):
        if (folder / f"{name}.json").is_file():
            params[name] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return params


def artifact_files(folder: Path) -> list[Path]:
    """Return the files worth keeping: all but hidden ones, what a resumed run needs and MLflow's own record."""
    left_out = {"last.pt", FILES, RECORD}
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name not in left_out)
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested mappings to dotted keys that MLflow accepts.

    Scalars and short lists of them are kept, scrubbed; expressions, lists of anything else and what is too long for a
    parameter are left to ``config.yaml``.
    """
    flat: dict[str, str] = {}
    for key, value in to_plain(config).items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= flatten(value, f"{name}.")
            continue
        if isinstance(value, list):
            if any(isinstance(item, list | dict) or _is_expression(item) for item in value):
                continue
            value = [scrub(item) if isinstance(item, str) else item for item in value]
        text = scrub(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if not _is_expression(value) and len(text) <= _MAX_VALUE:
            flat[clean_key(name)] = text
    return flat


def _is_expression(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("$", "@", "%"))


def scrub_lines(text: str) -> str:
    """Scrub a text file line by line."""
    return "".join(scrub(line) if line.strip() else line for line in text.splitlines(keepends=True))


def clean_key(key: str) -> str:
    """Replace what MLflow refuses in the name of a parameter or metric."""
    parts = [part for part in re.sub(r"[^\w./ -]", "_", key).split("/") if part not in {"", ".", ".."}]
    return "/".join(parts)[:_MAX_KEY] or "_"


def _tags() -> dict[str, str]:
    state = git_state(Path(__file__).parents[1])
    tags = {"mlflow.user": "medseg", "mlflow.source.name": "medseg", "mlflow.source.type": "LOCAL"}
    return tags if state is None else {**tags, "mlflow.source.git.commit": state["commit"]}


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
