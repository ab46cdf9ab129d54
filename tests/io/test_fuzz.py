"""A sample of the fuzz; ``python tests/fuzz_images.py`` does the whole of it."""

import sys

import fuzz_images
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured through /proc")
def test_damaged_files_are_refused_or_read(tmp_path):
    tally, faults = fuzz_images.fuzz(12, tmp_path, seed=1)
    assert not faults
    assert len(tally) == 9
    assert sum(counts["read"] + counts["refused"] for counts in tally.values()) == 9 * 12
    assert sum(counts["checksum wrong"] for counts in tally.values()) > 20
