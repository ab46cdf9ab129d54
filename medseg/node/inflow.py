"""What a sender may bring into memory before anybody has looked at it: pynetdicom keeps whatever comes.

Of an object that is larger than a node takes, the beginning is kept, which says what it is of; the rest is passed over
as it comes, so that the sender has an answer and goes on with the next. What no sender does that keeps to the standard
ends the connection: a unit (PDU) far larger than was agreed on, a command without end, objects without waiting for an
answer. Anybody may do so who reaches the port: units are read before a title is.
"""

from __future__ import annotations

import io
import logging
from functools import partial
from typing import Any

from medseg.errors import shown

__all__ = ["bound", "size_of"]

logger = logging.getLogger(__name__)

_UNIT = 1 << 20  # bytes; 16 KiB are agreed on, and what asks for an association names each kind of object
_COMMAND = 1 << 16
_WAITING = 2  # messages: a sender waits for each answer
_KEPT = 1 << 18  # bytes of an object that is too large: its tags before its pixels, nearly always


class _Content(io.BytesIO):
    """An object as it comes, or the beginning of one that is too large."""

    def __init__(self, start: bytes, most: int) -> None:
        super().__init__()
        self._most, self.size = most, 0
        self.write(start)

    def write(self, content: Any) -> int:
        before, self.size = self.size, self.size + len(content)
        if self.size <= self._most:
            super().write(content)
        elif before <= self._most:
            self.truncate(_KEPT)
        return len(content)


def bound(association: Any, most: int) -> None:
    """Bound what an association that was just opened brings into memory.

    Args:
        association: pynetdicom's, without a byte read.
        most: bytes of an object.
    """
    socket = association.dul.socket
    socket.recv = partial(_receive, association, socket.recv, most)


def _receive(association: Any, receive: Any, most: int, count: int) -> Any:
    """Read bytes; an `OSError` ends the connection, as pynetdicom takes it for one that broke."""
    dimse = association.dimse
    message = dimse.message  # what has come of it; of the first unit, nothing
    commands = 0 if message is None else message.encoded_command_set.getbuffer().nbytes
    if count > _UNIT or commands > _COMMAND or dimse.msg_queue.qsize() > _WAITING:
        where = shown(association.requestor.address)
        logger.warning("%s is cut off: it sends in another way than DICOM's, without bounds", where)
        association.dul.socket.socket.close()
        raise OSError("more than a sender may bring at one time")
    if message is not None and type(message.data_set) is io.BytesIO:
        message.data_set = _Content(message.data_set.getvalue(), most)
    return receive(count)


def size_of(content: io.BytesIO) -> int:
    """Return the bytes of an object that has come, whether it was kept or not."""
    return content.size if isinstance(content, _Content) else content.getbuffer().nbytes
