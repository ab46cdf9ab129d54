"""The decoder of DeepLabv3+ against plain functions."""

import pytest
import torch
from torch.nn.functional import conv2d, interpolate

from medseg.layers.deeplab_decoder import DeepLabDecoder, index_at_stride


def test_is_concatenation_and_convolutions() -> None:
    torch.manual_seed(0)
    decoder = DeepLabDecoder(2, 3, 5, 2, reduced_channels=4, channels=6, norm=None)
    low, context = torch.randn(2, 3, 9, 11), torch.randn(2, 5, 3, 4)
    reduce, first, _, second = decoder.reduce.conv, *decoder.refine[:3]
    reduced = conv2d(low, reduce.weight, reduce.bias).relu()
    large = interpolate(context, size=(9, 11), mode="bilinear", align_corners=True)
    expected = torch.cat([large, reduced], 1)
    for layer in (first, second):
        expected = conv2d(expected, layer.weight, layer.bias, padding=1).relu()
    expected = conv2d(expected, decoder.classify.weight, decoder.classify.bias)
    torch.testing.assert_close(decoder(low, context), expected)


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        decoder = DeepLabDecoder(2, 256, 256, 21)
    scales = 2 * (48 + 256 + 256)
    convolutions = 256 * 48 + 304 * 256 * 9 + 256 * 256 * 9 + 256 * 21 + 21
    assert sum(p.numel() for p in decoder.parameters()) == scales + convolutions == 1_309_045


def test_volumes_and_dropout() -> None:
    torch.manual_seed(1)
    decoder = DeepLabDecoder(3, 2, 3, 4, reduced_channels=2, channels=4, dropout=0.5)
    low, context = torch.randn(2, 2, 6, 5, 4), torch.randn(2, 3, 3, 3, 2)
    assert decoder(low, context).shape == (2, 4, 6, 5, 4)
    assert not torch.equal(decoder(low, context), decoder(low, context))
    decoder.eval()
    assert torch.equal(decoder(low, context), decoder(low, context))


def test_index_at_stride() -> None:
    assert index_at_stride((2, 4, 8, 16, 16), 4, "resnet50") == 1
    assert index_at_stride((2, 4, 8, 16, 16), 16, "resnet50") == 4
    with pytest.raises(ValueError, match="encoder coarse has features at strides 8, 16, and none at 4; choose another"):
        index_at_stride((8, 16), 4, "coarse")
