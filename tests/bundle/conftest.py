import pytest


@pytest.fixture(autouse=True)
def quick_ends(request: pytest.FixtureRequest) -> None:
    """Runs end without diagrams, but those of a test that asks for them to be `drawn`."""
    if "drawn" not in request.fixturenames:
        request.getfixturevalue("undrawn")
