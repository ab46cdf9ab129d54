"""Whole networks against what their papers and authors describe, written out over the network's own random weights.

The U-Net's is in tests/layers/test_unet.py, those of FocusNet and FocusNet++ are in their own files. Here stand the
others of the tables of LFA U-Net and FocusNet++, also those that are MONAI's inside. Everything is in evaluation and in
64 bits; sizes are odd wherever a network takes them so.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import (
    batch_norm,
    conv2d,
    conv_transpose2d,
    interpolate,
    linear,
    max_pool2d,
    pad,
)

from medseg.networks.attention_unet import AttentionUNet
from medseg.networks.bcdu_net import BCDUNet
from medseg.networks.fcn8s import FCN8s
from medseg.networks.lfa_unet import LFAUNet
from medseg.networks.r2unet import R2UNet
from medseg.networks.sa_unet import SAUNet
from medseg.networks.self_attention_unet import SelfAttentionUNet
from medseg.networks.unet_pp import UNetPP

Block = Callable[[Tensor, str], Tensor]
THREE = (4, 6, 8)


class Weights:
    """Layers of a network by the names of their weights, all of which are drawn anew."""

    def __init__(self, network: nn.Module, seed: int = 0) -> None:
        torch.manual_seed(seed)
        network.double().eval()
        for value in network.state_dict().values():
            if value.is_floating_point():
                flat = torch.rand_like(value) + 0.5
                value.copy_(flat if value.ndim == 1 else torch.randn_like(value) * value[0].numel() ** -0.5)
        self.values = network.state_dict()

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        """A convolution that keeps the size, or halves it."""
        kernel = self.values[f"{name}.weight"]
        return conv2d(x, kernel, self.values.get(f"{name}.bias"), stride, kernel.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return batch_norm(x, *(self.values[f"{name}.{each}"] for each in names))

    def enlarged(self, x: Tensor, name: str) -> Tensor:
        """A transposed convolution of 2x2 with stride 2."""
        return conv_transpose2d(x, self.values[f"{name}.weight"], self.values.get(f"{name}.bias"), stride=2)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self.values[f"{name}.weight"], self.values[f"{name}.bias"])

    def unit(self, x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        return self.norm(self.conv(x, conv, stride), norm).relu()

    def double(self, x: Tensor, name: str) -> Tensor:
        """The U-Net's block: twice a 3x3 convolution, batch normalisation, ReLU."""
        return self.unit(self.unit(x, f"{name}.0", f"{name}.1"), f"{name}.3", f"{name}.4")

    def bare(self, x: Tensor, name: str) -> Tensor:
        """The same without normalisation."""
        return self.conv(self.conv(x, f"{name}.0").relu(), f"{name}.2").relu()


def agree(result: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-2, "logits of so flat a network would agree with any other's"
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11)


def unet(
    w: Weights,
    x: Tensor,
    block: Block,
    merge: Callable[[Tensor, Tensor, str], Tensor] = lambda fine, coarse, _: torch.cat([fine, coarse], 1),
    bottom: Block | None = None,
    up: Block | None = None,
) -> Tensor:
    """Three levels of a U-Net: pool what there is, enlarge, cut to the skip's size, merge, a block."""
    first = block(x, "encoder.blocks.0")
    second = block(max_pool2d(first, 2, ceil_mode=True), "encoder.blocks.1")
    x = (bottom or block)(max_pool2d(second, 2, ceil_mode=True), "encoder.blocks.2")
    for number, fine in enumerate((second, first)):
        x = (up or w.enlarged)(x, f"decoder.{number}.up")[..., : fine.shape[2], : fine.shape[3]]
        x = block(merge(fine, x, f"decoder.{number}.merge"), f"decoder.{number}.block")
    return w.conv(x, "head")


def attended(w: Weights, asking: Tensor, giving: Tensor, name: str) -> Tensor:
    """LFA U-Net, eq. 1 and 2 over whole maps: no scale, softmax over the pixels that answer."""
    asking_pixels, giving_pixels = (m.flatten(2).transpose(1, 2) for m in (asking, giving))
    similar = w.linear(asking_pixels, f"{name}.query") @ w.linear(giving_pixels, f"{name}.key").transpose(1, 2)
    answer = similar.softmax(2) @ w.linear(giving_pixels, f"{name}.value")
    return answer.transpose(1, 2).reshape(asking.shape)


def in_windows(w: Weights, asking: Tensor, giving: Tensor, name: str, edge: int) -> Tensor:
    """The same inside windows; those at the far edges are as large as what is left."""
    rows = []
    for top in range(0, asking.shape[2], edge):
        cuts = [(..., slice(top, top + edge), slice(left, left + edge)) for left in range(0, asking.shape[3], edge)]
        rows.append(torch.cat([attended(w, asking[cut], giving[cut], name) for cut in cuts], 3))
    return torch.cat(rows, 2)


