import socketserver

import pytest


@pytest.fixture(autouse=True, scope="session")
def servers_that_end_at_once():
    """A server of the standard library looks every half second whether it shall end."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.01,))
        yield
