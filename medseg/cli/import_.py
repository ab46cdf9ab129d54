"""Write a datalist of a folder: recognise its layout, say what was left out, propose groups and folds."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.cli._arguments import add_output
from medseg.errors import counted, shown

if TYPE_CHECKING:
    from medseg.importers.layout import Options, Question
    from medseg.importers.writing import Imported

__all__ = ["add_arguments", "run"]

_SHOWN = 20
_FEW = 3


class _Layout(argparse.Action):
    """Takes a layout's name, or prints all, as ``--help`` prints options, and ends the program."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Keep the name, or print."""
        if values != "list":
            setattr(namespace, self.dest, values)
            return
        from medseg.importers.layout import layouts

        known = layouts()
        width = max(map(len, known))
        sys.stdout.writelines(f"{name:{width}}  {layout.looks_for}\n" for name, layout in known.items())
        parser.exit()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", type=Path, help="folder of the data set")
    add_output(parser, "folder of the datalist; files stay where they are", required=True)
    parser.add_argument(
        "--as", dest="layout", action=_Layout, default="", metavar="NAME", help="layout, not recognised; list: all"
    )
    said = parser.add_argument_group("what only you know")
    said.add_argument("--images", default="", metavar="FOLDER", help="of the images below SOURCE, or channels a,b,c")
    said.add_argument("--labels", default="", metavar="FOLDER", help="of the labels below SOURCE, or their name")
    said.add_argument("--image-suffix", metavar="END", help="of an image's name, such as _img")
    said.add_argument("--label-suffix", metavar="END", help="of a label's name, such as _mask")
    said.add_argument(
        "--values",
        nargs="+",
        default=[],
        metavar="V=CLASS",
        help="stored values: 255=1, 1-255=lesion, 255=ignore, ascending",
    )
    said.add_argument("--colours", nargs="+", default=[], metavar="#RRGGBB=NAME", help="or a file: CSV, JSON, labelmap")
    said.add_argument("--classes", default="", metavar="A,B", help="class names by index, or a file of one a line")
    said.add_argument("--order", default="", metavar="A,B", help="classes that overlap, the last on top; or file")
    said.add_argument("--any-frame", action="store_true", help="take segmentations of another frame of reference")
    made = parser.add_argument_group("how the datalist is made")
    made.add_argument("--group-pattern", default="", metavar="REGEX", help="'(patient[0-9]+)_' of a name; or none")
    made.add_argument("--folds", type=int, default=5, metavar="N", help="proposed (default: %(default)s); 0 for none")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the folds (default: %(default)s)")
    made.add_argument("--name", default="", help="of the data set (default: what it says, or its folder)")
    made.add_argument("--modality", default="", metavar="A,B", help="of the channels, such as CT or T1,T2")
    made.add_argument("--copy", action="store_true", help="copy images and labels beside the datalist")
    made.add_argument("--overwrite", action="store_true", help="replace a datalist that is there")
    made.add_argument("--dry-run", action="store_true", help="write nothing")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.importers.layout import Question
    from medseg.importers.writing import Wishes, import_folder

    wishes = Wishes(
        layout=options.layout,
        group_pattern=options.group_pattern,
        folds=max(0, options.folds),
        seed=options.seed,
        name=options.name,
        modality=_words(options.modality),
        copy=options.copy,
        overwrite=options.overwrite,
        dry_run=options.dry_run,
    )
    while True:
        try:
            made = import_folder(options.source, options.output, _said(options), wishes)
            break
        except Question as question:
            if not _answered(question, options):
                raise
    _print(made, options.dry_run)
    return 0


