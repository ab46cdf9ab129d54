"""A node's status page: on loopback alone, GET alone, nothing of a request in an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

from medseg.errors import MedsegError
from medseg.node.status import Status, page

__all__ = ["StatusPage"]

_LOOPBACK = "127.0.0.1"
_NAMES = (_LOOPBACK, "localhost")  # a page of another site cannot ask under these: no rebinding of names
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
_SECONDS = 10  # that a request may take


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
            self._server = ThreadingHTTPServer((_LOOPBACK, port), Handler)
        except OSError as error:
            raise MedsegError(
                f"the status page cannot have port {port} ({error.strerror}); choose another status_port"
            ) from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="status page", daemon=True).start()

    def stop(self) -> None:
        """Close it."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    made: ClassVar[dict[str, tuple[str, Callable[[], str]]]]
    server_version, sys_version = "medseg", ""
    timeout = _SECONDS

    def do_GET(self) -> None:
        """Answer."""
        if (self.headers.get("Host") or "").rpartition(":")[0] not in _NAMES:
            return self._answer(403, "text/plain", "ask for localhost\n")
        if self.path not in self.made:
            return self._answer(404, "text/plain", "there is / and /status.json\n")
        kind, make = self.made[self.path]
        try:
            content = make()
        except MedsegError:
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

    def log_message(self, *_: object) -> None:
        """Log nothing."""
