"""Training transforms of the papers on natural images: random scale, crop with padding, mirror, blur.

They give plain tensors, 2D or 3D, and keep 8-bit images 8-bit, which PyTorch resizes in a quarter of the time that
float32 takes. MONAI's counterparts make a ``MetaTensor`` of each result (0.7 ms for the flip of a 500 x 375 sample that
costs 0.02 ms here), and resize without anti-aliasing or with a dark border (`medseg.transforms.resize`). Padded pixels
get the ignore label, so that neither loss nor scores count them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.errors import MedsegError
from medseg.transforms.reseeded import Reseeded
from medseg.transforms.resize import resize_images, smooth

_NARROWEST = 0.1  # pixels; a Gaussian as narrow leaves 8-bit values as they are


class SceneTransform(Reseeded, MapTransform):
    """Base of the transforms here: images and labels of one size, handled together.

    Args:
        keys: of images and labels.
        label_keys: which of them are labels.

    Raises:
        ValueError: if the tensors of a sample differ in size.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, label_keys: Sequence[Hashable] = ("label",)) -> None:
        MapTransform.__init__(self, keys)
        self.label_keys = tuple(label_keys)

    def tensors(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Tensor]:
        """Return the plain tensors ``(C, *S)`` under the keys."""
        plain = {
            key: data[key].as_tensor() if isinstance(data[key], MetaTensor) else torch.as_tensor(data[key])
            for key in self.key_iterator(data)
        }
        sizes = {key: tuple(tensor.shape[1:]) for key, tensor in plain.items()}
        if len(set(sizes.values())) > 1:
            listed = ", ".join(f"{key} {size}" for key, size in sizes.items())
            raise MedsegError(f"the sample's tensors differ in size: {listed}; prepare the data set again")
        return plain


class RandRescaled(SceneTransform):
    """Scale all edges by one random factor: images bilinear with anti-aliasing, labels by nearest neighbour.

    Both are aligned at the image's border, not at the centres of its corner pixels. Volumes as in `resize_images`.

    Args:
        keys: of images and labels.
        scales: factors to choose from.
        scale_range: least and largest factor, in place of ``scales``.
        label_keys: which of them are labels.
        least: edges in pixels, one an axis, below which no sample is scaled: a smaller factor is raised to fit.

    Raises:
        ValueError: unless one of ``scales`` and ``scale_range`` is given, with factors above 0; if ``least`` is out of
            range or has not an edge for each axis.

    Shape:
        ``(C, *S)`` to ``(C, *S')``, type kept.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        scales: Sequence[float] | None = None,
        scale_range: Sequence[float] | None = None,
        label_keys: Sequence[Hashable] = ("label",),
        least: Sequence[int] | None = None,
    ) -> None:
        super().__init__(keys, label_keys)
        if least is not None and (not least or min(least) < 1):
            raise MedsegError(f"least is {list(least)}; give an edge of at least 1 pixel for each axis")
        if (scales is None) == (scale_range is None):
            raise MedsegError(f"scales is {scales} and scale_range is {scale_range}; give one of them")
        factors = scales if scales is not None else scale_range
        if not factors or min(factors) <= 0:
            raise MedsegError(f"scale factors are {list(factors or [])}; give factors above 0")
        if scale_range is not None and (len(scale_range) != 2 or scale_range[0] > scale_range[1]):
            raise MedsegError(f"scale_range is {list(scale_range)}; give the least and the largest factor")
        self.factors = tuple(factors)
        self.between = scales is None
        self.least = None if least is None else tuple(least)
        self._scale = 1.0

    def randomize(self, data: Any = None) -> None:
        """Draw the factor."""
        if self.between:
            self._scale = float(self.R.uniform(self.factors[0], self.factors[1]))
        else:
            self._scale = float(self.factors[self.R.randint(len(self.factors))])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale a sample."""
        tensors = self.tensors(data)
        self.randomize()
        scaled = dict(data)
        for key, tensor in tensors.items():
            size = [max(1, round(edge * self._factor(tensor))) for edge in tensor.shape[1:]]
            scaled[key] = _resize_label(tensor, size) if key in self.label_keys else _resize_image(tensor, size)
        return scaled

    def _factor(self, tensor: Tensor) -> float:
        if self.least is None:
            return self._scale
        edges = tensor.shape[1:]
        if len(edges) != len(self.least):
            raise MedsegError(f"least is {list(self.least)}, but the sample has the size {list(edges)}")
        return max(self._scale, *(lowest / edge for lowest, edge in zip(self.least, edges, strict=True)))


