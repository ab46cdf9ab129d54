"""Text for records that others see: no folder, user, host or password in it."""

from __future__ import annotations

import getpass
import os
import platform
import re
from pathlib import Path, PureWindowsPath

from medseg.runs.run_folder import hide_credentials

_PART = r"[^\s/'\"\[\](){},;=<>|]+"
_LOCAL_ADDRESS = re.compile(rf"\b(file|sqlite(?:\+\w+)?):/+(?:{_PART}/)*(?={_PART})")
_PATH = re.compile(rf"(?<![\w./:~*-])(?:~[\w.-]*)?/(?:{_PART}/)*({_PART})")
_WINDOWS = re.compile(r"\b[A-Za-z]:\\(?:[^\\\s'\"]+\\)*")
_NOBODY = {"", "root", "localhost", "unknown"}


def scrub(text: str) -> str:
    """Return the text with paths cut to their last name, and without user, host, home folder and passwords.

    Args:
        text: such as a value of a configuration, a command line or an error.
    """
    text = hide_credentials(text)
    if "\n" not in text and (os.path.isabs(text) or text.startswith("~")):
        return _without_names(Path(text).name)
    if PureWindowsPath(text).drive and "\n" not in text:
        return _without_names(PureWindowsPath(text).name)
    home = str(Path.home())
    if home not in ("/", ""):
        text = text.replace(home, "~")
    text = _LOCAL_ADDRESS.sub(r"\1:", text)
    text = _PATH.sub(r"\1", text)
    text = _WINDOWS.sub("", text)
    return _without_names(text)


def _without_names(text: str) -> str:
    host = platform.node()
    for name, stand_in in ((host, "<host>"), (host.partition(".")[0], "<host>"), (_user(), "<user>")):
        if name.lower() not in _NOBODY:
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", stand_in, text)
    return text


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no such user
        return ""
