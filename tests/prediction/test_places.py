"""Masks of volumes lie where their images lie: told by nibabel and by SimpleITK alone, of files that they wrote.

The values of an image are a function of the place in the patient, and the network is set by hand to class them by two
thresholds. So what class each voxel of a mask must have follows from where a library says that it lies.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import nn

from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.prediction.predict import predict
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

Floats = NDArray[np.float64]

LOW, HIGH = 0.35, 0.6  # thresholds, of the range that is fed
BRIGHTEST = 1000
BODIES = ((np.array([27.0, -43.0, 106.0]), 0.55, 22.0), (np.array([4.0, -29.0, 93.0]), 1.0, 30.0))  # mm: one a class
MIDDLE = np.array([15.0, -36.0, 100.0])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIXES = (".nii.gz", ".nrrd", ".mha")


def turned(codes: str, zooms: tuple[float, ...], shape: tuple[int, ...], rotation: Floats | None = None) -> Any:
    """Return affine (RAS+, mm) and shape of a volume around the middle."""
    axes = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(tuple(codes)), (1, 1, 1))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if rotation is None else rotation) @ axes @ np.diag(zooms)
    affine[:3, 3] = MIDDLE - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine, shape


TILT = Rotation.from_euler("xz", [30, 30], degrees=True).as_matrix()
VOLUMES = {
    "psr": turned("PSR", (2, 2.5, 2), (30, 24, 31)),
    "lps": turned("LPS", (2, 2, 2.5), (31, 30, 24)),
    "oblique": turned("RAS", (2, 1.75, 2.5), (34, 36, 28), TILT),
    "anisotropic": turned("RAS", (0.5, 0.5, 5), (112, 104, 12)),
}


def value(places: Floats) -> Floats:
    """Return the value, 0 to 1, at places ``(..., 3)`` in mm RAS+: two bodies that fade with the distance."""
    each = [peak - np.linalg.norm(places - place, axis=-1) / size for place, peak, size in BODIES]
    return np.clip(np.max(each, axis=0), 0, 1)


def places(affine: Floats, shape: tuple[int, ...]) -> Floats:
    return nibabel.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def lattice(image: sitk.Image) -> Floats:
    """Return the affine that SimpleITK gives, RAS+."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return LPS @ matrix


def read(path: Path) -> tuple[NDArray[Any], Floats]:
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image).T, lattice(image)


def write(path: Path, affine: Floats, shape: tuple[int, ...]) -> None:
    values = np.rint(BRIGHTEST * value(places(affine, shape))).astype(np.int16)
    if path.name.endswith(".nii.gz"):
        image = nibabel.Nifti1Image(values, affine)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=2)
        nibabel.save(image, path)
        return
    made, matrix = sitk.GetImageFromArray(values.T), LPS @ affine
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    made.SetSpacing(spacing.tolist())
    made.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    made.SetOrigin(matrix[:3, 3].tolist())
    sitk.WriteImage(made, str(path))


def thresholding(path: Path, dims: int, fed: dict[str, Any], **described: Any) -> Path:
    """Write weights of a U-Net that gives class 1 above `LOW` and class 2 above `HIGH`, and sees a voxel alone."""
    network = create("unet", dims, 1, 3, channels=[2, 2], norm=None)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                module.weight.zero_()
                module.bias.zero_()
        *_, head = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
        for level in (network.encoder, network.decoder):
            for module in level.modules():
                if isinstance(module, nn.Conv2d | nn.Conv3d) and module.kernel_size[0] == 3:
                    module.weight[0, 0][(1,) * dims] = 1
                    if module.in_channels == 4:  # whichever half the encoder's is; the other is 0
                        module.weight[0, 2][(1,) * dims] = 1
        head.weight[:, 0] = torch.tensor([0.0, 1, 2]).view(3, *[1] * dims)
        head.bias[:] = torch.tensor([0.0, -LOW, -LOW - HIGH])
        ramp = torch.linspace(0, 1, 16).view(1, 1, *[1] * (dims - 1), 16).expand(1, 1, *[16] * dims)
        expected = (ramp > LOW).long() + (ramp > HIGH)
        assert torch.equal(network(ramp).argmax(1, keepdim=True), expected)
    content = {"name": "lfa_unet_drosophila", "classes": ["a", "b", "c"], "network": network.recipe, "input": fed}
    save_checkpoint(write_header(network.state_dict(), header_of(Description.of({**content, **described}))), path)
    return path


