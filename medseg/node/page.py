"""A node's status page: on loopback alone, GET alone, nothing of a request in an answer."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from medseg.errors import MedsegError
from medseg.node.status import Status, page

__all__ = ["StatusPage"]

logger = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_NAMES = (_LOOPBACK, "localhost")  # a page of another site cannot ask under these: no rebinding of names
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
_SECONDS = 10.0  # that a request may take, and its answer


class StatusPage:
    """The page at ``/`` and the same as JSON at ``/status.json``.

    Args:
        port: on loopback; 0 for a free one.
        title: of the page.
        status: gives what is shown.

    Raises:
        MedsegError: if the port cannot be had.
    """

    def __init__(self, port: int, title: str, status: Callable[[], Status]) -> None:
        class Handler(_Handler):
            made: ClassVar = {
                "/": ("text/html; charset=utf-8", lambda: page(status(), title)),
                "/status.json": ("application/json", lambda: json.dumps(status().to_dict())),
            }

        try:
            self._server = _Server((_LOOPBACK, port), Handler)
        except OSError as error:
            raise MedsegError(
                f"the status page cannot have port {port} ({error.strerror}); choose another status_port"
            ) from error
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="status page", daemon=True).start()

    def stop(self) -> None:
        """Close it."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print no trace, as the base class does: who goes away in the middle is no fault of the node."""
        logger.debug("a request for the status page failed", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    made: ClassVar[dict[str, tuple[str, Callable[[], str]]]]
    server_version, sys_version = "medseg", ""

    def setup(self) -> None:
        """Begin a request, which ends in time however slowly it comes: the base class counts from each byte anew."""
        super().setup()
        self._end = threading.Timer(_SECONDS, self._hang_up)
        self._end.daemon = True
        self._end.start()

    def finish(self) -> None:
        """End it."""
        self._end.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        """Answer."""
        if (self.headers.get("Host") or "").rpartition(":")[0] not in _NAMES:
            return self._answer(403, "text/plain", "ask for localhost\n")
        if self.path not in self.made:
            return self._answer(404, "text/plain", "there is / and /status.json\n")
        kind, make = self.made[self.path]
        try:
            content = make()
        except (MedsegError, OSError):
            return self._answer(503, "text/plain", "the queue cannot be read\n")
        return self._answer(200, kind, content)

    def _answer(self, status: int, kind: str, content: str) -> None:
        data = content.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no GET, without what it asked, which the base class repeats."""
        self._answer(code, "text/plain", "ask by GET\n")

    def log_message(self, *_: object) -> None:
        """Log nothing."""
