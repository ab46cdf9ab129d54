"""From what a layout found to a datalist: files stay where they lie, masks that had to be drawn go beside the datalist.

Everything is written into a hidden folder first, and the datalist last: a failure leaves the folder as it was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.check_splits import untrained_folds
from medseg.data.datalist import SPLITS, Datalist, Entry, path_from
from medseg.data.folds import FOLDS, propose_folds
from medseg.data.schema import DatalistError
from medseg.errors import counted, shown
from medseg.importers.drawing import IGNORED
from medseg.importers.folder import Folder, stem_of
from medseg.importers.fourth_axis import explain_fourth_axes
from medseg.importers.groups import Grouping, propose_groups
from medseg.importers.layout import Case, Draw, Found, ImportingError, Options, recognise
from medseg.importers.layouts.pairs import Pairs
from medseg.importers.scanning import scan
from medseg.importers.values import Classes, resolve
from medseg.io.folder import LeftOut
from medseg.io.images import image_suffix, read_image
from medseg.io.masks import mask_path, write_mask
from medseg.io.parts import parts_of
from medseg.reports.progress import progress_bar

__all__ = ["Imported", "Wishes", "import_folder"]

FILE = "datalist.json"
_WITH_PARTS = (".mhd", ".hdr")  # headers whose values lie in another file


@dataclass(frozen=True)
class Wishes:
    """How the datalist shall be made.

    Args:
        layout: name of the layout, empty to recognise it.
        group_pattern: see `propose_groups`.
        folds: at most so many; 0 proposes none.
        seed: of the folds.
        name: of the data set; by default what the layout states, or the folder's.
        modality: what the channels are.
        copy: copy images and labels beside the datalist.
        overwrite: replace a datalist that is there.
        dry_run: write nothing.
        preparation: what else the datalist shall say of how it was made.
    """

    layout: str = ""
    group_pattern: str = ""
    folds: int = FOLDS
    seed: int = 0
    name: str = ""
    modality: tuple[str, ...] = ()
    copy: bool = False
    overwrite: bool = False
    dry_run: bool = False
    preparation: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """What was made of a folder.

    Args:
        datalist: as it was, or would be, written.
        found: what the layout found.
        grouping: how the cases were grouped.
        left_out: every file that is not used, sorted.
        drawn: number of masks that were drawn.
        root: the folder that was read, without links.
    """

    datalist: Datalist
    found: Found
    grouping: Grouping
    left_out: tuple[LeftOut, ...]
    drawn: int
    root: Path


@dataclass
class _Work:
    """One import on its way: where it reads, where it writes, and what is staged."""

    folder: Folder
    output: Path
    stage: Path | None
    classes: Classes
    held: list[set[int]] = field(default_factory=list)


def import_folder(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: Options | None = None,
    wishes: Wishes | None = None,
) -> Imported:
    """Recognise the layout of a folder and write a datalist of it.

    Args:
        source: folder of the data set.
        output: folder of the datalist; made if missing. It may be the source itself.
        options: what a person says of the data.
        wishes: how the datalist shall be made.

    Raises:
        MedsegError: if the folder cannot be imported; a `Question` where only a person knows.
    """
    options, wishes = options or Options(), wishes or Wishes()
    root, target = Path(os.path.realpath(source)), Path(os.path.realpath(output))
    ours = _earlier(target / FILE, wishes.overwrite)
    folder = Folder(root, leave=[target] if target != root else [target / name for name in ours])
    layout, why = recognise(folder, _layout(options, wishes))
    found = layout.read(folder, options)
    found.why = why
    _check_cases(found, folder)
    found.notes += explain_fourth_axes(found.cases, wishes.modality or found.modality)
    with progress_bar("reading labels") as update:
        held, present, coloured = scan(
            found, update, coded=bool(options.colours or found.colour_codes), indexed=bool(options.values)
        )
    classes = resolve(found, present, coloured, options, folder.root, held)
    found.notes += classes.alike()
    held = [{classes.values.get(stored, stored) for stored in values} - {classes.ignore} for values in held]
    made = not target.exists() and not wishes.dry_run
    if not wishes.dry_run:
        target.mkdir(parents=True, exist_ok=True)
    stage = None if wishes.dry_run else Path(tempfile.mkdtemp(dir=target, prefix=".import."))
    done, placed = False, []
    try:
        work = _Work(folder, target, stage, classes, held)
        drawn = sum(callable(case.label) for case in found.cases)
        cases = _place(work, found.cases, wishes.copy)
        empty = sum(callable(case.label) and held <= {0} for case, held in zip(found.cases, work.held, strict=True))
        if empty:
            nothing = work.classes.labels[0]
            found.notes.append(f"drawn labels without an object, {shown(nothing)} throughout: {empty} of {drawn}")
        if found.lost:
            listed = ", ".join(f"{number} of {shown(name)}" for name, number in found.lost.most_common())
            found.notes.append(f"objects that cover no pixel's centre, or have no outline, are in no label: {listed}")
        grouping = propose_groups(found.cases, found.grouped_by, wishes.group_pattern)
        datalist = _datalist(work, found, cases, grouping, wishes)
        in_training = [held for case, held in zip(found.cases, work.held, strict=True) if case.split == "training"]
        for key in datalist.fold_keys:
            folds = [int(entry[key]) for entry in datalist.training]
            found.notes += untrained_folds(datalist, key, list(zip(folds, in_training, strict=True)))
        if stage is not None:
            placed = _publish(stage, target, ours)
            datalist.save()
            done = True
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
            for path in [] if done else [*placed, *([target] if made else [])]:
                shutil.rmtree(path, ignore_errors=True)
    return Imported(datalist, found, grouping, _left_out(folder, found), drawn, root)


def _layout(options: Options, wishes: Wishes) -> str:
    """Return the name of the layout that a person says, or that what she says is of."""
    suffixes = {"--image-suffix": options.image_suffix, "--label-suffix": options.label_suffix}
    given = [name for name, value in suffixes.items() if value is not None]
    if given and wishes.layout not in ("", Pairs.name):
        raise ImportingError(
            f"{given[0]} says how names of images and labels make pairs, which {wishes.layout} does not ask; leave it "
            f"out, or say --as {Pairs.name}"
        )
    return Pairs.name if given else wishes.layout


def _earlier(path: Path, overwrite: bool) -> list[str]:
    """Return the folders that an earlier import wrote beside a datalist, which may be replaced."""
    if not path.exists():
        return []
    if not overwrite:
        raise ImportingError(f"{shown(path)}: is there already; name another folder, or replace it with --overwrite")
    try:
        return list(Datalist.load(path).preparation.get("wrote", []))
    except DatalistError:
        return []


def _check_cases(found: Found, folder: Folder) -> None:
    """Give each case its own name, and refuse what no training could take."""
    where = shown(folder.root)
    if not found.cases:
        raise ImportingError(
            f"{where}: was taken for {found.layout}, but holds no case; "
            + ("; ".join(f"{shown(folder.rel(p))}: {r}" for p, r in list(found.left_out.items())[:3]) or "look inside")
        )
    if len(found.labels) == 1 and all(callable(case.label) for case in found.cases):
        raise ImportingError(
            f"{where}: was taken for {found.layout}, but no object has a class, so that there is nothing to learn; "
            "draw some, or name the classes with --classes background,NAME"
        )
    labels: dict[tuple[Path, ...], list[Path | Draw]] = defaultdict(list)
    for case in found.cases:
        if case.label is not None:
            labels[case.images].append(case.label)
    for images, several in labels.items():
        if len(several) > 1:
            files = ", ".join(shown(folder.rel(label)) for label in several if isinstance(label, Path))
            raise ImportingError(
                f"{where}: {shown(folder.rel(images[0]))} is annotated {len(several)} times"
                f"{f' ({files})' * bool(files)}, and a case has one label; join its annotations in one file, or leave "
                "out the file that does not count"
            )
    places = [folder.rel(case.images[0]) for case in found.cases]
    suffixes = [image_suffix(case.images[0]) for case in found.cases]
    short = [place[: -len(suffix) or None] for place, suffix in zip(places, suffixes, strict=True)]
    for longer in (short, [place.replace(".", "_") for place in places]):  # a.png beside a.jpg
        count = Counter(case.name for case in found.cases)
        found.cases = [
            replace(case, name=name) if count[case.name] > 1 else case
            for case, name in zip(found.cases, longer, strict=True)
        ]
    channels = Counter(len(case.images) for case in found.cases)
    if len(channels) > 1:
        usual = channels.most_common(1)[0][0]
        odd = next(case for case in found.cases if len(case.images) != usual)
        raise ImportingError(
            f"{where}: {shown(odd.name)} has {counted(len(odd.images), 'file')} of channels, most others {usual}; "
            "complete it, or name the channels that all have with --images"
        )


def _place(work: _Work, cases: Sequence[Case], copy: bool) -> list[Entry]:
    """Draw and copy what is to be written; return the entries without group and fold."""
    entries = []
    with progress_bar("writing") as update:
        for number, case in enumerate(cases):
            images = [_copied(work, case, k) if copy else _lies(work, path) for k, path in enumerate(case.images)]
            entry: Entry = {"image": images if len(images) > 1 else images[0]}
            if callable(case.label):
                entry["label"], work.held[number] = _drawn(work, case)
            elif case.label is not None and copy:
                entry["label"] = _copy(work, [case.label], f"labels/{case.name}")
            elif case.label is not None:
                entry["label"] = _lies(work, case.label)
            if case.instances is not None:
                copied = _copy(work, [case.instances], f"instances/{case.name}") if copy else None
                entry["instances"] = copied or _lies(work, case.instances)
            entries.append(entry)
            update(number + 1, len(cases))
    return entries


def _lies(work: _Work, path: Path) -> str:
    """Return a path relative to the datalist."""
    return path_from(path, work.output)


def _copied(work: _Work, case: Case, channel: int) -> str:
    end = f"_{channel:04d}" if len(case.images) > 1 else ""
    image = case.images[channel]
    if image.is_dir():
        place = f"images/{case.name}{end}"
        for path in parts_of(image):
            _put(work, path, f"{place}/{path.name}")
        return place
    own = [image, *(case.files if len(case.images) == 1 else ())]
    return _copy(work, own, f"images/{case.name}{end}")


def _copy(work: _Work, files: Sequence[Path], name: str) -> str:
    """Copy a file, or a header or slice with what belongs to it into a folder; return where the first one went."""
    first = files[0]
    together = list(dict.fromkeys(files))
    if image_suffix(first) in _WITH_PARTS:
        together = sorted(path for path in first.parent.iterdir() if path.is_file() and path.stem == first.stem)
    alone = len(together) == 1
    place = f"{name}{image_suffix(first) or first.suffix}" if alone else f"{name}/{first.name}"
    for path in together:
        _put(work, path, place if alone else f"{name}/{path.name}")
    return place


def _put(work: _Work, path: Path, place: str) -> None:
    if work.stage is not None:
        target = work.stage / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _drawn(work: _Work, case: Case) -> tuple[str, set[int]]:
    """Draw a mask, write it, and return where it goes and the classes in it."""
    assert callable(case.label)
    first = case.images[0]
    image = read_image(first)
    mask = case.label(image)
    values = work.classes.values
    if values:
        from medseg.io.labels import map_values

        ignored = {} if work.classes.ignore is None else {IGNORED: work.classes.ignore}
        mask = map_values(mask, {**ignored, **values}, first)
    place = f"labels/{case.name}{image_suffix(mask_path(first, first, Path()))}"
    if work.stage is not None:
        names = list(work.classes.labels.values())
        write_mask(
            mask, image, work.stage / place, source=first, class_names=names, colours=_colours(work.classes.colours)
        )
    return place, set(np.unique(mask).tolist()) - {work.classes.ignore}


def _colours(colours: Mapping[int, str]) -> dict[str, str] | None:
    return {str(index): colour for index, colour in colours.items()} or None


def _datalist(work: _Work, found: Found, entries: Sequence[Entry], grouping: Grouping, wishes: Wishes) -> Datalist:
    lists: dict[str, list[Entry]] = {split: [] for split in SPLITS}
    rows = [
        (case.split, {**entry, "group": group, **case.extra}, classes)
        for case, entry, group, classes in zip(found.cases, entries, grouping.groups, work.held, strict=True)
    ]
    training = [(entry, classes) for split, entry, classes in rows if split == "training"]
    divided = any(key.startswith("fold") for entry, _ in training for key in entry)
    fixed = any(split == "validation" for split, _, _ in rows)
    folds = None
    if not divided and not fixed and wishes.folds:
        held = [classes for _, classes in training]
        folds = propose_folds([entry["group"] for entry, _ in training], held, wishes.folds, wishes.seed)
    for number, fold in enumerate(folds or ()):
        training[number][0]["fold"] = fold
    for split, entry, _ in rows:
        lists[split].append(entry)
    about: dict[str, Any] = dict(found.about)
    drawn = any(callable(case.label) for case in found.cases)
    numbered = any(case.instances for case in found.cases)
    copies = (("images", wishes.copy), ("labels", wishes.copy or drawn), ("instances", wishes.copy and numbered))
    wrote = [name for name, there in copies if there]
    preparation: dict[str, Any] = {**about.pop("preparation", {}), **wishes.preparation, "importer": found.layout}
    preparation |= {"folds": max(folds) + 1, "seed": wishes.seed} if folds else {}
    preparation |= {"wrote": wrote} if wrote else {}
    return Datalist(
        name=wishes.name or about.pop("name", "") or work.folder.root.name,
        version=about.pop("version", 1),
        modality=wishes.modality or found.modality or ("not stated",),
        licence=about.pop("licence", "not stated"),
        source=about.pop("source", "not stated"),
        labels=work.classes.labels,
        ignore_index=work.classes.ignore,
        training=lists["training"],
        validation=lists["validation"],
        test=lists["test"],
        path=work.output / FILE,
        preparation=preparation,
        codes=about.pop("codes", {}),
        colours=work.classes.colours,
        values={} if drawn else work.classes.values,
    )


def _publish(stage: Path, target: Path, ours: Sequence[str]) -> list[Path]:
    """Move what is staged into its place and return where that is; nothing of others is replaced."""
    made = sorted(stage.iterdir())
    for path in made:
        if (target / path.name).exists() and path.name not in ours:
            raise ImportingError(f"{shown(target / path.name)}: is there already; name another folder for the datalist")
    for name in ours:
        shutil.rmtree(target / name, ignore_errors=True)
    for path in made:
        os.replace(path, target / path.name)
    return [target / path.name for path in made]


def _left_out(folder: Folder, found: Found) -> tuple[LeftOut, ...]:
    used = found.used - found.left_out.keys()
    for case in found.cases:
        used |= {*case.images, *case.files}
        used |= {path for path in (case.label, case.instances) if isinstance(path, Path)}
    headers = {(path.parent, stem_of(path)) for path in used if image_suffix(path) in _WITH_PARTS}
    rest = {
        path: found.left_out.get(path) or f"not part of {found.layout}"
        for path in folder.files
        if path not in used and (path.parent, path.stem) not in headers
    }
    rest |= {path: reason for path, reason in folder.reasons.items() if path not in folder.files}
    rest |= {path: reason for path, reason in found.left_out.items() if path not in used}
    return tuple(LeftOut(path, rest[path]) for path in sorted(rest))