@pytest.mark.parametrize("query", ["encoder", "decoder"])
@pytest.mark.parametrize("residual", ["encoder", "decoder", "none"])
@pytest.mark.parametrize("window", [7, 3, None])
def test_lfa_unet(query: str, residual: str, window: int | None) -> None:
    """The module takes the place of the concatenation: its result alone goes on, with as many channels as the skip."""
    network = LFAUNet(2, 2, 3, channels=THREE, query=query, residual=residual, window_size=window)
    w, image = Weights(network), torch.rand(2, 2, 17, 10, dtype=torch.float64)

    def merge(fine: Tensor, coarse: Tensor, name: str) -> Tensor:
        asking, giving = (fine, coarse) if query == "encoder" else (coarse, fine)
        answer = in_windows(w, asking, giving, f"{name}.attention", window or 99)
        return answer + {"encoder": fine, "decoder": coarse, "none": torch.zeros_like(fine)}[residual]

    agree(network(image), unet(w, image, w.double, merge))


def test_self_attention_unet() -> None:
    network = SelfAttentionUNet(2, 2, 3, channels=THREE)
    w, image = Weights(network), torch.rand(2, 2, 17, 10, dtype=torch.float64)

    def bottom(x: Tensor, name: str) -> Tensor:
        x = w.double(x, f"{name}.0")
        return x + attended(w, x, x, f"{name}.1.attention")

    agree(network(image), unet(w, image, w.double, bottom=bottom))


@pytest.mark.parametrize(("steps", "residual"), [(2, True), (2, False), (1, True), (3, True)])
def test_r2unet(steps: int, residual: bool) -> None:
    """t = 2: one convolution of the input, two of input plus state, in each of a block's two layers; then a sum."""
    network = R2UNet(2, 2, 3, channels=THREE, time_steps=steps, residual=residual)
    w, image = Weights(network), torch.rand(2, 2, 13, 10, dtype=torch.float64)

    def layer(x: Tensor, name: str) -> Tensor:
        state = torch.zeros_like(x)
        for step in range(steps + 1):
            state = w.unit(x + state, f"{name}.conv", f"{name}.steps.{step}.0")
        return state

    def block(x: Tensor, name: str) -> Tensor:
        x = w.conv(x, f"{name}.project")
        result = layer(layer(x, f"{name}.layers.0"), f"{name}.layers.1")
        return x + result if residual else result

    agree(network(image), unet(w, image, block))


def test_sa_unet() -> None:
    """In evaluation DropBlock is the identity; the bottom has its spatial attention between the two convolutions."""
    network = SAUNet(2, 2, 3, channels=THREE)
    w, image = Weights(network), torch.rand(2, 2, 13, 10, dtype=torch.float64)

    def block(x: Tensor, name: str) -> Tensor:
        return w.unit(w.unit(x, f"{name}.0", f"{name}.2"), f"{name}.4", f"{name}.6")

    def bottom(x: Tensor, name: str) -> Tensor:
        x = w.unit(x, f"{name}.0", f"{name}.2")
        highest, mean = x.max(1, keepdim=True).values, x.sum(1, keepdim=True) / x.shape[1]
        x = x * w.conv(torch.cat([highest, mean], 1), f"{name}.4.conv").sigmoid()
        return w.unit(x, f"{name}.5", f"{name}.7")

    agree(network(image), unet(w, image, block, bottom=bottom))


@pytest.mark.parametrize(("both", "blocks"), [(False, 3), (True, 3), (False, 1)])
def test_bcdu_net(both: bool, blocks: int) -> None:
    """Only enlargements are normalised; skip and decoder pass a convolutional LSTM as a sequence of two."""
    network = BCDUNet(2, 2, 3, channels=THREE, bidirectional=both, dense_blocks=blocks)
    w, image = Weights(network), torch.rand(2, 2, 13, 10, dtype=torch.float64)

    def lstm(sequence: list[Tensor], name: str) -> Tensor:
        half = sequence[0].shape[1] // 2
        state = cell = torch.zeros_like(sequence[0][:, :half])
        for x in sequence:
            gates = w.conv(x, f"{name}.input") + w.conv(state, f"{name}.state")
            enter, forget, new, leave = (gates[:, i * half : (i + 1) * half] for i in range(4))
            cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
            state = leave.sigmoid() * cell.tanh()
        return state

    def merge(fine: Tensor, coarse: Tensor, name: str) -> Tensor:
        state = lstm([coarse, fine], f"{name}.to_encoder")
        if both:
            other = lstm([fine, coarse], f"{name}.to_decoder")
            state = w.conv(torch.cat([state, other], 1), f"{name}.join").tanh()
        return state

    def bottom(x: Tensor, name: str) -> Tensor:
        results = [w.bare(x, f"{name}.first")]
        for number in range(blocks - 1):
            results.append(w.bare(torch.cat(results, 1), f"{name}.further.{number}"))
        return results[-1]

    def up(x: Tensor, name: str) -> Tensor:
        return w.norm(w.enlarged(x, f"{name}.0"), f"{name}.1").relu()

    agree(network(image), unet(w, image, w.bare, merge, bottom, up))


