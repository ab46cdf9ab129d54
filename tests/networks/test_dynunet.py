"""DynUNet: MONAI's network for images of any size, with the outputs of deep supervision by name."""

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet as MonaisDynUNet
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes

from medseg.networks.dynunet import DynUNet


@pytest.mark.parametrize("size", [(37, 64), (16, 20, 18)])
@pytest.mark.parametrize("deep_supervision", [0, 2])
def test_contract(size: tuple[int, ...], deep_supervision: int) -> None:
    network = DynUNet(len(size), 2, 3, channels=(4, 6, 8, 8), deep_supervision=deep_supervision)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


def test_exports() -> None:
    assert_exports(DynUNet(2, 1, 3, channels=(4, 6, 8)), torch.rand(1, 1, 20, 24))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(DynUNet(spatial_dims, 1, 3, channels=(4, 6, 8)), spatial_dims)


def test_it_is_monais() -> None:
    """With its weights, where the image needs no padding; anisotropic kernels and strides too."""
    kernels, strides = [[1, 3, 3], 3, 3], [[1, 2, 2], 2]
    ours = DynUNet(3, 1, 2, channels=(4, 6, 8), kernel_size=kernels, strides=strides, deep_supervision=1)
    full = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    theirs = MonaisDynUNet(
        3, 1, 2, full, [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 2, 2], [2, 2, 2]], filters=[4, 6, 8],
        norm_name=("instance", {"affine": True}), deep_supervision=True, deep_supr_num=1,
    )  # fmt: skip
    theirs.load_state_dict(ours.network.state_dict())
    x = torch.rand(1, 1, 6, 16, 12)
    assert ours.multiples == [2, 4, 4]
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=0)
        named, stacked = ours.train()(x), theirs.train()(x)
        assert list(named) == ["pred", "aux_1"]
        torch.testing.assert_close(torch.stack(list(named.values()), 1), stacked, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": (8, 16)}, r"channels is \[8, 16\]; give at least three levels"),
        ({"deep_supervision": 4}, "deep_supervision is 4; 5 levels have 0 to 3 of them"),
        (
            {"strides": [2, 2]},
            r"strides is \[2, 2\]; give 4 of them, each a number of at least 1, or one for each of 2 axes",
        ),
        ({"kernel_size": [[3, 3, 3]] * 5}, "kernel_size is .*; give 5 of them"),
        ({"norm": None}, "norm is None; give a normalisation"),
    ],
)
def test_bad_options(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DynUNet(2, 1, 2, **options)  # type: ignore[arg-type]
