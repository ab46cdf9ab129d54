"""What a bundle's network attends to: what it is shown, what is written, and what is refused."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import nibabel
import numpy as np
import pytest
import torch
from monai.inferers import Inferer, PatchInferer, SimpleInferer
from PIL import Image
from torch import Tensor, nn

from medseg.bundle.description import Description, Input
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.errors import MedsegError
from medseg.inferers.multi_scale_flip import MultiScaleFlipInferer
from medseg.inferers.normalise import NormalisingInferer
from medseg.inferers.resize import ResizeInferer
from medseg.inferers.sliding_window import SlidingWindow
from medseg.networks.df_dam import DFDAM
from medseg.prediction.model import load
from medseg.reports.attention import attention_sheet
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header
from medseg.studies.explain import attend, explain
from medseg.studies.explainable import (
    Explainable,
    ExplainError,
    explainable,
    networks_with_attention,
    without_windows,
)
from medseg.transforms.normalise import ImageNormalisation
from medseg.transforms.resize import resize_images

MAPS = ["dafm_3_high", "dafm_3_low", "dafm_3_maps", "confidence"]


class Watcher(nn.Module):
    """Classes by a threshold at 100; its attention says what it saw."""

    def __init__(self, spatial_dims: int = 2) -> None:
        super().__init__()
        self.scales = [1.0, 0.5]
        self.conv = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2](1, 2, 1)
        with torch.no_grad():
            self.conv.weight.zero_()[1] = 1.0
            self.conv.bias.copy_(torch.tensor([100.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.conv(x)
        return logits

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        assert not torch.is_grad_enabled()
        half = x[(..., *[slice(None, None, 2)] * (x.ndim - 2))]
        return {"saw": half, "weights": x.flatten(2).mean(2), "scale_weights": torch.cat([half * 0 + 0.5] * 2, 1)}


def make(network: nn.Module, inferer: Inferer | None = None, spatial_dims: int = 2) -> Explainable:
    whole = without_windows(inferer or SimpleInferer())
    size = list(whole.spatial_size) if isinstance(whole, ResizeInferer) else None
    recipe = {"name": "toy", "spatial_dims": spatial_dims, "in_channels": 1, "out_channels": 2}
    content = {"name": "toy", "network": recipe, "input": {"size": size}, "classes": ["background", "nucleus"]}
    return Explainable("toy", network.eval(), Path("model.pt"), whole, Description.of(content))


def grey(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(grey(20, 30)).save(folder / "one.png")
    Image.fromarray(grey(16, 12)).save(folder / "deep" / "two.tif")
    return folder


def test_sheets_and_raw_maps(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    told: list[tuple[int, int | None]] = []
    done = explain(make(Watcher()), [pictures], out, progress=lambda *counts: told.append(counts))
    assert files(out) == ["deep/two.npz", "deep/two.png", "one.npz", "one.png"]  # and no temporary file
    assert told == [(0, 2), (1, 2), (2, 2)]
    json.dumps(done)
    assert (done["network"], done["skipped"], done["failures"]) == ("Watcher", [], [])
    (entry,) = [entry for entry in done["written"] if entry["image"].endswith("one.png")]
    values = grey(20, 30)[::2, ::2]
    assert entry["maps"]["saw"] == {"shape": [1, 10, 15], "low": float(values.min()), "high": float(values.max())}
    with np.load(out / "one.npz", allow_pickle=False) as arrays:
        assert list(arrays) == ["saw", "weights", "scale_weights"]
        np.testing.assert_array_equal(arrays["saw"][0], values)
        assert arrays["weights"] == pytest.approx([grey(20, 30).mean()], rel=1e-6)
    with Image.open(entry["sheet"]) as sheet:
        assert (sheet.format, sheet.mode) == ("PNG", "RGB")
        assert sheet.width > 1000


def test_finished_images_are_skipped_unless_asked(pictures: Path, tmp_path: Path) -> None:
    out, bundle = tmp_path / "out", make(Watcher())
    explain(bundle, [pictures], out)
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    (out / "one.png").unlink()  # half an output is none
    second = explain(bundle, [pictures], out)
    assert [Path(entry["image"]).name for entry in second["written"]] == ["one.png"]
    assert [Path(path).name for path in second["skipped"]] == ["two.tif"]
    assert (out / "deep" / "two.png").stat().st_mtime_ns == before["deep/two.png"]
    third = explain(bundle, [pictures], out, overwrite=True)
    assert (len(third["written"]), third["skipped"]) == (2, [])


def test_files_of_something_else_are_refused(pictures: Path, tmp_path: Path) -> None:
    """Sheets of another image, region, choice of maps or model do not pass for what is asked."""
    out = tmp_path / "out"
    explain(make(Watcher()), [pictures], out)
    before = {name: (out / name).read_bytes() for name in files(out)}
    heavier = Watcher()
    heavier.register_buffer("more", torch.ones(1))
    for network, asked in ((Watcher(), {"maps": ["saw"]}), (Watcher(), {"roi": [5]}), (heavier, {})):
        with pytest.raises(ExplainError, match=r"two\.png is there and is not of this model, image, .* --overwrite"):
            explain(make(network), [pictures], out, **asked)
    Image.fromarray(grey(21, 30)).save(pictures / "one.png")
    with pytest.raises(ExplainError, match=r"one\.png is there and is not of this model, image"):
        explain(make(Watcher()), [pictures], out)
    assert {name: (out / name).read_bytes() for name in files(out)} == before
    assert len(explain(make(Watcher()), [pictures], out, overwrite=True)["written"]) == 2


def test_chosen_maps(pictures: Path, tmp_path: Path) -> None:
    done = explain(make(Watcher()), [pictures / "one.png"], tmp_path / "out", maps=["weights", "saw", "saw"])
    assert list(done["written"][0]["maps"]) == ["weights", "saw"]
    with np.load(tmp_path / "out" / "one.npz") as arrays:
        assert set(arrays) == {"weights", "saw"}


@pytest.mark.parametrize(
    ("roi", "rows", "columns"),
    [((8,), slice(6, 14), slice(11, 19)), ((40, 10), slice(0, 20), slice(10, 20))],
)
def test_a_centred_region(pictures: Path, tmp_path: Path, roi: tuple[int, ...], rows: slice, columns: slice) -> None:
    explain(make(Watcher(), SlidingWindow([16, 16])), [pictures / "one.png"], tmp_path / "out", roi=roi)
    with np.load(tmp_path / "out" / "one.npz") as arrays:
        np.testing.assert_array_equal(arrays["saw"][0], grey(20, 30)[rows, columns][::2, ::2])


def test_volumes(tmp_path: Path) -> None:
    values = grey(12, 10, 7).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "v.nii.gz")
    explain(make(Watcher(3), spatial_dims=3), [tmp_path / "v.nii.gz"], tmp_path / "whole")
    with np.load(tmp_path / "whole" / "v.npz") as arrays:
        np.testing.assert_array_equal(arrays["saw"][0], values[::2, ::2, ::2])
    explain(make(Watcher()), [tmp_path / "v.nii.gz"], tmp_path / "slice")
    with np.load(tmp_path / "slice" / "v.npz") as arrays:
        np.testing.assert_array_equal(arrays["saw"][0], values[::2, ::2, 3])  # the middle of 7


def test_a_sheet_shows_the_file_where_the_network_sees_a_negative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.full((12, 14), 230, np.uint8)
    values[2:6, 3:7] = 20
    Image.fromarray(values).save(tmp_path / "dark.png")
    bundle = make(Watcher())
    bundle = replace(bundle, description=replace(bundle.description, input=Input(polarity="bright")))
    drawn = Mock(wraps=attention_sheet)
    monkeypatch.setattr("medseg.studies.explain.attention_sheet", drawn)
    explain(bundle, [tmp_path / "dark.png"], tmp_path / "out", roi=(8,))
    np.testing.assert_array_equal(drawn.call_args.args[0]["image"][0], values[2:10, 3:11])
    with np.load(tmp_path / "out" / "dark.npz") as arrays:
        np.testing.assert_array_equal(arrays["saw"][0], 250 - values[2:10, 3:11][::2, ::2])


def norm(x: Tensor) -> Tensor:
    return ImageNormalisation([0.5], [0.25])(x)


def small(x: Tensor) -> Tensor:
    return resize_images(x, [8, 6])


def same(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize(
    ("inferer", "seen"),
    [
        (SimpleInferer(), same),
        (SlidingWindow([8, 8]), same),
        (NormalisingInferer(ImageNormalisation([0.5], [0.25]), SlidingWindow([8, 8])), norm),
        (ResizeInferer([8, 6]), small),
        (NormalisingInferer(ImageNormalisation([0.5], [0.25]), ResizeInferer([8, 6])), lambda x: small(norm(x))),
        (ResizeInferer([8, 6], NormalisingInferer(ImageNormalisation([0.5], [0.25]))), lambda x: norm(small(x))),
        (NormalisingInferer(norm, MultiScaleFlipInferer([0.5, 2.0], inferer=SlidingWindow([8, 8]))), norm),
    ],
)
def test_the_network_sees_what_the_inferer_shows(inferer: Inferer, seen: Callable[[Tensor], Tensor]) -> None:
    image = torch.from_numpy(grey(20, 30)).float()[None]
    network = Watcher()
    logits, maps = attend(make(network, inferer), image)
    expected = seen(image[None])
    torch.testing.assert_close(maps["saw"], expected[:, :, ::2, ::2])
    assert logits.shape == (2, 20, 30)
    if expected.shape[2:] == (20, 30):
        with torch.no_grad():
            torch.testing.assert_close(logits, network(expected)[0])


def test_the_bundles_inferer_stays_as_it_is() -> None:
    window = SlidingWindow([8, 8])
    inferer = NormalisingInferer(norm, window)
    assert without_windows(inferer) is not inferer
    assert inferer.inferer is window


class Padding(Inferer):
    """Does something to the image that nobody here knows of."""

    inferer = SimpleInferer()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.inferer(nn.functional.pad(inputs, (1, 1)), network)


@pytest.mark.parametrize("inferer", [Padding(), NormalisingInferer(norm, PatchInferer())])
def test_unknown_inferers(inferer: Inferer) -> None:
    with pytest.raises(ExplainError, match=r"inferer (Padding|PatchInferer) is not known to give the network a whole"):
        without_windows(inferer)


def test_bad_images_are_reported_and_the_others_done(pictures: Path, tmp_path: Path) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    Image.fromarray(grey(8, 8, 3)).save(pictures / "colour.png")
    nan = np.full((8, 8, 2), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(nan, np.eye(4)), pictures / "nan.nii")
    done = explain(make(Watcher()), [pictures], tmp_path / "out")
    assert files(tmp_path / "out") == ["deep/two.npz", "deep/two.png", "one.npz", "one.png"]
    reasons = {Path(failure["image"]).name: failure["reason"] for failure in done["failures"]}
    assert set(reasons) == {"broken.png", "colour.png", "nan.nii"}
    assert reasons["broken.png"].endswith("restore the file")
    assert reasons["colour.png"].startswith("it has 3 channels, but the network takes 1; convert it")
    assert reasons["nan.nii"].startswith("it holds NaN or infinite values; replace them")


def test_a_picture_for_a_network_of_volumes(pictures: Path, tmp_path: Path) -> None:
    done = explain(make(Watcher(3), spatial_dims=3), [pictures / "one.png"], tmp_path / "out")
    told = "it has 2 spatial dimensions, 20x30, but the network takes 3; name another image"
    assert done["failures"][0]["reason"] == told


class Greedy(Watcher):
    """Wants more memory than there is."""

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] can't allocate memory: you tried to allocate 1 bytes.")


class Diverged(Watcher):
    """Has lost its weights to infinity."""

    def attention(self, x: Tensor) -> dict[str, Tensor]:
        return {"saw": x / 0}


@pytest.mark.parametrize(
    ("network", "reason"),
    [(Greedy(), "too little memory for the whole image"), (Diverged(), "map saw holds NaN or infinite values")],
)
def test_maps_that_cannot_be_had(pictures: Path, tmp_path: Path, network: nn.Module, reason: str) -> None:
    done = explain(make(network), [pictures / "one.png"], tmp_path / "out")
    assert done["failures"][0]["reason"].startswith(reason)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        (["wieghts"], r"Watcher gives no map 'wieghts'; did you mean weights\? It gives saw, weights, scale_weights"),
        (["x"], r"Watcher gives no map 'x'; It gives saw"),
    ],
)
def test_unknown_maps(pictures: Path, tmp_path: Path, maps: Sequence[str], message: str) -> None:
    with pytest.raises(ExplainError, match=message):
        explain(make(Watcher()), [pictures], tmp_path / "out", maps=maps)


def test_a_network_whose_options_leave_no_map(pictures: Path, tmp_path: Path) -> None:
    network = DFDAM(2, 1, 2, encoder="test_resnet", channels=8, fusion="sum")
    with pytest.raises(ExplainError, match="DFDAM gives no map with the options of its network_def"):
        explain(make(network), [pictures], tmp_path / "out")


def test_regions_that_do_not_fit(pictures: Path, tmp_path: Path) -> None:
    resized = make(Watcher(), ResizeInferer([8, 6]))
    with pytest.raises(
        ExplainError, match=r"--roi 8 is for images .* toy resizes whole images to 8x6: leave --roi out"
    ):
        explain(resized, [pictures], tmp_path / "out", roi=[8])
    for roi in ([8, 8, 8], [0]):
        with pytest.raises(ExplainError, match="does not fit a network of 2 dimensions; give one edge"):
            explain(make(Watcher()), [pictures], tmp_path / "out", roi=roi)


def test_paths_that_cannot_be_used(pictures: Path, tmp_path: Path) -> None:
    bundle = make(Watcher())
    with pytest.raises(ExplainError, match="none does not exist; name images or folders of images with --image"):
        explain(bundle, [tmp_path / "none"], tmp_path / "out")
    for images in (pictures, pictures / "one.png"):
        with pytest.raises(ExplainError, match="is the folder of the images; name another for the sheets"):
            explain(bundle, [images], pictures)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MedsegError, match="empty holds no image"):
        explain(bundle, [tmp_path / "empty"], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExplainError, match=r"one\.png cannot be written: "):
        explain(bundle, [pictures / "one.png"], tmp_path / "file")
    with pytest.raises(ExplainError, match=r"one\.png is there without one\.npz, so it is no sheet of an earlier run"):
        explain(bundle, [_copy(pictures / "one.png", tmp_path / "x")], pictures, overwrite=True)
    _copy(pictures / "deep" / "two.tif", pictures / "in" / "deep")
    Image.fromarray(grey(8, 8)).save(pictures / "deep" / "two.png")
    (pictures / "deep" / "two.tif").unlink()
    with pytest.raises(MedsegError, match=r"would replace the image .*two\.png"):
        explain(bundle, [pictures], tmp_path)
    Image.fromarray(grey(8, 8)).save(pictures / "one.tif")
    with pytest.raises(ExplainError, match=r"one\.png and .*one\.tif would both write .*one\.png; rename one"):
        explain(bundle, [pictures], tmp_path / "out")


def _copy(image: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    return Path(shutil.copy(image, folder))


def test_the_same_image_twice_is_one(pictures: Path, tmp_path: Path) -> None:
    done = explain(make(Watcher()), [pictures, pictures], tmp_path / "out")
    assert len(done["written"]) == 2


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of a tiny DF-DAM that know how they are fed."""
    network = create("df_dam", 2, 1, 5, encoder="test_resnet", channels=8, seed=0)
    return save(network, tmp_path / "model.pt")