RANGE = {"intensity": {"scheme": "range", "low": 0, "high": BRIGHTEST}}
MODELS = {
    "3d": (3, RANGE, {"window": [16, 16, 12], "overlap": 0.5}),
    "3d, 2 mm": (3, {**RANGE, "spacing": [2, 2, 2]}, {"window": [16, 16, 16], "overlap": 0.25}),
    "2d, axial": (2, {**RANGE, "plane": "axial"}, {}),
    "2d, coronal, 1.5 mm": (2, {**RANGE, "plane": "coronal", "spacing": [1.5, None, 1.5]}, {}),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, (affine, shape) in VOLUMES.items():
        for suffix in SUFFIXES:
            write(folder / f"{name}{suffix.replace('.', '_', 1)}{suffix}", affine, shape)
    return folder


@pytest.mark.parametrize("model", MODELS)
def test_masks_lie_where_images_lie(images: Path, tmp_path: Path, model: str) -> None:
    dims, fed, inference = MODELS[model]
    weights = thresholding(tmp_path / "model.pt", dims, fed, inference=inference)
    outcome = predict(weights, images, tmp_path / "masks", overrides={"device": "cpu"})
    assert (outcome.written, outcome.failures) == (12, [])
    for name, (affine, shape) in VOLUMES.items():
        found = []
        for suffix in SUFFIXES:
            file = f"{name}{suffix.replace('.', '_', 1)}{suffix}"
            mask, lies = read(tmp_path / "masks" / file)
            np.testing.assert_allclose(lies, affine, atol=2e-4)
            np.testing.assert_allclose(lies, read(images / file)[1], atol=1e-6)  # one header, read by one reader
            check(mask, lies, exact="mm" not in model, far=2.5 if name == "anisotropic" else 1.2)
            found.append(mask)
        image, written = (nibabel.load(folder / f"{name}_nii.gz.nii.gz") for folder in (images, tmp_path / "masks"))
        np.testing.assert_array_equal(written.affine, image.affine)
        np.testing.assert_array_equal(written.get_qform(), image.get_qform())
        codes = [[int(each.header[form]) for form in ("qform_code", "sform_code")] for each in (image, written)]
        assert codes == [[1, 2], [1, 2]]
        assert written.header.get_zooms() == image.header.get_zooms()
        check(np.asarray(written.dataobj), written.affine, exact="mm" not in model, far=1e9)
        assert written.shape == shape
        for other in found[1:]:  # whatever the format: rounding of headers moves no more than voxels at a boundary
            assert (other != found[0]).mean() < 2e-3


def check(mask: NDArray[Any], affine: Floats, *, exact: bool, far: float) -> None:
    """Compare classes with what the places ask for: each voxel's, but at boundaries, and each class's middle in mm.

    Args:
        mask: classes.
        affine: where a library says that they lie.
        exact: whether the network's grid is the image's.
        far: how far from a boundary a voxel has its class for sure in mm, where the image was interpolated.
    """
    at = places(affine, mask.shape)
    true = value(at)
    wanted = np.digitize(true, [LOW, HIGH])
    margin = 1e-3 if exact else far / min(size for _, _, size in BODIES)
    sure = np.min([np.abs(true - edge) for edge in (LOW, HIGH)], axis=0) > margin
    np.testing.assert_array_equal(mask[sure], wanted[sure])
    for index in (1, 2):
        middles = [at[classes >= index].mean(axis=0) for classes in (mask, wanted)]
        assert np.linalg.norm(middles[0] - middles[1]) < (0.1 if exact else 0.4)  # mm; voxels are 0.5 to 5


@pytest.mark.parametrize("step", [(0, 0, 1), (0, 0.5, 0), (-0.5, 0, 0)])
def test_the_comparison_sees_half_a_voxel(step: tuple[float, ...]) -> None:
    """Such as a mask that lies elsewhere than its header says."""
    for affine, shape in VOLUMES.values():
        moved = affine.copy()
        moved[:3, 3] += affine[:3, :3] @ step
        mask = np.digitize(value(places(affine, shape)), [LOW, HIGH])
        check(mask, affine, exact=True, far=0)
        if np.linalg.norm(moved - affine) > 0.5:
            with pytest.raises(AssertionError):
                check(mask, moved, exact=False, far=1e9)


def nibabels(path: Path) -> tuple[NDArray[Any], Floats]:
    image = nibabel.load(path)
    return np.asarray(image.dataobj), image.affine


def a_series(path: Path) -> tuple[NDArray[Any], Floats]:
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))
    return sitk.GetArrayFromImage(image).T, lattice(image)


