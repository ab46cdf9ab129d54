"""The cases of a prediction: one image, a folder, a datalist, DICOM series wherever they lie; and where masks go."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from medseg.bundle.description import Description
from medseg.data.datalist import Datalist
from medseg.errors import MedsegError
from medseg.io import dicom
from medseg.io.channels import paths_of
from medseg.io.folder import LeftOut, Listing, list_images, mask_targets, with_channels
from medseg.prediction.sinks import Case

__all__ = ["ImageFolder", "InputError"]

_DATALIST = ".json"
_DIGITS = 8  # of the hash that stands for a series' UID in names
_TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".yaml", ".yml", ".xml", ".html", ".log", ".pdf", ".geojson")


class InputError(MedsegError):
    """Images that cannot be predicted as asked."""


class ImageFolder:
    """The images of a folder and its subfolders, of a datalist, or one image; each is a case.

    Where the network takes several channels, files ``case_0000``, ``case_0001`` ... are the channels of one image.
    A folder of DICOM files is a case for each series in it; of several, names end in a hash of the series' UID.

    Args:
        folder: of images; one image; or a datalist, of whose three lists every image is taken.
        description: the model, which says how many channels there are.
        output_dir: where the masks go.
        overwrite: whether images whose outputs are there are done again, whatever made them.

    Raises:
        DatalistError: if a datalist is not sound.
        InputError: if the folder is missing or holds no image, or two images would share one mask.
    """

    def __init__(
        self, folder: str | Path, description: Description, output_dir: str | Path, *, overwrite: bool = False
    ) -> None:
        self.output_dir, self.overwrite = Path(output_dir), overwrite
        listing = _listed(Path(folder), self.output_dir, int(description.network.get("in_channels") or 1))
        self.folder = listing.folder
        self.left_out = [(each.path.relative_to(listing.folder), each.reason) for each in listing.left_out]
        self.missed = [each.path for each in listing.left_out if not _no_image(each)]
        if self.output_dir.resolve() == self.folder.resolve():
            raise InputError(f"output_dir {output_dir} is the folder of the images; masks would replace them")
        if not listing.images:
            raise InputError(f"{folder} holds no image that can be read; {listing.describe() or 'it is empty'}")
        self.cases = [
            case
            for image, target in mask_targets(listing, output_dir).items()
            for case in _series(Case(_name(image, listing), listing.channels.get(image, (image,)), target))
        ]

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:
        """Return a case."""
        return self.cases[index]


def _listed(source: Path, output: Path, channels: int) -> Listing:
    if source.suffix.lower() != _DATALIST or not source.is_file():
        return with_channels(list_images(source, leave=[output]), channels)
    data = Datalist.load(source)
    named = [tuple(paths_of(data.absolute(entry)["image"])) for _, entry in data.entries()]
    unique = {files[0]: files for files in named}
    folder = Path(os.path.commonpath([data.root, *(files[0].parent for files in named)]))
    several = {first: files for first, files in unique.items() if len(files) > 1}
    return Listing(folder, tuple(sorted(unique)), channels=several)


def _name(image: Path, listing: Listing) -> str:
    return image.name if image == listing.folder else image.relative_to(listing.folder).as_posix()


def _series(case: Case) -> Iterator[Case]:
    """Yield a case for each series of a folder of DICOM files; any other case as it is."""
    firsts = _first_files(case.image) if case.image.is_dir() else {}
    if len(firsts) < 2:
        yield case
        return
    for uid, file in sorted(firsts.items(), key=lambda found: found[1]):
        short = hashlib.sha256(uid.encode()).hexdigest()[:_DIGITS]
        target = case.beside(f"_{short}.nii.gz")
        yield replace(case, name=f"{case.name}_{short}", files=(file,), target=target)


def _first_files(folder: Path) -> dict[str, Path]:
    """Return a file of each series in a folder by the series' UID; nothing where a file is damaged: its reader says."""
    import pydicom

    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if not file.name.startswith(".") and dicom.is_dicom(file):
            try:
                head = pydicom.dcmread(file, specific_tags=["SeriesInstanceUID", "Rows", "Modality"])
            except Exception:  # pydicom raises nearly every type on damaged bytes
                return {}
            if "Rows" in head and head.get("Modality") not in ("SEG", "RTDOSE"):
                found.setdefault(str(head.get("SeriesInstanceUID", "")), file)
    return found


def _no_image(left_out: LeftOut) -> bool:
    """Return whether nobody would take something for an image: hidden, medseg's own, or text beside the images."""
    return left_out.ours or left_out.path.name.startswith(".") or left_out.path.suffix.lower() in _TEXTS
