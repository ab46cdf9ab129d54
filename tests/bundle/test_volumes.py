"""From volumes to masks: every network of the medical papers, and volumes that make trouble."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from bundle.test_fit import write

from medseg.bundle import workflow
from medseg.errors import one_line
from medseg.prediction.predict import predict

BUNDLE = "lfa_unet_hippocampus"
ONCE: dict[str, Any] = {
    "device": "cpu", "mlflow": False, "patch": [16, 16, 8], "iterations": 1, "max_epochs": 1, "warmup": 0,
    "fold": "all", "network_def#channels": [8, 12, 16],
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "lfa_unet": {"window_size": 3},
    "unet": {},
    "attention_unet": {},
    "sa_unet": {},
    "self_attention_unet": {},
    "r2unet": {},
    "focusnet_pp": {"blocks": [1, 1, 1], "se_ratio": 4},
    "focusnet": {"se_ratio": 4, "norm": "default"},
    "unet_pp": {"channels": [4, 4, 6, 6, 8], "norm": "default"},
    "fcn8s": {"channels": [4, 4, 4, 8, 8], "fc_channels": 8, "norm": "default"},
    "bcdu_net": {},
    "segresnet": {"channels": [8, 16, 32], "norm": ["group", {"num_groups": 4}]},
    "dynunet": {},
}
ASKEW = np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 7], [0, 1.0, 0, -9], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes of two sizes, voxels of 1 x 1 x 3 mm."""
    return write(tmp_path_factory.mktemp("volumes"), [(20, 18, 8), (14, 20, 9)] * 2)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_from_nifti_to_nifti(volumes: Path, tmp_path: Path, name: str) -> None:
    """One step on patches of volumes, then masks that lie where other volumes lie, however those are stored."""
    given = {f"network_def#{key}": value for key, value in NETWORKS[name].items()}
    options = {**ONCE, "patch": [16, 16, 16], **given, "network_def#name": name, "output_dir": str(tmp_path / "run")}
    run = workflow.train(BUNDLE, data=volumes, overrides=options)
    image = tmp_path / "image.nii.gz"
    values = np.random.default_rng(0).integers(0, 256, (9, 20, 17), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, ASKEW), image)
    outcome = predict(run, image, tmp_path / "masks", overrides={"device": "cpu"})
    assert (outcome.written, outcome.failures) == (1, [])
    (mask,) = [nibabel.load(path) for path in (tmp_path / "masks").rglob("*.nii.gz")]
    assert mask.shape == values.shape
    np.testing.assert_allclose(mask.affine, ASKEW)
    assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1}


@pytest.mark.parametrize(
    ("sizes", "spacing"),
    [
        ([(20, 20, 2)] * 4, (1, 1, 3)),  # two slices
        ([(20, 20, 4)] * 4, (1, 1, 20)),  # voxels twenty times as deep as wide
        ([(4, 4, 4), (40, 30, 9), (20, 20, 8), (16, 16, 8)], (1, 1, 1)),
    ],
)
def test_odd_volumes_train(tmp_path: Path, sizes: list[tuple[int, ...]], spacing: tuple[int, ...]) -> None:
    """With foreground asked for of cases of which some have none, and one alone has class 2."""
    data = write(tmp_path, sizes)
    content = (data / "datalist.json").read_text()
    (data / "datalist.json").write_text(content.replace('"1": "object"', '"1": "object", "2": "rare"'))
    for number in range(len(sizes)):
        for kind in ("i", "l"):
            values = nibabel.load(data / f"{kind}{number}.nii.gz").get_fdata().astype(np.uint8)
            if kind == "l" and number:
                values[:] = number == 2
            elif kind == "l":
                values[0, 0, 0] = 2
            nibabel.save(nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), data / f"{kind}{number}.nii.gz")
    options = {**ONCE, "model#input#spacing": None, "foreground": 1.0, "iterations": 3, "network_def#window_size": 3}
    report, problems = workflow.check(BUNDLE, data=data, overrides=options)
    assert (report.ok, problems) == (True, [])
    run = workflow.train(BUNDLE, data=data, overrides={**options, "output_dir": str(tmp_path / "run")})
    outcome = predict(run, data / "i0.nii.gz", tmp_path / "masks", overrides={"device": "cpu"})
    assert (outcome.written, outcome.failures) == (1, [])


def test_pictures_for_a_network_of_volumes(tmp_path: Path) -> None:
    data = write(tmp_path, [(16, 16)] * 4)
    with pytest.raises(RuntimeError) as caught:  # MONAI's, around ours
        workflow.train(BUNDLE, data=data, overrides={**ONCE, "output_dir": str(tmp_path / "run")})
    assert "lfa_unet is a network for volumes (3D), the images are pictures (2D)" in str(one_line(caught.value))


def test_channels_that_differ(tmp_path: Path) -> None:
    data = write(tmp_path, [(16, 16, 8)] * 4)
    two = np.zeros((16, 16, 8, 1, 2), np.uint8)  # NIfTI keeps channels along its fifth axis
    nibabel.save(nibabel.Nifti1Image(two, np.diag([1, 1, 3, 1.0])), data / "i2.nii.gz")
    report, _ = workflow.check(BUNDLE, data=data, overrides=ONCE)
    assert {finding.code for finding in report.errors} == {"wrong-channels", "mixed-channels"}
    assert "i2.nii.gz: has 2 channels, but the network takes 1" in report.errors[0].message