REAL: dict[str, tuple[str, list[Callable[[Path], tuple[NDArray[Any], Floats]]]]] = {
    "nifti_mr_spinalcord_sct/t2/t2.nii.gz": ("t2.nii.gz", [read, nibabels]),  # PSR
    "nifti_mr_spinalcord_sct/t2s/t2s.nii.gz": ("t2s.nii.gz", [read, nibabels]),  # 0.5 x 0.5 x 7.5 mm
    "nifti_ct_totalsegmentator/example_mr_sm.nii.gz": ("example_mr_sm.nii.gz", [read, nibabels]),  # LPS
    "nrrd_mr_pyradiomics/brain1_image.nrrd": ("brain1_image.nrrd", [read]),  # its y runs backwards
    "dicom_mr_hippocrop/study3_t1post": ("study3_t1post.nii.gz", [a_series]),  # oblique
}


@pytest.fixture(scope="module")
def real_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fed = {"intensity": {"scheme": "image"}}
    inference = {"window": [64, 64, 16], "overlap": 0.0}
    return thresholding(tmp_path_factory.mktemp("model") / "model.pt", 3, fed, inference=inference)


@pytest.mark.parametrize("name", REAL)
def test_masks_of_real_volumes(real_data: Path, real_model: Path, tmp_path: Path, name: str) -> None:
    """Each library reads image and mask: where the mask says class 1 or 2, the image is bright at that very place."""
    source, (file, readers) = real_data / name, REAL[name]
    if not source.exists():
        pytest.skip(f"no {name} in the real data")
    outcome = predict(real_model, source, tmp_path, overrides={"device": "cpu"})
    assert (outcome.written, outcome.failures) == (1, [])
    for reader in readers:
        image, lies = reader(source)
        mask, placed = (read if reader is a_series else reader)(tmp_path / file)
        moves = np.linalg.solve(lies, placed)  # indices of the mask to those of the image
        at = nibabel.affines.apply_affine(moves, np.moveaxis(np.indices(mask.shape), 0, -1))
        whole = np.rint(at).astype(int)
        assert np.abs(at - whole).max() < 0.01
        image = image.astype(float)
        bright = ((image - image.min()) / np.ptp(image))[tuple(np.moveaxis(whole, -1, 0))]
        sure = np.min([np.abs(bright - edge) for edge in (LOW, HIGH)], axis=0) > 1e-5
        np.testing.assert_array_equal(mask[sure], np.digitize(bright, [LOW, HIGH])[sure])
        assert (np.bincount(mask.ravel(), minlength=3) > 0).all()
        if reader is not a_series:
            np.testing.assert_allclose(placed, lies, rtol=0, atol=1e-6)
