"""What keeps a node's queue and its folder one: after a kill, when a study's time is over, when a user asks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medseg.errors import counted
from medseg.node.config import Retry
from medseg.node.queue import Queue, QueueError
from medseg.node.states import CLAIMED, DONE, FAILED, RECEIVING, REFUSED, SENDING, UNKNOWN, WAITING
from medseg.node.store import Store

__all__ = [
    *("MOST_CRASHES", "Recovered", "forget", "forget_study", "recover", "redirect", "retry_study", "straighten"),
    *("sweep", "withdraw"),
]

MOST_CRASHES = 5
"""A node that ended so often with one study in hand does not take it up again by itself."""

_DAY = 86400.0  # seconds: no pause is longer


@dataclass(frozen=True)
class Recovered:
    """What was found at a start.

    Args:
        claims: studies that a dead process had in hand.
        cut: files that it was writing.
        orphans: files that no row speaks of: their study is done, or their sender was not told of success.
        gone: instances whose files are not there any more.
        unmade: results whose files are not there any more; they are made again.
    """

    claims: int = 0
    cut: int = 0
    orphans: int = 0
    gone: int = 0
    unmade: int = 0

    def lines(self) -> list[str]:
        """Return what is to be said of it."""
        said = (
            (self.claims, "study was", "studies were", "in hand when the node ended; done again"),
            (self.cut, "file was", "files were", "half written; removed, their senders were not told of success"),
            (
                self.orphans,
                "file was",
                "files were",
                "of nothing in the queue (done, or not answered); removed",
            ),
            (self.gone, "received file is", "received files are", "gone from the folder; their studies failed"),
            (self.unmade, "result is", "results are", "gone from the folder before it was sent; made again"),
        )
        return [f"{counted(number, one, several)} {what}" for number, one, several, what in said if number]


def recover(queue: Queue, store: Store, retry: Retry, now: float) -> Recovered:
    """Bring queue and folder together after whatever happened; nobody else may be working in it.

    Args:
        queue: of the folder.
        store: the folder.
        retry: pauses before a study that a dead process had in hand, so that one that kills a node stops no other.
        now: time.
    """
    cut = store.clear_incoming()
    straighten(queue, now, now + _DAY)
    with queue.transaction() as db:
        claims = db.execute("SELECT id, crashes FROM study WHERE state=?", (CLAIMED,)).fetchall()
        for study, crashes in claims:
            over = crashes + 1 >= MOST_CRASHES
            db.execute(
                "UPDATE study SET state=?, crashes=crashes+1, due=?, fault=?, ended=?, "
                "reason=CASE WHEN ? THEN ? ELSE reason END WHERE id=?",
                (
                    *(FAILED if over else WAITING, now + (retry.pause(crashes) if crashes else 0), over),
                    *(now if over else None, over, f"the node ended {crashes + 1} times with it in hand", study),
                ),
            )
        # its sender may have been in the middle when the node ended: quiet time counts from now
        db.execute(
            "UPDATE study SET changed=?, broken=CASE WHEN broken AND NOT EXISTS(SELECT 1 FROM cut WHERE study=id) "
            "THEN ? ELSE broken END WHERE state=?",
            (now, UNKNOWN, RECEIVING),
        )
        gone = _missing_instances(db, store, now)
        unmade = _missing_results(db, store)
        known = {
            store.file(*row) for row in db.execute("SELECT study, series, sop FROM instance WHERE present").fetchall()
        }
        results = {str(study) for (study,) in db.execute("SELECT DISTINCT study FROM result WHERE path<>''")}
    orphans = [path for path in store.instances() if path not in known]
    for path in orphans:
        path.unlink(missing_ok=True)
    for folder in store.results.iterdir():  # of a prediction that was not committed
        if folder.name not in results and folder.name.isdecimal():
            store.remove_results(int(folder.name))
    queue.measure()
    return Recovered(len(claims), cut, len(orphans), gone, unmade)


def _missing_instances(db: sqlite3.Connection, store: Store, now: float) -> int:
    rows = db.execute("SELECT study, series, sop, bytes FROM instance WHERE present").fetchall()
    gone = [row for row in rows if not _is_whole(store.file(*row[:3]))]
    for study, _, sop, _ in gone:
        db.execute("UPDATE instance SET present=0 WHERE study=? AND sop=?", (study, sop))
        db.execute(
            "UPDATE study SET state=?, fault=1, ended=?, reason=? WHERE id=? AND state IN (?,?,?)",
            (FAILED, now, "files of it are gone from the folder; send it again", study, RECEIVING, WAITING, FAILED),
        )
    return len(gone)


def _missing_results(db: sqlite3.Connection, store: Store) -> int:
    rows = db.execute(
        "SELECT DISTINCT id, study, series, model, path FROM result JOIN delivery ON result=id WHERE state='waiting'"
    ).fetchall()
    gone = [row for row in rows if not _is_whole(store.root / row[4])]
    for result, study, series, model, _ in gone:
        db.execute("DELETE FROM result WHERE id=?", (result,))
        db.execute("DELETE FROM job WHERE study=? AND series=? AND model=?", (study, series, model))
        db.execute("UPDATE study SET state=?, due=0 WHERE id=? AND state=?", (WAITING, study, SENDING))
    return len(gone)


def _is_whole(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def straighten(queue: Queue, now: float, latest: float) -> None:
    """Bring times that lie ahead back: a clock that was set back would have all wait until it is there again.

    Args:
        queue: it.
        now: time, which nothing that has happened is later than.
        latest: nothing waits longer.
    """
    with queue.transaction() as db:
        db.execute(
            "UPDATE study SET changed=min(changed,?), ended=min(ended,?), due=min(due,?) "
            "WHERE changed>? OR ended>? OR due>?",
            (now, now, latest) * 2,
        )
        db.execute("UPDATE delivery SET due=? WHERE due>?", (latest, latest))


def sweep(queue: Queue, keep: float, keep_failed: float, now: float, remove: Callable[[int], None]) -> list[int]:
    """Delete what was received and made of studies that ended long enough ago.

    The rows go first: a kill in between leaves files that no row speaks of, which the next start removes.

    Args:
        queue: it.
        keep: seconds after a study was done or refused.
        keep_failed: seconds after it failed.
        now: time.
        remove: removes the files of a study.

    Returns:
        The studies' numbers.
    """
    with queue.lock:  # no instance of such a study may be taken in between
        with queue.transaction() as db:
            rows = db.execute(
                "SELECT id FROM study WHERE id IN (SELECT study FROM instance WHERE present UNION "
                "SELECT study FROM result WHERE path<>'') AND (state IN (?,?) AND ended<=? OR state=? AND ended<=?) "
                "AND NOT EXISTS(SELECT 1 FROM delivery JOIN result ON result.id=result "
                "WHERE study=study.id AND delivery.state='waiting')",
                (DONE, REFUSED, now - keep, FAILED, now - keep_failed),
            ).fetchall()
            for study in rows:
                db.execute("UPDATE instance SET present=0 WHERE study=?", study)
                db.execute("UPDATE result SET path='' WHERE study=?", study)
        for (study,) in rows:
            remove(study)
        if rows:
            queue.measure()
    return [study for (study,) in rows]


_ENDED = (
    f"state IN ('{DONE}','{REFUSED}','{FAILED}') AND NOT EXISTS(SELECT 1 FROM instance WHERE study=id AND present) "
    "AND NOT EXISTS(SELECT 1 FROM result WHERE study=study.id AND path<>'')"
)


def forget(queue: Queue, before: float) -> int:
    """Forget studies that ended before a time and of which no file is left; return how many that were."""
    with queue.transaction() as db:
        return db.execute(f"DELETE FROM study WHERE ended<? AND {_ENDED}", (before,)).rowcount


def forget_study(queue: Queue, study: int) -> None:
    """Forget a study, so that it is done when it comes again.

    Raises:
        QueueError: if there is none of this number, or files of it are left.
    """
    with queue.transaction() as db:
        if not db.execute(f"DELETE FROM study WHERE id=? AND {_ENDED}", (study,)).rowcount:
            raise QueueError(f"study {study} is not known, or not ended and deleted yet; see medseg node status")


def retry_study(queue: Queue, study: int) -> None:
    """Try a failed study again, at once.

    Raises:
        QueueError: if there is none of this number, it has not failed, or its files are deleted.
    """
    with queue.transaction() as db:
        row = db.execute("SELECT state, fault FROM study WHERE id=?", (study,)).fetchone()
        if row is None or row[0] != FAILED:
            raise QueueError(
                f"study {study} {'is ' + row[0] if row else 'is not known'}; one that failed can be retried"
            )
        (left,) = db.execute("SELECT count(*) FROM instance WHERE study=? AND present", (study,)).fetchone()
        if not left:
            raise QueueError(f"study {study}: its files were deleted; send it again")
        sent = db.execute(
            "UPDATE delivery SET state='waiting', tries=0, due=0 WHERE state='failed' AND result IN "
            "(SELECT id FROM result WHERE study=? AND path<>'')",
            (study,),
        ).rowcount
        if not (row[1] or sent):
            raise QueueError(f"study {study}: the results that were not sent are deleted; send their series again")
        db.execute("DELETE FROM cut WHERE study=?", (study,))  # it is taken as it is
        now = WAITING if row[1] else SENDING
        db.execute(
            "UPDATE study SET state=?, tries=0, crashes=0, due=0, reason='', ended=NULL WHERE id=?", (now, study)
        )


def redirect(queue: Queue, old: str, new: str, now: float) -> int:
    """Send what a destination has not got to another one instead, also what failed there and whose file is left.

    Args:
        queue: it.
        old: name of the destination.
        new: name of the other.
        now: time.

    Returns:
        How many results that are.

    Raises:
        QueueError: if there are none.
    """
    with queue.transaction() as db:
        rows = db.execute(
            "SELECT result, study FROM delivery JOIN result ON result.id=result "
            "WHERE destination=? AND state<>'done' AND path<>''",
            (old,),
        ).fetchall()
        if not rows:
            raise QueueError(f"no result that could be sent waits for {old!r}; see medseg node status")
        for result, _ in rows:
            db.execute("INSERT OR IGNORE INTO delivery(result,destination,state) VALUES(?,?,'waiting')", (result, new))
            db.execute("DELETE FROM delivery WHERE result=? AND destination=?", (result, old))
        for study in {study for _, study in rows}:
            db.execute(
                "UPDATE study SET state=?, reason='', ended=NULL WHERE id=? AND state=? AND NOT fault",
                (SENDING, study, FAILED),
            )
            queue.settle(db, study, now)
    return len(rows)


def withdraw(queue: Queue, old: str, now: float) -> int:
    """Give up what waits for a destination; its studies fail, since somebody does not have their results.

    Args:
        queue: it.
        old: name of the destination.
        now: time.

    Returns:
        How many results that are.

    Raises:
        QueueError: if there are none.
    """
    with queue.transaction() as db:
        studies = db.execute(
            "SELECT study FROM delivery JOIN result ON result.id=result WHERE destination=? AND state='waiting'", (old,)
        ).fetchall()
        if not studies:
            raise QueueError(f"no result waits for {old!r}; see medseg node status")
        db.execute(
            "UPDATE delivery SET state='failed', reason='given up by hand' WHERE destination=? AND state='waiting'",
            (old,),
        )
        for (study,) in set(studies):
            queue.settle(db, study, now)
    return len(studies)