def _said(options: argparse.Namespace) -> Options:
    from medseg.importers import said
    from medseg.importers.layout import Options

    values, ascending = said.stored_values(options.values)
    names = Path(options.classes)
    classes = said.class_names(names) if options.classes and names.is_file() else list(_words(options.classes))
    made = Options(
        images=options.images,
        labels=options.labels,
        image_suffix=options.image_suffix,
        label_suffix=options.label_suffix,
        values=values,
        ascending=ascending,
        colours=said.colour_table(options.colours),
        classes=tuple(classes),
        order=_words(options.order),
    )
    return replace(made, any_frame=options.any_frame)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _answered(question: Question, options: argparse.Namespace) -> bool:
    """Ask on a terminal and put the answer among the options; elsewhere the message names the option."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    proposal = f" [{question.proposal}]" if question.proposal else ""
    sys.stderr.write(f"medseg: {question}\n--{question.option.replace('_', '-')}{proposal}: ")
    sys.stderr.flush()
    answer = sys.stdin.readline().strip() or question.proposal
    if not answer:
        return False
    given = getattr(options, question.option)
    setattr(options, question.option, [*given, answer] if isinstance(given, list) else answer)
    return True


def _print(made: Imported, dry_run: bool) -> None:
    """Print what the folder was taken for, what comes of it and what was left out."""
    from medseg.importers.values import unnamed

    found, datalist = made.found, made.datalist
    sizes = {split: len(getattr(datalist, split)) for split in ("training", "validation", "test")}
    counts = ", ".join(f"{count} {split}" for split, count in sizes.items() if count)
    lines = [f"layout  {found.layout}: {found.why}", *(f"note    {note}" for note in found.notes)]
    files, drawn = counted(len(found.cases[0].images), "file"), counted(made.drawn, "label")
    lines.append(f"cases   {counts}; {files} an image; {drawn} drawn")
    classes = ", ".join(f"{index} {name}" for index, name in datalist.labels.items())
    ignored = "" if datalist.ignore_index is None else f"; {datalist.ignore_index} counts nowhere"
    mapped = f"; stored values {_pairs(datalist.values)}" if datalist.values else ""
    lines.append(f"classes {classes}{ignored}{mapped}")
    if any(name == unnamed(index) for index, name in datalist.labels.items()):
        names = [name if name != unnamed(index) else "NAME" for index, name in datalist.labels.items()]
        lines.append(f"note    classes that nothing names are called by their number: --classes {','.join(names)}")
    lines.append(f"groups  {len(set(made.grouping.groups))}, {made.grouping.how}")
    if keys := datalist.fold_keys:  # which looks at every entry
        folds = [entry[keys[0]] for entry in datalist.training]
        named = ", ".join(f"{fold}: {folds.count(fold)}" for fold in sorted(set(folds)))
        lines.append(f"folds   {named} (cases)")
    lines += [f"left    {counted(len(made.left_out), 'file')} out", *_left_out(made)] if made.left_out else []
    sys.stdout.writelines(f"{shown(line)}\n" for line in lines)
    said = f"nothing written; without --dry-run {datalist.path}" if dry_run else f"{datalist.path}"
    sys.stdout.write(f"{shown(said)}\n")


def _pairs(values: dict[int, int]) -> str:
    few = [f"{stored} is {index}" for stored, index in list(values.items())[:_SHOWN]]
    return ", ".join(few) + " ..." * (len(values) > _SHOWN)


def _left_out(made: Imported) -> list[str]:
    """Return lines on what is not used; many files of one folder for one reason are one line."""
    together: dict[tuple[Path, str], list[Path]] = {}
    for each in made.left_out:
        together.setdefault((each.path.parent, each.reason), []).append(each.path)
    lines = []
    for (place, reason), paths in together.items():
        root = made.root if place.is_relative_to(made.root) else place
        if len(paths) > _FEW:
            lines.append(f"        {place.relative_to(root)}/: {len(paths)} files, {reason}")
        else:
            lines += [f"        {path.relative_to(root)}: {reason}" for path in paths]
    return lines[:_SHOWN] + [f"        and {len(lines) - _SHOWN} more lines"] * (len(lines) > _SHOWN)
