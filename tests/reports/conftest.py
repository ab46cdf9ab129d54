import pytest


@pytest.fixture(scope="module", autouse=True)
def _drawn(drawn: None) -> None:
    """Draw in this room what is looked at as pictures everywhere."""
