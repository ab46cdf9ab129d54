"""A node's queue: what is to be done of each study, in SQLite, so that a kill at any moment loses and doubles nothing.

A study goes one way, each arrow is one transaction that is on the disk before anybody acts on it:

```
receiving -> claimed -> sending -> done
    ^          |  ^        |        |     (refused: no model takes any of its series)
    |          v  |        v        |
    |        waiting    failed      |
    +---- a new instance of it -----+
```

- `add`: an instance's file has its final name and its row is committed before the sender is told of success.
- `claim`: one process has the folder (`medseg.runs.lock`), so that a study which is claimed when a node starts was in
  the hands of one that died: it waits, and is done again. Nothing of it was sent, because
- `predicted`: commits the results, whose files are on the disk, with a delivery to each destination. Only then anything
  is sent, and what is sent again after a kill has the UID that it had the first time.
- `delivered`: commits each answer. Of a kill between an archive's answer and this, the archive sees one object twice,
  under one UID.

A series is done once for each model (`job`) as long as no instance is added to it. A study that gets a new instance is
received again, whatever its state: what was not yet sent of the series is withdrawn, its results are made anew. UIDs
are kept as hashes; times are seconds since 1970.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from medseg.errors import MedsegError
from medseg.node.config import Retry
from medseg.node.states import (
    BROKEN,
    CLAIMED,
    DONE,
    FAILED,
    RECEIVING,
    REFUSED,
    SENDING,
    UNKNOWN,
    WAITING,
    WHOLE,
    Added,
    Claim,
    Delivery,
    Incoming,
    Made,
    Part,
    SeriesState,
    Worked,
)

__all__ = ["Queue", "QueueError"]

logger = logging.getLogger(__name__)

_NOT_BACK = "its sender was connected when the node ended, and has not come back; it is taken as it is"
_BROKEN_OFF = "its sender broke off or was refused a part; send it again"
_VERSION = 3
_SCHEMA = """
CREATE TABLE study(
  id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, state TEXT NOT NULL, generation INTEGER NOT NULL DEFAULT 1,
  changed REAL NOT NULL, broken INTEGER NOT NULL DEFAULT 1, tries INTEGER NOT NULL DEFAULT 0,
  crashes INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, fault INTEGER NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT '', began REAL NOT NULL, ended REAL);
CREATE INDEX study_state ON study(state);
CREATE TABLE instance(
  study INTEGER NOT NULL REFERENCES study ON DELETE CASCADE, series TEXT NOT NULL, sop TEXT NOT NULL,
  digest TEXT NOT NULL, bytes INTEGER NOT NULL, generation INTEGER NOT NULL, present INTEGER NOT NULL DEFAULT 1,
  settled INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(study, sop)) WITHOUT ROWID;
CREATE INDEX instance_present ON instance(study, bytes) WHERE present;
CREATE TABLE cut(
  study INTEGER NOT NULL REFERENCES study ON DELETE CASCADE, series TEXT NOT NULL, PRIMARY KEY(study, series)
  ) WITHOUT ROWID;
CREATE TABLE job(
  study INTEGER NOT NULL REFERENCES study ON DELETE CASCADE, series TEXT NOT NULL, model TEXT NOT NULL,
  generation INTEGER NOT NULL, PRIMARY KEY(study, series, model)) WITHOUT ROWID;
CREATE TABLE result(
  id INTEGER PRIMARY KEY AUTOINCREMENT, study INTEGER NOT NULL REFERENCES study ON DELETE CASCADE,
  series TEXT NOT NULL, model TEXT NOT NULL, path TEXT NOT NULL, sop TEXT NOT NULL, bytes INTEGER NOT NULL,
  UNIQUE(study, sop));
CREATE INDEX result_kept ON result(study, bytes) WHERE path<>'';
CREATE TABLE delivery(
  result INTEGER NOT NULL REFERENCES result ON DELETE CASCADE, destination TEXT NOT NULL, state TEXT NOT NULL,
  tries INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
  PRIMARY KEY(result, destination)) WITHOUT ROWID;
