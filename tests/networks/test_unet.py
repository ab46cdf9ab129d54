"""The plain U-Net."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes

from medseg.networks.unet import UNet


@pytest.mark.parametrize("size", [(37, 64), (3, 9), (16, 32, 32)])
def test_contract(size: tuple[int, ...]) -> None:
    assert_contract(UNet(len(size), 2, 3, channels=(8, 16, 32), dropout=0.1), torch.rand(2, 2, *size), out_channels=3)


def test_exports() -> None:
    assert_exports(UNet(2, 1, 3, channels=(4, 8)), torch.rand(1, 1, 20, 24))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(UNet(spatial_dims, 1, 3, channels=(4, 6, 8)), spatial_dims)


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = UNet(2, 1, 5)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(31.04e6, rel=0.01)
    assert parameters == 31_036_741  # what the weights of a release fit


@pytest.mark.parametrize(
    ("widths", "paper", "exact"),
    [
        ((32, 64, 128, 256, 512), 7.94e6, 7_763_041),  # FocusNet++, table 2
        ((35, 70, 140, 280, 560), 9.13e6, 9_286_096),  # the wide U-Net that UNet++ is compared with
    ],
)
def test_parameters_of_other_papers(widths: tuple[int, ...], paper: float, exact: int) -> None:
    with torch.device("meta"):
        network = UNet(2, 3, 1, channels=widths)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(paper, rel=0.05)
    assert parameters == exact  # what the weights of a release fit


def test_bad_spatial_dims() -> None:
    with pytest.raises(ValueError, match="spatial_dims is 4"):
        UNet(4, 1, 2)
