import socketserver

import pytest
from node_desk import Desk


@pytest.fixture(autouse=True, scope="session")
def servers_that_end_at_once():
    """A server of the standard library looks every half second whether it shall end."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.01,))
        yield


@pytest.fixture
def desk(tmp_path):
    """A node's queue and its worker, without a network."""
    made = Desk(tmp_path / "node")
    yield made
    made.queue.close()
