"""Small networks over several scales, and their parts in plain functions."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate

from medseg.layers.multi_scale import MultiScaleBase
from medseg.networks.deeplab_largefov import DeepLabLargeFOV
from medseg.networks.dilated_resnet import DilatedResNet
from medseg.networks.multi_scale import AttentionToScale, MultiScalePooling, MultiScaleRefinement
from medseg.networks.psp_net import PSPNet

SIZE = (65, 97)
CLASSES = 5
PLAIN = {1.0: 1, 0.5: 1}
SINGLE = {"largefov": DeepLabLargeFOV, "resnet34_dilated": DilatedResNet, "resnet34_psp": PSPNet}
ROWS = {  # of table 2
    "base": {"merge": "attention"},
    "multi-stage": {"dilations": PLAIN, "recalibration": "none"},
    "diverse dilations": {"recalibration": "none"},
    "extra branch": {},
}


def build(merge: str = "refinement", base: str = "largefov", **options: object) -> MultiScaleBase:
    given = {"base": base, "encoder": "test_resnet", **options}
    if base != "resnet34_dilated":
        given.setdefault("head_options", {"channels": 16})
    if merge in ("average", "max"):
        return MultiScalePooling(2, 3, CLASSES, merge=merge, **given)  # type: ignore[arg-type]
    if merge == "attention":
        return AttentionToScale(2, 3, CLASSES, **{"channels": 8, **given})  # type: ignore[arg-type]
    return MultiScaleRefinement(2, 3, CLASSES, **{"channels": 8, "scale_channels": 6, **given})  # type: ignore[arg-type]


def settled(network: nn.Module) -> nn.Module:
    """Move weights and running statistics off their initial values, and go over to evaluation."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            network.train()(torch.rand(2, 3, *SIZE))
    return network.eval()


def to(x: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(x, size, mode="bilinear", align_corners=True)


def scaled(image: Tensor, scale: float) -> Tensor:
    size = [int((length - 1) * scale) + 1 for length in image.shape[2:]]
    return interpolate(image, size, mode="bilinear", align_corners=False)


def base_of(network: MultiScaleBase, image: Tensor) -> tuple[list[Tensor], Tensor]:
    """The encoder's and the head's features, and the scores, of one scale."""
    stages = network.encoder(image)
    penultimate = network.head(stages[-1])
    return [*stages, penultimate], conv2d(penultimate, network.classifier.weight, network.classifier.bias)
