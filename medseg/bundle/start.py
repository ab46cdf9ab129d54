"""What a bundle's YAML calls before work starts: requirements, a sound configuration, sound data.

MONAI ignores an override that nothing reads (``--max_epoch 5``) and reports bad input as a long trace. Here both end in
one line that names the value and the remedy.
"""

from __future__ import annotations

import dis
import importlib.metadata
import inspect
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from medseg.bundle.config import ConfigError, check_config, declared_keys
from medseg.bundle.options import Options
from medseg.errors import MedsegError
from medseg.runs.processes import rank, world_size

logger = logging.getLogger(__name__)

_SHOWN = 5  # warnings of the data check


class InputError(MedsegError):
    """Input that a run cannot start with."""


# ---------------------------------------------------------------------------------------------- the running workflow


def _callers() -> Iterator[Any]:
    frame = inspect.currentframe()
    while frame is not None:
        yield frame.f_locals.get("self")
        frame = frame.f_back


def _parser() -> Any:
    """Return the `ConfigParser` whose expression is calling, or ``None``."""
    from monai.bundle import ConfigParser

    return next((caller for caller in _callers() if isinstance(caller, ConfigParser)), None)


def _workflow() -> Any:
    from monai.bundle import ConfigWorkflow

    return next((caller for caller in _callers() if isinstance(caller, ConfigWorkflow)), None)


def root() -> str:
    """Return the bundle's folder: the one whose configuration is running, wherever the program was started.

    Raises:
        ConfigError: outside a bundle run, where there is none to find.
    """
    workflow = _workflow()
    if workflow is not None:
        folder = Path(workflow.config_root_path).resolve()
        return str(folder.parent if folder.name == "configs" else folder)
    if Path("configs").is_dir():
        return str(Path.cwd())
    raise ConfigError("the bundle's folder is not known here; pass --bundle_root")


def options() -> Options:
    """Return the options of the running configuration: its own values, and defaults for the others."""
    parser = _parser()
    if parser is None:
        return Options()
    given = parser.get() or {}
    return Options.of({name: parser.get_parsed_content(name) for name in Options.names() if name in given})


def datalist_path(dataset_dir: str | Path) -> str:
    """Return the datalist's file: the option ``datalist``, else ``datalist.json`` of the folder.

    Args:
        dataset_dir: folder of the data set.
    """
    return options().datalist or str(Path(dataset_dir) / "datalist.json")


def run_folder() -> str:
    """Return the run's folder, the same in all processes, by ``output_dir``, ``resume``, ``runs_dir``, ``run_name``."""
    wanted = options()
    if wanted.output_dir:
        return wanted.output_dir
    bundle_root = Path(root())
    return resume_folder(wanted.resume, wanted.runs_dir or bundle_root / "runs", wanted.run_name or _name(bundle_root))


def _name(bundle_root: Path) -> str:
    names = [f"{bundle_root.name}_{time.strftime('%Y%m%d_%H%M%S')}_{time.time_ns() // 1000 % 1000:03d}"]
    if world_size() > 1:
        import torch.distributed as dist

        dist.broadcast_object_list(names, src=0)
    return names[0]


def resume_folder(resume: bool | str, runs: str | Path, name: str) -> str:
    """Return the run's folder: a new one, the named one, or with ``resume`` the newest that is not finished.

    Args:
        resume: ``False``, ``True``, or a run's folder.
        runs: folder of all runs.
        name: of a new run.
    """
    if isinstance(resume, str):
        return resume
    if resume:
        begun = sorted(Path(runs).glob("*/checkpoints/last.pt"), key=lambda p: p.stat().st_mtime_ns)
        unfinished = [last.parent.parent for last in begun if not _finished(last)]
        if unfinished:
            return str(unfinished[-1])
        logger.warning("--resume: no unfinished run in %s; starting a new one", Path(runs).name)
    return str(Path(runs) / name)


def _finished(last: Path) -> bool:
    weights = last.parent.parent / "model.pt"  # the last file that a run writes
    return weights.is_file() and weights.stat().st_mtime_ns >= last.stat().st_mtime_ns


# ---------------------------------------------------------------------------------------------- before work starts


def start() -> None:
    """Prepare a run: short errors, quiet helpers, requirements (``configs/metadata.json``), configuration, seed.

    Raises:
        ConfigError: if a required package is missing or too old, or a configuration key has no effect.
    """
    sys.excepthook = _short_errors
    _quieten()
    parser = _parser()
    if parser is None:
        raise ConfigError("medseg.bundle.start.start is for a bundle's `initialize`; no configuration is running")
    check_requirements(parser.get("_meta_") or _metadata(root()))
    workflow = _workflow()
    if workflow is None:
        check_config(parser.get(), ("initialize", "run", "finalize"))
    else:
        entry_points = (workflow.init_id, workflow.run_id, workflow.final_id)
        check_config(parser.get(), entry_points, declared_keys(Path(workflow.config_root_path)))
    from monai.utils import set_determinism

    set_determinism(options().seed, use_deterministic_algorithms=None)  # first weights, in every process the same


