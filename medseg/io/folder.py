"""List the images of a folder, and name everything that is left out and why."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medseg.errors import MedsegError, near_path
from medseg.io import dicom
from medseg.io.images import SUFFIXES, image_suffix
from medseg.io.masks import mask_path
from medseg.io.parts import parts_of

__all__ = [
    *("MAPS", "MASK_RECORD", "LeftOut", "Listing", "list_images", "mask_targets", "refuse_missing", "with_channels"),
]

MASK_RECORD = "medseg_masks.json"
"""Name of the file beside masks that says what made them."""

MAPS = ("probabilities", "entropy")
"""What lies beside masks, as ``case.entropy.nii.gz`` beside ``case.nii.gz``: by no format an image or a mask."""

_RUN = {"config.yaml", "environment.json"}  # what the folder of a training or an evaluation holds from its start
_SHOWN = 10
_HEADERS = (".mhd", ".hdr")  # of images whose values lie in another file
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")  # nnU-Net's names: case_0000.nii.gz, case_0001.nii.gz


@dataclass(frozen=True)
class LeftOut:
    """Something in a folder that is not used.

    Args:
        path: inside the folder, as it is reached from there.
        reason: why, in a few words.
        ours: whether nobody misses it: a folder of masks or of a run, or what is listed under another name.
    """

    path: Path
    reason: str
    ours: bool = False


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Args:
        folder: as it was named; of a single image, the folder that it lies in.
        images: files, and folders of DICOM slices, sorted, below `folder`; links are not resolved.
        left_out: everything else, sorted.
        channels: files of an image of one file a channel, by the first, which alone is among `images`.
    """

    folder: Path
    images: tuple[Path, ...]
    left_out: tuple[LeftOut, ...] = ()
    channels: Mapping[Path, tuple[Path, ...]] = field(default_factory=dict)

    def describe(self, most: int = _SHOWN) -> str:
        """Return in one line how many things were left out, and which.

        Args:
            most: how many are named.
        """
        if not self.left_out:
            return ""
        named = [f"{_printable(each.path.relative_to(self.folder))} ({each.reason})" for each in self.left_out[:most]]
        more = f" and {len(self.left_out) - most} more" if len(self.left_out) > most else ""
        return f"left out {len(self.left_out)} of {len(self.left_out) + len(self.images)}: {', '.join(named)}{more}"


def list_images(
    folder: str | os.PathLike[str],
    *,
    suffixes: Sequence[str] = SUFFIXES,
    leave: Iterable[str | Path] = (),
    masks: bool = False,
) -> Listing:
    """List the images of a folder and its subfolders, or one image.

    Links to files and folders are followed, also to the outside; a folder that is reached twice is listed once, so that
    no circle of links is endless. A folder whose images are DICOM slices is one image. Hidden things are left out, and
    so are folders that medseg wrote: of masks with their record, of a training, of an evaluation.

    Args:
        folder: of images; or an image.
        suffixes: of images, in lower case.
        leave: folders that are passed over without a word, such as the one that masks go to.
        masks: take folders of masks by medseg too, as labels are looked for.

    Raises:
        MedsegError: if ``folder`` does not exist, cannot be listed, or is itself one that medseg wrote.
    """
    root = Path(folder)
    refuse_missing(root)
    if not root.is_dir():
        _, reason = _judge(root, suffixes)
        if reason:
            raise MedsegError(f"{_printable(root)}: {reason}; name an image or a folder of images")
        return Listing(root.parent, (root,))
    if not os.access(root, os.R_OK | os.X_OK):
        raise MedsegError(f"{_printable(root)}: permission denied; make the folder readable")
    return _Walk(root, suffixes, {os.path.realpath(each) for each in leave}, masks).listing()


def refuse_missing(root: Path) -> None:
    """Refuse a folder of images, or an image, that is not there.

    Raises:
        MedsegError: naming it.
    """
    if not root.exists():
        near = near_path(root)
        hint = f"did you mean {_printable(near)}?" if near is not None else "name an image or a folder of images"
        raise MedsegError(f"{_printable(root)}: no such file or folder; {hint}")


