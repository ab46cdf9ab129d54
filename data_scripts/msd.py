#!/usr/bin/env python
"""Medical Segmentation Decathlon, ten tasks: fetch or read one, count its cases, write the datalist.

Data: M. Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13, 2022,
https://doi.org/10.1038/s41467-022-30695-9, CC-BY-SA 4.0. The archives are those that MONAI's ``DecathlonDataset``
downloads, compared with its checksums. The release divides nothing and names no patients: every volume is a group, and
five folds are proposed (`medseg.importers.groups`). Test volumes have no labels.

The files of an archive go into the output folder; of a folder they stay where they lie, and the datalist refers to
them.

Example::

    python data_scripts/msd.py Task04_Hippocampus --output data/hippocampus
    python data_scripts/msd.py Task09_Spleen --source /data/Task09_Spleen.tar --output data/spleen
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg.importers.writing import Wishes, import_folder
from medseg.releases.download import DownloadError, download
from medseg.releases.prepare import SourceError, check_counts, find_one, make_parser, run
from medseg.reports.progress import progress_bar

OFFICIAL = {
    "Task01_BrainTumour": (484, 266),
    "Task02_Heart": (20, 10),
    "Task03_Liver": (131, 70),
    "Task04_Hippocampus": (260, 130),
    "Task05_Prostate": (32, 16),
    "Task06_Lung": (63, 32),
    "Task07_Pancreas": (281, 139),
    "Task08_HepaticVessel": (303, 140),
    "Task09_Spleen": (41, 20),
    "Task10_Colon": (126, 64),
}
WHERE = "folder or archive TASK.tar of http://medicaldecathlon.com; without it, it is downloaded"
MAX_BYTES = 256 * 2**30
DESCRIPTION = "dataset.json"
FOLDERS = ("imagesTr", "labelsTr", "imagesTs")


def fetch(task: str, output: Path) -> Path:
    """Download a task's archive into ``download`` of the output folder, by MONAI's address and checksum.

    Raises:
        DownloadError: if it cannot be had.
    """
    from monai.apps.datasets import DecathlonDataset

    target = output / "download" / f"{task}.tar"
    with progress_bar("downloading", transfer=True) as update:
        return download(DecathlonDataset.resource[task], target, md5=DecathlonDataset.md5[task], progress=update)


def find(folders: Sequence[Path]) -> Path:
    """Return the folder that holds the task.

    Raises:
        SourceError: if there is no ``dataset.json``, or several.
    """
    description = find_one(folders, DESCRIPTION, is_folder=False)
    if description is None:
        raise SourceError(f"{', '.join(map(str, folders))}: no {DESCRIPTION}; --source is {WHERE}")
    return description.parent


def settle(place: Path, output: Path) -> Path:
    """Move what was unpacked into the output folder to its place there; return where the task lies for good.

    Raises:
        SourceError: if files are in the way.
    """
    if not place.resolve().is_relative_to(output.resolve()) or place.resolve() == output.resolve():
        return place
    for name in (*FOLDERS, DESCRIPTION):
        if (output / name).exists():
            raise SourceError(f"{output / name}: is there already; remove it, or name another --output")
    for name in (*FOLDERS, DESCRIPTION):
        if (place / name).exists():
            os.replace(place / name, output / name)
    return output


def record(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that decide what is written; ``None`` is whatever is there."""
    partial = None if options.allow_partial else False
    return {"script": "msd", "task": options.task, "partial": partial}


def prepare(folders: Sequence[Path], options: argparse.Namespace) -> str:
    """Write the datalist; returns what was done.

    Raises:
        SourceError: if the release is not as expected, or not whole and ``--allow-partial`` is not given.
    """
    place = find(folders)
    look = import_folder(place, options.output, wishes=Wishes(layout="decathlon", dry_run=True, overwrite=True))
    found = {"training": len(look.datalist.training), "test": len(look.datalist.test)}
    official = dict(zip(found, OFFICIAL[options.task], strict=True))
    counts = check_counts(found, official, where=place, allow_partial=options.allow_partial)
    kept = {**record(options), "partial": found != official}
    wishes = Wishes(layout="decathlon", overwrite=options.overwrite, preparation=kept)
    made = import_folder(settle(place, options.output), options.output, wishes=wishes)
    left = f", {len(made.left_out)} files left out" if made.left_out else ""
    return f"{counts}, classes {', '.join(made.datalist.class_names)}{left}"


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = make_parser(__doc__, WHERE, fixed=True)
    made.add_argument("task", choices=tuple(OFFICIAL), metavar="TASK", help=", ".join(OFFICIAL))
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parser().parse_args(arguments)
    if not options.source and (options.overwrite or not (options.output / "datalist.json").exists()):
        try:
            options.source = [str(fetch(options.task, options.output))]
        except DownloadError as error:
            sys.stderr.write(f"error: {error}\n")
            return 1
    return run(options, record(options), lambda folders: prepare(folders, options), max_bytes=MAX_BYTES)


if __name__ == "__main__":
    sys.exit(main())
