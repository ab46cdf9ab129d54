"""What made the masks of a folder, and of which images: a small JSON beside them, so that none passes for another's.

It names masks by their place in the folder, models and images by hashes, and nothing else. One process works in a
folder at a time. Before it writes the first mask it enters those that are not there yet, and strikes out those that it
will replace, which are entered after they were written: however a process ends, a mask that is there and entered as a
model's is that model's, and of the image that it is entered as made of. One that is there and not entered is refused,
never skipped. Where a process was killed, the record of the run (`medseg.prediction.audit`) says of which images it
made the masks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from medseg import __version__
from medseg.atomic import atomic_write, remove_leftovers_of
from medseg.bundle.description import Description
from medseg.caller import spelt
from medseg.errors import MedsegError, counted, shown
from medseg.io.folder import MASK_RECORD
from medseg.io.parts import content_hash, file_stamp
from medseg.prediction.audit import records_in
from medseg.runs.checkpoint import unwrap
from medseg.runs.lock import FolderLock
from medseg.runs.metadata import weights_hash

__all__ = ["Maker", "MaskRecord", "MaskRecordError"]

logger = logging.getLogger(__name__)

_DIGITS = 12  # of a hash, in a message
_FORMAT = 3
_SAME_MASKS = ("batch", "mirror_axes")  # what is mirrored in a prediction is among flip_axes


class MaskRecordError(MedsegError):
    """Masks that something else made, or nobody knows what."""


@dataclass(frozen=True)
class Maker:
    """What makes masks.

    Args:
        name: of the model, for readers.
        weights: hash of the weights, as in their header.
        model: hash of how the model is fed, how it predicts and what its classes are.
        classes: their names by index, for readers.
        colours: that classes name, by index, for readers.
        window: least and greatest value that the model sees, where others are cut off, for pictures.
    """

    name: str
    weights: str
    model: str
    classes: Sequence[str] = ()
    colours: Mapping[str, Any] = field(default_factory=dict)
    window: Sequence[float] | None = None

    @classmethod
    def of(cls, network: nn.Module, description: Description, weights: str | None = None) -> Maker:
        """Return what a network with its weights makes masks as.

        Args:
            network: with its weights.
            description: of the model. Its name, its scores, the number of windows a forward and what the
                training mirrored make no other masks.
            weights: their hash, where it is known.
        """
        held = description.to_dict()
        held["inference"] = {key: value for key, value in held["inference"].items() if key not in _SAME_MASKS}
        keys = ("network", "input", "inference", "classes", "colours", "temperature")
        held = {key: held[key] for key in keys if key in held} | _postprocessing(held["postprocess"])
        text = json.dumps(held, sort_keys=True, separators=(",", ":"), default=str)
        weights = weights or weights_hash(unwrap(network).state_dict())
        model = hashlib.sha256(text.encode()).hexdigest()
        colours = {str(index): colour for index, colour in description.colours.items()}
        window = description.input.window
        seen = None if window is None else list(window)
        return cls(description.name, weights, model, list(description.classes), colours, seen)

    @classmethod
    def joined(cls, makers: Sequence[Maker]) -> Maker:
        """Return what the members of an ensemble make masks as, in whatever order they are named.

        Args:
            makers: of the members, whose settings are the same.
        """
        if len(makers) == 1:
            return makers[0]
        hashes = "".join(sorted(maker.weights for maker in makers))
        models = sorted({maker.model for maker in makers})  # those of other temperatures are others
        model = models[0]
        if len(models) > 1:
            model = hashlib.sha256(
                "".join(sorted(maker.weights + maker.model for maker in makers)).encode()
            ).hexdigest()
        name = " + ".join(dict.fromkeys(maker.name for maker in makers))
        weights = hashlib.sha256(hashes.encode()).hexdigest()
        return replace(makers[0], name=f"{len(makers)} x {name}", weights=weights, model=model)

    def same(self, other: Maker) -> bool:
        """Return whether the masks of both are the same."""
        return (self.weights, self.model) == (other.weights, other.model)


def _postprocessing(steps: Mapping[str, Any]) -> dict[str, Any]:
    """Return steps that make other masks, empty where there are none: a model without them keeps its hash."""
    return {"postprocess": steps} if any(steps.values()) else {}


@dataclass(frozen=True)
class Source:
    """The image that a mask was made of.

    Args:
        stamp: of its files, see `medseg.io.parts.file_stamp`; empty where nobody knows of which image a mask is.
        sha256: of their bytes, see `medseg.io.parts.content_hash`; empty until the mask is written.
        outputs: names of what else was made of it by who made the mask: what lies there beside is another image's.
    """

    stamp: str = ""
    sha256: str = ""
    outputs: Sequence[str] = ()


class MaskRecord:
    """The record of a folder of masks.

    Args:
        folder: of the masks; it need not exist yet.
        maker: that works now.
        masks: that it is to write, and the files of the image of each.
        others: what else it is to write of them, which is kept apart from masks and guarded alike.
        outputs: names of what it makes of each image beside the mask, in files of its own or of all cases.
        overwrite: whether it may replace another's.

    Raises:
        MaskRecordError: if one of them is there and is not this maker's, and may not be replaced.
    """

    def __init__(
        self,
        folder: Path,
        maker: Maker,
        masks: Mapping[Path, Sequence[Path]],
        others: Iterable[Path] = (),
        outputs: Iterable[str] = (),
        *,
        overwrite: bool,
    ) -> None:
        self.path = folder / MASK_RECORD
        self._outputs = tuple(sorted(outputs))
        self._folder, self._maker, self._overwrite = folder, maker, overwrite
        self._images = {self._name(mask): list(files) for mask, files in masks.items()}
        self._stamps = {name: _stamp(files) for name, files in self._images.items()}  # before any is read
        self._others = {self._name(other) for other in others}
        self._names = dict.fromkeys([*self._images, *self._others])
        self._entered: dict[str, Source | None] = {}  # by this process
        self._tried: set[str] = set()
        self._left: dict[str, set[str]] = {}  # by mask: what was made with the one that was there before
        self._lock = FolderLock(folder)
        self._begun = False
        self._look()

    def _look(self) -> None:
        """Tell own masks from another's that are there."""
        held, self._sources = self._read()
        there = [name for name in self._names if (self._folder / name).exists()]
        foreign = [name for name in there if not (name in held and held[name].same(self._maker))]
        if foreign and not self._overwrite:
            raise MaskRecordError(self._refusal(foreign, held.get(foreign[0])))
        self._foreign = set(foreign)
        self._mine = set(self._names) - self._foreign

    def why_other(self, mask: Path) -> str:
        """Return why a mask that is there may not stand for its image; empty where it was made of it.

        The bytes of an image are read where its stamp is not the one that the mask was entered with.
        """
        name = self._name(mask)
        held, stamp = self._entered.get(name) or self._sources.get(name), self._stamps[name]
        if held is not None and held.stamp == stamp != "":
            return ""
        known = self._recorded.get(name, "") if held is None or (held.stamp and not held.sha256) else held.sha256
        remedy = f"take it away, name another folder for the masks, or do all again with {spelt('overwrite')}"
        if not known:
            return f"its mask {shown(mask)} is there, and no record says of which image it was made; {remedy}"
        try:
            found = content_hash(self._images[name])
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if found != known:
            made, now = known[:_DIGITS], found[:_DIGITS]
            return f"its mask {shown(mask)} was made of another image ({made}) than this ({now}); {remedy}"
        self._entered[name] = Source(stamp, found, () if held is None else held.outputs)
        return ""

    def lacks(self, mask: Path) -> bool:
        """Return whether something is asked for that was not made of the image of a mask that is there."""
        return not set(self._outputs) <= set(self._held(self._name(mask)).outputs)

    def adds(self, mask: Path, outputs: Iterable[str]) -> None:
        """Take note of outputs that are made of a mask's image, of which nothing is there yet."""
        held = self._held(name := self._name(mask))
        self._entered[name] = replace(held, outputs=sorted({*held.outputs, *outputs}))

    def _held(self, name: str) -> Source:
        return self._entered.get(name) or self._sources.get(name) or Source()

    @cached_property
    def _recorded(self) -> dict[str, str]:
        """Hashes of the images of masks, as the records of runs have them: of one that was made again, the last."""
        try:
            made = [(str(case.get("sha256", "")), case.get("outputs", ())) for case in records_in(self._folder)]
            return {str(file["name"]): digest for digest, files in made for file in files}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("a record of a run beside the masks cannot be read (%s)", type(error).__name__)
            return {}

    def begin(self) -> None:
        """Take the folder, and enter the masks that are not there yet, before the first of them is written.

        Raises:
            LockedError: if another process writes masks there.
            MaskRecordError: if one has since the record was read.
        """
        if self._begun:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        try:
            self._look()
            remove_leftovers_of(self._folder / name for name in (*self._names, MASK_RECORD))
            for name in self._images:
                if not (self._folder / name).exists():
                    self._entered[name] = Source(self._stamps[name], outputs=self._outputs)
                elif self._overwrite:  # once it is replaced, that is in the record of the run alone
                    self._entered[name] = None
            self.save()
        except BaseException:
            self._lock.release()
            raise
        self._begun = True

    def like(self, folder: Path, masks: Sequence[Path], others: Iterable[Path]) -> None:
        """Refuse files in another folder that this maker has not made, or of other images than these.

        Args:
            folder: with the same names.
            masks: of this folder.
            others: what else was written of them.

        Raises:
            MaskRecordError: naming one of them.
        """
        there = {folder / self._name(mask): self._images[self._name(mask)] for mask in masks}
        record = MaskRecord(
            folder, self._maker, there, (folder / self._name(other) for other in others), self._outputs, overwrite=False
        )
        for mask in filter(Path.exists, there):
            if why := record.why_other(mask) or "it was made without what is asked for" * record.lacks(mask):
                raise MaskRecordError(why)

    def writes(self, mask: Path) -> None:
        """Take note that a mask, and what lies beside it, is written next."""
        self._tried.add(self._name(mask))

    def wrote(self, mask: Path, others: Iterable[Path], sha256: str) -> None:
        """Take note of what is written; where it replaced another's it is entered by the next `save`.

        Args:
            mask: of a case.
            others: what else was written of it.
            sha256: of the image.
        """
        name, stamp = self._name(mask), self._stamps[self._name(mask)]
        before, outputs = self._sources.get(name, Source()), set(self._outputs)
        for held in (self._entered.get(name), None if name in self._foreign else before):
            if held and (held.sha256 == sha256 if held.sha256 else held.stamp == stamp != ""):
                outputs |= set(held.outputs)
        if left := set(before.outputs) - outputs:
            self._left[name] = left
        self._entered[name] = Source(stamp, sha256, sorted(outputs))
        self._mine |= {name, *(self._name(other) for other in others)}

    def finish(self) -> None:
        """Enter what was written, strike out what was not, and give the folder back; without `begin`, nothing."""
        if not self._begun:
            return
        try:
            self._mine = {name for name in self._mine if (self._folder / name).exists()}
            for name, entered in list(self._entered.items()):
                if entered is None:  # what was to be replaced is still there, or is partly another's
                    self._entered[name] = Source() if name in self._tried else self._sources.get(name)
            self.save()
            if self._left:
                said = "%s made anew; what was made with those before (%s) is still there, of what they were of: "
                what = ", ".join(sorted(set[str]().union(*self._left.values())))
                logger.warning(said + "ask for it, too, or take it away", counted(len(self._left), "mask"), what)
        finally:
            self._lock.release()
            self._begun = False

    def save(self) -> None:
        """Write the record: own masks, and of other makers' those that this process does not replace.

        One that says so already, as at the end of most runs, is left alone: to write is to wait for the disk.
        """
        makers_of, sources = self._read()
        held = {name: maker for name, maker in makers_of.items() if name not in self._names}
        held |= dict.fromkeys(self._mine, self._maker)
        makers: list[Maker] = []
        for maker in held.values():
            if not any(maker.same(other) for other in makers):
                makers.append(maker)
        made_by = []
        for maker in makers:
            names = sorted(name for name in held if held[name].same(maker))
            masks = [name for name in names if name not in self._others]
            made_by.append(vars(maker) | {"masks": masks, "others": [name for name in names if name in self._others]})
        entries = sources | self._entered
        images = {name: vars(source) for name, source in sorted(entries.items()) if source and name in held}
        content = {"format": _FORMAT, "medseg": __version__, "made_by": made_by, "images": images}
        text = json.dumps(content, indent=1) + "\n"
        with contextlib.suppress(FileNotFoundError):
            if self.path.read_bytes() == text.encode():
                return
        with atomic_write(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def _name(self, target: Path) -> str:
        return Path(os.path.relpath(target, self._folder)).as_posix()

    def _read(self) -> tuple[dict[str, Maker], dict[str, Source]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise ValueError(f"its format is {content['format']}")
            self._others |= {name for each in content["made_by"] for name in each.get("others", ())}
            made_by = [(_maker(each), (*each["masks"], *each.get("others", ()))) for each in content["made_by"]]
            images = content["images"].items()
            sources = {name: Source(str(of["stamp"]), str(of["sha256"]), of["outputs"]) for name, of in images}
            return {name: maker for maker, names in made_by for name in names}, sources
        except FileNotFoundError:
            return {}, {}
        except OSError as error:
            raise MaskRecordError(
                f"{shown(self.path)} cannot be read: {error.strerror}; name another folder for the masks"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if self._overwrite:
                return {}, {}
            raise MaskRecordError(
                f"{shown(self.path)} cannot be read ({type(error).__name__}: {error}), so that nobody knows what made "
                f"the masks beside it; name another folder for the masks, or do them again with {spelt('overwrite')}"
            ) from error

    def _refusal(self, foreign: list[str], maker: Maker | None) -> str:
        mine = self._maker
        if maker is None:
            reason = f"is not in {MASK_RECORD}, so that nobody knows what made it"
        elif maker.weights != mine.weights:
            reason = (
                f"was made by other weights ({shown(maker.name)}, {maker.weights[:_DIGITS]}) than these "
                f"({shown(mine.name)}, {mine.weights[:_DIGITS]})"
            )
        else:
            reason = f"was made by these weights ({mine.weights[:_DIGITS]}) with other settings of the inference"
        more = f" (and {counted(len(foreign) - 1, 'more mask')} like it)" if len(foreign) > 1 else ""
        return (
            f"{shown(self._folder / foreign[0])} {reason}{more}; name another folder for the masks, or do them again "
            f"with {spelt('overwrite')}"
        )


def _stamp(image: Sequence[Path]) -> str:
    """Return the stamp of an image; none where it cannot be had, as who reads the image says."""
    try:
        return file_stamp(image)
    except OSError:
        return ""


def _maker(content: Mapping[str, Any]) -> Maker:
    named = content.get("classes", ()), content.get("colours", {}), content.get("window")
    return Maker(str(content["name"]), str(content["weights"]), str(content["model"]), *named)
