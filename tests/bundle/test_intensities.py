"""Images of another kind than a model was trained on are told, images of the same kind are not; on real data, too."""

import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.intensities import doubts_of, trained_on
from medseg.bundle.usual import facts_of_training
from medseg.io.load import LoadImagesd

RNG = np.random.default_rng(0)


def unlike(image: torch.Tensor, model: Description) -> str | None:
    said = doubts_of(image, model)
    assert len(said) <= 1
    return said[0] if said else None


def described(scheme: dict[str, Any], intensities: Any = None, **fed: Any) -> Description:
    network = {"name": "unet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    content = {"name": "toy", "network": network, "classes": ["a", "b"], "input": {"intensity": scheme, **fed}}
    return Description.of({**content, "intensities": intensities or {}})


def trained(files: list[Path], folder: Path, scheme: dict[str, Any], **fed: Any) -> Description:
    data: Any = SimpleNamespace(path=folder / "datalist.json", values=None)
    plain = described(scheme, **fed)
    entries: Any = [{"image": str(file)} for file in files]
    return described(scheme, trained_on(facts_of_training(data, entries), entries, plain.input), **fed)


def told(files: list[Path], model: Description) -> int:
    """Return of how many images something is said."""
    load = LoadImagesd(["image"])
    return sum(unlike(load({"image": str(file)})["image"].as_tensor(), model) is not None for file in files)


def pictures(folder: Path, count: int, low: int, high: int, shape: tuple[int, ...] = (12, 15)) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number}.png" for number in range(count)]
    for file in files:
        Image.fromarray(RNG.integers(low, high, shape).astype(np.uint8)).save(file)
    return files


@pytest.mark.parametrize("scheme", [{"scheme": "range", "low": 0, "high": 255}, {"scheme": "none"}])
def test_another_scale_is_told(tmp_path: Path, scheme: dict[str, Any]) -> None:
    model = trained(pictures(tmp_path, 9, 20, 230), tmp_path, scheme)
    image = torch.from_numpy(RNG.integers(10, 240, (1, 20, 20)).astype(np.float32))
    assert unlike(image, model) is None
    said = unlike(image / 255, model)
    assert said is not None
    assert "those of the 9 images that the model was trained on from 2" in said
    assert said.startswith("its values go from 0.0")
    assert unlike(image * 16, model)
    assert unlike(255 - image / 4, model)  # all bright
    two = unlike(torch.where(image > 225, 230.0, 20.0), model)  # a mask: from 20 to 230, as the images are
    assert two == (
        "its values go from 20 to 230 (median 20) and are spread otherwise than those of the 9 images that the model "
        "was trained on"
    )


def test_where_each_image_has_its_own_scale_only_the_spread_counts(tmp_path: Path) -> None:
    model = trained(pictures(tmp_path, 9, 20, 230), tmp_path, {"scheme": "zscore"})
    image = torch.from_numpy(RNG.integers(20, 230, (1, 20, 20)).astype(np.float32))
    assert unlike(image / 255, model) is None
    assert unlike(image * 1000 + 5, model) is None
    assert "are spread otherwise" in (unlike(image - 125, model) or "")  # half of the values are below 0
    assert unlike((image / 255) ** 12, model)
    inverted = trained(pictures(tmp_path / "b", 9, 20, 60), tmp_path / "b", {"scheme": "image"}, polarity="bright")
    assert unlike(-image + 300, inverted) is None


