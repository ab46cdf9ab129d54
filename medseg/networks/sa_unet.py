"""SA-UNet: DropBlock after each convolution and spatial attention at the bottom of a U-Net.

C. Guo, M. Szemenyei, Y. Yi, W. Wang, B. Chen, C. Fan, "SA-UNet: Spatial Attention U-Net for Retinal Vessel
Segmentation", ICPR 2020, https://arxiv.org/abs/2004.03696; DropBlock is G. Ghiasi, T.-Y. Lin, Q. V. Le, "DropBlock: A
regularization method for convolutional networks", NeurIPS 2018, https://arxiv.org/abs/1810.12890. Deviations:

- Widths are those of LFA U-Net's comparison; SA-UNet's own are (16, 32, 64, 128).
- Transposed convolutions of 2x2 enlarge (the authors' code: 3x3), and convolutions before a normalisation have no
  biases. That accounts for the difference of 482,835 parameters at SA-UNet's widths to the 537,299 of the authors'
  code (3 input channels, 1 class).
- 7 and 0.82 are the authors' block size and keep probability for DRIVE (0.87 for CHASE_DB1).
- On maps smaller than a block, blocks shrink to the largest odd edge that fits; in 3D they are cubes.
- As TorchScript the network evaluates only: torchvision's DropBlock cannot be scripted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.jit import is_scripting  # type: ignore[attr-defined]
from torchvision.ops import drop_block2d, drop_block3d

from medseg.layers.conv_block import Named, conv_norm_act
from medseg.layers.unet import UNetSkeleton


class DropBlock(nn.Module):
    """Zero random blocks of each channel in training, and enlarge the rest by as much; in evaluation the identity.

    Args:
        spatial_dims: 2 or 3.
        block_size: edge of a block in pixels, odd.
        keep_prob: share of pixels that is kept, on average.

    Raises:
        ValueError: if an option is out of range.
        RuntimeError: if it is to train as TorchScript.

    Shape:
        ``(B, C, *S)`` to ``(B, C, *S)``.
    """

    def __init__(self, spatial_dims: int, block_size: int = 7, keep_prob: float = 0.82) -> None:
        super().__init__()
        if block_size < 1 or block_size % 2 == 0:
            raise ValueError(f"block_size is {block_size}; it must be odd and at least 1")
        if not 0 < keep_prob <= 1:
            raise ValueError(f"keep_prob is {keep_prob}; it must be in (0, 1]")
        self.spatial_dims = spatial_dims
        self.block_size = block_size
        self.keep_prob = keep_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return the map, in training with blocks of zeros."""
        if not self.training:
            return x
        if is_scripting():  # torchvision's functions do not script; TorchScript leaves out what stands under `else`
            raise RuntimeError("DropBlock does not train in TorchScript; train the network itself, or call eval()")
        else:
            edge = min(self.block_size, *x.shape[2:])
            edge += edge % 2 - 1  # torchvision raises on even blocks
            drop_block = drop_block2d if self.spatial_dims == 2 else drop_block3d
            # in float32: torchvision counts the kept pixels in the map's precision, and float16 ends at 65504
            dropped: Tensor = drop_block(x.float(), 1 - self.keep_prob, edge)
            return dropped.to(x.dtype)


class SpatialAttention(nn.Module):
    """Weigh each pixel by a sigmoid of a convolution over the channels' maximum and mean.

    Args:
        spatial_dims: 2 or 3.
        kernel_size: edge of the kernel in pixels, odd.

    Shape:
        ``(B, C, *S)`` to ``(B, C, *S)``, any C.
    """

    def __init__(self, spatial_dims: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the weighted map."""
        summary = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(summary))


class StructuredDropoutBlock(nn.Sequential):
    """``(3x3 convolution, DropBlock, normalisation, activation)`` twice, spatial attention between them if asked for.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        block_size: edge of DropBlock's blocks in pixels, odd.
        keep_prob: share of pixels that DropBlock keeps.
        attention: put spatial attention in the middle, as at the bottom of SA-UNet.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        act: Named = "relu",
        norm: Named | None = "batch",
        block_size: int = 7,
        keep_prob: float = 0.82,
        attention: bool = False,
    ) -> None:
        first = conv_norm_act(spatial_dims, in_channels, out_channels, act, norm)
        second = conv_norm_act(spatial_dims, out_channels, out_channels, act, norm)
        for unit in (first, second):
            unit.insert(1, DropBlock(spatial_dims, block_size, keep_prob))
        middle = [SpatialAttention(spatial_dims)] if attention else []
        super().__init__(*first, *middle, *second)


class SAUNet(UNetSkeleton):
    """U-Net of structured dropout blocks with spatial attention at the bottom.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        block_size: edge of DropBlock's blocks in pixels, odd.
        keep_prob: share of pixels that DropBlock keeps; 1 for no DropBlock.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a channel at the bottom, besides DropBlock.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``, any S.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128, 256, 512, 1024),
        block_size: int = 7,
        keep_prob: float = 0.82,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        block = partial(StructuredDropoutBlock, block_size=block_size, keep_prob=keep_prob)
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            channels=channels,
            block=block,
            bottom=partial(block, attention=True),
            act=act,
            norm=norm,
            dropout=dropout,
        )
