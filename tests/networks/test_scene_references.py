"""The networks of MFNet's comparison against references written from papers and authors' structure, weights mapped.

The encoder is ours in both; `tests/test_encoders.py` compares it with torchvision's.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.segmentation.deeplabv3 import ASPP

from medseg.networks.deeplabv3_plus import DeepLabV3Plus
from medseg.networks.emanet import EMANet
from medseg.networks.mfnet import MFNet

SIZE = (65, 97)
DEEP, LOW, REDUCED, WIDTH, FACTORS, CLASSES = 96, 32, 4, 6, 3, 2  # channels of the encoder "test_resnet", and of heads
TINY = {"encoder": "test_resnet", "channels": WIDTH, "low_channels": REDUCED}


def unit(before: int, after: int, edge: int, *, act: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(before, after, edge, padding=edge // 2, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers[: 3 if act else 2])


def large(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class Decoder(nn.Module):
    """DeepLabv3+, section 3.1, and the dropouts of the author's code."""

    def __init__(self, dropouts: tuple[float, float]) -> None:
        super().__init__()
        self.low = unit(LOW, REDUCED, 1)
        self.first, self.second = unit(WIDTH + REDUCED, WIDTH, 3), unit(WIDTH, WIDTH, 3)
        self.classes = nn.Conv2d(WIDTH, CLASSES, 1)
        self.dropouts = dropouts

    def forward(self, low: Tensor, x: Tensor) -> Tensor:
        x = torch.cat((large(x, low.shape[2:]), self.low(low)), dim=1)
        for layer, rate in zip((self.first, self.second), self.dropouts, strict=True):
            x = nn.functional.dropout(layer(x), rate, self.training)
        return self.classes(x)


