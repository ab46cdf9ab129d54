"""Where the work of a command is done: on this machine, by a batch system, by a Ray cluster."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medseg.cli._arguments import positive, setting
from medseg.errors import MedsegError

if TYPE_CHECKING:
    from medseg.jobs.job import Executor

__all__ = ["EXECUTORS", "add_executor", "executor_of", "sharing_of"]

EXECUTORS = ("here", "submitit", "ray")


def add_executor(parser: argparse._ActionsContainer, what: str) -> None:
    """Add ``--workers``, ``--executor`` and ``--job``.

    Args:
        parser: of a command, or a group of its options.
        what: is done by a worker, in the plural.
    """
    parser.add_argument("--workers", type=positive, default=1, metavar="N", help=f"{what} at a time (1)")
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="here",
        help="who does it: this machine (here), a batch system (submitit), a Ray cluster (ray)",
    )
    parser.add_argument(
        "--job",
        type=setting,
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="of each job: of submitit cluster=slurm timeout_min=240 slurm_partition=gpu, of ray address=HOST:6379",
    )


def executor_of(options: argparse.Namespace) -> Executor:
    """Return the executor that the command line names.

    Args:
        options: parsed arguments with those of `add_executor`.

    Raises:
        MedsegError: if it cannot be had.
    """
    settings = dict(options.job)
    if options.executor == "submitit":
        from medseg.jobs.batch import batch

        return batch(options.workers, settings)
    if options.executor == "ray":
        from medseg.jobs.cluster import cluster

        return cluster(options.workers, settings)
    if settings:
        raise MedsegError(
            f"--job {next(iter(settings))}: processes of this machine take no such settings; name who does, with "
            "--executor submitit or --executor ray"
        )
    from medseg.jobs.here import here

    return here(options.workers)


def sharing_of(options: argparse.Namespace, settings: Mapping[str, Any]) -> int:
    """Return how many jobs at a time share a GPU or a machine at most, by who carries them out.

    Args:
        options: parsed arguments with those of `add_executor`.
        settings: of the jobs' configuration, which may name their device.

    Raises:
        MedsegError: if a Ray cluster is named that cannot be joined.
    """
    from medseg.jobs.job import names_device

    named, given = names_device(settings), dict(options.job)
    if options.executor == "submitit":
        from medseg.jobs import batch

        return batch.sharing(options.workers, given, names_device=named)
    if options.executor == "ray":
        from medseg.jobs import cluster

        return cluster.sharing(options.workers, given, names_device=named)
    from medseg.jobs import here

    return here.sharing(options.workers, names_device=named)
