"""Build a network by its name, and keep on it what it was built from.

``create("lfa_unet", 2, 1, 5, channels=[16, 32])`` is ``medseg.networks.lfa_unet.LFAUNet(2, 1, 5, channels=[16, 32])``
with an attribute ``recipe``, which its weights carry, so that they are never loaded into another network unnoticed.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medseg.bundle import discovery
from medseg.errors import MedsegError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DEFAULT", "NetworkError", "create", "is_ours", "rebuild", "recipe_of", "refuse_arguments", "resolve"]

DEFAULT = "default"
"""As the value of an argument: the network's own default, as if it were not given (overlays take back others' so)."""

RECIPE = "recipe"
"""Attribute of a network that holds what it was built from."""

_TRUSTED = ("medseg.networks.", "monai.networks.nets.")  # what a header may name


class NetworkError(MedsegError):
    """A network that is not there, or that takes no such argument."""


def resolve(name: str) -> type[nn.Module]:
    """Return the class that a name means.

    Args:
        name: module of `medseg.networks` with one network (``lfa_unet``), module and class (``multi_scale.
            AttentionToScale``), or the dotted path of a class (``monai.networks.nets.DynUNet``).

    Raises:
        NetworkError: if there is none, naming the nearest.
    """
    module, _, kind = name.partition(".")
    if importlib.util.find_spec(f"{discovery.PACKAGE}.{module}") is not None and module.isidentifier():
        found = importlib.import_module(f"{discovery.PACKAGE}.{module}")
        kinds = discovery.networks_of(found)
        if not kind and len(kinds) == 1:
            return discovery.load(f"{found.__name__}.{kinds[0]}")
        if kind in kinds:
            return discovery.load(f"{found.__name__}.{kind}")
        raise NetworkError(f"network {name!r}: {module} has {', '.join(kinds)}; name one as {module}.{kinds[0]}")
    try:
        return discovery.load(name)
    except (ImportError, ValueError) as error:
        known = discovery.modules()
        near = difflib.get_close_matches(name, known, 1)
        hint = f"the nearest is {near[0]!r}" if near else f"choose from {', '.join(known)}"
        raise NetworkError(f"there is no network {name!r}; {hint}") from error


def create(
    name: str, spatial_dims: int, in_channels: int, out_channels: int, *, seed: int | None = None, **arguments: Any
) -> nn.Module:
    """Build a network.

    Args:
        name: see `resolve`.
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        seed: of the first weights; the process's random numbers are left as they were. ``None`` draws from those.
        arguments: further ones of its constructor; those that are `DEFAULT` are left out.

    Returns:
        The network, with the attribute ``recipe``: all of this as plain data.

    Raises:
        NetworkError: if there is no such network, it takes no such argument, or refuses a value.
    """
    kind = resolve(name)
    given = {key: value for key, value in arguments.items() if not (isinstance(value, str) and value == DEFAULT)}
    sides = {"spatial_dims": spatial_dims, "in_channels": in_channels, "out_channels": out_channels}
    for side, value in sides.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise NetworkError(f"network {name}: {side} is {value!r}; give a whole number of at least 1")
    _check_arguments(name, kind, given)
    try:
        with _seeded(seed):
            network = kind(**sides, **given)
    except (ValueError, TypeError) as error:
        raise NetworkError(f"network {name}: {error}") from error
    setattr(network, RECIPE, {"name": name, **sides, **given})  # a plain attribute, beside the weights
    return network


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _check_arguments(name: str, kind: type[nn.Module], given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(kind).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    _refuse_unknown(name, list(parameters), given)


def refuse_arguments(name: str, given: Iterable[str]) -> None:
    """Refuse arguments that a network does not take, as far as its source tells; nothing is imported.

    Args:
        name: see `resolve`.
        given: names of arguments.

    Raises:
        NetworkError: naming the nearest right one, or all.
    """
    known = discovery.arguments_of(name)
    if known is not None:
        _refuse_unknown(name, known, given)


def _refuse_unknown(name: str, known: Sequence[str], given: Iterable[str]) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known[3:])}"
            raise NetworkError(f"network {name} takes no {key!r}; {hint}")


def recipe_of(network: nn.Module) -> dict[str, Any]:
    """Return what a network was built from; of one that `create` has not built, its class alone.

    Args:
        network: not wrapped by ``torch.compile`` or ``DistributedDataParallel``.
    """
    recipe = getattr(network, RECIPE, None)
    if isinstance(recipe, Mapping):
        return dict(recipe)
    return {"name": f"{type(network).__module__}.{type(network).__qualname__}"}


def is_ours(name: str) -> bool:
    """Return whether a name means a network of medseg or MONAI; nothing is imported to find that out.

    Args:
        name: see `resolve`.
    """
    module = name.partition(".")[0]
    own = module.isidentifier() and importlib.util.find_spec(f"{discovery.PACKAGE}.{module}") is not None
    return own or name.startswith(_TRUSTED)


def rebuild(recipe: Mapping[str, Any], *, trust: bool = False, **changed: Any) -> nn.Module:
    """Build a network as a header describes it; only networks of medseg and MONAI, since a header comes with a file.

    Args:
        recipe: as `recipe_of` gives it.
        trust: also build a network of another installed package, whose import and constructor then run.
        changed: arguments in place of the recipe's.

    Raises:
        NetworkError: if it names a class of another package, or lacks what `create` needs.
    """
    arguments = {**recipe, **changed}
    name = str(arguments.pop("name", ""))
    if not {"spatial_dims", "in_channels", "out_channels"} <= arguments.keys():
        raise NetworkError(f"the weights' record of network {name!r} does not say how to build it; use its bundle")
    if not (trust or is_ours(name)):
        raise NetworkError(
            f"the weights' record names {name}, which is not a network of medseg or MONAI; building it runs that "
            "package's code: medseg predict --trust (medseg.load(..., trust=True)) does, if you know where it is from"
        )
    if "weights" in inspect.signature(resolve(name)).parameters:
        arguments["weights"] = "random"  # those of the file come in their place
    return create(name, **arguments)
