"""What networks for scene parsing are made of: an encoder, a head on its last features, a classifier."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from medseg.layers.conv_block import Named
from medseg.layers.network_options import check_network_options
from medseg.layers.resize import resize
from medseg.layers.scene_heads import LargeFOVHead, PlainHead, PyramidPoolingHead, SceneHead

OUTPUT_STRIDE = 8


class Base(NamedTuple):
    """A network for one scale: timm's name of its usual encoder, and its head."""

    encoder: str
    head: type[SceneHead]


BASES: Mapping[str, Base] = {
    "largefov": Base("vgg16", LargeFOVHead),
    "resnet34_dilated": Base("resnet34", PlainHead),
    "resnet34_psp": Base("resnet34", PyramidPoolingHead),
}
"""Networks by name; their encoders have `OUTPUT_STRIDE`."""


def make_head(base: str, in_channels: int, options: Mapping[str, Any]) -> SceneHead:
    """Make the head of a base.

    Args:
        base: a key of `BASES`.
        in_channels: channels of the encoder's last features.
        options: of the head, such as ``channels`` and ``dropout``.

    Raises:
        ValueError: if the base or an option is unknown, or an option is out of range.
    """
    check_base(base)
    head = BASES[base].head
    known = [name for name in inspect.signature(head).parameters if name != "in_channels"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f"head_options has {unknown[0]!r}; the head of {base!r} knows {', '.join(known)}")
    return head(in_channels, **options)


def check_base(base: str) -> None:
    """Refuse a base that is not in `BASES`.

    Raises:
        ValueError: names it and the choices.
    """
    if base not in BASES:
        raise ValueError(f"base is {base!r}; choose one of {', '.join(BASES)}")


def check_scene_options(
    network: str,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    *,
    act: Named = "relu",
    norm: Named | None = None,
    dropout: float = 0.0,
) -> None:
    """Refuse what no network for scene parsing can be built from.

    Args:
        network: its name, for the message.
        spatial_dims: 2.
        in_channels: channels of the image.
        out_channels: classes.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a value.

    Raises:
        ValueError: if an option is out of range; names it, its value and the choices.
    """
    check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
    if spatial_dims != 2:
        raise ValueError(f"spatial_dims is {spatial_dims}; the encoders of {network} are for 2D images: give 2")


class SceneBase(nn.Module):
    """Encoder, head, 1x1 convolution to the classes, bilinear enlargement.

    Dilated encoders pad their strided layers: feature i lies on pixel ``stride * i``, so that the corners of maps of
    different strides lie on each other (exactly for edges of 8 n + 1 pixels).

    Args:
        encoder: gives a list of features, finest first; made by ``create_encoder`` at `OUTPUT_STRIDE`.
        head: from the last of them to the features that the classifier reads.
        out_channels: classes.

    Shape:
        ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``, any H and W.
    """

    def __init__(self, encoder: nn.Module, head: SceneHead, out_channels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.classifier = nn.Conv2d(head.out_channels, out_channels, 1)

    def describe(self, x: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return the encoder's features, the penultimate features, and the class scores at their resolution.

        Args:
            x: image ``(B, in_channels, H, W)``.
        """
        stages: list[Tensor] = self.encoder(x)
        penultimate: Tensor = self.head(stages[-1])
        scores: Tensor = self.classifier(penultimate)
        return stages, penultimate, scores

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return logits at the input's size."""
        return resize(self.describe(x)[2], list(x.shape[2:]))
