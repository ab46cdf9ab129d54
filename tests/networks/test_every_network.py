"""No network is left out of the contract."""

from pathlib import Path

import pytest

import medseg.networks

NETWORKS = sorted(path.stem for path in Path(medseg.networks.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("check", ["assert_contract", "assert_exports", "assert_exports_open_sizes"])
def test_has_a_test_of_the_contract(name: str, check: str) -> None:
    assert f" {check}(" in (Path(__file__).parent / f"test_{name}.py").read_text()


def test_there_are_networks() -> None:
    assert "unet" in NETWORKS
