"""UNet++ against MONAI's own network."""

import pytest
import torch
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes

from medseg.networks.unet_pp import UNetPP

TINY = (4, 4, 6, 6, 8)


@pytest.mark.parametrize("deep_supervision", [False, True])
@pytest.mark.parametrize("size", [(37, 64), (35, 21), (17, 33, 20)])
def test_contract(size: tuple[int, ...], deep_supervision: bool) -> None:
    network = UNetPP(len(size), 2, 3, channels=TINY, deep_supervision=deep_supervision, dropout=0.1)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


@pytest.mark.parametrize("norm", ["instance", None])
def test_contract_with_other_norms(norm: str | None) -> None:
    network = UNetPP(2, 1, 2, channels=TINY, norm=norm, act=("leakyrelu", {"negative_slope": 0.1}))
    assert_contract(network, torch.rand(2, 1, 37, 50), out_channels=2)


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_exports(deep_supervision: bool) -> None:
    network = UNetPP(2, 1, 3, channels=TINY, deep_supervision=deep_supervision)
    assert_exports(network, torch.rand(1, 1, 36, 40), onnx=not deep_supervision)  # in evaluation they are one


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(UNetPP(spatial_dims, 1, 3, channels=TINY), spatial_dims)


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = UNetPP(2, 3, 1)
        supervised = UNetPP(2, 3, 1, deep_supervision=True)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(9.04e6, rel=0.01)
    assert parameters == 9_115_585  # what the weights of a release fit
    assert sum(p.numel() for p in supervised.parameters()) == parameters + 3 * (32 + 1)


@pytest.mark.parametrize("size", [(32, 48), (37, 50), (16, 17, 33)])
def test_equals_monais(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    reference = BasicUNetPlusPlus(
        len(size), 2, 3, features=(*TINY, TINY[0]), deep_supervision=True, act="relu", norm="batch", bias=False
    )
    supervised = UNetPP(len(size), 2, 3, channels=TINY, deep_supervision=True)
    supervised.network.load_state_dict(reference.state_dict())
    plain = UNetPP(len(size), 2, 3, channels=TINY)
    heads = tuple(f"final_conv_0_{node}." for node in (1, 2, 3))
    plain.network.load_state_dict({k: v for k, v in reference.state_dict().items() if not k.startswith(heads)})
    x = torch.rand(2, 2, *size)
    expected = reference(x)
    named = supervised(x)
    assert list(named) == ["pred", "aux_x01", "aux_x02", "aux_x03"]
    for name, logits in zip(("aux_x01", "aux_x02", "aux_x03", "pred"), expected, strict=True):
        torch.testing.assert_close(named[name], logits)
    torch.testing.assert_close(plain(x), expected[3])
    reference.eval()
    for network in (supervised, plain):
        for module, other in zip(network.network.buffers(), reference.buffers(), strict=True):
            module.copy_(other)
        torch.testing.assert_close(network.eval()(x), reference(x)[3])


def test_heads_that_nothing_uses_are_gone() -> None:
    names = dict(UNetPP(2, 1, 2, channels=TINY).named_parameters())
    assert [name for name in names if "final" in name] == [
        "network.final_conv_0_4.weight",
        "network.final_conv_0_4.bias",
    ]


@pytest.mark.parametrize("size", [(15, 64), (64, 3), (16, 16, 12)])
def test_an_image_too_small_is_refused(size: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"the image has shape \[1, 1, .*pad it to 16"):
        UNetPP(len(size), 1, 2, channels=TINY)(torch.rand(1, 1, *size))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 8, 8)}, r"channels is \(8, 8, 8\); give five levels"),
        ({"channels": (4, 4, 4, 4, 1)}, "at least two channels"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNetPP(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **options})  # type: ignore[arg-type]