def _resize_image(image: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(size) == tuple(image.shape[1:]):
        return image
    if image.is_floating_point():
        return resize_images(image[None], size)[0]
    if image.dtype == torch.uint8 and len(size) == 2:
        return smooth(image[None], tuple(size))[0]
    return resize_images(image[None].float(), size)[0].round_().to(image.dtype)  # averages stay in the type's range


def _resize_label(label: Tensor, size: Sequence[int]) -> Tensor:
    values = label if label.dtype == torch.uint8 else label.double()  # no other integers are supported
    return interpolate(values[None], tuple(size), mode="nearest-exact")[0].to(label.dtype)


class RandPadCropd(SceneTransform):
    """Cut a window of fixed size at a random place; where the sample is smaller, it is padded.

    Args:
        keys: of images and labels.
        roi_size: the window's edges in pixels, one an axis.
        image_fill: value of padded pixels, one for all channels or one each; the mean colour becomes 0 in normalised
            images. Rounded for integer images.
        ignore_index: label of padded pixels; with ``None`` no label may be smaller than the window.
        label_keys: which of them are labels.
        method: where to pad: at the ``"end"`` of an axis, or ``"symmetric"``, at both ends as `SlidingWindow` does.

    Raises:
        ValueError: if an option is out of range or does not fit the sample.

    Shape:
        ``(C, *S)`` to ``(C, *roi_size)``, type kept, memory of its own.
    """

    def __init__(
        self,
        keys: Sequence[Hashable] | Hashable,
        roi_size: Sequence[int],
        image_fill: float | Sequence[float] = 0.0,
        ignore_index: int | None = None,
        label_keys: Sequence[Hashable] = ("label",),
        method: str = "end",
    ) -> None:
        super().__init__(keys, label_keys)
        if method not in ("end", "symmetric"):
            raise MedsegError(f"method is {method!r}; choose 'end' or 'symmetric'")
        if not roi_size or min(roi_size) < 1:
            raise MedsegError(f"roi_size is {list(roi_size)}; give an edge of at least 1 pixel for each axis")
        self.roi_size = tuple(roi_size)
        self.image_fill = tuple(image_fill) if isinstance(image_fill, Sequence) else (image_fill,)
        self.ignore_index = ignore_index
        self.method = method
        self._start: tuple[int, ...] = ()

    def randomize(self, data: Any) -> None:
        """Draw the window's first corner in a sample of size ``data``."""
        edges = zip(data, self.roi_size, strict=True)
        self._start = tuple(int(self.R.randint(max(edge - roi, 0) + 1)) for edge, roi in edges)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop a sample."""
        tensors = self.tensors(data)
        size = next(iter(tensors.values())).shape[1:]
        if len(size) != len(self.roi_size):
            raise MedsegError(f"roi_size is {list(self.roi_size)}, but the sample has the size {list(size)}")
        self.randomize(size)
        cropped = dict(data)
        for key, tensor in tensors.items():
            cropped[key] = self._crop(tensor, key)
        return cropped

    def _crop(self, tensor: Tensor, key: Hashable) -> Tensor:
        ends = [start + roi for start, roi in zip(self._start, self.roi_size, strict=True)]
        part = tensor[(slice(None), *[slice(s, e) for s, e in zip(self._start, ends, strict=True)])]
        if part.shape[1:] == self.roi_size:
            return part.clone(memory_format=torch.contiguous_format)
        padded = tensor.new_empty((tensor.shape[0], *self.roi_size))
        padded[:] = self._fill(tensor, key)
        edges = list(zip(part.shape[1:], self.roi_size, strict=True))
        before = [0 if self.method == "end" else (roi - edge) // 2 for edge, roi in edges]
        where = [slice(first, first + edge) for first, (edge, _) in zip(before, edges, strict=True)]
        padded[(slice(None), *where)] = part
        return padded

    def _fill(self, tensor: Tensor, key: Hashable) -> Tensor:
        """Return what padded pixels hold: ``(C or 1, 1, ...)`` in the tensor's type."""
        if key in self.label_keys:
            if self.ignore_index is None:
                raise MedsegError(
                    f"{key} has the size {tuple(tensor.shape[1:])}, less than roi_size {self.roi_size}, and without "
                    "ignore_index padded pixels would count as a class; give one, or a smaller roi_size"
                )
            values: tuple[float, ...] = (self.ignore_index,)
        else:
            values = self.image_fill
            if len(values) not in (1, tensor.shape[0]):
                raise MedsegError(f"image_fill {values} does not fit {key} of {tensor.shape[0]} channels")
        if not tensor.is_floating_point():
            values = tuple(round(value) for value in values)
            kind = torch.iinfo(tensor.dtype)
            if min(values) < kind.min or max(values) > kind.max:
                raise MedsegError(
                    f"{key} of type {tensor.dtype} cannot hold the padding {values}; choose another value"
                )
        return torch.tensor(values, dtype=tensor.dtype).view(-1, *[1] * (tensor.ndim - 1))


class RandMirrord(SceneTransform):
    """Mirror images and labels at random.

    Args:
        keys: of images and labels.
        axis: spatial axis, -1 being the last (left and right of a picture).
        prob: of being mirrored.

    Raises:
        ValueError: if the probability is out of range or the sample has not that axis.

    Shape:
        kept.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, axis: int = -1, prob: float = 0.5) -> None:
        super().__init__(keys)
        if not 0 <= prob <= 1:
            raise MedsegError(f"prob is {prob}; it must be in [0, 1]")
        self.axis = axis
        self.prob = prob
        self._mirror = False

    def randomize(self, data: Any = None) -> None:
        """Draw whether to mirror."""
        self._mirror = bool(self.R.rand() < self.prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mirror a sample."""
        tensors = self.tensors(data)
        self.randomize()
        mirrored = dict(data)
        for key, tensor in tensors.items():
            spatial = tensor.ndim - 1
            if not -spatial <= self.axis < spatial:
                raise MedsegError(f"axis is {self.axis}, but {key} has {spatial} spatial dimensions")
            mirrored[key] = tensor.flip(self.axis % spatial + 1) if self._mirror else tensor
        return mirrored


class RandBlurd(Reseeded, MapTransform):
    """Blur images at random by a Gaussian of a random width.

    Args:
        keys: of images.
        sigma: least and largest standard deviation in pixels.
        prob: of being blurred.

    Raises:
        ValueError: if an option is out of range.

    Shape:
        ``(C, H, W)``, and type, kept.
    """

    def __init__(
        self, keys: Sequence[Hashable] | Hashable, sigma: Sequence[float] = (0.0, 1.0), prob: float = 0.5
    ) -> None:
        MapTransform.__init__(self, keys)
        if not 0 <= prob <= 1:
            raise MedsegError(f"prob is {prob}; it must be in [0, 1]")
        if len(sigma) != 2 or not 0 <= sigma[0] <= sigma[1]:
            raise MedsegError(f"sigma is {list(sigma)}; give the least and the largest width, at least 0")
        self.sigma = tuple(sigma)
        self.prob = prob
        self._width = 0.0

    def randomize(self, data: Any = None) -> None:
        """Draw the width, 0 for none."""
        drawn = float(self.R.uniform(self.sigma[0], self.sigma[1]))
        self._width = drawn if self.R.rand() < self.prob else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Blur a sample."""
        self.randomize()
        blurred = dict(data)
        if self._width <= _NARROWEST:
            return blurred
        from torchvision.transforms.v2.functional import gaussian_blur_image

        edge = 2 * max(1, round(3 * self._width)) + 1
        for key in self.key_iterator(blurred):
            image = torch.as_tensor(blurred[key])
            blurred[key] = gaussian_blur_image(image, [edge, edge], [self._width, self._width])
        return blurred
