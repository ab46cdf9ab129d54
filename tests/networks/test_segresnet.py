"""SegResNet: MONAI's network for images of any size."""

import pytest
import torch
from monai.networks.nets.segresnet import SegResNet as MonaisSegResNet
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes

from medseg.networks.segresnet import SegResNet


@pytest.mark.parametrize("size", [(37, 64), (16, 20, 18)])
def test_contract(size: tuple[int, ...]) -> None:
    assert_contract(SegResNet(len(size), 2, 3, channels=(8, 16, 32)), torch.rand(2, 2, *size), out_channels=3)


def test_exports() -> None:
    assert_exports(SegResNet(2, 1, 3, channels=(8, 16)), torch.rand(1, 1, 20, 24))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(SegResNet(spatial_dims, 1, 3, channels=(8, 16)), spatial_dims)


def test_it_is_monais() -> None:
    """With the defaults, and with its weights where the image needs no padding."""
    ours, theirs = SegResNet(3, 1, 2), MonaisSegResNet(3, 8, 1, 2)
    theirs.load_state_dict(ours.network.state_dict())
    x = torch.rand(1, 1, 16, 24, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": (8, 12)}, r"channels is \[8, 12\]; give at least two levels, each of twice the one before"),
        ({"channels": (8,)}, "give at least two levels"),
        ({"blocks": (1, 2)}, r"blocks is \[1, 2\]; give a number of at least 1 for each of the 4 levels"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_options(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SegResNet(2, 1, 2, **options)  # type: ignore[arg-type]