def save(network: nn.Module, path: Path) -> Path:
    content = {"name": "toy", "input": {"intensity": {"scheme": "range"}}, "classes": ["a", "b", "c", "d", "e"]}
    described = Description.of({**content, "network": network.recipe})
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)
    return path


def test_a_trained_model(weights: Path, tmp_path: Path) -> None:
    loaded = explainable(load(weights, device="cpu"), weights)
    assert (loaded.name, loaded.spatial_dims, loaded.in_channels, loaded.resized_to) == ("toy", 2, 1, None)
    assert loaded.class_names == ("a", "b", "c", "d", "e")
    assert not loaded.network.training
    Image.fromarray(grey(33, 48)).save(tmp_path / "x.png")
    explain(loaded, [tmp_path / "x.png"], tmp_path / "out")
    network = DFDAM(2, 1, 5, encoder="test_resnet", channels=8).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        expected = network.attention(torch.from_numpy(grey(33, 48))[None, None] / 255)
    with np.load(tmp_path / "out" / "x.npz") as arrays:
        assert list(arrays) == MAPS
        for name in MAPS:
            np.testing.assert_allclose(arrays[name], expected[name][0].numpy(), atol=1e-5)


def test_a_network_without_attention(tmp_path: Path) -> None:
    path = save(create("unet", 2, 1, 5, channels=[4, 8]), tmp_path / "model.pt")
    with pytest.raises(ExplainError, match=r"UNet has no attention to show; these networks have: .*DFDAM.*MFNet"):
        explainable(load(path, device="cpu"), path)
    names = networks_with_attention()
    assert {"DFDAM", "EMANet", "MFNet", "MultiScaleRefinement"} <= set(names)
    assert not {"UNet", "MultiScalePooling"} & set(names)
