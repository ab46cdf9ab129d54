"""Random changes of an image's values in 2D and 3D: noise, blur, brightness, contrast, resolution, gamma.

After F. Isensee et al., "nnU-Net", https://arxiv.org/abs/1809.10486, whose probabilities and ranges are the defaults.
Deviations: strengths are relative to the sample's own values (noise to its deviation, gamma to its range), so that they
mean the same for images of 0 to 1 and for those of mean 0 and deviation 1; low resolution comes back linearly.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.errors import MedsegError
from medseg.transforms.reseeded import Reseeded

__all__ = [
    "RandBlurd",
    "RandBrightnessd",
    "RandContrastd",
    "RandGammad",
    "RandLowResolutiond",
    "RandNegatived",
    "RandNoised",
]


class IntensityTransform(Reseeded, MapTransform):
    """Base: each channel of an image is changed by itself, or left.

    Args:
        keys: of images; labels must not be among them.
        span: least and greatest of the value that is drawn.
        prob: of an image being changed.
        prob_channel: of each of its channels then.

    Raises:
        MedsegError: if an option is out of range.

    Shape:
        ``(C, *S)``, kept, float.
    """

    least = 0.0  # value of ``span`` that makes sense

    def __init__(
        self, keys: Sequence[Hashable] | Hashable, span: Sequence[float], prob: float, prob_channel: float
    ) -> None:
        MapTransform.__init__(self, keys)
        if len(span) != 2 or not self.least <= span[0] <= span[1]:
            name = type(self).__name__
            raise MedsegError(f"{name}: the range is {list(span)}; give least and greatest, from {self.least:g} on")
        for name, value in (("prob", prob), ("prob_channel", prob_channel)):
            if not 0 <= value <= 1:
                raise MedsegError(f"{type(self).__name__}: {name} is {value}; it must be in [0, 1]")
        self.span = (float(span[0]), float(span[1]))
        self.prob = prob
        self.prob_channel = prob_channel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Change the images of a sample."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            if self.R.rand() < self.prob:
                channels = [
                    self.change(channel, self.draw()) if self.R.rand() < self.prob_channel else channel
                    for channel in torch.as_tensor(changed[key]).float()
                ]
                changed[key] = torch.stack(channels)
        return changed

    def draw(self) -> float:
        """Draw a value of the span."""
        return float(self.R.uniform(*self.span))

    @abstractmethod
    def change(self, image: Tensor, value: float) -> Tensor:
        """Return one channel ``(*S)`` changed; the tensor given stays as it is."""

    def _factor(self) -> float:
        """Draw a factor; one below 1 is as likely as one above."""
        low, high = self.span
        if low < 1 < high:
            low, high = (low, 1.0) if self.R.rand() < 0.5 else (1.0, high)
        return float(self.R.uniform(low, high))


class RandNoised(IntensityTransform):
    """Add Gaussian noise.

    Args:
        keys: of images.
        variance: of the noise where the image's is 1, least and greatest.
        prob: as in the base.
        prob_channel: as in the base.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        variance: Sequence[float] = (0.0, 0.1),
        prob: float = 0.1,
        prob_channel: float = 1.0,
    ) -> None:
        super().__init__(keys, variance, prob, prob_channel)

    def change(self, image: Tensor, value: float) -> Tensor:
        """Add the noise."""
        numbers = torch.Generator(image.device).manual_seed(int(self.R.randint(2**31)))
        noise = torch.randn(image.shape, generator=numbers, device=image.device)
        return image + noise * (math.sqrt(value) * image.std(correction=0))


class RandBlurd(IntensityTransform):
    """Blur by a Gaussian.

    Args:
        keys: of images.
        sigma: its deviation in pixels, least and greatest.
        prob: as in the base.
        prob_channel: as in the base.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        sigma: Sequence[float] = (0.5, 1.0),
        prob: float = 0.2,
        prob_channel: float = 0.5,
    ) -> None:
        super().__init__(keys, sigma, prob, prob_channel)

    def change(self, image: Tensor, value: float) -> Tensor:
        """Blur along one axis after the other; beyond the border the image is as at it."""
        if not value:
            return image
        radius = math.ceil(3 * value)
        taps = [math.exp(-0.5 * (step / value) ** 2) for step in range(radius + 1)]
        whole = 2 * sum(taps) - taps[0]
        for axis, edge in enumerate(image.shape):
            sides = [radius if other == axis else length for other, length in enumerate(image.shape)]
            first, last = (image.narrow(axis, place, 1).expand(sides) for place in (0, edge - 1))
            padded = torch.cat([first, image, last], axis)
            # a sum of shifted images: a convolution of one channel takes three times as long
            image = padded.narrow(axis, radius, edge) * (taps[0] / whole)
            for step, tap in enumerate(taps[1:], start=1):
                image.add_(padded.narrow(axis, radius - step, edge), alpha=tap / whole)
                image.add_(padded.narrow(axis, radius + step, edge), alpha=tap / whole)
        return image


class RandBrightnessd(IntensityTransform):
    """Multiply by a factor.

    Args:
        keys: of images.
        factor: least and greatest.
        prob: as in the base.
        prob_channel: as in the base.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        factor: Sequence[float] = (0.75, 1.25),
        prob: float = 0.15,
        prob_channel: float = 1.0,
    ) -> None:
        super().__init__(keys, factor, prob, prob_channel)

    def change(self, image: Tensor, value: float) -> Tensor:
        """Multiply."""
        return image * value


