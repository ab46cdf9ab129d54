"""The cases of a prediction: one image, a folder, a datalist, DICOM series wherever they lie; and where masks go."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle.description import Description
from medseg.bundle.record import refuse_other_channels
from medseg.data.datalist import SPLITS, Datalist, datalist_file
from medseg.data.schema import read_json
from medseg.errors import MedsegError, counted, shown
from medseg.io.channels import paths_of, standing_for
from medseg.io.dicom_heads import PLACED, SUFFIXES, is_dicom, is_picture, read_head
from medseg.io.dicom_rules import Rule
from medseg.io.folder import LeftOut, Listing, list_images, mask_targets, with_channels
from medseg.io.images import image_suffix
from medseg.prediction.dicom_cases import Found, picture_case, series_cases, whole_series
from medseg.prediction.sinks import Case

__all__ = ["ImageFolder", "InputError", "datalist_of", "is_case_blind", "names_of", "refuse_shared"]

_DATALIST = ".json"
_TEXTS = (".txt", ".md", ".csv", ".tsv", ".json", ".yaml", ".yml", ".xml", ".html", ".log", ".pdf", ".geojson", ".rst")
_TEXT_NAMES = ("license", "licence", "readme", "copying", "notice", "authors")


class InputError(MedsegError):
    """Images that cannot be predicted as asked."""


class ImageFolder:
    """The images of a folder and its subfolders, of a datalist, or one image; each is a case.

    A folder that holds a datalist stands for it, as where models are trained and scored: `told` says so. Where the
    network takes several channels, files ``case_0000``, ``case_0001`` ... are the channels of one image. A folder of
    DICOM files is a case for each series in it; of several, names end in a hash of the series' UID.

    Args:
        folder: of images; one image; or a datalist, or a folder that holds one, of whose three lists every image is
            taken.
        description: the model, which says how many channels there are.
        output_dir: where the masks go.
        overwrite: whether images whose outputs are there are done again, whatever made them.
        rules: which DICOM series of a folder the model takes, see `medseg.io.dicom_rules`; the others are left out.
        only: names of the cases that are taken; all by default.

    Raises:
        DatalistError: if a datalist is not sound.
        DescriptionError: if it names the model's channels in another order.
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
        source, self.told = Path(folder), ""
        self.datalist = datalist_of(source)
        if self.datalist is None:
            channels = int(description.network.get("in_channels") or 1)
            listing = with_channels(list_images(source, leave=[self.output_dir]), channels)
        else:
            data = Datalist.load(self.datalist)
            refuse_other_channels(f"the model {description.name} was", description, data)
            listing = _listed(data)
            self.told = _told(data, source, self.output_dir, listing)
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


def datalist_of(source: Path) -> Path | None:
    """Return the datalist that is named, or that a folder of images holds.

    A ``dataset.json`` that lists no images, such as nnU-Net's, is none.

    Args:
        source: a file, or a folder.
    """
    if source.is_file():
        return source if source.suffix.lower() == _DATALIST else None
    path = datalist_file(source)
    if not path.is_file():
        return None
    try:
        lists = bool({*SPLITS, "testing"} & read_json(path).keys())
    except MedsegError:
        lists = False
    return path if lists or path.stem == "datalist" else None


def _listed(data: Datalist) -> Listing:
    named = _stand_for(data)
    called: dict[Path, tuple[Path, ...]] = {}
    for files, image in named.items():
        if called.setdefault(image, files) != files:
            raise InputError(
                f"{shown(data.path)}: two images of several files have none that is their own, so that both would be "
                f"called {shown(image.name)}; give each a file of its own, such as a copy"
            )
    folder = Path(os.path.commonpath([data.root, *(image.parent for image in called)]))
    several = {image: files for image, files in called.items() if len(files) > 1}
    return Listing(folder, tuple(sorted(called)), channels=several)


def _stand_for(data: Datalist) -> dict[tuple[Path, ...], Path]:
    """Return the file that each image of a datalist is called by, by all its files."""
    named = [tuple(paths_of(data.absolute(entry)["image"])) for _, entry in data.entries()]
    return dict(zip(named, standing_for(named), strict=True))


def names_of(data: Datalist, entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names that cases of a datalist have in an `ImageFolder` of it.

    Args:
        data: the datalist.
        entries: of it, with absolute paths.
    """
    listing, named = _listed(data), _stand_for(data)
    return [_name(named[tuple(paths_of(entry["image"]))], listing) for entry in entries]


def _told(data: Datalist, source: Path, output: Path, listing: Listing) -> str:
    """Return in one line what of a datalist is predicted, and which images beside it are not."""
    parts = [f"{split} {number}" for split in SPLITS if (number := len(getattr(data, split)))]
    told = f"{data.path.name} lists {counted(len(listing.images), 'image')}, all are predicted: {', '.join(parts)}"
    if not source.is_dir():
        return told
    known = {os.path.realpath(data.root / name) for name in data.files()}
    around = {os.path.dirname(path) for path in known}  # a series may be named by one of its slices
    others = []
    with contextlib.suppress(MedsegError):  # a folder that cannot be walked has a datalist that can be read
        found = list_images(source, leave=[output]).images
        others = [path for path in found if not (path.is_dir() and os.path.realpath(path) in around)]
        others = [path for path in others if os.path.realpath(path) not in known]
    if not others:
        return told
    return (
        f"{told}; {counted(len(others), 'other image')} of the folder, such as {shown(others[0].relative_to(source))}, "
        "not: name them, or a folder of them"
    )


def _name(image: Path, listing: Listing) -> str:
    return image.name if image == listing.folder else image.relative_to(listing.folder).as_posix()


def _no_image(left_out: LeftOut) -> bool:
    """Return whether nobody would take something for an image: hidden, medseg's own, or text beside the images."""
    path = left_out.path
    text = path.suffix.lower() in _TEXTS or path.name.lower() in _TEXT_NAMES
    return left_out.ours or path.name.startswith(".") or text
