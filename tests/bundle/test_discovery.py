import importlib
import sys
from pathlib import Path

import pytest

import medseg.networks
from medseg.bundle.discovery import Network, UnknownNetworkError, find, load, networks

MODULES = sorted(path.stem for path in Path(medseg.networks.__path__[0]).glob("*.py") if path.stem != "__init__")


def test_every_module_has_a_network():
    found = networks()
    assert {network.module for network in found} == {f"medseg.networks.{name}" for name in MODULES}
    assert len({network.name for network in found}) == len(found), "a name stands for one network"
    for network in found:
        assert load(network.target).__name__ == network.name, f"{network.target} was not found by its constructor"


def test_blocks_are_no_networks():
    names = {network.module.rpartition(".")[2]: network.name for network in networks()}
    assert names["unet"] == "UNet"
    assert names["lfa_unet"] == "LFAUNet"
    # blocks there begin with (spatial_dims, in_channels, out_channels), too
    assert [n.name for n in networks() if n.module.endswith((".focusnet", ".focusnet_pp", ".bcdu_net"))] == [
        "BCDUNet",
        "FocusNet",
        "FocusNetPP",
    ]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Two networks of which one is the other's parent, their blocks, and a module that fails."""
    folder = tmp_path / "toy_networks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "works.py").write_text(
        "from torch import nn\n"
        "from torch.nn import Conv2d\n"
        "class Block(nn.Module):\n"
        "    def __init__(self, spatial_dims, in_channels, out_channels, *, act='relu'): super().__init__()\n"
        "class Strided(nn.Module):\n"
        "    def __init__(self, spatial_dims, in_channels, out_channels, stride=1): super().__init__()\n"
        "class _Hidden(nn.Module):\n"
        "    def __init__(self, spatial_dims, in_channels, out_channels): super().__init__()\n"
        "class Plain(nn.Module):\n"
        "    def __init__(self, spatial_dims, in_channels, out_channels, *, act='relu'):\n"
        "        super().__init__()\n"
        "        self.block = Block(spatial_dims, in_channels, out_channels, act=act)\n"
        "class Variant(Plain):\n"
        "    def __init__(self, spatial_dims, in_channels, out_channels, **options):\n"
        "        super().__init__(spatial_dims, in_channels, out_channels, **options)\n"
        "def weights_of(network: Plain) -> Plain:\n"
        "    same: Plain = network\n"
        "    return same\n"
    )
    (folder / "fails.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield "toy_networks"
    for name in [name for name in sys.modules if name.split(".")[0] == "toy_networks"]:
        del sys.modules[name]


def test_what_a_network_is(package):
    assert networks(package) == [
        Network("fails", "toy_networks.fails"),
        Network("Plain", "toy_networks.works"),
        Network("Variant", "toy_networks.works"),
    ]


def test_a_module_that_fails_says_why_when_it_is_built(package):
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load(networks(package)[0].target)
    with pytest.raises(ImportError, match=r"toy_networks\.works has no network Plian"):
        load("toy_networks.works.Plian")


def test_names(package):
    among = networks(package)
    plain, variant = among[1:]
    assert find(["variant", "Plain"], among) == [variant, plain]
    assert find(["works"], among) == [plain, variant]
    assert find(["toy_networks.works.Plain", "PLAIN"], among) == [plain]
    with pytest.raises(UnknownNetworkError, match="no network 'Varian'; the nearest is Variant; choose from fails, Pl"):
        find(["Varian"], among)