def with_channels(listing: Listing, count: int) -> Listing:
    """Put files of one channel together that have nnU-Net's names: ``case_0000.nii.gz``, ``case_0001.nii.gz``.

    Args:
        listing: of images.
        count: channels that an image must have.

    Returns:
        The listing with one image a case; cases that lack a channel are left out by name. Unchanged where one channel
        is wanted, or a file is not named so: images of several channels in one file are then meant.
    """
    parsed = {image: _CHANNEL.fullmatch(_stem(image)) for image in listing.images}
    if count < 2 or not all(parsed.values()):
        return listing
    cases: dict[tuple[Path, str, str], dict[int, Path]] = {}
    for image, match in parsed.items():
        assert match is not None
        cases.setdefault((image.parent, match["case"], image_suffix(image)), {})[int(match["channel"])] = image
    whole: dict[Path, tuple[Path, ...]] = {}
    left_out = list(listing.left_out)
    for held in cases.values():
        files = [held[number] for number in sorted(held)]
        if sorted(held) == list(range(count)):
            whole[files[0]] = tuple(files)
        else:
            numbers = ", ".join(f"_{number:04d}" for number in sorted(held))
            left_out += [
                LeftOut(path, f"{count} channels from _0000 on are wanted, there are {numbers}") for path in files
            ]
    return replace(
        listing,
        images=tuple(sorted(whole)),
        left_out=tuple(sorted(left_out, key=lambda each: each.path)),
        channels=whole,
    )


def _stem(image: Path) -> str:
    return image.name[: len(image.name) - len(image_suffix(image))]


def mask_targets(listing: Listing, output_dir: str | os.PathLike[str]) -> dict[Path, Path]:
    """Return where the mask of each image goes.

    Args:
        listing: of the images.
        output_dir: of the masks.

    Raises:
        MedsegError: if two images would share a mask, or a mask would replace an image.
    """
    targets: dict[Path, Path] = {}
    taken: dict[str, Path] = {}
    images = {os.path.realpath(image) for image in listing.images}
    for image in listing.images:
        target = mask_path(image, listing.folder, Path(output_dir))
        if image in listing.channels:
            target = target.with_name("".join(target.name.rsplit("_0000", 1)))
        place = os.path.realpath(target)
        if place in taken:
            first, second = (_printable(each.relative_to(listing.folder)) for each in (taken[place], image))
            raise MedsegError(f"{first} and {second} would both write {_printable(target)}; rename one")
        if place in images:
            raise MedsegError(f"the mask of {_printable(image)} would replace the image {place}; name another folder")
        taken[place] = image
        targets[image] = target
    return targets


