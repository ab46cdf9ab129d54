"""The atrous pyramid against torchvision's, and in 3D against itself in 2D."""

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import deeplabv3

from medseg.layers.aspp import ASPP


def randomise(module: nn.Module) -> None:
    """Move weights and statistics off their initial values."""
    with torch.no_grad():
        for value in module.state_dict().values():
            if value.is_floating_point():
                value.copy_(value + 0.1 * torch.rand_like(value))


@pytest.mark.parametrize("training", [False, True])
def test_is_torchvisions(training: bool) -> None:
    torch.manual_seed(0)
    reference = deeplabv3.ASPP(5, (2, 4, 7), 6)
    reference.project[3] = nn.Identity()  # its dropout
    randomise(reference)
    layer = ASPP(2, 5, 6, (2, 4, 7))
    names = layer.state_dict()
    weights = reference.state_dict().values()
    layer.load_state_dict(dict(zip(names, weights, strict=True)))  # both list branches, pooling, projection
    x = torch.randn(3, 5, 13, 17)
    layer.train(training)
    reference.train(training)
    torch.testing.assert_close(layer(x), reference(x))


def test_one_slice_of_a_volume_is_an_image() -> None:
    torch.manual_seed(1)
    flat, deep = ASPP(2, 3, 4, (1, 2)).eval(), ASPP(3, 3, 4, (1, 2)).eval()
    randomise(deep)
    weights = deep.state_dict()
    for name, value in weights.items():
        if value.ndim == 5:
            weights[name] = value[..., value.shape[2] // 2, :, :]  # the rest meets padding
    flat.load_state_dict(weights)
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(deep(x[:, :, None]), flat(x)[:, :, None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": ()}, r"rates is \(\); give one or more"),
        ({"rates": (6, 0)}, r"rates is \(6, 0\)"),
        ({"norm": "instance"}, "norm is 'instance', which makes image pooling's one value a channel zero"),
        ({"norm": ("INSTANCE", {"affine": True})}, "choose 'batch' or 'group'"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ASPP(2, 3, 4, **options)  # type: ignore[arg-type]


def test_batch_normalisation_needs_two_images_in_training_alone() -> None:
    layer = ASPP(2, 3, 4)
    image = torch.rand(1, 3, 5, 5)
    with pytest.raises(ValueError, match="batch normalisation got one image: train with a batch_size of at least 2"):
        layer(image)
    assert torch.isfinite(layer.eval()(image)).all()
    assert torch.isfinite(ASPP(2, 3, 4, norm=("group", {"num_groups": 2}))(image)).all()
