"""A sample of the fuzz; ``python tests/fuzz_predictions.py`` does the whole of it."""

import sys
from pathlib import Path

import fuzz_predictions
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
@pytest.mark.parametrize(("formats", "count"), [(("dicom",), 24), (("nii.gz", "nrrd", "png", "tiff"), 5)])
def test_damaged_files_are_predicted_or_refused(tmp_path: Path, formats: tuple[str, ...], count: int) -> None:
    tally, faults = fuzz_predictions.fuzz(count, tmp_path, seed=1, formats=formats, kinds=("ct", "slices"))
    assert not faults
    assert sum(counts["written"] + counts["failed"] + counts["refused"] for counts in tally.values()) == count * len(
        formats
    )
    assert all(counts["failed"] > counts["written"] for counts in tally.values())
