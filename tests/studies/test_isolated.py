import os
import sys

import pytest

from medseg.studies.isolated import EndedError, isolated


def test_result_and_error_come_back():
    assert isolated(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        isolated(int, "seven")


def test_a_process_that_is_ended():
    with pytest.raises(EndedError, match="ended from outside, as systems do when memory runs out"):
        isolated(os._exit, 9)


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory under Linux")
def test_memory_that_is_not_there_is_refused():
    import resource

    allowed, _ = isolated(resource.getrlimit, resource.RLIMIT_DATA)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < allowed < 2 * there
    with pytest.raises(MemoryError):
        isolated(bytearray, 1 << 42)
