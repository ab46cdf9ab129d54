"""Predictions on a GPU are the CPU's, wherever windows are put together, and survive a lack of memory."""

import copy
import gc
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from prediction.test_forward import ALL, Counting, described, picture
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.description import Description
from medseg.engines.precision import network_to_channels_last, resolve_precision
from medseg.inferers.blocks import class_indices, finite
from medseg.inferers.sliding_window import SlidingWindow
from medseg.io.placement import Grid
from medseg.networks.unet import UNet
from medseg.prediction import forward
from medseg.prediction.case import Fed, PredictionError
from medseg.prediction.forward import Forward
from medseg.prediction.sinks import Result

pytestmark = pytest.mark.filterwarnings("default")  # what other packages warn of on a GPU is no matter of these tests

CPU = torch.device("cpu")
CLASSES = 100
MIB = 2**20


class Elementwise(nn.Module):
    """Logits of many classes that take memory where a network's are, and none in libraries.

    Args:
        most: windows a forward that a CPU takes, which else has memory for all.
    """

    def __init__(self, most: int = 2**30) -> None:
        super().__init__()
        self.most = most
        numbers = torch.Generator().manual_seed(0)
        for name in ("factor", "offset"):
            self.register_buffer(name, torch.randn(1, CLASSES, 1, 1, 1, generator=numbers))

    def forward(self, x: Tensor) -> Tensor:
        if x.device == CPU and len(x) > self.most:
            raise torch.OutOfMemoryError("made up")
        logits: Tensor = x * self.factor
        return logits.add_(self.offset)


def many(*, batch: int = 1, window: int = 32) -> Description:
    network = {"name": "toy", "spatial_dims": 3, "in_channels": 1, "out_channels": CLASSES}
    names = [f"class {number}" for number in range(CLASSES)]
    inference = {"window": [window] * 3, "batch": batch, "overlap": 0.5}
    return Description.of({"name": "toy", "network": network, "classes": names, "inference": inference})


def cube(edge: int) -> Fed:
    image = torch.randn(1, edge, edge, edge, generator=torch.Generator().manual_seed(1))
    return Fed(MetaTensor(image, affine=torch.eye(4, dtype=torch.float64)), Grid((edge,) * 3, np.eye(4)))


def volume(*size: int, scale: int) -> Fed:
    """Return a volume whose file has ``scale`` times as many voxels an axis."""
    image = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    affine = torch.diag(torch.tensor([scale, scale, scale, 1], dtype=torch.float64))
    shape = tuple(scale * (edge - 1) + 1 for edge in size)
    return Fed(MetaTensor(image, affine=affine), Grid(shape, np.eye(4)))


def predicts(networks: list[nn.Module], model: Description, device: torch.device, **options: Any) -> Forward:
    placed = [copy.deepcopy(network).to(device).eval() for network in networks]
    for network in placed:
        network_to_channels_last(network)
    return Forward(placed, model, feeding.inferer(model), **{"precision": "fp32", "device": device, **options})


def assert_alike(found: Result, expected: Result, share: float = 0.999) -> None:
    """Compare two results of one image."""
    same = found.mask == expected.mask
    assert same.mean() >= share
    for index in np.unique(expected.mask):
        one, other = found.mask == index, expected.mask == index
        if other.sum() > 1000:
            assert 2 * (one & other).sum() / (one.sum() + other.sum()) >= share - 0.001
    assert found.mask.dtype == expected.mask.dtype
    for name in ("probabilities", "entropy"):
        if getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=3e-3)
    assert found.numbers == pytest.approx(expected.numbers, rel=1e-3, abs=1e-5)


PLANE: dict[str, Any] = {"window": [32, 32], "batch": 3}


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(
    "inference",
    [
        PLANE,
        {**PLANE, "overlap": 0.6},
        {**PLANE, "overlap": 0.0},
        {**PLANE, "flip_axes": [0, -1]},
        {"scales": [0.75, 1.0], "flip_axes": [-1]},
    ],
    ids=["windows", "overlap", "tiles", "mirrored", "scales"],
)
def test_pictures(device: torch.device, inference: dict[str, Any], members: int) -> None:
    networks: list[nn.Module] = [Counting(seed) for seed in range(members)]
    model = described(**inference)
    feds = [picture(*size) for size in ((160, 144), (32, 32), (32, 32), (20, 90))]
    found, expected = (predicts(networks, model, where, wants=ALL)([*feds]) for where in (device, CPU))
    for one, other in zip(found, expected, strict=True):
        assert_alike(one, other)


