"""DynUNet: the U-Net that nnU-Net plans, MONAI's.

F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
https://arxiv.org/abs/1809.10486. Deviations: MONAI's network, whose outputs of lower resolution are brought to the
image's size by the nearest pixel where nnU-Net shrinks the label; images of any size, which are padded and cut again.
"""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.dynunet import DynUNet as MonaisDynUNet
from torch import Tensor, nn

from medseg.layers.conv_block import Named
from medseg.layers.crop import crop_end
from medseg.layers.network_options import PerAxis, check_network_options, per_level
from medseg.layers.pad import pad_to_multiple


class DynUNet(nn.Module):
    """DynUNet.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        kernel_size: of each level, one number or one an axis; by default 3.
        strides: of each level but the first, one number or one an axis; by default 2.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments.
        dropout: probability of dropping a channel after each convolution.
        deep_supervision: outputs of so many lower levels that training sees too, as ``aux_1`` (the finest) and so on.
        residual: residual blocks.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``, any S; each ``aux_<n>`` too.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (32, 64, 128, 256, 320),
        kernel_size: Sequence[PerAxis] | None = None,
        strides: Sequence[PerAxis] | None = None,
        act: Named = ("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        norm: Named | None = ("instance", {"affine": True}),
        dropout: float = 0.0,
        deep_supervision: int = 0,
        residual: bool = False,
    ) -> None:
        super().__init__()
        check_network_options(spatial_dims, in_channels, out_channels, act=act, norm=norm, dropout=dropout)
        if norm is None:
            raise ValueError("norm is None; give a normalisation, such as instance")
        levels = len(channels)
        if levels < 3 or min(channels) < 1:
            raise ValueError(f"channels is {list(channels)}; give at least three levels of at least one feature")
        if not 0 <= deep_supervision <= levels - 2:
            raise ValueError(f"deep_supervision is {deep_supervision}; {levels} levels have 0 to {levels - 2} of them")
        kernels = per_level("kernel_size", kernel_size, 3, levels, spatial_dims)
        steps = per_level("strides", strides, 2, levels - 1, spatial_dims)
        self.multiples = [1] * spatial_dims
        for step in steps:
            self.multiples = [a * b for a, b in zip(self.multiples, step, strict=True)]
        self.supervised = deep_supervision > 0
        self.network = MonaisDynUNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernels,
            strides=[(1,) * spatial_dims, *steps],
            upsample_kernel_size=steps,
            filters=list(channels),
            dropout=dropout or None,
            norm_name=norm,
            act_name=act,
            deep_supervision=self.supervised,
            deep_supr_num=max(1, deep_supervision),
            res_block=residual,
        )

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        """Return logits, and in training with deep supervision those of lower levels too."""
        size = list(x.shape[2:])
        outputs = self.network(pad_to_multiple(x, self.multiples))
        if not (self.training and self.supervised):
            return crop_end(outputs, size, 2)
        named: dict[str, Tensor] = {}
        for number, output in enumerate(outputs.unbind(1)):
            named[f"aux_{number}" if number else "pred"] = crop_end(output, size, 2)
        return named
