import os
import stat
import subprocess
import sys

import pytest

from medseg.atomic import atomic_write


def test_file_appears_whole(tmp_path):
    path = tmp_path / "label.nii.gz"
    path.write_text("old")
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".label.nii.gz")
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["label.nii.gz"]


def test_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("old")

    def fill_the_disk():
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fill_the_disk()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["weights.pt"]


def test_nothing_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic_write(tmp_path / "x.txt"):
        pass
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    path = tmp_path / "no" / "x.txt"
    with pytest.raises(FileNotFoundError, match="its folder does not exist"), atomic_write(path):
        pass


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_usual_permissions(tmp_path):
    with atomic_write(tmp_path / "a") as temporary:
        temporary.write_text("x")
    (tmp_path / "b").write_text("x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_kill_while_writing(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("old")
    code = (
        "import os, sys\nfrom medseg.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_text() == "old"
