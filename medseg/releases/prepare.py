"""What the data scripts share: command line, sources, completeness.

They write ``datalist.json`` last: a folder without one, or without a file that it names, is prepared again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from medseg.data.datalist import Datalist, DatalistError
from medseg.data.file_facts import usual_workers
from medseg.errors import MedsegError, counted
from medseg.releases.archives import extract
from medseg.releases.download import DownloadError, download
from medseg.reports.progress import progress_bar

__all__ = [
    "SourceError",
    "check_counts",
    "clear",
    "convert",
    "find_one",
    "is_complete",
    "make_parser",
    "open_sources",
    "run",
]

Job = TypeVar("Job")
Result = TypeVar("Result")


class SourceError(MedsegError):
    """The source is not the release that a data script expects, or not all of it."""


def make_parser(
    description: str | None, where: str, source: Sequence[str] | None = None, *, fixed: bool = False
) -> argparse.ArgumentParser:
    """Return the command line of a data script; its own options are added to it.

    Args:
        description: text whose first line says what the script does.
        where: where the release is had.
        source: default sources, where the release can be fetched without a login.
        fixed: the release fixes its lists: ``--allow-partial`` for `check_counts` instead of a seed.
    """
    made = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    made.add_argument("--source", nargs="+", default=source, help=f"folders, archives or URLs; {where}")
    made.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    if fixed:
        made.add_argument("--allow-partial", action="store_true", help="take a release that lacks images")
    else:
        made.add_argument("--seed", type=int, default=0, help="seed of the random divisions (default: %(default)s)")
    made.add_argument("--sha256", nargs="+", help="expected hash of each source")
    made.add_argument("--overwrite", action="store_true", help="write again what is there")
    made.set_defaults(where=where)
    return made


def run(
    options: argparse.Namespace, record: Mapping[str, Any], prepare: Callable[[list[Path]], str], *, max_bytes: int
) -> int:
    """Prepare a data set unless it is complete; errors go to standard error in one line.

    Args:
        options: what `make_parser` parsed.
        record: options that decide what is written, see `is_complete`; ``"script"`` is the script's name.
        prepare: takes the folders of the release, writes everything, returns what was done.
        max_bytes: most that one archive may unpack to.

    Returns:
        The exit status.
    """
    target = options.output / "datalist.json"
    try:
        if not options.overwrite and is_complete(target, record):
            sys.stdout.write(f"{options.output}: complete already; --overwrite writes it again\n")
            return 0
        if not options.source:
            raise SourceError(f"no --source is given: {options.where}")
        with open_sources(options.source, options.output, sha256=options.sha256, max_bytes=max_bytes) as folders:
            done = prepare(folders)
    except (DownloadError, ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{target}: {done}\n")
    return 0


@contextlib.contextmanager
def open_sources(
    sources: Sequence[str], output: Path, *, sha256: Sequence[str] | None = None, max_bytes: int
) -> Iterator[list[Path]]:
    """Yield the folder of every source; archives are unpacked for the time of the body.

    Args:
        sources: folders, archives, or URLs of archives; downloads are kept in the folder ``download`` of `output`.
        output: folder for downloads and unpacked files; made, and removed again if nothing was written to it.
        sha256: expected hashes of the archives, one for each source.
        max_bytes: most that one archive may unpack to.

    Raises:
        SourceError: if a hash differs or belongs to a folder.
        ArchiveError: if an archive is missing, damaged or hostile.
        DownloadError: if a download fails.
    """
    if sha256 is not None and len(sha256) != len(sources):
        hashes, places = counted(len(sha256), "hash", "hashes"), counted(len(sources), "source")
        raise SourceError(f"{hashes} for {places}; give --sha256 one for each")
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output, prefix=".unpacked."))
    try:
        folders = []
        for index, source in enumerate(sources):
            place = _fetch(source, output / "download", None if sha256 is None else sha256[index])
            if not place.is_dir():
                place = extract(place, temporary / str(index), max_bytes=max_bytes, max_files=200_000)
            folders.append(place)
        yield folders
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # what was written stays
                output.rmdir()


def _fetch(source: str, folder: Path, sha256: str | None) -> Path:
    if "://" in source:
        archive = folder / (source.rstrip("/").rsplit("/", 1)[-1] or "archive")
        with progress_bar("downloading", transfer=True) as update:
            return download(source, archive, sha256=sha256, progress=update)
    place = Path(source)
    if sha256 is None:
        return place
    if place.is_dir():
        raise SourceError(f"{place}: is a folder, but --sha256 is the hash of an archive; leave it out")
    with place.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise SourceError(f"{place}: sha256 is {found}, but {sha256} was expected; take another copy")
    return place


def find_one(folders: Sequence[Path], pattern: str, *, is_folder: bool) -> Path | None:
    """Return the one file or folder of that name in the sources, at any depth; a source may be it itself.

    Raises:
        SourceError: if there are several.
    """
    paths = {path for folder in folders for path in (folder, *folder.rglob(pattern)) if path.match(pattern)}
    found = {path for path in paths if path.is_dir() == is_folder and "__MACOSX" not in path.parts}
    if len(found) > 1:
        several = ", ".join(map(str, sorted(found)))
        raise SourceError(f"{pattern} is there {len(found)} times ({several}); name the folder of one as --source")
    return found.pop() if found else None


def check_counts(found: Mapping[str, int], official: Mapping[str, int], *, where: Path, allow_partial: bool) -> str:
    """Compare the images of a source with the numbers of the whole release; returns them in words.

    Args:
        found: images of each list.
        official: images of each list of the release.
        where: what was counted, for messages.
        allow_partial: take other numbers, but not nothing at all.

    Raises:
        SourceError: if the numbers differ, or there is no image.
    """
    if dict(found) == dict(official):
        return " and ".join(f"{count} {name}" for name, count in found.items()) + " images"
    counts = " and ".join(f"{found[name]} of {count} {name}" for name, count in official.items()) + " images"
    if not any(found.values()):
        raise SourceError(f"{where}: has {counts}; unpack the release again")
    if not allow_partial:
        raise SourceError(f"{where}: has {counts}; complete it, or take what is there with --allow-partial")
    return counts


def is_complete(target: Path, record: Mapping[str, Any]) -> bool:
    """Return whether a datalist and every file that it names are there.

    Args:
        target: the datalist.
        record: what its ``preparation`` must hold; ``None`` leaves a value to what is there.

    Raises:
        DatalistError: if it was prepared with another record, or is damaged.
    """
    if not target.exists():
        return False
    datalist = Datalist.load(target)
    if any(value not in (None, datalist.preparation.get(key)) for key, value in record.items()):
        raise DatalistError(
            f"{target}: was prepared with {datalist.preparation}, not with {dict(record)}; "
            "choose another output folder or overwrite"
        )
    return all((datalist.root / name).is_file() for name in datalist.files())


def clear(target: Path, script: str) -> None:
    """Delete a datalist and the files that it names; anything else in the folder stays.

    Raises:
        DatalistError: if another script or a person made it, whose files must not be lost.
    """
    if not target.exists():
        return
    datalist = Datalist.load(target)
    if datalist.preparation.get("script") != script:
        raise DatalistError(f"{target}: was not written by {script}; choose another output folder")
    outside = [name for name in datalist.files() if ".." in name.split("/")]
    if outside:
        raise DatalistError(f"{target}: names {outside[0]}, outside its folder, where nothing is deleted; remove it")
    target.unlink()
    for name in datalist.files():
        (datalist.root / name).unlink(missing_ok=True)


def convert(jobs: Sequence[Job], work: Callable[[Job], Result], title: str) -> list[Result]:
    """Do jobs in threads (decoders release the interpreter lock) under a progress bar; results in their order."""
    with progress_bar(title) as update, ThreadPoolExecutor(usual_workers()) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            results = []
            for future in futures:
                results.append(future.result())
                update(len(results), len(jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results
