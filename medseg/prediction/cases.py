"""The cases of a prediction: one image, a folder, a datalist, DICOM series wherever they lie; and where masks go."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.bundle.description import Description
from medseg.data.datalist import Datalist
from medseg.errors import MedsegError, shown
from medseg.io.channels import paths_of
from medseg.io.dicom_heads import PLACED, SUFFIXES, is_dicom, is_picture, read_head
from medseg.io.dicom_rules import Rule
from medseg.io.folder import LeftOut, Listing, list_images, mask_targets, with_channels
from medseg.io.images import image_suffix
from medseg.prediction.dicom_cases import Found, picture_case, series_cases, whole_series
from medseg.prediction.sinks import Case

__all__ = ["ImageFolder", "InputError", "is_case_blind", "refuse_shared"]

_DATALIST = ".json"
_TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".yaml", ".yml", ".xml", ".html", ".log", ".pdf", ".geojson", ".rst")
_TEXT_NAMES = ("license", "licence", "readme", "copying", "notice", "authors")


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
        rules: which DICOM series of a folder the model takes, see `medseg.io.dicom_rules`; the others are left out.
        only: names of the cases that are taken; all by default.

    Raises:
        DatalistError: if a datalist is not sound.
        InputError: if the folder is missing or holds no image, two images would share one mask, or no DICOM series is
            taken, or a name in ``only`` is that of no case.
    """

    def __init__(
        self,
        folder: str | Path,
        description: Description,
        output_dir: str | Path,
        *,
        overwrite: bool = False,
        rules: Sequence[Rule] | None = None,
        only: Sequence[str] | None = None,
    ) -> None:
        self.output_dir, self.overwrite = Path(output_dir), overwrite
        listing = _listed(Path(folder), self.output_dir, int(description.network.get("in_channels") or 1))
        self.folder = listing.folder
        if self.output_dir.resolve() == self.folder.resolve():
            raise InputError(f"output_dir {output_dir} is the folder of the images; masks would replace them")
        if not listing.images:
            raise InputError(f"{folder} holds no image that can be read; {listing.describe() or 'it is empty'}")
        found = []
        for image, target in mask_targets(listing, output_dir).items():
            case = Case(_name(image, listing), listing.channels.get(image, (image,)), target)
            found.append(series_cases(case, rules) if image.is_dir() else Found([_of_file(case)]))
        self.cases, beside = whole_series(found)
        left_out = [*listing.left_out, *beside]
        self.left_out = [(each.path.relative_to(listing.folder), each.reason) for each in left_out]
        self.missed = [each.path for each in left_out if not _no_image(each)]
        if only is not None:
            names = {case.name for case in self.cases}
            if unknown := [name for name in only if name not in names]:
                raise InputError(
                    f"{shown(folder)} holds no case {shown(unknown[0])}, which --cases names; such as "
                    f"{shown(min(names, default=''))} is there"
                )
            self.cases = [case for case in self.cases if case.name in set(only)]
        if not self.cases:
            first, reason = self.left_out[0]
            raise InputError(f"{folder} holds no DICOM series that is taken; {shown(first)}: {shown(reason)}")

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.cases)

    def __getitem__(self, index: int) -> Case:
        """Return a case."""
        return self.cases[index]


def _of_file(case: Case) -> Case:
    """Return the case of one file: of a DICOM file without a place in a patient, of a picture."""
    if len(case.files) > 1 or image_suffix(case.image) not in ("", *SUFFIXES) or not is_dicom(case.image):
        return case
    with contextlib.suppress(MedsegError):  # the reader says what is wrong
        head = read_head(case.image, PLACED)
        return picture_case(case) if is_picture(head) else case
    return case


def refuse_shared(files: Mapping[str, Sequence[Path]], folder: Path) -> None:
    """Refuse cases that would write one file, such as ``a.png`` and ``a.tif`` with outlines in ``a.geojson``.

    Where the folder's file system does not tell capitals from small letters, names that are equal but for them are one.

    Args:
        files: that each case writes, by its name.
        folder: of all outputs.

    Raises:
        InputError: naming two cases and the file.
    """
    blind = is_case_blind(folder)
    taken: dict[str, str] = {}
    for name, own in files.items():
        for file in own:
            place = unicodedata.normalize("NFC", str(file)).casefold() if blind else str(file)
            first = taken.setdefault(place, name)
            if first != name:
                alike = " (the folder does not tell capitals from small letters)" if blind else ""
                raise InputError(f"{shown(first)} and {shown(name)} would both write {file}{alike}; rename one")


def is_case_blind(folder: Path) -> bool:
    """Return whether a folder, or the nearest one that is there, takes ``A`` and ``a`` for one name."""
    absolute = folder.absolute()
    for path in (absolute, *absolute.parents):
        if path.name != path.name.swapcase() and os.path.exists(path):
            other = path.with_name(path.name.swapcase())
            return os.path.exists(other) and os.path.samefile(path, other)
    return False


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


def _no_image(left_out: LeftOut) -> bool:
    """Return whether nobody would take something for an image: hidden, medseg's own, or text beside the images."""
    path = left_out.path
    text = path.suffix.lower() in _TEXTS or path.name.lower() in _TEXT_NAMES
    return left_out.ours or path.name.startswith(".") or text
