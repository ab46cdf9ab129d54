"""Whether a node would work: its models load, its folder can be written, its archives answer."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from functools import partial

from medseg.atomic import atomic_write
from medseg.errors import MedsegError, counted, one_line
from medseg.node.config import Config, Peer, Web
from medseg.node.receive import require_pynetdicom
from medseg.node.send import destination_of, refuse_shared_secrets
from medseg.node.status import read_status, stranded
from medseg.node.store import Store

__all__ = ["check_node"]


def check_node(config: Config) -> list[tuple[str, str]]:
    """Try everything that a node needs, without receiving or sending an image.

    Args:
        config: of the node.

    Returns:
        What was tried, and what is wrong with it, which is empty where nothing is.
    """
    require_pynetdicom()
    tried = [("folder", _fault(lambda: _folder(config)))]
    tried.append((f"port {config.port}", _fault(lambda: _port(config))))
    tried.append((counted(len(config.models), "model"), _fault(lambda: _models(config))))
    for each in config.destinations:
        tried.append((f"destination {each.name}", _fault(partial(_answers, config, each))))
    tried.append(("queue", _fault(lambda: _queue(config))))
    return tried


def _fault(what: Callable[[], None]) -> str:
    try:
        what()
    except (MedsegError, OSError) as error:
        return one_line(error) or str(error)
    return ""


def _folder(config: Config) -> None:
    store = Store(config.folder)
    store.make()
    with atomic_write(store.root / "check") as temporary:
        temporary.write_text("whether this folder can be written\n")
    (store.root / "check").unlink()
    free = shutil.disk_usage(store.root).free / 2**30
    if free < config.disk_gib:
        raise MedsegError(f"{store.root}: {free:.1f} GiB are free, disk_gib allows {config.disk_gib:g}; allow less")


def _port(config: Config) -> None:
    with socket.socket(socket.AF_INET6 if ":" in config.address else socket.AF_INET) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((config.address, config.port))
        except OSError as error:
            raise MedsegError(
                f"{config.address}:{config.port} cannot be listened on ({error.strerror}); is the node running?"
            ) from error


def _models(config: Config) -> None:
    from medseg.node.models import load_models

    load_models(config, Store(config.folder).records)


def _answers(config: Config, destination: Peer | Web) -> None:
    if isinstance(destination, Web):
        refuse_shared_secrets(config)
    destination_of(destination, config.title).check()


def _queue(config: Config) -> None:
    path = Store(config.folder).queue
    if not path.exists():  # before the first start
        return
    lines = stranded(read_status(path, running=False, most=0, to=[each.name for each in config.destinations]))
    if lines:
        raise MedsegError("; ".join(lines))
