"""What values tell together: unlike palettes of labels, and volumes of a CT that are no Hounsfield units."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.data.check import check_datalist
from medseg.data.check_findings import Finding
from medseg.data.datalist import Datalist


def write(folder: Path, suffix: str, modality: str, number: int) -> Datalist:
    entries = [{"image": f"i{n}{suffix}", "label": f"l{n}{suffix}", "fold": n % 2} for n in range(number)]
    content = {
        "name": "toy", "version": 1, "modality": [modality], "licence": "CC0-1.0", "source": "here",
        "labels": {"0": "background", "1": "cell"}, "ignore_index": None, "training": entries, "validation": [],
        "test": [],
    }  # fmt: skip
    (folder / "datalist.json").write_text(json.dumps(content))
    return Datalist.load(folder / "datalist.json")


def found(data: Datalist, code: str) -> list[Finding]:
    return [finding for finding in check_datalist(data).findings if finding.code == code]


def test_black_images_are_no_copies(tmp_path: Path) -> None:
    """Slices beside the object look alike in every patient; of those only the same bytes are a copy."""
    for number in range(2):
        Image.new("L", (8, 8)).save(tmp_path / f"i{number}.png", compress_level=9 * number)
        Image.new("L", (8, 8)).save(tmp_path / f"l{number}.png")
    assert not found(write(tmp_path, ".png", "EM", 2), "duplicate-image")
    shutil.copy(tmp_path / "i0.png", tmp_path / "i1.png")
    assert found(write(tmp_path, ".png", "EM", 2), "duplicate-image")


@pytest.mark.parametrize(("odd", "told"), [([], 0), ([2], 1), ([0, 2], 2)])
def test_a_palette_unlike_most_is_told(tmp_path: Path, odd: Sequence[int], told: int) -> None:
    for number in range(5):
        draw = np.random.default_rng(number)
        Image.fromarray(draw.integers(0, 255, (8, 8), dtype=np.uint8)).save(tmp_path / f"i{number}.png")
        mask = Image.fromarray(draw.integers(0, 2, (8, 8), dtype=np.uint8))
        mask.putpalette([255, 0, 0, 0, 0, 0] if number in odd else [0, 0, 0, 255, 0, 0, number, 0, 0])
        mask.save(tmp_path / f"l{number}.png")
    findings = found(write(tmp_path, ".png", "EM", 5), "mixed-palettes")
    assert len(findings) == bool(told)
    for finding in findings:
        assert finding.files == tuple(str(tmp_path / f"l{number}.png") for number in odd)
        assert "1 is #000000 there, and #ff0000 in most" in finding.message


@pytest.mark.parametrize(
    ("modality", "offsets", "told"),
    [("CT", [0, 0, 0], 0), ("CT", [0, 1024, 0], 1), ("CT", [1024] * 3, 3), ("MR", [1024] * 3, 0)],
)
def test_a_ct_with_an_offset_is_told(tmp_path: Path, modality: str, offsets: Sequence[int], told: int) -> None:
    for number, offset in enumerate(offsets):
        draw = np.random.default_rng(number)
        values = (draw.integers(-1030, 800, (6, 6, 6)) + offset).astype(np.int16)
        nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / f"i{number}.nii.gz")
        label = draw.integers(0, 2, (6, 6, 6)).astype(np.uint8)
        nibabel.Nifti1Image(label, np.eye(4)).to_filename(tmp_path / f"l{number}.nii.gz")
    findings = found(write(tmp_path, ".nii.gz", modality, 3), "ct-offset")
    assert len(findings) == bool(told)
    for finding in findings:
        assert finding.files == tuple(str(tmp_path / f"i{n}.nii.gz") for n, offset in enumerate(offsets) if offset)
        assert f"{told} volume{'s' * (told > 1)} of 3 of a CT" in finding.message
