"""Where an archive is reached by DICOMweb, and who asks.

Users, passwords and tokens come from the environment or from a file that is its owner's alone, never from a command
line. No message names them, or the host.
"""

from __future__ import annotations

import base64
import ipaddress
import netrc
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from medseg.caller import spelt
from medseg.errors import MedsegError, shown

if TYPE_CHECKING:
    import requests

__all__ = ["VARIABLES", "ArchiveError", "Credentials", "is_address", "url_of"]

_SECURE, _PLAIN = "dicomweb", "dicomweb+http"
_USER, _PASSWORD, _TOKEN = VARIABLES = ("MEDSEG_DICOMWEB_USER", "MEDSEG_DICOMWEB_PASSWORD", "MEDSEG_DICOMWEB_TOKEN")
"""Of the environment: user and password, or a token."""


class ArchiveError(MedsegError):
    """An archive that cannot be asked, or whose answer cannot be used."""


@dataclass(frozen=True, repr=False)
class Credentials:
    """Who asks: a user with a password, or a bearer token.

    Args:
        user: name; of no token.
        password: of the user.
        token: sent as ``Authorization: Bearer``.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    @classmethod
    def read(
        cls,
        url: str,
        file: Path | None = None,
        environment: Mapping[str, str] | None = None,
        variables: tuple[str, str, str] = VARIABLES,
    ) -> Credentials:
        """Return what a file says of an archive's host, or else the environment; without either, nobody.

        Args:
            url: of the archive.
            file: of netrc's format: ``machine HOST login USER password PASSWORD``; readable by its owner alone.
            environment: by default the process's.
            variables: of it: user, password and token; an empty name is none. Those of an archive's own must be set.

        Raises:
            ArchiveError: if the file cannot be read, is open to others, or does not know the host; if variables are
                set that do not go together, or of an archive's own are not.
        """
        if file is not None:
            return cls(*_from_file(file, urlsplit(url).hostname or ""))
        given = os.environ if environment is None else environment
        user, password, token = (given.get(name, "") for name in variables)
        if variables != VARIABLES:
            for name in variables:
                if name and not given.get(name):
                    raise ArchiveError(
                        f"the environment has no {name}, which holds the archive's user or password; set it"
                    )
        if token and (user or password):
            raise ArchiveError(f"both {_TOKEN} and {_USER} are set; unset one of them")
        if bool(user) != bool(password):
            raise ArchiveError(f"only one of {_USER} and {_PASSWORD} is set; set both")
        return cls(user, password, token)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign a request."""
        if self.token:
            request.headers["Authorization"] = f"Bearer {self.token}"
        elif self.user:
            pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.headers["Authorization"] = f"Basic {pair}"
        return request


def _from_file(file: Path, host: str) -> tuple[str, str]:
    try:
        mode = file.stat().st_mode
        if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
            raise ArchiveError(f"{file}: others may read it, and it holds a password; chmod 600 it")
        found = netrc.netrc(str(file)).authenticators(host)
    except OSError as error:
        raise ArchiveError(f"{file}: cannot be read ({error.strerror}); name a file of credentials") from error
    except UnicodeDecodeError:
        raise ArchiveError(f"{file}: is no text; write: machine HOST login USER password PASSWORD") from None
    except netrc.NetrcParseError as error:  # its message repeats what stands there
        raise ArchiveError(
            f"{file}: line {error.lineno} is not as in a netrc file; write: machine HOST login USER password PASSWORD"
        ) from None
    if found is None or not (found[0] and found[2]):
        raise ArchiveError(f"{file}: has no login and password for the archive's host; add: machine HOST login ...")
    return found[0], found[2]


def is_address(text: object) -> bool:
    """Return whether an input is an archive's address, not a path."""
    return isinstance(text, str) and text.partition("://")[0].lower() in (_SECURE, _PLAIN) and "://" in text


def url_of(address: str, *, plain_http: bool = False) -> str:
    """Return the URL of an archive.

    Args:
        address: ``dicomweb://HOST[:PORT]/PATH``, which is HTTPS, or ``dicomweb+http://...``.
        plain_http: allow what is not encrypted to other hosts than this one.

    Raises:
        ArchiveError: if it is none, holds a password, or would send data of patients unencrypted.
    """
    scheme, _, rest = address.partition("://")
    if scheme.lower() not in (_SECURE, _PLAIN):
        raise ArchiveError(f"the scheme {shown(scheme)[:20]!r} is no archive's; write {_SECURE}://HOST:PORT/PATH")
    plain = scheme.lower() == _PLAIN
    parts = urlsplit(f"{'http' if plain else 'https'}://{rest}")
    try:
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host = ""
    if "@" in parts.netloc:
        raise ArchiveError(
            "the archive's address holds a user or a password, which other users of the computer can see; "
            f"set {_USER} and {_PASSWORD}, or name a file by {spelt('credentials', 'FILE')}"
        )
    if not host or parts.query or parts.fragment or not address.isprintable() or " " in address:
        raise ArchiveError(f"the archive's address is none; write {scheme}://HOST:PORT/PATH, the path of its DICOMweb")
    if plain and not plain_http and not _here(host):
        raise ArchiveError(
            f"{_PLAIN}:// would send data of patients and the password unencrypted over the network; use {_SECURE}://, "
            f"or accept that by {spelt('plain_http')}"
        )
    return parts.geturl().rstrip("/")


def _here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
