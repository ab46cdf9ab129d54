"""A fault that stays is said once, then ever more rarely; another one, and its end, at once."""

import logging
import sqlite3

import pytest
from node_parts import FakeModel, config_of, wait_for

from medseg.node import service
from medseg.node.queue import Queue
from medseg.node.repeated import Repeated


@pytest.fixture
def said(caplog):
    """What was said and not asked for yet."""
    caplog.set_level(logging.INFO, logger="medseg")

    def new():
        told = [record.message for record in caplog.records if record.name.startswith("medseg")]
        caplog.clear()
        return told

    return new


def test_ever_more_rarely(said):
    now = [0.0]
    repeated = Repeated(logging.getLogger("medseg.node"), lambda: now[0])
    moments = []
    for second in range(0, 3 * 3600, 5):
        now[0] = float(second)
        repeated.failed("deleting: no room", "tried again every 5 s")
        if lines := said():
            moments.append((second, lines))
    assert [second for second, _ in moments] == [0, 60, 180, 420, 900, 1860, 3780, 7380]
    assert moments[0][1] == ["deleting: no room; tried again every 5 s"]
    assert moments[1][1] == ["deleting: no room (13 times in 60 s); tried again every 5 s"]


def test_what_changes_and_what_is_over_is_said_at_once(said):
    repeated = Repeated(logging.getLogger("medseg.node"), lambda: 0.0)
    repeated.over("goes on")
    assert said() == []
    for fault in ("no room", "no room", "no rights", "no room"):
        repeated.failed(fault)
    assert said() == ["no room", "no rights", "no room"]
    repeated.over("goes on")
    repeated.over("goes on")
    repeated.failed("no room")
    assert said() == ["goes on", "no room"]


def test_a_node_whose_disk_stays_full(tmp_path, monkeypatch, said):
    pytest.importorskip("pynetdicom", reason="a node needs pynetdicom; pip install 'medseg[dicom]'")
    claim, tries = Queue.claim, []

    def full(*_):
        tries.append(1)
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(service, "_AFTER_ERROR", 0.01)
    monkeypatch.setattr(Queue, "claim", full)
    node = service.Node(config_of(tmp_path / "node"), [FakeModel()])
    node.start()
    try:
        wait_for(lambda: len(tries) > 20)
        monkeypatch.setattr(Queue, "claim", claim)
        told = said()
        wait_for(lambda: "predicting: goes on" in told or told.extend(said()))
    finally:
        node.stop()
    assert sum("predicting" in line for line in told) == 2
    assert "predicting: the queue cannot be used (database or disk is full); tried again every 5 s" in told
