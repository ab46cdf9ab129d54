"""An archive as the input of a prediction: series come into a folder that does not stay, results go back.

Series are chosen by what the archive says of them, so that only those that a model may take are downloaded; their files
are then checked as those of any folder. Studies and series are called by hashes of their UIDs. The hash of a series is
of its instances too: one that grew since is another case, not one that is done.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from medseg.caller import spelt
from medseg.errors import counted
from medseg.io.dicom_heads import NO_IMAGE
from medseg.io.dicom_rules import Rule, refuses_kind
from medseg.io.dicomweb import Archive, OfferedSeries
from medseg.io.dicomweb_address import ArchiveError, Credentials, url_of
from medseg.io.dicomweb_session import Limits

__all__ = ["ArchiveOptions", "Pulled", "Reached", "pulled", "reach", "refuse_unanswered"]

logger = logging.getLogger(__name__)

_DIGITS = 8
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_SCRATCH = ".medseg_archive_"
_OLD = 60.0  # seconds; younger folders may be about to be locked


@dataclass(frozen=True)
class ArchiveOptions:
    """What is asked of an archive.

    Args:
        studies: UIDs of studies; all their series that the model takes.
        series: UIDs of series, if not all.
        push: store the DICOM objects that come out.
        ca: file of certificates to trust.
        credentials: file of users and passwords, see `medseg.io.dicomweb_address.Credentials.read`.
        plain_http: allow an address that is not encrypted, see `medseg.io.dicomweb_address.url_of`.
    """

    studies: Sequence[str] = ()
    series: Sequence[str] = ()
    push: bool = True
    ca: Path | None = None
    credentials: Path | None = None
    plain_http: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no UID.

        Raises:
            ArchiveError: naming it.
        """
        for key, uids in (("study", self.studies), ("series_uid", self.series)):
            for uid in uids:
                if len(uid) > 64 or not _UID.fullmatch(uid):
                    raise ArchiveError(f"{spelt(key, uid)} is no UID: up to 64 digits and points; correct it")


@dataclass(frozen=True)
class Reached:
    """An archive, and what is asked of it.

    Args:
        archive: the archive.
        options: what is asked.
    """

    archive: Archive
    options: ArchiveOptions


def reach(address: str, options: ArchiveOptions, limits: Limits | None = None) -> Reached:
    """Return an archive by its address; nothing is sent yet.

    Args:
        address: see `medseg.io.dicomweb_address.url_of`.
        options: what is asked of it.
        limits: of the archive.

    Raises:
        ArchiveError: if the address or the credentials cannot be used, or no study is named.
    """
    url = url_of(address, plain_http=options.plain_http)
    if not options.studies:
        raise ArchiveError(f"no study is named, and an archive is not predicted whole; add {spelt('study', 'UID')}")
    who = Credentials.read(url, options.credentials)
    return Reached(Archive(url, who, ca=options.ca, limits=limits), options)


def refuse_unanswered(reached: Reached) -> None:
    """Ask an archive what the studies hold, so that what it refuses is said before a model is loaded.

    Raises:
        ArchiveError: if it does not answer, or not to this user, or has not what is named.
    """
    with reached.archive as archive:  # it connects anew when it is asked again
        known = set[str]()
        for study, called in _studies(reached):
            with called:
                known |= {each.uid for each in archive.series(study)}
    _refuse_lacking(reached.options.series, known)


def _studies(reached: Reached) -> Iterator[tuple[str, contextlib.AbstractContextManager[None]]]:
    """Yield each study, and what calls it by its number in errors where there are several."""
    studies = dict.fromkeys(reached.options.studies)
    for number, study in enumerate(studies, 1):
        yield study, _called(f"study {number} of {len(studies)}: " if len(studies) > 1 else "")


@contextlib.contextmanager
def _called(which: str) -> Iterator[None]:
    try:
        yield
    except ArchiveError as error:
        raise type(error)(f"{which}{error}") from error.__cause__


def _refuse_lacking(wanted: Sequence[str], known: Set[str]) -> None:
    if lacking := [uid for uid in wanted if uid not in known]:
        raise ArchiveError(
            f"{len(lacking)} of {len(wanted)} series by {spelt('series_uid')} are not in these studies; "
            "see whether the UIDs are right"
        )


@dataclass(frozen=True)
class Pulled:
    """What came of an archive.

    Args:
        reached: where it came from.
        folder: of a folder for each series.
        left_out: series that were not downloaded, by hashes of UIDs, with the reason.
    """

    reached: Reached
    folder: Path
    left_out: tuple[tuple[Path, str], ...]


