"""A real CT series from end to end: what is predicted lies where two libraries that know nothing of medseg have it.

The network is made by hand: each voxel by itself, by its Hounsfield units. So the mask that has to come out follows
from SimpleITK's reading of the series alone, and not from a training.
"""

import csv
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from dicom_predictions import on_grid
from dicom_tools import faults, run

from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.io.image_file import ImageFile
from medseg.prediction.measurements import WHOLE
from medseg.prediction.predict import predict
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

highdicom = pytest.importorskip("highdicom", reason="DICOM objects need highdicom; pip install 'medseg[dicom]'")

CLASSES = ["background", "liver", "spleen"]  # names that have codes; they stand for soft tissue and bone
FROM_HU = (-300.5, 400.5)  # where the second and the third begin: few specks of noise
LOW, HIGH = -1024, 1024
OUTPUTS = ("dicom-seg", "rtstruct", "measurements")


def weights(path, spacing=None):
    """Write a network that decides each voxel by its value: logits 0, v - a, and 2 v - (a + b), times a factor."""
    network = create("monai.networks.nets.UNet", 3, 1, 3, channels=[2, 2], strides=[1], kernel_size=1,
                     up_kernel_size=1, act="relu", norm=None)  # fmt: skip
    a, b = ((hu - LOW) / (HIGH - LOW) for hu in FROM_HU)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first, last = network.model[0].conv, network.model[2].conv
        first.weight[0, 0] = 1.0
        last.weight[0, :, 0, 0, 0] = 1e3 * torch.tensor([0.0, 1.0, 2.0])
        last.bias[:] = 1e3 * torch.tensor([0.0, -a, -(a + b)])
    intensity = {"scheme": "range", "low": LOW, "high": HIGH, "clip": True}
    content = {"name": "by_hand", "classes": CLASSES, "input": {"intensity": intensity, "spacing": spacing}}
    described = Description.of({**content, "network": network.recipe})
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)
    return path


def of_sitk(image):
    """Return its voxels ``(X, Y, Z)`` and where they lie, in DICOM's own directions."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return ImageFile(sitk.GetArrayFromImage(image).transpose(2, 1, 0), 1, affine=affine, kind="volume")


def wanted_of(folder):
    """Return the series by SimpleITK, and which class each voxel is."""
    ct = of_sitk(sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))))
    return ct, np.digitize(ct.array, FROM_HU)


def test_in_the_right_place_by_every_reader(real_data, tmp_path):
    folder = real_data / "dicom_ct_dcmqi" / "ct-3slice"
    outcome = predict(
        weights(tmp_path / "a.pt"), folder, tmp_path / "out", outputs=OUTPUTS, overrides={"device": "cpu"}
    )
    assert (outcome.written, outcome.failures) == (1, [])
    files = {kind: next((tmp_path / "out").glob(f"*.{kind}")) for kind in ("seg.dcm", "rtstruct.dcm")}

    ct, wanted = wanted_of(folder)
    assert [np.count_nonzero(wanted == index) > 1000 for index in range(3)] == [True] * 3

    (local,) = (tmp_path / "out").glob("*.nii.gz")
    nifti = of_sitk(sitk.ReadImage(str(local)))

    volume = highdicom.seg.segread(files["seg.dcm"]).get_volume(combine_segments=True, allow_missing_positions=True)
    affine = volume.affine[:, [2, 1, 0, 3]]  # of slices, rows, columns
    (tmp_path / "q").mkdir()
    run(
        *("segimage2itkimage", "--inputDICOM", files["seg.dcm"], "--outputDirectory", tmp_path / "q"),
        *("--outputType", "nrrd"),
    )
    run(
        *("plastimatch", "convert", "--input", files["rtstruct.dcm"], "--referenced-ct", folder),
        *("--output-prefix", tmp_path / "p", "--prefix-format", "nrrd"),
    )
    for index in (1, 2):
        by_highdicom = ImageFile(volume.array.transpose(2, 1, 0) == index, 1, affine=affine, kind="volume")
        by_dcmqi = of_sitk(sitk.ReadImage(str(tmp_path / "q" / f"{index}.nrrd")))
        by_plastimatch = of_sitk(sitk.ReadImage(str(tmp_path / "p" / f"{CLASSES[index]}.nrrd")))
        by_sitk = replace(nifti, array=nifti.array == index)
        for theirs in (by_sitk, by_highdicom, by_dcmqi, by_plastimatch):
            np.testing.assert_array_equal(on_grid(theirs, ct.affine, ct.shape), wanted == index)

    rows = list(csv.DictReader((tmp_path / "out" / "measurements.csv").read_text().splitlines()))
    millilitres = abs(np.linalg.det(ct.affine[:3, :3])) / 1000
    for index in (1, 2):
        (row,) = (row for row in rows if row["class_name"] == CLASSES[index] and row["part"] == WHOLE)
        assert float(row["volume_ml"]) == pytest.approx(millilitres * np.count_nonzero(wanted == index), rel=1e-4)
    for file in files.values():
        assert faults(file) == []


def test_in_the_right_place_through_another_spacing(real_data, tmp_path):
    """On a model's grid of 3 mm and back: nearer to what it has to be than to that moved by a voxel of the model's."""
    folder = real_data / "dicom_ct_dcmqi" / "ct-3slice"
    model = weights(tmp_path / "a.pt", [3.0, 3.0, 1.0])
    predict(model, folder, tmp_path / "out", overrides={"device": "cpu"})
    ct, wanted = wanted_of(folder)
    (local,) = (tmp_path / "out").glob("*.nii.gz")
    nifti = of_sitk(sitk.ReadImage(str(local)))
    made = on_grid(replace(nifti, array=nifti.array > 0), ct.affine, ct.shape)

    def overlap(x, y):
        moved = np.roll(wanted > 0, (x, y), (0, 1))
        return 2 * np.count_nonzero(made & moved) / (np.count_nonzero(made) + np.count_nonzero(moved))

    there = overlap(0, 0)
    assert there > 0.9
    assert all(overlap(x, y) < there for x, y in ((4, 0), (-4, 0), (0, 4), (0, -4)))