class RandContrastd(IntensityTransform):
    """Multiply the distance from the mean by a factor, within the values that there were.

    Args:
        keys: of images.
        factor: least and greatest.
        prob: as in the base.
        prob_channel: as in the base.
    """

    draw = IntensityTransform._factor

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        factor: Sequence[float] = (0.75, 1.25),
        prob: float = 0.15,
        prob_channel: float = 1.0,
    ) -> None:
        super().__init__(keys, factor, prob, prob_channel)

    def change(self, image: Tensor, value: float) -> Tensor:
        """Spread or draw together."""
        mean = image.mean()
        return torch.lerp(mean, image, value).clamp(*image.aminmax())


class RandLowResolutiond(IntensityTransform):
    """Take every so-many-th pixel and interpolate between them: an image of a worse scanner.

    Args:
        keys: of images.
        zoom: share of the pixels of each edge that are kept, least and greatest.
        prob: as in the base.
        prob_channel: as in the base.
        axes: spatial axes along which; ``None`` for all.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        zoom: Sequence[float] = (0.5, 1.0),
        prob: float = 0.25,
        prob_channel: float = 0.5,
        axes: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys, zoom, prob, prob_channel)
        self.axes = axes

    def change(self, image: Tensor, value: float) -> Tensor:
        """Lower the resolution."""
        axes = range(image.ndim) if self.axes is None else [axis % image.ndim for axis in self.axes]
        size = [max(1, round(edge * value)) if axis in axes else edge for axis, edge in enumerate(image.shape)]
        mode = {2: "bilinear", 3: "trilinear"}[image.ndim]
        coarse = interpolate(image[None, None], tuple(size), mode="nearest-exact")
        return interpolate(coarse, tuple(image.shape), mode=mode, align_corners=False)[0, 0]


class RandGammad(IntensityTransform):
    """Raise the values, as shares of their range, to a power; mean and deviation stay.

    Args:
        keys: of images.
        gamma: the power, least and greatest.
        prob: as in the base.
        prob_channel: as in the base.
        invert: raise the negative's values.
    """

    draw = IntensityTransform._factor

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        gamma: Sequence[float] = (0.7, 1.5),
        prob: float = 0.3,
        prob_channel: float = 1.0,
        invert: bool = False,
    ) -> None:
        super().__init__(keys, gamma, prob, prob_channel)
        self.sign = -1.0 if invert else 1.0

    def change(self, image: Tensor, value: float) -> Tensor:
        """Raise to the power; no value is looked at on the way, which would wait for the device."""
        signed = self.sign * image
        low, high = signed.aminmax()
        # by logarithms, which are computed many at a time
        raised = signed.sub(low).div_(high - low).log_().mul_(value).exp_()
        raised -= raised.mean()
        mean = image.mean()
        spread = _length(image - mean) / _length(raised)  # a third of what `std` takes
        return torch.where(high > low, raised.mul_(self.sign * spread).add_(mean), image)


class RandNegatived(IntensityTransform):
    """Take the negative: the darkest value becomes the brightest. nnU-Net has no such change.

    For data where what is looked for is brighter than what surrounds it in some images and darker in others.

    Args:
        keys: of images.
        prob: as in the base.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, prob: float = 0.1) -> None:
        super().__init__(keys, (0.0, 0.0), prob, 1.0)

    def change(self, image: Tensor, value: float) -> Tensor:
        """Turn the values over within their range."""
        low, high = image.aminmax()
        return low + high - image


def _length(image: Tensor) -> Tensor:
    """Return the root of the summed squares, row by row: at once, 270 million values are up to a fifth short."""
    length: Tensor = torch.linalg.vector_norm(torch.linalg.vector_norm(image, dim=-1))
    return length