class FactorisedReference(nn.Module):
    """Figure 4 of the paper; ``conv2`` is convolution, normalisation and ReLU, as in the author's code."""

    def __init__(self, size: tuple[int, int], dropouts: tuple[float, float], told: bool) -> None:
        super().__init__()
        self.y = nn.Parameter(torch.empty(DEEP, FACTORS))
        self.z = nn.Parameter(torch.empty(FACTORS, *size))
        self.conv1 = nn.Conv2d(DEEP, DEEP, 1)
        self.conv2 = unit(DEEP, WIDTH, 1)
        self.decoder = Decoder(dropouts)
        self.told = told  # whether the network knows that the warm-up is over

    def forward(self, features: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        x = features[-1]
        x_in = self.conv1(x)
        reconstructed = torch.mm(self.y, self.z.flatten(1)).view(1, DEEP, *self.z.shape[1:])  # X' = Y Z
        path = self.conv2(torch.relu(reconstructed) + x_in) if self.told else self.conv2(x)
        return large(self.decoder(features[1], path), size), x_in, reconstructed


class PyramidReference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.aspp = ASPP(DEEP, [6, 12, 18], WIDTH)
        self.aspp.project[3] = nn.Identity()  # torchvision's dropout
        self.decoder = Decoder((0.0, 0.0))

    def forward(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        return large(self.decoder(features[1], self.aspp(features[-1])), size)


class ExpectationMaximisationReference(nn.Module):
    """Algorithm 1 and figure 2 of EMANet, with einsum in place of matrix products."""

    def __init__(self, width: int, bases: int, steps: int) -> None:
        super().__init__()
        self.reduce = unit(DEEP, width, 3)
        self.register_buffer("mu", torch.empty(1, width, bases))
        self.before, self.after = nn.Conv2d(width, width, 1), unit(width, width, 1, act=False)
        self.head, self.classes = unit(width, WIDTH, 3), nn.Conv2d(WIDTH, CLASSES, 1)
        self.steps = steps

    def forward(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        x = self.reduce(features[-1])
        y, mu = self.before(x), self.mu.expand(len(x), -1, -1)
        for _ in range(self.steps):
            z = torch.einsum("bchw,bck->bkhw", y, mu).exp()
            z = z / z.sum(1, keepdim=True)
            mu = torch.einsum("bkhw,bchw->bck", z / z.sum((2, 3), keepdim=True), y)
            mu = mu / mu.square().sum(1, keepdim=True).sqrt()
        y = torch.einsum("bck,bkhw->bchw", mu, z)
        x = torch.relu(x + self.after(torch.relu(y)))
        return large(self.classes(self.head(x)), size)


def mapped(network: nn.Module, reference: nn.Module) -> None:
    """Draw weights and statistics anew, and lay them into both: tensor by tensor in the order of their layers."""
    state = network.state_dict()
    for name, value in state.items():
        if value.is_floating_point() and not name.startswith("encoder."):
            drawn = torch.randn_like(value) * (value[0].numel() ** -0.5 if value.ndim > 1 else 0.3)
            state[name] = drawn.abs() + 0.5 if name.endswith(("running_var", "N.weight")) else drawn
    network.load_state_dict(state)
    named = [name for name in state if not name.startswith("encoder.") and name != "factorise"]
    ours = [state[name] for name in sorted(named, key=lambda name: not name.endswith("bases"))]  # they come first
    reference.load_state_dict(dict(zip(reference.state_dict(), ours, strict=True)))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("told", [True, False])
def test_mfnet(told: bool, training: bool) -> None:
    torch.manual_seed(0)
    network = MFNet(2, 3, CLASSES, **TINY, factors=FACTORS, factor_size=(5, 7), low_rank_path=told)  # type: ignore[arg-type]
    reference = FactorisedReference((5, 7), (0.0, 0.0), told)
    mapped(network, reference)
    image = torch.rand(2, 3, *SIZE)
    for module in (network, reference):
        module.train(training)
    network.encoder.eval()
    expected, x_in, reconstructed = reference(network.encoder(image), SIZE)
    outputs = network(image)
    found = outputs["pred"] if training else outputs
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert found.std() > 0.05
    if training:
        torch.testing.assert_close(outputs["recon"], x_in - reconstructed, rtol=1e-4, atol=1e-5)
        gradient = torch.autograd.grad(found.square().sum(), network.factorisation.bases, allow_unused=True)[0]
        assert (gradient is not None) is told  # in the author's code X' never reached the decoder


def test_mfnet_with_the_dropouts_of_the_authors_code() -> None:
    torch.manual_seed(1)
    options = {"inner_dropout": 0.5, "dropout": 0.1, "low_rank_path": False}
    network = MFNet(2, 3, CLASSES, **TINY, factors=FACTORS, factor_size=(5, 7), **options)  # type: ignore[arg-type]
    reference = FactorisedReference((5, 7), (0.5, 0.1), told=False).train()
    mapped(network.train(), reference)
    network.encoder.eval()
    image = torch.rand(2, 3, *SIZE)
    features = network.encoder(image)
    torch.manual_seed(2)
    expected = reference(features, SIZE)[0]
    torch.manual_seed(2)
    torch.testing.assert_close(network(image)["pred"], expected, rtol=1e-4, atol=1e-5)


def agree(network: DeepLabV3Plus | EMANet, reference: nn.Module, image: Tensor, training: bool) -> None:
    """Give a reference the network's weights and features; both must have the same logits, which are not all alike."""
    mapped(network.train(training), reference.train(training))
    network.encoder.eval()
    expected = reference(network.encoder(image), SIZE)
    torch.testing.assert_close(network(image), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.05


@pytest.mark.parametrize("training", [False, True])
def test_deeplabv3_plus(training: bool) -> None:
    torch.manual_seed(3)
    network, reference = DeepLabV3Plus(2, 3, CLASSES, **TINY), PyramidReference()  # type: ignore[arg-type]
    agree(network, reference, torch.rand(3, 3, *SIZE), training)


@pytest.mark.parametrize("training", [False, True])
def test_emanet(training: bool) -> None:
    torch.manual_seed(4)
    options = {"channels": 8, "head_channels": WIDTH, "bases": 3, "steps": 3, "dropout": 0.0}
    network = EMANet(2, 3, CLASSES, encoder="test_resnet", **options)  # type: ignore[arg-type]
    reference = ExpectationMaximisationReference(8, 3, 3)
    agree(network, reference, torch.rand(2, 3, *SIZE), training)
