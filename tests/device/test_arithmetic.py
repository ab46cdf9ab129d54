"""Networks, losses and metrics compute on a GPU what they do on a CPU, in whatever layout."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from metrics.test_score_board import ALL, NAMES, cases
from torch import Tensor, nn

from medseg.engines.precision import network_to_channels_last
from medseg.inferers.memory_format import to_memory_format
from medseg.losses.all_hl import ALLHLLoss
from medseg.losses.cross_entropy import CrossEntropyLoss
from medseg.losses.focal_iou import FocalIoULoss
from medseg.metrics.confusion_matrix import ConfusionMatrix
from medseg.metrics.score_board import ScoreBoard
from medseg.metrics.uncertainty import entropy_of, may_hold_something, probabilities_of
from medseg.networks.attention_unet import AttentionUNet
from medseg.networks.dynunet import DynUNet
from medseg.networks.lfa_unet import LFAUNet
from medseg.networks.segresnet import SegResNet
from medseg.networks.unet import UNet

pytestmark = pytest.mark.filterwarnings("default")  # what other packages warn of on a GPU is no matter of these tests

INSTANCE = ("instance", {"affine": True})


class Layers(nn.Sequential):
    """Each kind of layer that is exchanged for a quicker one."""

    def __init__(self, dims: int) -> None:
        conv, split = ((nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d))[dims - 2]
        norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2]
        super().__init__(
            conv(1, 6, 3, padding=1), norm(6, affine=True), nn.LeakyReLU(), conv(6, 8, 1), norm(8), nn.LeakyReLU(),
            split(8, 4, 2, 2), norm(4, affine=True), conv(4, 3, 1, 1),
        )  # fmt: skip


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "layers_2D": lambda: Layers(2),
    "layers_3D": lambda: Layers(3),
    "unet_2D": lambda: UNet(2, 1, 3, channels=(4, 8)),
    "unet_3D": lambda: UNet(3, 1, 3, channels=(4, 8), norm=INSTANCE),
    "attention_unet_2D": lambda: AttentionUNet(2, 1, 3, channels=(4, 8)),
    "lfa_unet_2D": lambda: LFAUNet(2, 1, 3, channels=(4, 8)),
    "segresnet_3D": lambda: SegResNet(3, 1, 3, channels=(8, 16)),
    "dynunet_3D": lambda: DynUNet(3, 1, 3, channels=(4, 8, 8)),
}


def gradients(network: nn.Module, image: Tensor, device: torch.device, kind: torch.dtype) -> dict[str, Tensor]:
    """Return the output, and the gradients of its weighted sum."""
    placed = network.to(device, kind).train()
    image = image.to(device, kind).requires_grad_()
    output = placed(image)
    output = output["pred"] if isinstance(output, dict) else output
    factors = torch.linspace(-1, 1, output.numel(), dtype=kind, device=device).view(output.shape)
    (output * factors).sum().backward()
    assert image.grad is not None
    found = {"output": output.detach(), "image": image.grad}
    found |= {name: each.grad for name, each in placed.named_parameters() if each.grad is not None}
    return {name: value.cpu().double() for name, value in found.items()}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("batch", [1, 3])
def test_gradients(device: torch.device, name: str, batch: int) -> None:
    """Quickened and channels-last, beside the plain network in double precision."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    dims = int(name[-2])
    image = torch.randn(batch, 1, *[16] * dims, generator=torch.Generator().manual_seed(1))
    expected = gradients(copy.deepcopy(network), image, torch.device("cpu"), torch.float64)
    quick = copy.deepcopy(network).to(device)
    network_to_channels_last(quick)
    found = gradients(quick, to_memory_format(image), device, torch.float32)
    assert found.keys() == expected.keys()
    largest = max(float(value.norm()) for key, value in expected.items() if key not in ("output", "image"))
    for key, value in expected.items():
        apart = float((found[key] - value).norm())  # a bias before a normalisation has the gradient 0, and rounding
        assert apart <= 2e-3 * float(value.norm()) + 1e-4 * largest, key


LOSSES: dict[str, Callable[[], nn.Module]] = {
    "focal_iou": lambda: FocalIoULoss(weight=[1.0, 2.0, 3.0], ignore_index=255),
    "focal_iou_images": lambda: FocalIoULoss(batch=False, classes="all"),
    "all_hl": lambda: ALLHLLoss(ignore_index=255),
    "cross_entropy": lambda: CrossEntropyLoss(weight=[1.0, 2.0, 0.5], ignore_index=255),
}


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_losses(device: torch.device, name: str, kind: torch.dtype) -> None:
    numbers = torch.Generator().manual_seed(0)
    start = (3 * torch.randn(2, 3, 12, 14, 10, generator=numbers)).to(kind)
    label = torch.randint(0, 3, (2, 1, 12, 14, 10), generator=numbers, dtype=torch.uint8)
    if "images" not in name:
        label[:, :, :2] = 255
    found: list[tuple[Tensor, Tensor]] = []
    for place in (torch.device("cpu"), device):
        logits = start.detach().clone().to(place).requires_grad_()
        loss = LOSSES[name]().to(place)(logits, label.to(place))
        loss.backward()
        assert logits.grad is not None
        assert loss.dtype == torch.float32
        found.append((loss.detach().cpu(), logits.grad.float().cpu()))
    torch.testing.assert_close(found[1][0], found[0][0], rtol=1e-4, atol=1e-6)
    atol = 1e-3 * float(found[0][1].abs().max()) if kind == torch.float32 else 1e-2 * float(found[0][1].abs().max())
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=atol)


@pytest.mark.parametrize("classes", [1, 4])
def test_uncertainty(device: torch.device, classes: int) -> None:
    logits = 4 * torch.randn(2, classes, 20, 18, generator=torch.Generator().manual_seed(0))
    found = []
    for place in (torch.device("cpu"), device):
        chances = probabilities_of(logits.to(place), dim=1)
        found.append([chances, entropy_of(chances, dim=1), may_hold_something(chances, 0, dim=1).float()])
    for one, other in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-4, atol=1e-5)


def test_confusion(device: torch.device) -> None:
    """Counts are whole numbers, and the same."""
    numbers = torch.Generator().manual_seed(0)
    guess, truth = (torch.randint(0, 3, (4, 64, 64), generator=numbers) for _ in range(2))
    truth[0] = 255
    tables = []
    for place in (torch.device("cpu"), device):
        matrix = ConfusionMatrix(3, 255, device=place)
        matrix.update(guess.to(place), truth.to(place))
        tables.append(torch.as_tensor(matrix.matrix).cpu())
    torch.testing.assert_close(tables[1], tables[0], rtol=0, atol=0)


@pytest.mark.parametrize("ignored", [False, True])
def test_boards(device: torch.device, ignored: bool) -> None:
    """Every score of cases that lie on the GPU."""
    tables = []
    for place in (torch.device("cpu"), device):
        board = ScoreBoard(NAMES, 255, {name: options for name, options in ALL.items() if name != "instances"})
        for case in cases(ignored=ignored):
            board.update(replace(case, prediction=case.prediction.to(place), label=case.label.to(place)))
        tables.append(board.flat("val_"))
    assert tables[1].keys() == tables[0].keys()
    assert tables[1] == pytest.approx(tables[0], rel=1e-6, nan_ok=True)
