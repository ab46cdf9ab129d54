"""Run a node beside the archive: it receives studies, predicts them, and sends the results back."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from medseg.cli._arguments import own_process, positive, write_json
from medseg.errors import MedsegError, counted, shown

if TYPE_CHECKING:
    from medseg.node.config import Config
    from medseg.node.queue import Queue

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    for action, about in (
        ("run", "receive, predict and send until SIGTERM or Ctrl-C"),
        ("status", "show the queue"),
        ("check", "load the models, ask the archives, receive nothing"),
        ("retry", "try a failed study again"),
        ("forget", "forget an ended study, so that it is done when it comes again"),
        ("redirect", "send what waits for a destination that is gone to another"),
        ("withdraw", "give up what waits for a destination that is gone"),
    ):
        made = actions.add_parser(action, help=about)
        made.add_argument("config", type=Path, help="of the node, YAML: docs/how-to/node.md")
        if action == "status":
            made.add_argument("--json", action="store_true", help="print it as JSON")
        if action in ("retry", "forget"):
            made.add_argument("study", type=positive, help="its number in the queue")
        if action in ("redirect", "withdraw"):
            made.add_argument("old", help="destination that the configuration does not have any more")
        if action == "redirect":
            made.add_argument("new", help="destination of the configuration")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit status."""
    from medseg.node.config import read_config

    config = read_config(options.config)
    actions = {"run": _run, "status": _status, "check": _check, "redirect": _redirect, "withdraw": _redirect}
    return actions.get(options.action, _change)(config, options)


def _run(config: Config, _options: argparse.Namespace) -> int:
    own_process()
    from medseg.node.child import PredictingProcess, models_of
    from medseg.node.receive import require_pynetdicom
    from medseg.node.service import Node
    from medseg.node.store import Store

    require_pynetdicom()
    store = Store(config.folder)
    store.make()
    stop = threading.Event()
    with ExitStack() as undo:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            undo.callback(signal.signal, number, signal.signal(number, lambda *_: stop.set()))
        for each in map(logging.getLogger, ("pynetdicom", "pydicom")):  # they repeat values of tags
            undo.callback(each.setLevel, each.level)
            each.setLevel(logging.CRITICAL)
        load = partial(models_of, config, store.records)
        models = undo.enter_context(PredictingProcess(load, config.prediction_seconds))
        node = Node(config, models.routes)
        node.start()
        while not stop.wait(1):  # a signal may reach another thread, which does not wake this one
            pass
        node.stop()
    return 0


def _status(config: Config, options: argparse.Namespace) -> int:
    from medseg.node.status import read_status, text
    from medseg.node.store import Store
    from medseg.runs.lock import is_locked

    store = Store(config.folder)
    names = [each.name for each in config.destinations]
    status = read_status(store.queue, running=is_locked(store.root), to=names, disk_gib=config.disk_gib)
    if options.json:
        write_json(status.to_dict())
    else:
        sys.stdout.write(text(status))
    return 0 if status.good else 1


def _check(config: Config, _options: argparse.Namespace) -> int:
    from medseg.node.check import check_node

    tried = check_node(config)
    sys.stdout.writelines(f"{what}: {shown(fault) or 'good'}\n" for what, fault in tried)
    return 1 if any(fault for _, fault in tried) else 0


@contextmanager
def _queue_of(config: Config) -> Iterator[Queue]:
    from medseg.node.queue import Queue
    from medseg.node.status import read_status
    from medseg.node.store import Store

    path = Store(config.folder).queue
    read_status(path, running=False, most=0)  # says if there is none, rather than making one
    queue = Queue(path)
    try:
        yield queue
    finally:
        queue.close()


def _change(config: Config, options: argparse.Namespace) -> int:
    from medseg.node.upkeep import forget_study, retry_study

    change, said = (retry_study, "is tried again") if options.action == "retry" else (forget_study, "is forgotten")
    with _queue_of(config) as queue:
        change(queue, options.study)
    sys.stdout.write(f"study {options.study} {said}\n")
    return 0


def _redirect(config: Config, options: argparse.Namespace) -> int:
    from medseg.node.upkeep import redirect, withdraw

    names = [each.name for each in config.destinations]
    if options.old in names:
        raise MedsegError(f"{options.old!r} is a destination of the configuration; take it out there first")
    if options.action == "redirect" and options.new not in names:
        raise MedsegError(f"{options.new!r} is no destination of the configuration; name one of {', '.join(names)}")
    with _queue_of(config) as queue:
        if options.action == "redirect":
            said = f"{counted(redirect(queue, options.old, options.new, time.time()), 'result')} to {options.new}"
        else:
            said = f"{counted(withdraw(queue, options.old, time.time()), 'result')} given up, their studies fail"
    sys.stdout.write(f"{said}\n")
    return 0
