"""What a node is doing, for people: from its queue, read only, without a word that names a patient."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.errors import counted
from medseg.node.queue import QueueError
from medseg.node.store import Store
from medseg.reports.tables import Cell, Table

__all__ = ["Status", "StudyStatus", "page", "read_status", "stranded", "text"]

_SHOWN = 50
_STUDIES = """
SELECT id, state, (SELECT count(*) FROM instance WHERE study=study.id),
  (SELECT count(*) FROM result WHERE study=study.id),
  (SELECT count(*) FROM delivery JOIN result ON result=result.id WHERE study=study.id AND delivery.state='done'),
  (SELECT count(*) FROM delivery JOIN result ON result=result.id WHERE study=study.id AND delivery.state<>'done'),
  changed, reason
FROM study ORDER BY state IN ('done','refused'), state<>'failed', id DESC LIMIT ?
"""
_DESTINATIONS = """
SELECT destination, sum(state='done'), sum(state='waiting'), sum(state='failed'),
  coalesce((SELECT reason FROM delivery AS other WHERE other.destination=delivery.destination AND reason<>''
    AND state<>'done' ORDER BY due DESC LIMIT 1), '')
FROM delivery GROUP BY destination ORDER BY destination
"""


@dataclass(frozen=True)
class StudyStatus:
    """A study.

    Args:
        number: of it in the queue.
        state: see `medseg.node.queue`.
        instances: received.
        results: made.
        sent: deliveries that are done.
        unsent: deliveries that are not.
        changed: when its last instance came, seconds since 1970.
        reason: why it failed, waits, or was refused.
    """

    number: int
    state: str
    instances: int
    results: int
    sent: int
    unsent: int
    changed: float
    reason: str


@dataclass(frozen=True)
class Status:
    """A node.

    Args:
        running: whether a process works on the queue.
        states: studies by state.
        held: bytes of what was received and made.
        destinations: name, results sent, waiting, failed, and the last reason.
        known: instances that came again and were there already.
        studies: the failed ones first, then those in work, then the last ones done.
        nowhere: destinations that results wait for and that the node's configuration does not have.
        full: why objects are refused; empty where there is room for one as large as the largest that is there.
    """

    running: bool
    states: dict[str, int]
    held: int
    destinations: list[tuple[str, int, int, int, str]]
    known: int
    studies: list[StudyStatus]
    nowhere: list[str]
    full: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing has failed, or waits for nobody; a result that was given up counts before its study ends."""
        return not (self.states.get("failed") or self.nowhere or any(failed for *_, failed, _ in self.destinations))

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def read_status(
    path: Path,
    *,
    running: bool,
    most: int = _SHOWN,
    to: Collection[str] | None = None,
    disk_gib: float | None = None,
) -> Status:
    """Read a queue, which may be in use.

    Args:
        path: of the database.
        running: whether a process works on it.
        most: studies that are listed.
        to: names of the destinations that there are; ``None`` where that is not known.
        disk_gib: most that the node may hold; ``None`` asks for no room.

    Raises:
        QueueError: if there is none, or it cannot be read.
    """
    if not path.is_file():
        raise QueueError(f"{path}: there is no queue; start the node: medseg node run CONFIG")
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            with db:
                db.execute("BEGIN")  # all of it of one moment
                states = dict(db.execute("SELECT state, count(*) FROM study GROUP BY state ORDER BY state"))
                (received, largest) = db.execute(
                    "SELECT total(bytes), coalesce(max(bytes), 0) FROM instance WHERE present"
                ).fetchone()
                (made,) = db.execute("SELECT total(bytes) FROM result WHERE path<>''").fetchone()
                known = db.execute("SELECT number FROM count WHERE name='known'").fetchone()
                studies = [StudyStatus(*row) for row in db.execute(_STUDIES, (most,))]
                destinations = [tuple(row) for row in db.execute(_DESTINATIONS)]
        finally:
            db.close()
    except sqlite3.Error as error:
        raise QueueError(f"{path}: the queue cannot be read ({error}); is it this node's?") from error
    nowhere = [name for name, _, waiting, *_ in destinations if waiting and to is not None and name not in to]
    held = int(received + made)
    full = "" if disk_gib is None else Store(path.parent).full(held, disk_gib, largest)
    return Status(running, states, held, destinations, known[0] if known else 0, studies, nowhere, full)


def stranded(status: Status) -> list[str]:
    """Return what waits for a destination that is not there any more, and the way out, a line each."""
    return [
        f"{counted(waiting, 'result waits', 'results wait')} for {name!r}, which is no destination of the "
        f"configuration: name it there again, send to another (medseg node redirect CONFIG {name} OTHER), or give up "
        f"(medseg node withdraw CONFIG {name})"
        for name, _, waiting, *_ in status.destinations
        if name in status.nowhere
    ]


def _tables(status: Status) -> list[Table]:
    destinations: list[dict[str, Cell]] = [
        {"destination": name, "sent": sent, "waiting": waiting, "failed": failed, "why": reason}
        for name, sent, waiting, failed, reason in status.destinations
    ]
    studies: list[dict[str, Cell]] = [
        {
            **{"study": str(each.number), "state": each.state, "instances": each.instances, "results": each.results},
            **{"sent": each.sent, "to send": each.unsent},
            **{"last instance": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each.changed)), "why": each.reason},
        }
        for each in status.studies
    ]
    return [Table.of(rows) for rows in (destinations, studies) if rows]


def _head(status: Status) -> str:
    states = ", ".join(f"{number} {state}" for state, number in status.states.items()) or "no study yet"
    runs = "running" if status.running else "NOT running"
    again = f"; {status.known} instances came again" if status.known else ""
    full = f"; full: {status.full}, objects are refused" if status.full else ""
    return f"{runs}{full}; {states}; {status.held / 2**30:.2f} GiB held{again}"


def text(status: Status) -> str:
    """Return it for a terminal."""
    return (
        "\n\n".join([_head(status), *stranded(status), *(table.to_text().rstrip("\n") for table in _tables(status))])
        + "\n"
    )


def page(status: Status, title: str) -> str:
    """Return it as a page of HTML that loads nothing, and itself again every few seconds.

    Args:
        status: of the node.
        title: its AE title.
    """
    from html import escape

    body = "\n".join(table.to_html() for table in _tables(status))
    said = "".join(f"<p>{escape(line)}</p>" for line in (_head(status), *stranded(status)))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="10">'
        f"<title>{escape(title)}</title><style>body{{font:15px/1.5 sans-serif;margin:2em;color:#222;background:#fff}}"
        "table{border-collapse:collapse;margin:1.5em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ccc;"
        "text-align:left;vertical-align:top}.n{text-align:right;font-variant-numeric:tabular-nums}</style></head>"
        f"<body><h1>{escape(title)}</h1>{said}\n{body}\n</body></html>\n"
    )