def test_attention_unet() -> None:
    """Gates of Oktay et al., eq. 1, at the skip's resolution: one coefficient a pixel for all its channels."""
    network = AttentionUNet(2, 2, 3, channels=THREE)
    w, image = Weights(network), torch.rand(2, 2, 12, 8, dtype=torch.float64)

    def block(x: Tensor, name: str, stride: int = 1) -> Tensor:
        x = w.unit(x, f"{name}.conv.0.conv", f"{name}.conv.0.adn.N", stride)
        return w.unit(x, f"{name}.conv.1.conv", f"{name}.conv.1.adn.N")

    def level(fine: Tensor, below: Tensor, name: str) -> Tensor:
        weight = w.values[f"{name}.upconv.up.conv.weight"]
        signal = conv_transpose2d(below, weight, stride=2, padding=1, output_padding=1)
        signal = w.norm(signal, f"{name}.upconv.up.adn.N").relu()
        parts = [(signal, "W_g"), (fine, "W_x")]
        mapped = [w.norm(w.conv(x, f"{name}.attention.{n}.0.conv"), f"{name}.attention.{n}.1") for x, n in parts]
        psi = w.conv((mapped[0] + mapped[1]).relu(), f"{name}.attention.psi.0.conv")
        coefficients = w.norm(psi, f"{name}.attention.psi.1").sigmoid()
        assert coefficients.shape[1] == 1
        return w.double(torch.cat([fine * coefficients, signal], 1), f"{name}.merge")

    outer, inner = "network.model.1", "network.model.1.submodule.1"
    first = block(image, "network.model.0")
    second = block(first, f"{outer}.submodule.0", 2)
    third = block(second, f"{inner}.submodule", 2)
    result = level(first, level(second, third, inner), outer)
    agree(network(image), w.conv(result, "network.model.2.conv"))


def test_unet_pp() -> None:
    """Zhou et al., eq. 1: a node gets all nodes of its row before it, and the enlarged one below."""
    network = UNetPP(2, 2, 3, channels=(4, 4, 6, 6, 8))
    w, image = Weights(network), torch.rand(2, 2, 16, 32, dtype=torch.float64)

    def convs(x: Tensor, name: str) -> Tensor:
        for number in ("0", "1"):
            x = w.unit(x, f"{name}.conv_{number}.conv", f"{name}.conv_{number}.adn.N")
        return x

    nodes = {(0, 0): convs(image, "network.conv_0_0")}
    for row in range(1, 5):
        nodes[row, 0] = convs(max_pool2d(nodes[row - 1, 0], 2), f"network.conv_{row}_0.convs")
    for column in range(1, 5):
        for row in range(5 - column):
            name = f"network.upcat_{row}_{column}"
            below = w.enlarged(nodes[row + 1, column - 1], f"{name}.upsample.deconv")
            nodes[row, column] = convs(
                torch.cat([*(nodes[row, earlier] for earlier in range(column)), below], 1), f"{name}.convs"
            )
    agree(network(image), w.conv(nodes[0, 4], "network.final_conv_0_4"))


def test_fcn8s() -> None:
    """Scores of pool3, pool4 and fc7, each enlarged to the next and added, the sum to full size."""
    options: dict[str, Any] = {"channels": (4, 6, 6, 8, 8), "fc_channels": 12}
    network = FCN8s(2, 2, 3, **options)
    w, x = Weights(network), torch.rand(2, 2, 61, 40, dtype=torch.float64)
    image, pooled = x, []
    for stage, depth in enumerate((2, 2, 3, 3, 3)):
        for number in range(depth):
            x = w.conv(x, f"stages.{stage}.{number}.conv").relu()
        x = max_pool2d(x, 2, ceil_mode=True)
        pooled.append(x)
    x = w.conv(w.conv(x, "fc6.conv").relu(), "fc7.conv").relu()

    def doubled(x: Tensor, name: str, like: Tensor) -> Tensor:
        """The kernel of each class over a map whose edge is repeated, cut to a map's size."""
        kernel = w.values[f"{name}.conv.weight"]
        x = conv_transpose2d(pad(x, [1] * 4, "replicate"), kernel, stride=2, padding=3, groups=kernel.shape[0])
        return x[..., : like.shape[2], : like.shape[3]]

    x = doubled(w.conv(x, "score_fc7"), "up_fc7", pooled[3]) + w.conv(pooled[3], "score_pool4")
    x = doubled(x, "up_pool4", pooled[2]) + w.conv(pooled[2], "score_pool3")
    expected = interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)
    agree(network(image), expected[..., : image.shape[2], : image.shape[3]])
