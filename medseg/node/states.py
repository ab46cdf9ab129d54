"""What a node's queue speaks of: states, instances that arrive, studies that are claimed, results, deliveries."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    *("CLAIMED", "DONE", "FAILED", "RECEIVING", "REFUSED", "SENDING", "WAITING"),
    *("BROKEN", "UNKNOWN", "WHOLE"),
    *("Added", "Claim", "Delivery", "Incoming", "Made", "Part", "SeriesState", "Worked"),
]

RECEIVING, WAITING, CLAIMED, SENDING = "receiving", "waiting", "claimed", "sending"
DONE, FAILED, REFUSED = "done", "failed", "refused"
"""Of a study."""

WHOLE, BROKEN, UNKNOWN = 0, 1, 2
"""How its last association ended: released, not so (or not yet), or the node ended first and cannot know."""

Part = tuple[str, str]
"""A study and one of its series, as `medseg.node.store.stands_for` has them."""


class Added:
    """What became of an instance."""

    STORED, KNOWN, OTHER = "stored", "known", "other"


@dataclass(frozen=True)
class Incoming:
    """An instance that arrived; UIDs as `medseg.node.store.stands_for` has them.

    Args:
        study: of it.
        series: of it.
        sop: the instance.
        digest: of its bytes.
        size: in bytes.
    """

    study: str
    series: str
    sop: str
    digest: str
    size: int


@dataclass(frozen=True)
class SeriesState:
    """A series of a claimed study.

    Args:
        key: stands for its UID.
        generation: of the study, in which it last got an instance.
        present: instances whose files are here.
        absent: instances that were received, and deleted after an earlier result.
        finished: models that have done it as it is.
        done: models that have done it, as it is or as it was before more of it came.
        owed: it was received and never settled: neither done nor found to be not for any model.
    """

    key: str
    generation: int
    present: int
    absent: int
    finished: frozenset[str]
    done: frozenset[str]
    owed: bool = False


@dataclass(frozen=True)
class Claim:
    """A study to be predicted.

    Args:
        study: its number.
        generation: as it was claimed.
        series: of it, those of later generations last.
    """

    study: int
    generation: int
    series: tuple[SeriesState, ...]


@dataclass(frozen=True)
class Made:
    """A result.

    Args:
        series: that it is about.
        model: that made it.
        path: of its file, on the disk, relative to the node's folder.
        sop: stands for its UID.
        size: in bytes.
    """

    series: str
    model: str
    path: str
    sop: str
    size: int


@dataclass(frozen=True)
class Worked:
    """What came of a claimed study.

    Args:
        jobs: series and models that are done.
        made: results of them.
        faults: why the others are not, one text each; they are tried again.
        notes: series that no model took, and why.
        hopeless: trying again does not help.
        settled: series with which nothing is wrong.
    """

    jobs: tuple[tuple[str, str], ...] = ()
    made: tuple[Made, ...] = ()
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    hopeless: bool = False
    settled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Delivery:
    """A result on its way to one destination.

    Args:
        result: its number.
        study: of it.
        destination: name.
        path: of its file, relative to the node's folder.
        tries: so far.
    """

    result: int
    study: int
    destination: str
    path: str
    tries: int
