"""What a node is told: one file, YAML or JSON, read and checked whole before anything starts.

```yaml
folder: node                    # what is received, the queue, results; relative to this file, on a local disk
title: MEDSEG                   # its own AE title
address: 127.0.0.1              # where it listens; 0.0.0.0 for every interface
port: 11112
callers:                        # who may send; everybody else is refused
  - {title: PACS, address: 10.0.0.5}
models:
  - {name: hippocampus, model: runs/hippocampus, rules: hippocampus.yaml, outputs: [dicom-seg, dicom-sr]}
destinations:                   # where results go, all of them to each
  - {name: archive, title: ARCHIVE, host: 10.0.0.5, port: 104}
  - {name: web, url: "dicomweb://pacs.example/dicom-web", credentials: web.netrc}
still_seconds: 30               # since the last instance: then a study is whole
```
"""

from __future__ import annotations

import difflib
import ipaddress
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from medseg.errors import MedsegError, shown
from medseg.io.yaml_file import read_yaml

__all__ = ["Caller", "Config", "ConfigError", "ModelRoute", "Peer", "Retry", "Web", "read_config"]

ANYWHERE = "any"
_OUTPUTS = ("dicom-seg", "dicom-labelmap", "dicom-fractional", "dicom-sr", "rtstruct")
_Read = Callable[[Any, str, Path], Any]
_Kind = TypeVar("_Kind")


class ConfigError(MedsegError):
    """A node's configuration that cannot be used."""


def _text(value: Any, where: str, _base: Path) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where} is {value!r}; give a text")
    return value.strip()


def _name(value: Any, where: str, base: Path) -> str:
    name = _text(value, where, base)
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise ConfigError(f"{where} is {name!r}; give letters, digits, - and _")
    return name


def _title(value: Any, where: str, base: Path) -> str:
    title = _text(value, where, base)
    if len(title) > 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise ConfigError(f"{where} is {title!r}, no AE title; give 1 to 16 characters of ASCII without a backslash")
    return title


def _number(least: float, most: float, what: str, value: Any, where: str, _base: Path) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not least <= value <= most:
        raise ConfigError(f"{where} is {value!r}; give {what} from {least:g} to {most:g}")
    return float(value)


def _whole(least: int, most: int, what: str, value: Any, where: str, base: Path) -> int:
    number = _number(least, most, what, value, where, base)
    if number != int(number):
        raise ConfigError(f"{where} is {value!r}; give a whole number")
    return int(number)


def _variable(value: Any, where: str, base: Path) -> str:
    name = _text(value, where, base)
    if not name.isidentifier() or not name.isascii():
        raise ConfigError(
            f"{where} is no name of an environment variable; give such as PACS_PASSWORD, never a password"
        )
    return name


def _path(value: Any, where: str, base: Path) -> Path:
    return base / Path(_text(value, where, base)).expanduser()


def _model(value: Any, where: str, base: Path) -> str:
    """Return a model's place: a path beside the file where there is one, else as it is, such as a bundle's name."""
    text = _text(value, where, base)
    beside = base / Path(text).expanduser()
    return str(beside) if beside.exists() else text


def _address(value: Any, where: str, base: Path) -> str:
    text = _text(value, where, base)
    try:
        return ipaddress.ip_address(text).compressed
    except ValueError as error:
        raise ConfigError(f"{where} is {text!r}, no IP address; give one such as 127.0.0.1") from error


def _caller_address(value: Any, where: str, base: Path) -> str:
    return ANYWHERE if value == ANYWHERE else _address(value, where, base)