def test_colours(tmp_path: Path) -> None:
    files = pictures(tmp_path, 9, 100, 200, (8, 9, 3))
    scheme = {"scheme": "range", "low": 0, "high": 255}
    model = trained(files, tmp_path, scheme, colour="rgb")
    grey = torch.from_numpy(RNG.integers(100, 200, (1, 20, 20)).astype(np.uint8))
    assert np.array(model.intensities["low"]).shape == (3, 5)
    assert unlike(grey, model) is None
    assert unlike(torch.cat([grey, grey, grey // 4]), model)
    assert unlike(torch.cat([grey] * 4), model) is None
    assert unlike(grey, trained(files, tmp_path, scheme, colour="grey")) is None
    assert unlike(torch.cat([grey, grey]), trained(files, tmp_path, scheme)) is None  # of channels others tell


def test_who_knows_nothing_says_nothing(tmp_path: Path) -> None:
    scheme = {"scheme": "range", "low": 0, "high": 255, "clip": True}
    few = trained(pictures(tmp_path, 7, 0, 255), tmp_path, scheme)
    assert few.intensities == {}
    assert "intensities" not in few.to_dict()
    assert unlike(torch.full((1, 4, 4), 1e9), few) is None
    model = trained(pictures(tmp_path, 8, 0, 255), tmp_path, scheme)
    assert Description.of(model.to_dict()) == model
    assert unlike(torch.full((1, 4, 4), float("inf")), model) is None  # which the range cuts off
    assert unlike(torch.full((1, 4, 4), 1e9), model)
    with pytest.raises(DescriptionError, match="intensities are not what a training writes; leave them out"):
        described(scheme, {"low": [[1, 2]], "high": [[0, 3]], "values": [0, 1], "images": 9})


@pytest.fixture(scope="session")
def sets(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Images of each kind: some to learn from, and what is not named so to ask about."""
    nuclei = tmp_path_factory.mktemp("dsb2018")
    with zipfile.ZipFile(real_data / "dsb2018" / "stage1_train.zip") as archive:
        for name in [name for name in archive.namelist() if "/images/" in name and name.endswith(".png")]:
            (nuclei / Path(name).name).write_bytes(archive.read(name))
    sct = real_data / "nifti_mr_spinalcord_sct"
    found = {
        "hippocampus": sorted((real_data / "msd_hippocampus" / "imagesTr").glob("*.nii.gz"))[::6],
        "covid": sorted((real_data / "covid_semiseg").rglob("MultiClass*/Imgs/*")),
        "isic": sorted((real_data / "isic2018_task1_256").rglob("*Input/*.jpg")),
        "dsb2018": sorted(nuclei.glob("*.png")),
        "CT": [
            real_data / "nifti_ct_totalsegmentator" / "example_ct_sm.nii.gz",
            real_data / "dicom_ct_dcmqi" / "ct-3slice",
            real_data / "dicom_ct_highdicom" / "ct_image.dcm",
        ],
        "MR": [
            real_data / "nifti_ct_totalsegmentator" / "example_mr_sm.nii.gz",
            *(sct / name for name in ("t1/t1w.nii.gz", "t2/t2.nii.gz", "mt/mt0.nii.gz")),
            *sorted((real_data / "nrrd_mr_pyradiomics").glob("brain*_image.nrrd")),
        ],
        "hippocrop": [real_data / "dicom_mr_hippocrop" / name for name in ("study1", "study2")],
    }
    for name, files in found.items():
        if len(files) < 2 or not all(file.exists() for file in files):
            pytest.skip(f"no {name} in the real data")
    return found


EIGHT_BIT = {"intensity": {"scheme": "range", "low": 0, "high": 255}}
MODELS: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {  # fed how, of which all are told, and none
    "hippocampus": ({"intensity": {"scheme": "zscore"}}, {"CT"}, {"hippocrop"}),
    "covid": (EIGHT_BIT, {"CT", "MR"}, set()),
    "isic": ({**EIGHT_BIT, "colour": "rgb"}, {"CT"}, set()),
    "dsb2018": ({"intensity": {"scheme": "image"}, "colour": "grey"}, set(), set()),
}


@pytest.mark.parametrize("name", MODELS)
def test_real_images(sets: dict[str, list[Path]], tmp_path: Path, name: str) -> None:
    """Trained on every other image, nothing is said of those between; of another modality something is."""
    fed, others, same = MODELS[name]
    scheme = {key: value for key, value in fed.items() if key != "intensity"}
    model = trained(sets[name][::2], tmp_path, fed["intensity"], **scheme)
    assert told(sets[name][1::2], model) == 0
    for other in others:
        assert told(sets[other], model) == len(sets[other]), other
    for other in same:
        assert told(sets[other], model) == 0, other


@pytest.mark.parametrize("scheme", ["zscore", "image", "percentiles"])
def test_few_wild_voxels_that_make_the_scale_are_told(scheme: str) -> None:
    image = torch.from_numpy(RNG.normal(100, 10, (1, 40, 40)).astype(np.float32))
    assert unlike(image, described({"scheme": scheme})) is None
    image[0, 3, 4] = 1e9
    said = unlike(image, described({"scheme": scheme}))
    assert said is not None
    assert said.startswith("1 voxel of 1e+09 alone makes most of its deviation")
    assert unlike(image, described({"scheme": "range", "low": 0, "high": 200, "clip": True})) is None
    image[0, 3, 4] = np.inf
    assert unlike(image, described({"scheme": scheme})) is None  # which is refused