def _metadata(bundle_root: str) -> dict[str, Any]:
    import json

    path = Path(bundle_root) / "configs" / "metadata.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def check_requirements(metadata: Mapping[str, Any]) -> None:
    """Compare ``required_packages_version`` with what is installed.

    Args:
        metadata: the bundle's metadata.

    Raises:
        ConfigError: naming what to install.
    """
    from packaging.version import Version

    needed = dict(metadata.get("required_packages_version", {}))
    wanting = []
    for package, least in needed.items():
        try:
            installed = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            wanting.append(f"{package}>={least} (not installed)")
            continue
        if Version(Version(installed).base_version) < Version(least):
            wanting.append(f"{package}>={least} (installed: {installed})")
    if wanting:
        names = " ".join(f"'{w.split(' ')[0]}'" for w in wanting)
        raise ConfigError(f"this bundle needs {', '.join(wanting)}: pip install {names}")


def check_data(dataset_dir: str | Path) -> None:
    """Check the datalist and every file in it before training; fast where nothing changed since the last time.

    Channels and classes are compared with those of the running configuration's ``network_def``. Groups must not be
    split in the scheme ``fold``; another scheme, such as random crops, is a choice, and is only warned of.

    Args:
        dataset_dir: folder of the data set.

    Raises:
        DatalistError: if the datalist cannot be used, or with what was found.
    """
    if rank() != 0:
        return
    from medseg.data.check import check_datalist

    parser = _parser()
    network = (parser.get("network_def") if parser is not None else None) or {}
    in_channels, classes = (
        parser.get_parsed_content(f"network_def#{name}") if name in network else None
        for name in ("in_channels", "out_channels")
    )
    datalist, fold_key = datalist_path(dataset_dir), options().fold_key
    report = check_datalist(
        datalist,
        fold_keys=[fold_key] if fold_key == "fold" else [],
        in_channels=in_channels,
        num_classes=classes,
        roi_size=options().roi_size,
    )
    if fold_key != "fold":
        logger.warning("folds by %s may split a group (patient, section) between training and test", fold_key)
    for finding in report.warnings[:_SHOWN]:
        logger.warning("%s: %s", finding.code, finding.message)
    if len(report.warnings) > _SHOWN:
        logger.warning("and %d more; `medseg check` lists them", len(report.warnings) - _SHOWN)
    report.raise_for_errors()


def resolved_config() -> dict[str, Any]:
    """Return the running configuration with what was evaluated to a plain value in place of its expression."""
    parser = _parser()
    if parser is None:
        return {}
    resolved = parser.ref_resolver.resolved_content

    def plain(value: Any, name: str) -> Any:
        known = resolved.get(name, value)
        if isinstance(known, str) and known.startswith("@"):
            known = resolved.get(known[1:].replace("#", "::"), known)
        return known if isinstance(known, str | int | float | bool | None) else value

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {k: walk(v, f"{name}::{k}" if name else str(k)) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(v, f"{name}::{n}") for n, v in enumerate(value)]
        return plain(value, name)

    skipped = ("imports", "initialize", "run", "finalize", "_meta_")
    given = {k: walk(v, k) for k, v in parser.get().items() if k not in skipped}
    trains = "trainer" in (parser.get("train") or {})
    return {**given, **(options().only(*Options.names()) if trains else {})}


# ---------------------------------------------------------------------------------------------- errors and noise


def _short_errors(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print one line for an error of the input, the trace for anything else."""
    cause: BaseException | None = error
    while cause is not None:
        if _is_ours(cause):
            sys.stderr.write(f"error: {cause}\n")
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, trace)


def _is_ours(error: BaseException) -> bool:
    """Return whether an error is one of medseg's classes, or a `ValueError` that medseg itself raised."""
    if type(error).__module__.split(".")[0] == "medseg":
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not isinstance(error, ValueError):
        return False
    frame = trace.tb_frame
    raised = dis.opname[frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"  # not one of a call, such as int("x")
    return raised and str(frame.f_globals.get("__name__", "")).split(".")[0] == "medseg"


def _quieten() -> None:
    if rank() != 0:
        logging.getLogger().setLevel(logging.WARNING)
    ours = logging.getLogger("medseg")
    ours.setLevel(logging.WARNING if rank() else logging.INFO)
    if not ours.hasHandlers():  # a bundle that came without its logging.conf
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        ours.addHandler(handler)
    for name in ("ignite", "alembic", "monai.bundle.config_parser"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("medseg.engines.trainer.Trainer", "medseg.engines.evaluator.Evaluator", "monai.engines"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*nvImageCodec.*")