def _outputs(value: Any, where: str, _base: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(each in _OUTPUTS for each in value):
        raise ConfigError(f"{where} is {value!r}; give a list of {', '.join(_OUTPUTS)}")
    return tuple(dict.fromkeys(value))


def _one(kind: Callable[[Any], type[Any]], value: Any, where: str, base: Path) -> Any:
    return _build(kind(value), value, where, base)


def _several(kind: Callable[[Any], type[Any]], value: Any, where: str, base: Path) -> tuple[Any, ...]:
    if not isinstance(value, list) or not value:
        raise ConfigError(f"{where} is {value!r}; give a list of at least one")
    return tuple(_build(kind(each), each, f"{where} {number}", base) for number, each in enumerate(value, 1))


def _by(read: _Read) -> dict[str, _Read]:
    """Return the metadata of a field that is read so."""
    return {"read": read}


_PORT = partial(_whole, 1, 65535, "a port")
_SECONDS = partial(_number, 0, 86400, "seconds")
_HOURS = partial(_number, 0, 24 * 3660, "hours")


@dataclass(frozen=True)
class Caller:
    """Who may send.

    Args:
        title: its AE title.
        address: the IP address that it calls from, or ``"any"``; it may be left out where the node listens on loopback.
    """

    title: str = field(metadata=_by(_title))
    address: str = field(default="", metadata=_by(_caller_address))


@dataclass(frozen=True)
class ModelRoute:
    """A model, and which series it takes.

    Args:
        name: what the queue calls it.
        model: a run, a packed model, weights, or a bundle's name.
        rules: a rule file, see `medseg.io.dicom_rules`; a node never guesses what a model is for.
        outputs: kinds of results, see `medseg.prediction.outputs`.
        codes: coded concepts of its classes, where the weights have none.
        signed_by: public key that must have signed the packed model.
    """

    name: str = field(metadata=_by(_name))
    model: str = field(metadata=_by(_model))
    rules: Path = field(metadata=_by(_path))
    outputs: tuple[str, ...] = field(default=("dicom-seg",), metadata=_by(_outputs))
    codes: Path | None = field(default=None, metadata=_by(_path))
    signed_by: Path | None = field(default=None, metadata=_by(_path))


@dataclass(frozen=True)
class Peer:
    """A destination that takes C-STORE.

    Args:
        name: what the queue calls it.
        title: its AE title.
        host: name or address.
        port: of it.
    """

    name: str = field(metadata=_by(_name))
    title: str = field(metadata=_by(_title))
    host: str = field(metadata=_by(_text))
    port: int = field(metadata=_by(_PORT))


@dataclass(frozen=True)
class Web:
    """A destination that takes STOW.

    Args:
        name: what the queue calls it.
        url: of its DICOMweb service, as `medseg predict` takes it: ``dicomweb://HOST[:PORT]/PATH``.
        credentials: file of them, of netrc's format; never in this one.
        ca: certificate of the authority that signed its own.
        user_env: environment variable that holds the user, with that of the password.
        password_env: of the password.
        token_env: of a bearer token, in place of both.
    """

    name: str = field(metadata=_by(_name))
    url: str = field(metadata=_by(_text))
    credentials: Path | None = field(default=None, metadata=_by(_path))
    ca: Path | None = field(default=None, metadata=_by(_path))
    user_env: str = field(default="", metadata=_by(_variable))
    password_env: str = field(default="", metadata=_by(_variable))
    token_env: str = field(default="", metadata=_by(_variable))

    @property
    def variables(self) -> tuple[str, str, str]:
        """Names of variables of the environment that are its own: of user, password and token."""
        return self.user_env, self.password_env, self.token_env


def _archive(content: Any) -> type[Any]:
    return Web if isinstance(content, Mapping) and "url" in content else Peer


@dataclass(frozen=True)
class Retry:
    """How often something is tried, with pauses that double.

    Args:
        times: in all, before it counts as failed.
        first_seconds: before the second time.
        longest_seconds: that a pause grows to.
    """

    times: int = field(default=30, metadata=_by(partial(_whole, 1, 1000, "tries")))
    first_seconds: float = field(default=5.0, metadata=_by(_SECONDS))
    longest_seconds: float = field(default=3600.0, metadata=_by(_SECONDS))

    def pause(self, tries: int) -> float:
        """Return the seconds to wait after so many tries, at least one."""
        return float(min(self.first_seconds * 2.0 ** min(tries - 1, 40), self.longest_seconds))


@dataclass(frozen=True)
class Config:
    """A node, see the head of this module.

    Args:
        folder: of all that it keeps.
        title: its AE title.
        port: that it listens on.
        callers: who may send.
        models: that series are routed to.
        destinations: that results go to.
        address: that it listens on.
        still_seconds: since the last instance, before a study counts as whole.
        broken_seconds: that a sender which broke off may take to come back with the rest; else the study fails.
        disk_gib: most that it holds; beyond, it refuses with "out of resources".
        object_mib: most of one object; a larger one is refused likewise, and passed over as it comes.
        keep_hours: what was received and made stays so long after a study is done.
        keep_failed_hours: the same after it failed.
        forget_days: hashes by which a done study is known again.
        predicting: how often a study is tried.
        prediction_seconds: that one model may take for one series; then it is ended, and the study fails.
        sending: how often a result is sent.
        associations: most at one time.
        status_port: of the status page, which is on loopback alone; ``None`` for none.
        stop_seconds: that a study in hand gets to end when the node is told to stop.
        device: of the models; ``None`` picks.
        precision: of the models.
    """

    folder: Path = field(metadata=_by(_path))
    title: str = field(metadata=_by(_title))
    port: int = field(metadata=_by(_PORT))
    callers: tuple[Caller, ...] = field(metadata=_by(partial(_several, lambda _: Caller)))
    models: tuple[ModelRoute, ...] = field(metadata=_by(partial(_several, lambda _: ModelRoute)))
    destinations: tuple[Peer | Web, ...] = field(metadata=_by(partial(_several, _archive)))
    address: str = field(default="127.0.0.1", metadata=_by(_address))
    still_seconds: float = field(default=30.0, metadata=_by(_SECONDS))
    broken_seconds: float = field(default=300.0, metadata=_by(_SECONDS))
    disk_gib: float = field(default=20.0, metadata=_by(partial(_number, 0, 1e6, "GiB")))
    object_mib: float = field(default=1024.0, metadata=_by(partial(_number, 1, 1e6, "MiB")))
    keep_hours: float = field(default=0.0, metadata=_by(_HOURS))
    keep_failed_hours: float = field(default=168.0, metadata=_by(_HOURS))
    forget_days: float = field(default=90.0, metadata=_by(partial(_number, 0, 36600, "days")))
    predicting: Retry = field(default=Retry(times=3), metadata=_by(partial(_one, lambda _: Retry)))
    prediction_seconds: float = field(default=3600.0, metadata=_by(partial(_number, 1, 7 * 86400, "seconds")))
    sending: Retry = field(default=Retry(), metadata=_by(partial(_one, lambda _: Retry)))
    associations: int = field(default=20, metadata=_by(partial(_whole, 1, 1000, "associations")))
    status_port: int | None = field(default=None, metadata=_by(_PORT))
    stop_seconds: float = field(default=60.0, metadata=_by(_SECONDS))
    device: str | None = field(default=None, metadata=_by(_text))
    precision: str = field(default="auto", metadata=_by(_text))


def _build(kind: type[_Kind], content: Any, where: str, base: Path) -> _Kind:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} is {content!r}; give keys and values")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            raise ConfigError(
                f"{where} has no key {str(key)!r}; {f'did you mean {near[0]!r}?' if near else ', '.join(known)}"
            )
    lacking = [name for name, each in known.items() if each.default is MISSING and name not in content]
    if lacking:
        raise ConfigError(f"{where} lacks {', '.join(lacking)}; docs/how-to/node.md has an example")
    return kind(
        **{name: known[name].metadata["read"](value, f"{where}, {name}", base) for name, value in content.items()}
    )


