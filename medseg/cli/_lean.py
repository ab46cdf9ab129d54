"""MONAI without the packages that it only tries: each is imported when something of it is used.

``import monai`` imports mlflow, pandas, scikit-learn, SciPy, matplotlib, ITK, torchvision and more wherever they are
installed, for parts of itself that a prediction does not call, by Ignite the sharding of PyTorch, and by nibabel
pydicom: more than half of what it takes.
While a command imports MONAI, stand-ins take their places in MONAI's modules. They do what the packages do: the first
use of one imports it, whoever uses it. Everything else in the process imports the packages themselves.

Nor is the garbage collector let through the hundreds of thousands of objects that imports make and nobody drops, while
they are made or later: twice 0.1 s before the first mask. And when the command has ended, its process does too
(`leave`): to take all of them apart took a second.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__all__ = ["LATER", "lean_monai", "leave"]

LATER = (
    *("filelock", "huggingface_hub", "itk", "jsonschema", "matplotlib", "mlflow", "monai.networks.nets.dints"),
    *("pandas", "pydicom", "requests", "scipy", "skimage", "sklearn", "tifffile", "torch.distributed.optim"),
    "torchvision",
)
"""Packages and modules that MONAI, or Ignite or nibabel for it, imports and few predictions use.

Of MONAI itself it is a network that compiles an interface for TorchScript when it is imported.
"""
_ERRORS = ("Error", "Exception")  # what names of exceptions end in
_ROOT = "monai"
_lean: list[_Finder] = []  # of this process


class _Name:
    """Stands for what a module has under a name: a function, or a class that may be called, asked and derived from."""

    def __init__(self, finder: _Finder, module: str, name: str) -> None:
        self._finder, self._module, self._name = finder, module, name

    def _found(self) -> Any:
        return getattr(self._finder.real(self._module), self._name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._found(), name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._found()(*arguments, **named)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._found())

    def __subclasscheck__(self, kind: Any) -> bool:
        return issubclass(kind, self._found())

    def __mro_entries__(self, bases: Sequence[Any]) -> tuple[Any, ...]:
        return (self._found(),)


class _StandIn(ModuleType):
    """Stands for a module."""

    _finder: _Finder

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what is asked of any module tells of no use
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if self._finder.stands(self.__name__):
            if name.endswith(_ERRORS):  # only a class of its own may stand after ``except``; nothing raises this one
                return type(name, (Exception,), {})
            return _Name(self._finder, self.__name__, name)
        return getattr(self._finder.real(self.__name__), name)


class _Finder(MetaPathFinder, Loader):
    """Finds MONAI, and stand-ins while it is imported."""

    def __init__(self) -> None:
        self._open = False
        self._left = set(LATER)
        self.imported: Callable[[], None] = lambda: None  # called when MONAI is there, or could not be

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return what loads MONAI, or a stand-in for a module that is there; of all others, nothing."""
        if fullname != _ROOT and not self.stands(fullname):
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None or found.loader is None:
            return None
        if fullname == _ROOT:
            found.loader = _Opening(self, found.loader)
            return found
        spec = ModuleSpec(fullname, self, origin=found.origin, is_package=found.submodule_search_locations is not None)
        spec.submodule_search_locations = found.submodule_search_locations
        spec.has_location = found.has_location
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return a stand-in."""
        module = _StandIn(spec.name)
        module._finder = self
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing."""

    def stands(self, name: str) -> bool:
        """Return whether a stand-in takes the place of a module now."""
        return self._open and any(name == later or name.startswith(f"{later}.") for later in self._left)

    def real(self, name: str) -> ModuleType:
        """Import a module itself; no stand-in takes its package's place any more."""
        self._give_up([later for later in self._left if name == later or name.startswith(f"{later}.")])
        return importlib.import_module(name)

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Let stand-ins in."""
        self._left -= {later for later in LATER if later in sys.modules}
        self._open = True
        try:
            yield
        finally:
            self._give_up(LATER)
            self._open = False
            self.imported()

    def _give_up(self, packages: Sequence[str]) -> None:
        self._left.difference_update(packages)
        below = tuple(f"{later}." for later in packages)
        for name, module in list(sys.modules.items()):
            if isinstance(module, _StandIn) and (name in packages or name.startswith(below)):
                del sys.modules[name]
                parent, _, child = name.rpartition(".")
                if getattr(sys.modules.get(parent), child, None) is module:
                    delattr(sys.modules[parent], child)


class _Opening(Loader):
    """Loads MONAI with stand-ins for what it tries."""

    def __init__(self, finder: _Finder, loader: Loader) -> None:
        self._finder, self._loader = finder, loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Leave it to MONAI's loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Import PyTorch as it is, then MONAI."""
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        importlib.import_module("torch")
        with self._finder.opened():
            self._loader.exec_module(module)


def lean_monai() -> contextlib.ExitStack:
    """Let MONAI be imported without what it only tries, where it is not imported yet; for a command's own process.

    Returns:
        What, closed, takes that back for imports to come.
    """
    undo = contextlib.ExitStack()
    if _ROOT in sys.modules:
        return undo
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    _lean.append(finder)
    undo.callback(sys.meta_path.remove, finder)
    if gc.isenabled():
        gc.disable()
        if not gc.get_freeze_count():
            finder.imported = _set_aside
            undo.callback(gc.unfreeze)
        else:
            finder.imported = gc.enable
        undo.callback(gc.enable)
    return undo


def _set_aside() -> None:
    """Let the garbage collector work again, but for what is there by now."""
    gc.freeze()
    gc.enable()


def leave(status: int) -> None:
    """End the process of a command that called `lean_monai`, at once: the system takes back what it holds.

    What is registered for the end of a process is done before, and what was said is written. Returns where there was no
    such command, a thread still works, or somebody watches (a debugger, a profiler, a measurement of coverage).

    Args:
        status: of the process.
    """
    works = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if not _lean or works or sys.gettrace() is not None or sys.getprofile() is not None:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