@contextlib.contextmanager
def pulled(reached: Reached, rules: Sequence[Rule] | None, beside: Path) -> Iterator[Pulled]:
    """Download the series of studies that a model may take; they are removed at the end.

    Args:
        reached: the archive, which is closed at the end.
        rules: which series the model takes; without any, all that hold images.
        beside: folder to make the folder of files in, which its owner alone can read.

    Raises:
        ArchiveError: if the archive does not answer, or has no such series, or the disk refuses.
    """
    wanted, known = reached.options.series, set[str]()
    with reached.archive as archive, _scratch(beside) as folder:
        left_out = dict[str, str]()
        for study, called in _studies(reached):
            with called:
                try:
                    known |= _pull(archive, study, wanted, rules, folder, left_out)
                except OSError as error:
                    raise ArchiveError(
                        f"what the archive sends cannot be kept in {beside}: {error.strerror or error}; make room, or "
                        "name an output in another place"
                    ) from error
        _refuse_lacking(wanted, known)
        if not any(folder.iterdir()):
            reason = next(iter(left_out.values()), "none holds images")
            raise ArchiveError(f"the archive has no series that is taken; {reason}")
        yield Pulled(reached, folder, tuple((Path(name), reason) for name, reason in left_out.items()))


def _pull(
    archive: Archive,
    study: str,
    wanted: Sequence[str],
    rules: Sequence[Rule] | None,
    folder: Path,
    left_out: dict[str, str],
) -> set[str]:
    """Download a study until it is still: until its series and their instances are those that are here.

    Returns:
        The UIDs of its series.
    """
    here, judged = dict[str, tuple[frozenset[str], Path]](), dict[str, str]()
    coming = folder / ".coming"
    for number in range(archive.limits.rounds + 1):
        if number > 1:
            time.sleep(archive.limits.pause * 2 ** (number - 2))
        offered = archive.series(study)
        asked = [each for each in offered if not wanted or each.uid in wanted]
        judged |= {each.uid: _refusal(archive, each, rules) for each in asked if each.uid not in judged}
        chosen = {each.uid for each in asked if not judged[each.uid]}
        changed = chosen - here.keys()
        if number:
            changed |= {uid for uid in chosen & here.keys() if archive.instances(study, uid) != here[uid][0]}
        outdated = here.keys() & (changed | here.keys() - chosen)
        if number and not (changed or outdated):
            left_out |= {_name(study, uid): reason for uid, reason in judged.items() if reason}
            logger.info("%s of a study downloaded", counted(len(here), "series", "series"))
            return {each.uid for each in offered}
        for uid in outdated:
            shutil.rmtree(here.pop(uid)[1])
        for uid in sorted(changed):
            instances = frozenset(archive.retrieve(study, uid, coming))
            here[uid] = instances, folder / _name(study, uid, *sorted(instances))
            coming.rename(here[uid][1])
    raise ArchiveError("the study changes while it is read; run again when it is complete")


def _refusal(archive: Archive, offered: OfferedSeries, rules: Sequence[Rule] | None) -> str:
    """Return why a series need not be downloaded; empty where it must."""
    reason = ""
    if offered.modality in NO_IMAGE:
        reason = f"no image of its own (modality {offered.modality})"
    elif rules is not None and offered.modality:  # where the archive says nothing, the files do
        reason = refuses_kind([Rule(modality=rule.modality) for rule in rules], offered.modality, "")
        if not reason and any(rule.description for rule in rules):
            reason = refuses_kind(rules, offered.modality, archive.description(offered))
    files = "series" if offered.instances is None else f"series of {counted(offered.instances, 'file')}"
    return reason and f"{files}: {reason}"


def _name(study: str, series: str, *instances: str) -> str:
    digests = (hashlib.sha256(text.encode()).hexdigest() for text in (study, "\n".join([series, *instances])))
    return "_".join(digest[:_DIGITS] for digest in digests)


@contextlib.contextmanager
def _scratch(beside: Path) -> Iterator[Path]:
    """Yield a folder that its owner alone can read, and that is gone afterwards; what killed runs left goes, too."""
    beside.mkdir(parents=True, exist_ok=True)
    for left in beside.glob(f"{_SCRATCH}*"):
        with contextlib.suppress(OSError), _locked(left) as mine:
            if mine and time.time() - left.stat().st_mtime > _OLD:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=beside) as name, _locked(Path(name)):
        yield Path(name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Lock a folder if nobody has; yield whether it is. Without locks of folders (Windows) it is not."""
    try:
        import fcntl
    except ImportError:
        yield False
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(opened)
