"""A node's models: loaded once, each with the rules that say which series it takes."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medseg.bundle import feeding
from medseg.caller import speaking
from medseg.data.coding import read_codes
from medseg.errors import MedsegError, shown
from medseg.io.dicom_rules import read_rules
from medseg.node.config import Config, ModelRoute
from medseg.prediction.audit import RUN_RECORD
from medseg.prediction.cases import ImageFolder
from medseg.prediction.faults import FailuresError
from medseg.prediction.mask_record import Maker
from medseg.prediction.model import load
from medseg.prediction.outputs import make_sinks
from medseg.prediction.predictor import Predictor
from medseg.prediction.sinks import RunInfo

__all__ = ["LoadedModel", "PredictionError", "load_models"]

logger = logging.getLogger(__name__)


class PredictionError(MedsegError):
    """A series that a model could not do."""


class LoadedModel:
    """A model that stays loaded.

    Args:
        route: of the configuration.
        records: folder that the record of each prediction goes to.
        device: of the model; ``None`` picks.
        precision: as in `medseg.prediction.model.load`.

    Raises:
        MedsegError: if the model cannot be loaded, or has no code for one of its classes.
    """

    def __init__(self, route: ModelRoute, records: Path, device: str | None, precision: str) -> None:
        self.name, self.rules = route.name, read_rules(route.rules)
        self._route, self._records = route, records
        self._model = load(route.model, device=device, precision=precision, signed_by=route.signed_by)
        self._description = self._model.description
        if route.codes is not None:
            codes = {**self._description.codes, **read_codes(route.codes, self._description.classes)}
            self._description = replace(self._description, codes=codes)
        networks = zip(self._model.networks, self._model.hashes, strict=True)
        makers = [Maker.of(network, self._description, known) for network, known in networks]
        said = [makers, self._model.temperatures, self._description.to_dict(), self.rules]
        self.state = hashlib.sha256(repr(said).encode()).hexdigest()
        for sink in make_sinks(route.outputs):  # classes without codes are refused before the first study
            sink.open(RunInfo(records, self._description, []))
            sink.close()

    def predict(self, series: Path, output: Path) -> Sequence[Path]:
        """Predict a series.

        Args:
            series: folder of its files.
            output: folder for the results.

        Returns:
            The DICOM files of them.

        Raises:
            MedsegError: if it cannot be done.
        """
        model, description = self._model, self._description
        predictor = Predictor(
            model.device,
            ImageFolder(series, description, output, rules=self.rules),
            model.networks,
            feeding.inferer(description),
            None,
            description=description,
            hashes=model.hashes,
            temperatures=model.temperatures,
            num_workers=1,
            precision=model.precision,
            sinks=make_sinks(self._route.outputs),
            options={"node": self.name, "outputs": list(self._route.outputs)},
            progress=_silent,
        )
        try:
            predictor.run()
        except FailuresError:
            if not predictor.failures:
                raise
            raise PredictionError(predictor.failures[0][1]) from None
        finally:
            self._keep_records(output)
        for mask in predictor.written:
            mask.unlink(missing_ok=True)
        return sorted(output.glob("*.dcm"))

    def _keep_records(self, output: Path) -> None:
        """Move the records of a prediction to where they stay when its files are deleted."""
        for path in output.glob(RUN_RECORD):
            os.replace(path, self._records / f"{output.parts[-4]:0>8}_{self.name}_{output.name[:8]}_{path.name}")


def _silent(_done: int, _all: int) -> None:
    pass


def load_models(config: Config, records: Path) -> list[LoadedModel]:
    """Load all models of a node.

    Args:
        config: of the node.
        records: folder for records.

    Raises:
        MedsegError: if one cannot be loaded.
    """
    loaded = []
    for route in config.models:
        try:
            with speaking({"codes": "codes:"}, ()):  # as the configuration names it
                loaded.append(LoadedModel(route, records, config.device, config.precision))
        except MedsegError as error:
            raise MedsegError(f"model {shown(route.name)}: {error}") from error
    return loaded