class _Walk:
    """One pass over a folder: real folders first, then linked ones, so that a folder keeps its own name."""

    def __init__(self, root: Path, suffixes: Sequence[str], leave: set[str], masks: bool) -> None:
        self.root = root
        self.suffixes = suffixes
        self.leave = leave
        self.masks = masks
        self.images: list[Path] = []
        self.left_out: list[LeftOut] = []
        self.seen: dict[str, Path] = {}
        self.links: deque[Path] = deque()

    def listing(self) -> Listing:
        self._enter(self.root)
        while self.links:
            self._enter(self.links.popleft())
        values = self._values()
        self.left_out = [each for each in self.left_out if os.path.realpath(each.path) not in values]
        return Listing(
            self.root, tuple(sorted(self.images)), tuple(sorted(self.left_out, key=lambda each: str(each.path)))
        )

    def _values(self) -> set[str]:
        """Return the files that hold the values of headers among the images: ``a.raw`` of ``a.mhd``."""
        found = set()
        for head in self.images if self.left_out else ():
            if head.name.lower().endswith(_HEADERS):
                with contextlib.suppress(OSError):  # whoever reads it says that it is gone
                    found |= {os.path.realpath(part) for part in parts_of(head)}
        return found

    def _omit(self, path: Path, reason: str, *, ours: bool = False) -> None:
        self.left_out.append(LeftOut(path, reason, ours))

    def _enter(self, start: Path) -> None:
        """Walk a folder and the real folders below; linked ones wait."""
        waiting = deque([start])
        while waiting:
            folder = waiting.popleft()
            real = os.path.realpath(folder)
            if real in self.leave:
                continue
            if real in self.seen:
                first = self.seen[real]
                name = "the folder itself" if first == self.root else _printable(first.relative_to(self.root))
                self._omit(folder, f"link to {name}, which is listed already", ours=True)
                continue
            self.seen[real] = folder
            try:
                entries = sorted(self._scan(folder), key=lambda entry: entry.name)
            except OSError as error:
                self._omit(folder, f"folder cannot be listed: {error.strerror}")
                continue
            if written := _written({entry.name for entry in entries}):
                if folder == self.root:
                    raise MedsegError(f"{_printable(folder)} is a {written}; name the folder of the images")
                self._omit(folder, written, ours=True)
                continue
            slices: list[Path] = []
            others: list[Path] = []
            for entry in entries:
                path = folder / entry.name
                if entry.name.startswith("."):
                    self._omit(path, "hidden")
                elif path.is_dir():  # False for a link in a circle, of which os.DirEntry raises
                    (self.links if entry.is_symlink() else waiting).append(path)
                else:
                    self._file(path, slices, others)
            self._gather(folder, slices, others)

    def _scan(self, folder: Path) -> list[os.DirEntry[str]]:
        return [entry for entry in os.scandir(folder) if not (self.masks and entry.name == MASK_RECORD)]

    def _file(self, path: Path, slices: list[Path], others: list[Path]) -> None:
        is_slice, reason = _judge(path, self.suffixes)
        if reason:
            self._omit(path, reason)
        elif self.masks and Path(_stem(path)).suffix[1:] in MAPS:
            self._omit(path, "map that lies beside a mask", ours=True)
        else:
            (slices if is_slice else others).append(path)

    def _gather(self, folder: Path, slices: list[Path], others: list[Path]) -> None:
        """Take DICOM slices as one image, where nothing else lies beside them."""
        self.images += others
        if slices and not others:
            self.images.append(folder)
            return
        for path in slices:
            self._omit(path, "DICOM slice beside other images; put the series into a folder of its own")


def _written(names: set[str]) -> str:
    """Return what folder of medseg's has these names in it; empty for any other folder."""
    if MASK_RECORD in names:
        return f"folder of masks by medseg (it holds {MASK_RECORD})"
    return "folder of a run of medseg" if names >= _RUN else ""


def _judge(path: Path, suffixes: Sequence[str]) -> tuple[bool, str]:
    """Return whether a file is a DICOM slice, and why it is left out, if it is."""
    try:
        facts = os.stat(path)
    except OSError as error:
        if path.is_symlink():
            circle = "link that leads nowhere" if isinstance(error, FileNotFoundError) else "link in a circle"
            return False, circle
        return False, f"cannot be looked at: {error.strerror}"
    if not stat.S_ISREG(facts.st_mode):
        return False, "device, pipe or socket"
    if not os.access(path, os.R_OK):
        return False, "permission denied"
    name = path.name.lower()
    said = name.endswith(dicom.SUFFIXES)
    if name.endswith(tuple(suffixes)) and not said:
        return False, ""
    if dicom.is_dicom(path):  # whatever it is called, such as MR.1.2.840.113
        return True, ""
    if not facts.st_size:
        return False, "is empty (0 bytes)"
    stem, dot, _ = name.rpartition(".")
    if said or (dot and not stem.strip("0123456789.")):  # a scanner's name for a slice
        return False, "not DICOM, whatever its name says"
    return False, f"unknown format {_printable(Path(path.suffix))}" if dot else "unknown format (no suffix)"


def _printable(path: Path) -> str:
    """Return a path for one line of text: newlines, escapes and broken bytes are shown, not sent to the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in os.fspath(path))
