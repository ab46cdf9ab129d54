"""Studies from Orthanc to its results in Orthanc; skipped where it cannot run, with the reason."""

import logging
import signal
from pathlib import Path

import dicom_tools
import numpy as np
import pytest
from archive_studies import SERIES, STUDY, instances, mask_of, read, slices
from dicom_predictions import on_grid, weights
from dicomweb_server import PASSWORD, USER, by_an_authority

pytest.importorskip("dicomweb_client", reason="archives need dicomweb-client; pip install 'medseg[dicom]'")
pytest.importorskip("highdicom", reason="DICOM objects need highdicom; pip install 'medseg[dicom]'")
from orthanc import behind_tls, orthanc

from medseg.io.dicomweb import Archive, ArchiveGoneError
from medseg.io.dicomweb_address import ArchiveError, Credentials
from medseg.io.dicomweb_session import Limits
from medseg.io.images import read_image
from medseg.prediction.archive_input import ArchiveOptions
from medseg.prediction.predict import predict

REAL = Path(__file__).parents[3] / "shared" / "data" / "dicom_mr_hippocrop"
CODES = {"2": {"value": "T1", "scheme": "99LOCAL", "meaning": "Thing"}}
OUTPUTS = ("dicom-seg", "dicom-sr", "rtstruct")


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    with orthanc(tmp_path_factory.mktemp("orthanc")) as made:
        yield made


@pytest.fixture
def archive(there):
    """Not to be asked but by `there.there`."""
    with Archive(there.url, Credentials(USER, PASSWORD), limits=Limits(tries=2, pause=0.1)) as made:
        yield made


