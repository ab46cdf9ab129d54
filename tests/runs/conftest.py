import pytest


@pytest.fixture(autouse=True)
def quick_stores(request: pytest.FixtureRequest) -> None:
    """Databases are copies of one, but of a test that asks for a `new_store`."""
    if "new_store" not in request.fixturenames:
        request.getfixturevalue("copied_stores")
