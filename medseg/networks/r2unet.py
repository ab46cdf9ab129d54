"""R2U-Net: a U-Net whose convolutions are recurrent, inside residual units.

M. Z. Alom, M. Hasan, C. Yakopcic, T. M. Taha, V. K. Asari, "Recurrent Residual Convolutional Neural Network based on
U-Net (R2U-Net) for Medical Image Segmentation", 2018, https://arxiv.org/abs/1802.06955. The paper's t = 2 means one
feed-forward convolution and two recurrent ones: a recurrent layer applies its one kernel t + 1 times, a block of two
layers holds two kernels and 2 (t + 1) applications. Deviations:

- The recurrence is printed with a kernel for the input and one for the state; here one kernel serves both, applied to
  their sum at every time step. So a block has two 3x3 kernels as the U-Net's has, which the abstract's "same number
  of network parameters" needs: 35.63 M for 31.04 M at 1 input channel and 5 classes.
- Each time step has a normalisation of its own, as its maps have statistics of their own. Where all steps share one,
  batch normalisation's running statistics fit none of them: on a small synthetic task, evaluation got 76 % and 57 % of
  the pixels right (two seeds) where batch statistics got 89 % and 90 %; of its own, 90 % and 91 % in both.
- A 1x1 convolution at the head of each block brings its input to the block's width, so that the sum is defined.
- Transposed convolutions of 2x2 enlarge, as in LFA U-Net's comparison; batch normalisation follows each 3x3 one.
- ``residual=False`` gives the same paper's RU-Net (table 1 of the LFA paper, https://arxiv.org/abs/2112.01702, has
  "RU-Net (time-step=2)" where its text has R2U-Net).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medseg.layers.conv_block import Named, norm_act
from medseg.layers.unet import UNetSkeleton


class RecurrentConv(nn.Module):
    """A 3x3 convolution over the input and its own last result, with the same kernel at every time step.

    h(0) = f(0, x) and h(s) = f(s, x + h(s - 1)) for s = 1 ... t; f is the convolution, the normalisation of time step
    s, and the activation.

    Args:
        spatial_dims: 2 or 3.
        channels: channels C.
        time_steps: t; the convolution is applied t + 1 times.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.

    Raises:
        ValueError: if there is no time step.

    Shape:
        ``(B, C, *S)`` to ``(B, C, *S)``, h(t).
    """

    def __init__(
        self,
        spatial_dims: int,
        channels: int,
        time_steps: int = 2,
        act: Named = "relu",
        norm: Named | None = "batch",
    ) -> None:
        super().__init__()
        if time_steps < 1:
            raise ValueError(f"time_steps is {time_steps}; it must be at least 1 (a network without is UNet)")
        self.conv = Conv[Conv.CONV, spatial_dims](channels, channels, 3, padding=1, bias=norm is None)
        self.steps = nn.ModuleList(
            nn.Sequential(*norm_act(spatial_dims, channels, act, norm)) for _ in range(time_steps + 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the state after the last time step."""
        state = x
        for step, norm_and_act in enumerate(self.steps):
            state = norm_and_act(self.conv(x if step == 0 else x + state))
        return state


class RecurrentResidualBlock(nn.Module):
    """Two recurrent convolutions, with what goes into them added to what comes out.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        time_steps: t of each recurrent convolution.
        residual: add; else the recurrent convolutions alone.

    Raises:
        ValueError: if there is no time step.

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
        time_steps: int = 2,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        self.project = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, 1)
        self.layers = nn.Sequential(
            RecurrentConv(spatial_dims, out_channels, time_steps, act, norm),
            RecurrentConv(spatial_dims, out_channels, time_steps, act, norm),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features."""
        x = self.project(x)
        result: Tensor = self.layers(x)
        return x + result if self.residual else result


class R2UNet(UNetSkeleton):
    """U-Net of recurrent residual blocks.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        out_channels: classes.
        channels: features of each level, from the finest.
        time_steps: t; each recurrent convolution is applied t + 1 times.
        residual: ``False`` for RU-Net.
        act: MONAI's name of the activation, or name and arguments.
        norm: MONAI's name of the normalisation, or name and arguments; ``None`` for none.
        dropout: probability of dropping a channel at the bottom.

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
        time_steps: int = 2,
        residual: bool = True,
        act: Named = "relu",
        norm: Named | None = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            channels=channels,
            block=partial(RecurrentResidualBlock, time_steps=time_steps, residual=residual),
            act=act,
            norm=norm,
            dropout=dropout,
        )
