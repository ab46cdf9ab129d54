"""Which networks there are: read from the modules of `medseg.networks`, so that a new one needs no list.

A network is a public ``nn.Module`` whose constructor is that of the house, ``(spatial_dims, in_channels,
out_channels, *, ...)`` with defaults for all the rest, and of which no other class of its module is built.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from medseg.errors import MedsegError

if TYPE_CHECKING:
    from torch import nn

PACKAGE = "medseg.networks"
_FIRST = ("spatial_dims", "in_channels", "out_channels")


class UnknownNetworkError(MedsegError):
    """A name that no network has."""


@dataclass(frozen=True)
class Network:
    """A network and where it is.

    Attributes:
        name: of the class; of the module where it cannot be imported.
        module: dotted path of the module.
    """

    name: str
    module: str

    @property
    def target(self) -> str:
        """Dotted path, as ``_target_`` of a bundle has it."""
        return f"{self.module}.{self.name}"

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may call it."""
        return self.name, self.module.rpartition(".")[2], self.target


def modules(package: str = PACKAGE) -> list[str]:
    """Return the names of a package's modules, sorted, none of which is imported.

    Args:
        package: dotted path.
    """
    return sorted(info.name for info in pkgutil.iter_modules(importlib.import_module(package).__path__))


def arguments_of(name: str, package: str = PACKAGE) -> list[str] | None:
    """Return the arguments of a network's constructor, read from its module's source: nothing is imported.

    Args:
        name: module, or module and class, as `medseg.bundle.networks.resolve` takes it.
        package: dotted path.

    Returns:
        ``None`` where the source alone does not tell: a network of another package, one of several, ``**options``.
    """
    module, _, kind = name.partition(".")
    if module not in modules(package):
        return None
    source = Path(importlib.import_module(package).__path__[0], f"{module}.py").read_text(encoding="utf-8")
    found = []
    for definition in ast.parse(source).body:
        if isinstance(definition, ast.ClassDef) and definition.name == (kind or definition.name.lstrip("_")):
            makers = [each for each in definition.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
            found += [each.args for each in makers if tuple(arg.arg for arg in each.args.args[1:4]) == _FIRST]
    if len(found) != 1 or found[0].kwarg is not None:
        return None
    return [argument.arg for argument in (*found[0].args[1:], *found[0].kwonlyargs)]


def networks(package: str = PACKAGE) -> list[Network]:
    """Return every network of a package, by module and class name.

    A module that cannot be imported stands in the list too, under its own name: building it says why.

    Args:
        package: dotted path.
    """
    found = []
    for name in modules(package):
        path = f"{package}.{name}"
        try:
            module = importlib.import_module(path)
        except Exception:  # shown by whoever builds it, beside the networks that work
            found.append(Network(name, path))
            continue
        found += [Network(name, path) for name in networks_of(module)]
    return found


def networks_of(module: ModuleType) -> list[str]:
    """Return the names of the classes of a module that are networks."""
    from torch import nn

    own = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    parts = _used_by_others(ast.parse(inspect.getsource(module)))
    return sorted(n for n, c in own.items() if not n.startswith("_") and n not in parts and _has_signature(c))


def find(names: Sequence[str], among: Sequence[Network]) -> list[Network]:
    """Return the networks called so, in the order of the names.

    Args:
        names: of classes or modules, in any case, or dotted paths of classes.
        among: the networks there are.

    Raises:
        UnknownNetworkError: if a name fits none.
    """
    by_name: dict[str, list[Network]] = {}
    for network in among:
        for name in dict.fromkeys(name.lower() for name in network.names):
            by_name.setdefault(name, []).append(network)
    found: dict[Network, None] = {}
    for name in names:
        if name.lower() not in by_name:
            near = difflib.get_close_matches(name.lower(), by_name, 1, cutoff=0)
            hint = f"; the nearest is {by_name[near[0]][0].name}" if near else ""
            known = ", ".join(network.name for network in among)
            raise UnknownNetworkError(f"there is no network {name!r}{hint}; choose from {known}")
        found |= dict.fromkeys(by_name[name.lower()])
    return list(found)


def load(target: str) -> type[nn.Module]:
    """Return the class at a dotted path.

    Raises:
        ImportError: if there is none.
    """
    module, _, name = target.rpartition(".")
    if not module:
        raise ImportError(f"{target!r} names no module")
    from torch import nn

    network: object = getattr(importlib.import_module(module), name, None)
    if not (inspect.isclass(network) and issubclass(network, nn.Module)):
        raise ImportError(f"{module} has no network {name}")
    return network


def _has_signature(network: type[nn.Module]) -> bool:
    parameters = list(inspect.signature(network).parameters.values())
    first, rest = parameters[:3], parameters[3:]
    return tuple(parameter.name for parameter in first) == _FIRST and all(
        parameter.kind is parameter.VAR_KEYWORD
        or (parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty)
        for parameter in rest
    )


def _used_by_others(tree: ast.Module) -> set[str]:
    """Return the names that a class or function uses, other than its own; to inherit or annotate is no use."""
    used = set()
    for definition in tree.body:
        if isinstance(definition, ast.ClassDef | ast.FunctionDef):
            used |= {name for part in definition.body for name in _names(part)} - {definition.name}
    return used


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name):
        yield node.id
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _names(child)
