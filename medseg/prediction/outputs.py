"""The outputs that a prediction can have beside its mask, a row each; none is imported before it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.errors import MedsegError

if TYPE_CHECKING:
    from medseg.prediction.sinks import Sink

__all__ = ["OUTPUTS", "Output", "make_sinks", "name_of"]


@dataclass(frozen=True)
class Output:
    """A kind of output.

    Args:
        place: module and class.
        about: help, a line.
    """

    place: str
    about: str


OUTPUTS = {
    "probabilities": Output("probabilities.Probabilities", "the probability of every class: 4D NIfTI, TIFF of pages"),
    "uncertainty": Output("uncertainty.Uncertainty", "a map of the entropy, and a number a case in uncertainty.csv"),
    "geojson": Output("geojson.Geojson", "outlines of pictures for QuPath"),
    "test-server": Output("server_masks.ServerMasks", "masks as the test servers of VOC, Cityscapes, ADE20K take them"),
    "measurements": Output(
        "measurements.Measurements", "volume, area, mean and longest diameter by class and part: measurements.csv"
    ),
    "dicom-seg": Output("dicom_sinks.DicomSeg", "of DICOM series: a DICOM segmentation"),
    "dicom-labelmap": Output("dicom_sinks.LabelmapSeg", "a DICOM label map segmentation, which few programs read yet"),
    "dicom-fractional": Output("dicom_sinks.FractionalSeg", "a DICOM segmentation of the probabilities"),
    "dicom-sr": Output("dicom_sinks.Measured", "measurements as a DICOM report (TID 1500), and its segmentation"),
    "rtstruct": Output("dicom_sinks.Structures", "outlines as a DICOM structure set"),
}
"""By the option that asks for it."""


def make_sinks(names: Iterable[str]) -> list[Sink]:
    """Return a sink for each name.

    Raises:
        MedsegError: if there is no such output.
    """
    sinks = []
    for name in dict.fromkeys(names):
        if name not in OUTPUTS:
            raise MedsegError(f"there is no output {name!r}; choose of {', '.join(OUTPUTS)}")
        module, _, kind = OUTPUTS[name].place.partition(".")
        sinks.append(getattr(importlib.import_module(f"medseg.prediction.{module}"), kind)())
    return sinks


def name_of(sink: Sink) -> str:
    """Return what an output is asked for by; of one that is none of these, its class's name."""
    kind = type(sink)
    place = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    return next((name for name, output in OUTPUTS.items() if output.place == place), kind.__name__)
