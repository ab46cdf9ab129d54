import json
import tarfile

import nibabel
import numpy as np
import pytest

from medseg.data.datalist import Datalist


@pytest.fixture
def script(load_script):
    return load_script("msd")


@pytest.fixture
def task(tmp_path):
    """A task of three labelled volumes and one without."""
    folder = tmp_path / "release" / "Task09_Spleen"
    entries = []
    for name in ("spleen_1", "spleen_2", "spleen_3", "spleen_9"):
        for kind in ("imagesTs",) if name == "spleen_9" else ("imagesTr", "labelsTr"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(len(name)).integers(0, 2, (6, 5, 4)).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / kind / f"{name}.nii.gz")
        entries.append({"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"})
    content = {"name": "Spleen", "licence": "CC-BY-SA 4.0", "reference": "MSKCC", "tensorImageSize": "3D"}
    content |= {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}, "numTraining": 3, "numTest": 1}
    content |= {"training": entries[:3], "test": ["./imagesTs/spleen_9.nii.gz"]}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def arguments(source, output, *more):
    return ["Task09_Spleen", "--source", str(source), "--output", str(output), *more]


def test_a_folder_stays_where_it_is(script, task, tmp_path, capsys):
    output = tmp_path / "elsewhere" / "out"
    assert script.main(arguments(task, output)) == 1
    assert "has 3 of 41 training and 1 of 20 test images; complete it" in capsys.readouterr().err
    assert script.main(arguments(task, output, "--allow-partial")) == 0
    assert "3 of 41 training and 1 of 20 test images, classes background, spleen" in capsys.readouterr().out
    datalist = Datalist.load(output / "datalist.json")
    assert datalist.training[0]["image"] == "../../release/Task09_Spleen/imagesTr/spleen_1.nii.gz"
    assert sorted(entry["fold"] for entry in datalist.training) == [0, 1, 2]
    assert datalist.preparation["task"] == "Task09_Spleen"
    assert datalist.licence == "CC-BY-SA 4.0"
    assert script.main(arguments(task, output, "--allow-partial")) == 0
    assert "complete already" in capsys.readouterr().out


def test_an_archive_is_unpacked_into_the_output(script, task, tmp_path, capsys):
    archive, output = tmp_path / "Task09_Spleen.tar", tmp_path / "out"
    with tarfile.open(archive, "w") as file:
        file.add(task, "Task09_Spleen")
    assert script.main(arguments(archive, output)) == 1
    assert not output.exists(), "what is refused leaves nothing"
    assert script.main(arguments(archive, output, "--allow-partial")) == 0
    datalist = Datalist.load(output / "datalist.json")
    assert datalist.training[0]["image"] == "imagesTr/spleen_1.nii.gz"
    assert all((output / name).is_file() for name in datalist.files())
    (output / "datalist.json").unlink()
    assert script.main(arguments(archive, output, "--allow-partial")) == 1
    assert "imagesTr: is there already; remove it" in capsys.readouterr().err


def test_no_task_there(script, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert script.main(arguments(tmp_path / "empty", tmp_path / "out")) == 1
    assert "no dataset.json; --source is folder or archive" in capsys.readouterr().err


def test_every_task_has_an_address_and_a_checksum(script):
    from monai.apps.datasets import DecathlonDataset

    assert set(script.OFFICIAL) == set(DecathlonDataset.resource) == set(DecathlonDataset.md5)


def test_a_bad_archive_is_refused(script, hostile_archive, tmp_path, capsys, monkeypatch):
    archive, message = hostile_archive
    monkeypatch.setattr(script, "MAX_BYTES", 1_000_000)
    assert script.main(arguments(archive, tmp_path / "out")) == 1
    assert message in capsys.readouterr().err