def unet(dims: int, seed: int = 0, **options: Any) -> UNet:
    torch.manual_seed(seed)
    network = UNet(dims, 1, 3, channels=(8, 16), **options)
    for parameter in network.parameters():  # logits far from each other, as those of a trained network
        parameter.data.mul_(1.5)
    return network.eval()


def volumes() -> Description:
    network = {"name": "toy", "spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    inference = {"window": [24, 24, 16], "batch": 4, "overlap": 0.5}
    names = ["background", "front", "more"]
    return Description.of({"name": "toy", "network": network, "classes": names, "inference": inference})


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("stitched", ["device", "computer"])
@pytest.mark.parametrize(
    ("dims", "scale"), [(3, 1), (3, 2), (2, 1), (2, 2)], ids=["3D", "3D_resampled", "slices", "slices_resampled"]
)
def test_volumes(device: torch.device, monkeypatch: pytest.MonkeyPatch, dims: int, scale: int, stitched: str) -> None:
    """Put together on the GPU or in the computer's memory, by windows of a volume or of its slices."""
    model = volumes() if dims == 3 else described(window=[24, 24], batch=4, overlap=0.5)
    networks: list[nn.Module] = [unet(dims, seed) for seed in range(2)]
    fed = volume(40, 33, 20, scale=scale)
    expected = predicts(networks, model, CPU, wants=ALL)([fed])[0]
    if stitched == "computer":
        monkeypatch.setattr(forward, "device_memory", lambda _: (2**14, 2**30))
    assert_alike(predicts(networks, model, device, wants=ALL)([fed])[0], expected)


def test_lower_precision(device: torch.device) -> None:
    """As a GPU predicts by default: another rounding, no other mask."""
    precision = resolve_precision("auto", device)
    model, fed = volumes(), volume(40, 33, 20, scale=1)
    (expected,) = predicts([unet(3)], model, CPU)([fed])
    for each in {precision, "bf16", "fp16" if device.type == "cuda" else precision}:
        (found,) = predicts([unet(3)], model, device, precision=each)([fed])
        assert (found.mask == expected.mask).mean() > 0.97


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("mode", ["gaussian", "constant"])
def test_blocks(device: torch.device, mode: str) -> None:
    """Logits of the whole, and classes of blocks, on both devices."""
    network, image = unet(3), torch.randn(1, 1, 50, 40, 36, generator=torch.Generator().manual_seed(2))
    placed = copy.deepcopy(network).to(device)
    window = SlidingWindow((24, 24, 16), 3, 0.5, mode)
    with torch.inference_mode():
        expected = window(image, network)
        found = window(image.to(device), placed)
        classes = class_indices(finite(window.blocks(image.to(device), placed)), (1, *image.shape[2:]))
    assert found.device == classes.device == device
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    assert float((classes == found.max(dim=1).indices).float().mean()) == 1
    assert float((classes.cpu() == expected.max(dim=1).indices).float().mean()) >= 0.999


# ---------------------------------------------------------------------------------------------- no memory left


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def edge_of(device: torch.device) -> int:
    return 96 if device.type == "cuda" else 24


def made_up(monkeypatch: pytest.MonkeyPatch, predict: Forward) -> None:
    """Let a CPU behave as a GPU on which windows do not fit together."""
    inner: Callable[..., Any] = predict._predict

    def runs_out(feds: Any, home: torch.device) -> Any:
        if home != CPU:
            raise RuntimeError("GET was unable to find an engine to execute this computation")
        return inner(feds, home)

    monkeypatch.setattr(predict, "_predict", runs_out)
    monkeypatch.setattr(predict, "_home", lambda _: torch.device("meta"))


def test_what_does_not_fit_is_put_together_elsewhere(
    device: torch.device,
    on_gpu: bool,
    limit: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The GPU's memory runs out for real; the mask is the same, and nothing stays taken, without the collector."""
    model, fed = many(window=32 if on_gpu else 16), cube(edge_of(device))
    predict = predicts([Elementwise()], model, device)
    (usual,) = predict([fed])
    before = allocated(device)
    gc.collect()
    gc.disable()
    try:
        if on_gpu:
            limit(80 * MIB)  # 85 of overlaps, 40 of windows
        else:
            made_up(monkeypatch, predict)
        with caplog.at_level(logging.WARNING, "medseg"):
            (found,) = predict([fed])
        after = allocated(device)
    finally:
        gc.enable()
    assert f"the memory of {device} did not hold it: windows are put together in the computer's memory" in caplog.text
    assert_alike(found, usual)
    assert after - before < MIB


def test_what_is_known_not_to_fit_is_not_tried(
    device: torch.device, on_gpu: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A card that something else has filled."""
    model, fed = many(window=32 if on_gpu else 16), cube(edge_of(device))
    predict = predicts([Elementwise()], model, device)
    (usual,) = predict([fed])
    filled = None
    if on_gpu:
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        filled = torch.empty(free - 160 * MIB, dtype=torch.uint8, device=device)
    else:
        monkeypatch.setattr(forward, "device_memory", lambda _: (MIB, 2**30))
    with caplog.at_level(logging.WARNING, "medseg"):
        (found,) = predict([fed])
    del filled
    if on_gpu:
        torch.cuda.empty_cache()
    assert f"the memory of {device} has 0." in caplog.text
    assert "are needed: windows are put together in the computer's memory" in caplog.text
    assert "did not hold" not in caplog.text
    assert_alike(found, usual)


def test_a_forward_that_does_not_fit(device: torch.device, on_gpu: bool, limit: Callable[[int], None]) -> None:
    """Says what to lower, holds nothing afterwards while the error is looked at, and works with it."""
    edge, window = edge_of(device), 32 if on_gpu else 16
    predict = predicts([Elementwise(most=2)], many(batch=32, window=window), device)
    before = allocated(device)
    limit(150 * MIB)  # a window's logits are 13 of them
    said = r"does not hold a forward of 32 windows; predict with inference#batch=1, or a smaller inference#window"
    with pytest.raises(PredictionError, match=said) as caught:
        predict([cube(edge)])
    assert allocated(device) - before < MIB, caught
    (found,) = predicts([Elementwise(most=2)], many(batch=1, window=window), device)([cube(edge)])
    assert len(np.unique(found.mask)) > 3


def test_cases_that_fit_are_done(device: torch.device, on_gpu: bool, limit: Callable[[int], None]) -> None:
    """Of one that does not fit nothing is left that would stop the next."""
    model = many(batch=32, window=32 if on_gpu else 16)
    predict = predicts([Elementwise(most=2)], model, device)
    small = cube(32 if on_gpu else 16)
    limit(150 * MIB)
    for _ in range(2):
        with pytest.raises(PredictionError, match="does not hold a forward"):
            predict([cube(edge_of(device))])
        assert predict([small])[0].mask.shape == small.grid.shape


def test_masks_of_files(device: torch.device, tmp_path: Path) -> None:
    """The command's way: read ahead in threads, predicted, written behind."""
    import tifffile
    from prediction.test_predictor import Threshold, description, expected, grey

    from medseg.prediction.predictor import ImageFolder, Predictor

    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        tifffile.imwrite(folder / f"{number}.tif", grey(40 + number, 33).astype(np.uint16))
    model = description(inference={"window": [16, 16]})
    images = ImageFolder(folder, model, tmp_path / "out", overwrite=False)
    network = Threshold().to(device)
    Predictor(
        device, images, network, feeding.inferer(model), None, description=model, precision="fp32", num_workers=2
    ).run()
    for number in range(6):
        mask = tifffile.imread(tmp_path / "out" / f"{number}.tif")
        np.testing.assert_array_equal(mask, expected(grey(40 + number, 33)))