def read_config(path: Path) -> Config:
    """Read a configuration.

    Args:
        path: of the file; paths in it are relative to its folder.

    Raises:
        ConfigError: naming the key, its value, and what it takes.
    """
    content = read_yaml(path, ConfigError, "a node's configuration")
    config = _build(Config, content, shown(path), path.absolute().parent)
    _refuse_doubles(config, path)
    for each in config.destinations:
        if isinstance(each, Web):
            _refuse_secrets(each, path)
    open_to_all = not ipaddress.ip_address(config.address).is_loopback
    for caller in config.callers if open_to_all else ():
        if not caller.address:
            raise ConfigError(
                f"{path}: the caller {caller.title} has no address, and the node listens on {config.address}; give its "
                f"IP address, or {ANYWHERE!r}: a title alone is no proof of who calls"
            )
    return config


def _refuse_doubles(config: Config, path: Path) -> None:
    for what, names in (
        ("models", [each.name for each in config.models]),
        ("destinations", [each.name for each in config.destinations]),
    ):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"{path}: two {what} are called {twice!r}; give each its own name")
    for each in config.destinations:
        if (
            isinstance(each, Peer)
            and (each.title, each.port) == (config.title, config.port)
            and (each.host in (config.address, "localhost", "127.0.0.1"))
        ):
            raise ConfigError(f"{path}: the destination {each.name} is the node itself; name the archive")


def _refuse_secrets(web: Web, path: Path) -> None:
    if bool(web.user_env) != bool(web.password_env):
        raise ConfigError(f"{path}: the destination {web.name} has one of user_env and password_env; name both")
    if sum(map(bool, (web.credentials, web.password_env, web.token_env))) > 1:
        raise ConfigError(
            f"{path}: the destination {web.name} has several of credentials, password_env and token_env; name one"
        )