CREATE INDEX delivery_due ON delivery(destination, state, due);
CREATE TABLE count(name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""


class QueueError(MedsegError):
    """A queue that cannot be used, or a study that it does not have."""


class Queue:
    """The queue, of one process at a time but for those that read it.

    Args:
        path: of the database; made if it is missing.

    Raises:
        QueueError: if it is damaged, or of another version of medseg.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.RLock()
        try:
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if not version:
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
            elif self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check")
        except sqlite3.Error as error:
            raise QueueError(
                f"{path}: the queue cannot be read ({error}); move it and its -wal file away, and send again what its "
                "archive lacks: results have the same UIDs"
            ) from error
        if version not in (0, _VERSION):
            raise QueueError(f"{path}: is a queue of another version ({version}); let the medseg that made it end it")
        self.held = 0
        self.measure()

    def close(self) -> None:
        """Close the database."""
        with self.lock:
            self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the database; what is done to it is on the disk after the block, or undone."""
        with self.lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def measure(self) -> None:
        """Sum up how many bytes are held."""
        with self.lock:
            (received,) = self._db.execute("SELECT total(bytes) FROM instance WHERE present").fetchone()
            (made,) = self._db.execute("SELECT total(bytes) FROM result WHERE path<>''").fetchone()
            self.held = int(received + made)

    # ------------------------------------------------------------------------------------------ receiving

    def add(self, item: Incoming, place: Callable[[int], None], now: float) -> tuple[str, int]:
        """Take an instance in.

        Args:
            item: the instance.
            place: called with the study's number to give the file its final name, inside the transaction.
            now: time.

        Returns:
            What became of it, see `Added`, and the study's number.
        """
        with self.transaction() as db:
            found = db.execute("SELECT id, state FROM study WHERE key=?", (item.study,)).fetchone()
            study, state = found or (0, RECEIVING)
            known = db.execute(
                "SELECT digest, present FROM instance WHERE study=? AND sop=?", (study, item.sop)
            ).fetchone()
            if known and (known[0] == item.digest) and (known[1] or state in (DONE, REFUSED)):
                self._again(db, study, state, now)
                return Added.KNOWN, study
            if known and known[1]:
                return Added.OTHER, study
            if not study:
                given = (item.study, RECEIVING, now, now)
                study = int(
                    db.execute("INSERT INTO study(key,state,changed,began) VALUES(?,?,?,?)", given).lastrowid or 0
                )
            place(study)
            if state != RECEIVING:
                self._reopen(db, study, item.series)
            db.execute("UPDATE study SET changed=?, broken=? WHERE id=?", (now, BROKEN, study))
            db.execute(
                "INSERT OR REPLACE INTO instance SELECT ?,?,?,?,?,generation,1,0 FROM study WHERE id=?",
                (study, item.series, item.sop, item.digest, item.size, study),
            )
        self.held += item.size
        return Added.STORED, study

    @staticmethod
    def _again(db: sqlite3.Connection, study: int, state: str, now: float) -> None:
        """Take note of an instance that is known: who sends a failed study again wants it tried again."""
        db.execute("INSERT INTO count VALUES('known',1) ON CONFLICT(name) DO UPDATE SET number=number+1")
        if state == FAILED:
            db.execute("UPDATE study SET state=?, tries=0, crashes=0, fault=0 WHERE id=?", (RECEIVING, study))
        if state in (FAILED, RECEIVING):
            db.execute("UPDATE study SET changed=? WHERE id=?", (now, study))

    @staticmethod
    def _reopen(db: sqlite3.Connection, study: int, series: str) -> None:
        db.execute(
            "UPDATE study SET state=?, generation=generation+1, tries=0, crashes=0, fault=0, reason='', ended=NULL "
            "WHERE id=?",
            (RECEIVING, study),
        )
        db.execute(
            "DELETE FROM delivery WHERE state<>'done' AND result IN (SELECT id FROM result WHERE study=? AND series=?)",
            (study, series),
        )

    def ended(self, studies: Set[int], now: float, *, whole: Set[Part], cut: Set[Part] = frozenset()) -> None:
        """Take note that an association ended which brought instances of studies.

        A series that was cut off makes its study broken, whatever comes of its other series, until somebody brings it.

        Args:
            studies: numbers of those that no other association is bringing.
            now: time, from which on they may become still.
            whole: series that it brought until it was released.
            cut: series that it broke off in, or of which an instance was refused.
        """
        with self.transaction() as db:
            for key, series in whole:
                db.execute("DELETE FROM cut WHERE series=? AND study=(SELECT id FROM study WHERE key=?)", (series, key))
            for key, series in cut:
                db.execute(
                    "INSERT OR IGNORE INTO cut SELECT id, ? FROM study WHERE key=? AND state=?",
                    (series, key, RECEIVING),
                )
            for study in studies:
                db.execute(
                    "UPDATE study SET changed=?, broken=CASE WHEN EXISTS(SELECT 1 FROM cut WHERE study=id) THEN ? "
                    "ELSE ? END WHERE id=? AND state=?",
                    (now, BROKEN, WHOLE, study, RECEIVING),
                )

    # ------------------------------------------------------------------------------------------ predicting

    def claim(self, now: float, still: float, broken: float, held: Set[int] = frozenset()) -> Claim | None:
        """Claim the study that waits longest.

        One whose sender broke off, or was refused a part, and did not come back, fails: a part of a study looks like a
        whole one.

        Args:
            now: time.
            still: seconds since the last instance, after which a study is whole.
            broken: the same where it may come back.
            held: studies that somebody is sending just now.
        """
        with self.transaction() as db:
            rows = db.execute(
                "SELECT id, generation, state, broken FROM study WHERE "
                "(state=? AND changed+CASE WHEN broken THEN ? ELSE ? END<=?) OR (state=? AND due<=?) "
                "ORDER BY max(changed, due)",
                (RECEIVING, broken, still, now, WAITING, now),
            ).fetchall()
            for study, generation, state, how in rows:
                if study in held:
                    continue
                if state == RECEIVING and how == BROKEN:
                    logger.warning("study %d: %s", study, _BROKEN_OFF)
                    db.execute(
                        "UPDATE study SET state=?, fault=1, ended=?, reason=? WHERE id=?",
                        (FAILED, now, _BROKEN_OFF, study),
                    )
                    continue
                if state == RECEIVING and how == UNKNOWN:
                    logger.warning("study %d: %s", study, _NOT_BACK)
                db.execute("UPDATE study SET state=? WHERE id=?", (CLAIMED, study))
                return Claim(study, generation, self._series(db, study))
        return None

    @staticmethod
    def _series(db: sqlite3.Connection, study: int) -> tuple[SeriesState, ...]:
        jobs = db.execute("SELECT series, model, generation FROM job WHERE study=?", (study,)).fetchall()
        rows = db.execute(
            "SELECT series, max(generation), sum(present), sum(1-present), min(settled) FROM instance WHERE study=? "
            "GROUP BY series ORDER BY min(generation), series",
            (study,),
        )
        made = []
        for key, generation, present, absent, settled in rows:
            finished = frozenset(model for series, model, done in jobs if (series, done) == (key, generation))
            done = frozenset(model for series, model, _ in jobs if series == key)
            made.append(SeriesState(key, generation, present, absent, finished, done, owed=not settled))
        return tuple(made)

    def predicted(self, claim: Claim, worked: Worked, destinations: Sequence[str], retry: Retry, now: float) -> bool:
        """Commit what came of a claimed study.

        Returns:
            Whether it counts: not where an instance arrived since, and the study is received again.
        """
        with self.transaction() as db:
            row = db.execute("SELECT state, generation, tries FROM study WHERE id=?", (claim.study,)).fetchone()
            if row is None or row[:2] != (CLAIMED, claim.generation):
                return False
            generations = {each.key: each.generation for each in claim.series}
            for series, model in worked.jobs:
                job = (claim.study, series, model, generations[series])
                db.execute("INSERT OR REPLACE INTO job VALUES(?,?,?,?)", job)
            for made in worked.made:
                self._make(db, claim.study, made, destinations)
            for series in worked.settled:
                db.execute("UPDATE instance SET settled=1 WHERE study=? AND series=?", (claim.study, series))
            tries = row[2] + bool(worked.faults)
            again = worked.faults and not worked.hopeless and tries < retry.times
            (some,) = db.execute("SELECT count(*) FROM job WHERE study=?", (claim.study,)).fetchone()
            state = WAITING if again else SENDING if worked.faults or some else REFUSED
            db.execute(
                "UPDATE study SET state=?, tries=?, due=?, fault=?, reason=?, ended=? WHERE id=?",
                (
                    *(state, tries, now + retry.pause(max(tries, 1)), bool(worked.faults)),
                    *("; ".join((*worked.faults, *worked.notes)), now if state == REFUSED else None, claim.study),
                ),
            )
            self.settle(db, claim.study, now)
        self.measure()
        return True

    @staticmethod
    def _make(db: sqlite3.Connection, study: int, made: Made, destinations: Sequence[str]) -> None:
        db.execute(
            "INSERT INTO result(study,series,model,path,sop,bytes) VALUES(?,?,?,?,?,?) ON CONFLICT(study,sop) "
            "DO UPDATE SET path=excluded.path, bytes=excluded.bytes",
            (study, made.series, made.model, made.path, made.sop, made.size),
        )
        (result,) = db.execute("SELECT id FROM result WHERE study=? AND sop=?", (study, made.sop)).fetchone()
        for name in destinations:
            db.execute("INSERT OR IGNORE INTO delivery(result,destination,state) VALUES(?,?,'waiting')", (result, name))
        db.execute("UPDATE delivery SET state='waiting', tries=0, due=0 WHERE result=? AND state='failed'", (result,))

    # ------------------------------------------------------------------------------------------ sending

    def due(self, destination: str, now: float, most: int) -> list[Delivery]:
        """Return what is to be sent now."""
        with self.lock:
            rows = self._db.execute(
                "SELECT result, study, destination, path, tries FROM delivery JOIN result ON result.id=result "
                "WHERE destination=? AND state='waiting' AND due<=? ORDER BY due, result LIMIT ?",
                (destination, now, most),
            )
            return [Delivery(*row) for row in rows]

    def delivered(self, delivery: Delivery, now: float) -> None:
        """Commit that a destination has a result."""
        with self.transaction() as db:
            place = (delivery.result, delivery.destination)
            db.execute("UPDATE delivery SET state='done', reason='' WHERE result=? AND destination=?", place)
            self.settle(db, delivery.study, now)

    def not_delivered(self, deliveries: Sequence[Delivery], reason: str, retry: Retry, now: float) -> int:
        """Commit that a destination does not have results, and when they are tried again.

        Returns:
            How many are not, having been tried as often as they may.
        """
        over = 0
        with self.transaction() as db:
            for each in deliveries:
                tries = each.tries + 1
                over += tries >= retry.times
                state = "waiting" if tries < retry.times else "failed"
                db.execute(
                    "UPDATE delivery SET state=?, tries=?, due=?, reason=? "
                    "WHERE result=? AND destination=? AND state='waiting'",
                    (state, tries, now + retry.pause(tries), reason, each.result, each.destination),
                )
            for study in {each.study for each in deliveries}:
                self.settle(db, study, now)
        return over

    @staticmethod
    def settle(db: sqlite3.Connection, study: int, now: float) -> None:
        """End a study of which nothing is to be sent any more."""
        rows = db.execute(
            "SELECT delivery.state, destination || ': ' || delivery.reason FROM delivery JOIN result "
            "ON result.id=result WHERE study=?",
            (study,),
        )
        states: Mapping[str, str] = dict(rows.fetchall())
        if "waiting" in states:
            return
        failed = states.get("failed", "")
        db.execute(
            "UPDATE study SET ended=?, state=CASE WHEN fault OR ? THEN ? ELSE ? END, "
            "reason=CASE WHEN ? THEN ? ELSE reason END WHERE id=? AND state=?",
            (now, bool(failed), FAILED, DONE, bool(failed), failed, study, SENDING),
        )