@pytest.fixture
def run(there, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_DICOMWEB_USER", USER)
    monkeypatch.setenv("MEDSEG_DICOMWEB_PASSWORD", PASSWORD)
    model = weights(tmp_path / "a.pt", codes=CODES)

    def go(output, study, address=there.address, ca=None, **more):
        options = ArchiveOptions([study], ca=ca)
        given = {"outputs": OUTPUTS, "overrides": {"device": "cpu"}, "archive": options, **more}
        return there.there(lambda: predict(model, address, tmp_path / output, **given))

    return go


def test_a_study_is_predicted_and_its_results_are_there_once(there, archive, run, tmp_path, caplog):
    files = [*slices(tmp_path / "mr"), *slices(tmp_path / "ct", 3, series="1.2.840.99.1.6", modality="CT")]
    report = there.there(lambda: archive.store(files))
    assert (len(report.stored), report.failed) == (7, ())
    (tmp_path / "rules.yaml").write_text("take: [{modality: MR, description: t1, slices: [3, 9]}]")
    with caplog.at_level(logging.DEBUG):
        first = run("out", STUDY, series=tmp_path / "rules.yaml")
    assert (first.written, first.stored, first.present, first.failures) == (1, 3, 0, [])
    assert [reason for _, reason in first.left_out] == ["series of 3 files: modality CT, wanted MR"]

    (found,) = there.there(lambda: instances(archive))
    seg = read(there.there(lambda: archive.object(*found)), tmp_path / "back.dcm")
    (local,) = (tmp_path / "out").glob("*.nii.gz")
    mask = read_image(local, label=True).array
    assert set(np.unique(mask)) == {0, 1, 2}
    np.testing.assert_array_equal(mask_of(seg), mask)

    again = run("again", STUDY, series=tmp_path / "rules.yaml")
    assert (again.written, again.stored, again.present, again.failures) == (1, 0, 3, [])
    for modality in ("SEG", "SR", "RTSTRUCT"):
        assert len(there.there(lambda kind=modality: instances(archive, modality=kind))) == 1
    for secret in (PASSWORD, "127.0.0.1", STUDY, SERIES, "geheim"):
        assert secret not in caplog.text.lower()


def test_a_wrong_password_and_an_unknown_study(there):
    wrong = Archive(there.url, Credentials(USER, "wrong"))
    with pytest.raises(ArchiveGoneError, match="not allowed to this user"), wrong:
        there.there(lambda: wrong.series(STUDY))
    right = Archive(there.url, Credentials(USER, PASSWORD))
    with pytest.raises(ArchiveError, match="has no series of this study"), right:
        there.there(lambda: right.series("1.2.3.4.5"))


def test_an_archive_that_is_killed_has_the_rest_when_it_is_back(there, archive, tmp_path):
    """In the middle of storing; what it had taken is there, nothing is there twice."""
    files = slices(tmp_path / "mr", 6, study="1.2.840.99.2", series="1.2.840.99.2.1")
    stow, left = archive._client.store_instances, [2]

    def store(datasets):
        left[0] -= 1
        if left[0] == -1:
            there.stop(signal.SIGKILL)
        return stow(datasets)

    archive._client.store_instances = store
    report = there.there(lambda: archive.store(files))
    assert (report.stored, [file for file, _ in report.failed]) == (tuple(files[:2]), files[2:])
    assert "no connection" in report.failed[0][1]
    there.start()
    again = there.there(lambda: archive.store(files))
    assert (again.present, again.stored, again.failed) == (tuple(files[:2]), tuple(files[2:]), ())
    assert len(there.there(lambda: instances(archive, "1.2.840.99.2", "MR"))) == 6


def test_behind_a_web_server_with_tls(there, archive, run, tmp_path):
    """As hospitals have it: found, downloaded, stored and found again through TLS, by the hospital's own authority."""
    study = "1.2.840.99.3"
    files = slices(tmp_path / "mr", study=study, series=f"{study}.1")
    certificate, key, authority = by_an_authority(tmp_path)
    with behind_tls(there, certificate, key) as address:
        with pytest.raises(
            ArchiveGoneError, match="its authority is not known; name the certificate, or its authority's, by ca=FILE"
        ):
            run("refused", study, address)
        assert not list(tmp_path.glob("refused/*"))
        url = address.replace("dicomweb", "https")
        with Archive(url, Credentials(USER, PASSWORD), ca=authority, limits=Limits(tries=2)) as secure:
            assert len(there.there(lambda: secure.store(files)).stored) == 4
        first = run("tls", study, address, ca=authority)
        assert (first.written, first.stored, first.present, first.failures) == (1, 3, 0, [])
        again = run("tls again", study, address, ca=authority)
        assert (again.written, again.stored, again.present, again.failures) == (1, 0, 3, [])
    (found,) = there.there(lambda: instances(archive, study))  # past the web server
    seg = read(there.there(lambda: archive.object(*found)), tmp_path / "back.dcm")
    (local,) = (tmp_path / "tls").glob("*.nii.gz")
    np.testing.assert_array_equal(mask_of(seg), read_image(local, label=True).array)


def test_a_real_series_and_another_reader(there, archive, run, tmp_path):
    if not REAL.is_dir():
        pytest.skip("needs the data dicom_mr_hippocrop")
    import pydicom

    files = sorted(path for path in (REAL / "study1").rglob("*") if path.is_file())
    study = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    assert len(there.there(lambda: archive.store(files)).stored) == len(files)
    outcome = run("real", study, outputs=())  # a segmentation at least
    assert (outcome.written, outcome.stored, outcome.failures) == (1, 1, [])
    (found,) = there.there(lambda: instances(archive, study))
    seg = read(there.there(lambda: archive.object(*found)), tmp_path / "back.dcm")
    (local,) = (tmp_path / "real").glob("*.nii.gz")
    mask = read_image(local, label=True)
    dicom_tools.run("segimage2itkimage", "--inputDICOM", seg, "--outputDirectory", tmp_path, "--outputType", "nrrd")
    for index in (1, 2):
        theirs = read_image(tmp_path / f"{index}.nrrd", label=True)
        np.testing.assert_array_equal(on_grid(theirs, mask.affine, mask.shape), mask.array == index)
