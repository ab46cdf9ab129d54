"""The dilated ResNet against torchvision's, and its parameters counted by hand."""

import pytest
import torch
import torchvision
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch.nn.functional import interpolate

from medseg.networks.dilated_resnet import DilatedResNet

SIZE = (65, 97)


@pytest.mark.parametrize(("size", "dropout"), [(SIZE, 0.0), ((48, 33), 0.2)])
def test_contract(size: tuple[int, int], dropout: float) -> None:
    torch.manual_seed(0)
    network = DilatedResNet(2, 3, 5, encoder="test_resnet", dropout=dropout)
    assert_contract(network, torch.rand(2, 3, *size), out_channels=5)


def test_contract_of_resnet18() -> None:
    torch.manual_seed(1)
    assert_contract(DilatedResNet(2, 1, 2, encoder="resnet18"), torch.rand(2, 1, *SIZE), out_channels=2)


def test_exports() -> None:
    assert_exports(DilatedResNet(2, 1, 3, encoder="test_resnet"), torch.rand(1, 1, *SIZE))


def test_exports_open_sizes() -> None:
    assert_exports_open_sizes(DilatedResNet(2, 1, 3, encoder="test_resnet"), spatial_dims=2)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64)])
def test_any_size(size: tuple[int, int]) -> None:
    logits = DilatedResNet(2, 3, 2, encoder="test_resnet").eval()(torch.rand(1, 3, *size))
    assert logits.shape == (1, 2, *size)
    assert torch.isfinite(logits).all()


def test_parameters_counted_by_hand() -> None:
    """Two 3x3 convolutions a block, each with a normalisation; 3, 4, 6 and 3 blocks; three shortcuts of 1x1."""
    with torch.device("meta"):
        network, reference = DilatedResNet(2, 3, 150), torchvision.models.resnet34()
        scores = network.describe(torch.rand(1, 3, 321, 321))[2]
    encoder, before = 3 * 64 * 49 + 2 * 64, 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        encoder += 9 * before * width + (2 * blocks - 1) * 9 * width * width + 2 * blocks * 2 * width
        encoder += 0 if before == width else before * width + 2 * width
        before = width
    assert encoder == sum(p.numel() for p in reference.parameters()) - 512 * 1000 - 1000 == 21_284_672
    assert sum(p.numel() for p in network.parameters()) == encoder + 512 * 150 + 150
    assert scores.shape == (1, 150, 41, 41)  # stride 8


def test_equals_torchvisions() -> None:
    torch.manual_seed(2)
    # torchvision refuses to dilate basic blocks, so that the reference has bottlenecks
    reference = torchvision.models.resnet.ResNet(
        torchvision.models.resnet.Bottleneck, [2, 2, 2, 2], replace_stride_with_dilation=[False, True, True]
    ).eval()
    network = DilatedResNet(2, 3, 4, encoder="resnet26").eval()
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    network.encoder.body.load_state_dict(state)
    image = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        x = torch.nn.Sequential(*list(reference.children())[:-2])(image)
        x = torch.einsum("bchw,kc->bkhw", x, network.classifier.weight[:, :, 0, 0])
        x = x + network.classifier.bias[:, None, None]
        expected = interpolate(x, SIZE, mode="bilinear", align_corners=True)
        torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0


def test_dropout_takes_whole_channels() -> None:
    torch.manual_seed(3)
    network = DilatedResNet(2, 3, 2, encoder="test_resnet", dropout=0.5).train()
    features = network.head(torch.ones(2, 96, 5, 5))
    assert sorted(features.unique().tolist()) == [0, 2]
    assert torch.equal(features.amin((2, 3)), features.amax((2, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3; the encoders of DilatedResNet are for 2D images: give 2"),
        ({"spatial_dims": 1}, "spatial_dims is 1; choose 2 or 3"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"encoder": "resnet43"}, "has no model 'resnet43'; did you mean"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    given = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "encoder": "test_resnet", **options}
    with pytest.raises(ValueError, match=message):
        DilatedResNet(**given)  # type: ignore[arg-type]
