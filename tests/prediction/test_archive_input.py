"""Studies of an archive as the input of `medseg predict`, and what goes back, by a small archive in this process."""

import errno
import json
import logging
import os
import stat
import sys
import time

import numpy as np
import pydicom
import pytest
from archive_studies import SERIES, STUDY, mask_of, slices
from dicom_predictions import weights

pytest.importorskip("dicomweb_client", reason="archives need dicomweb-client; pip install 'medseg[dicom]'")
pytest.importorskip("highdicom", reason="DICOM objects need highdicom; pip install 'medseg[dicom]'")
from dicomweb_server import PASSWORD, USER, self_signed, serving

from medseg.cli import main
from medseg.io.dicom_rules import rules_of
from medseg.io.dicomweb import Archive
from medseg.io.dicomweb_address import ArchiveError
from medseg.io.dicomweb_session import Limits
from medseg.io.images import read_image
from medseg.prediction.archive_input import ArchiveOptions, pulled, reach
from medseg.prediction.audit import PUSH_RECORD, RUN_RECORD

OTHER = "1.2.840.99.1.6"
CODES = {"2": {"value": "T1", "scheme": "99LOCAL", "meaning": "Thing"}}
FAST = Limits(tries=2, pause=0.001, rounds=3)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSEG_DICOMWEB_USER", USER)
    monkeypatch.setenv("MEDSEG_DICOMWEB_PASSWORD", PASSWORD)
    with serving() as made:
        for path in slices(tmp_path / "held"):
            made.add(path.read_bytes())
        yield made


def address(server):
    return f"dicomweb+{server.url}"


@pytest.fixture
def command(server, tmp_path):
    model = weights(tmp_path / "a.pt", codes=CODES)

    def run(output, *more):
        return main(["predict", str(model), address(server), str(tmp_path / output), *more, "device=cpu"])

    return run


def held(server, modality):
    return [dataset for dataset, *_ in server.held.values() if dataset.Modality == modality]


def test_from_the_archive_and_back(server, command, tmp_path, capsys, caplog):
    with caplog.at_level(logging.DEBUG):
        assert command("out", "--study", STUDY) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out'}: 1 written, 1 stored in the archive\n"
    (seg,) = held(server, "SEG")
    (mask,) = (tmp_path / "out").glob("*.nii.gz")
    (local,) = (tmp_path / "out").glob("*.seg.dcm")
    assert seg.SOPInstanceUID == pydicom.dcmread(local).SOPInstanceUID
    np.testing.assert_array_equal(mask_of(local), read_image(mask, label=True).array)

    assert command("out", "--study", STUDY) == 0
    assert (
        "1 skipped, their masks are there (--overwrite does them again), 1 in the archive before"
        in capsys.readouterr().out
    )
    (record,) = (tmp_path / "out").glob(RUN_RECORD)
    first, second = (json.loads(path.read_text()) for path in sorted((tmp_path / "out").glob(PUSH_RECORD)))
    assert [(each["name"], each["is"]) for each in first["files"]] == [(local.name, "stored")]
    assert [each["is"] for each in second["files"]] == ["was there"]
    assert (
        json.loads(record.read_text())["cases"][0]["StudyInstanceUID"] == STUDY
    )  # where it is kept, beside the output
    told = said.out + said.err + caplog.text + json.dumps([first, second])
    for secret in (PASSWORD, USER, "127.0.0.1", STUDY, SERIES, "geheim"):
        assert secret not in told.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "held", "out"]  # nothing stays beside it

    assert command("alone", "--study", STUDY, "--no-push") == 0
    assert not list((tmp_path / "alone").glob("*.dcm"))
    assert len(held(server, "SEG")) == 1


def test_what_is_not_stored_is_whole_here_and_goes_next_time(server, command, tmp_path, capsys):
    server.refuses = 409, 0xA700
    assert command("out", "--study", STUDY, "--dicom-sr") == 1
    said = capsys.readouterr()
    assert "not stored: the archive did not take it (failure reason 0xa700)" in said.err
    assert "1 written, 2 failed" in said.out
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 2
    server.refuses = None
    assert command("out", "--study", STUDY, "--dicom-sr") == 0
    assert "does them again), 2 stored in the archive\n" in capsys.readouterr().out
    assert (len(held(server, "SEG")), len(held(server, "SR"))) == (1, 1)


def test_a_series_that_grew_has_a_second_result_and_a_warning(server, command, tmp_path, caplog):
    assert command("out", "--study", STUDY) == 0
    assert "beside" not in caplog.text
    server.add(slices(tmp_path / "more", 1, first=4)[0].read_bytes())
    assert command("out", "--study", STUDY) == 0
    assert "1 object stored beside others of the same model and series" in caplog.text
    first, second = held(server, "SEG")
    assert first.SeriesInstanceUID == second.SeriesInstanceUID


def test_only_what_a_rule_may_take_is_downloaded(server, command, tmp_path, capsys):
    kinds = {"CT": "t1", "MR": "scout"}
    for number, (modality, description) in enumerate(kinds.items()):
        series = f"{OTHER}.{number}"
        for path in slices(tmp_path / modality, 3, series=series, modality=modality, description=description):
            server.add(path.read_bytes())
    (tmp_path / "rules.yaml").write_text("take: [{modality: MR, description: t1, slices: [4, 9]}]")
    assert command("out", "--study", STUDY, "--series", str(tmp_path / "rules.yaml")) == 0
    said = capsys.readouterr()
    assert "series of 3 files: modality CT, wanted MR" not in said.err  # the archive does not say how many
    assert "series: modality CT, wanted MR" in said.err
    assert "series: its description does not fit 't1'" in said.err
    assert "1 written, 1 stored in the archive, 2 left out" in said.out
    downloaded = {path.rpartition("/")[2] for _, path in server.requests if path.rpartition("/")[0].endswith("series")}
    (record,) = (tmp_path / "out").glob(RUN_RECORD)
    assert len(json.loads(record.read_text())["left_out"]) == 2
    assert SERIES in downloaded
    assert not {f"{OTHER}.0", f"{OTHER}.1"} & downloaded


def pull(server, tmp_path, *, studies=(STUDY,), series=(), rules=None, limits=FAST):
    """Return how many files each series has that comes."""
    reached = reach(address(server), ArchiveOptions(studies, series), limits)
    with pulled(reached, rules, tmp_path / "beside") as found:
        assert stat.S_IMODE(found.folder.stat().st_mode) == 0o700
        assert found.folder.parent == tmp_path / "beside"
        return sorted(len(list(folder.iterdir())) for folder in found.folder.iterdir())


def test_a_study_that_grows_is_read_until_it_is_still(server, tmp_path):
    more = [path.read_bytes() for path in slices(tmp_path / "other", 2, series=OTHER)]
    server.grow = more[:]
    assert pull(server, tmp_path) == [2, 4]
    server.grow = [path.read_bytes() for path in slices(tmp_path / "ever", 9, first=4)]
    with pytest.raises(ArchiveError, match="a series changes while it is read"):
        pull(server, tmp_path)
    assert list((tmp_path / "beside").iterdir()) == []


def test_a_series_that_is_taken_away_meanwhile(server, tmp_path):
    for path in slices(tmp_path / "other", 2, series=OTHER):
        server.add(path.read_bytes())
    reached = reach(address(server), ArchiveOptions([STUDY]), FAST)
    retrieve = reached.archive.retrieve

    def once(study, series, folder):
        found = retrieve(study, series, folder)
        if series == SERIES:  # the last of them
            for uid in [uid for uid in server.held if uid.startswith(OTHER)]:
                del server.held[uid]
        return found

    reached.archive.retrieve = once
    with pulled(reached, None, tmp_path / "beside") as found:
        assert [len(list(folder.iterdir())) for folder in found.folder.iterdir()] == [4]


def test_a_full_disk_is_said(server, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Archive, "retrieve", refuse)
    with pytest.raises(ArchiveError, match=r"cannot be kept in .*beside: No space left on device; make room"):
        pull(server, tmp_path)


def test_named_series_and_several_studies(server, tmp_path):
    for path in slices(tmp_path / "other", 2, series=OTHER):
        server.add(path.read_bytes())
    assert pull(server, tmp_path, series=(OTHER,)) == [2]
    with pytest.raises(ArchiveError, match=r"1 of 2 series by .* are not in these studies"):
        pull(server, tmp_path, series=(OTHER, "1.2.3"))
    for path in slices(tmp_path / "second", 3, study="1.2.5", series="1.2.5.1"):
        server.add(path.read_bytes())
    assert pull(server, tmp_path, studies=(STUDY, "1.2.5")) == [2, 3, 4]
    with pytest.raises(ArchiveError, match="study 2 of 2: the archive has no series of this study"):
        pull(server, tmp_path, studies=(STUDY, "1.2.6"))
    with pytest.raises(ArchiveError, match="no series that is taken; series: modality MR, wanted PT"):
        pull(server, tmp_path, rules=rules_of([{"modality": "PT"}], "rules"))


def test_a_case_that_grew_is_another(server, tmp_path):
    def names():
        with pulled(reach(address(server), ArchiveOptions([STUDY])), None, tmp_path) as found:
            return {folder.name for folder in found.folder.iterdir()}

    before = names()
    assert names() == before
    server.add(slices(tmp_path / "more", 1, first=4)[0].read_bytes())
    assert not names() & before


def test_what_killed_runs_left_is_removed(server, tmp_path):
    old, young = (tmp_path / "beside" / f".medseg_archive_{name}" for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "slice.dcm").write_bytes(b"patient")
    os.utime(old, (time.time() - 3600,) * 2)
    assert pull(server, tmp_path) == [4]
    assert not old.exists()
    assert young.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no study is named, and an archive is not predicted whole; add --study UID"),
        (["--study", "geheim"], "--study geheim is no UID: up to 64 digits and points"),
        (["--study", STUDY], "the classes 2 (thing) have no code"),
        (["--study", STUDY, "--credentials", "none"], "none: cannot be read"),
        (["--study", STUDY, "--ca", "none.pem"], "none.pem: cannot be read"),
    ],
)
def test_refused_before_anything_is_downloaded(server, tmp_path, capsys, arguments, message):
    assert main(["predict", str(weights(tmp_path / "a.pt")), address(server), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not [path for _, path in server.requests if "/series/" in path]


@pytest.mark.parametrize(
    ("password", "arguments", "message"),
    [
        ("wrong", ["--study", STUDY], "a search is not allowed to this user (status 401); set MEDSEG_DICOMWEB_USER"),
        (PASSWORD, ["--study", STUDY, "--study", "1.2.6"], "study 2 of 2: the archive has no series of this study"),
        (PASSWORD, ["--study", STUDY, "--series-uid", "1.2.3"], "1 of 1 series by --series-uid are not in these"),
    ],
)
def test_what_the_archive_refuses_is_said_before_a_model_is_loaded(
    server, command, tmp_path, monkeypatch, capsys, password, arguments, message
):
    monkeypatch.setenv("MEDSEG_DICOMWEB_PASSWORD", password)
    monkeypatch.setitem(sys.modules, "medseg.prediction.model", None)  # what imports it from now on fails
    assert command("out", *arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_certificate_that_is_not_trusted_is_said_before_a_model_is_loaded(tmp_path, monkeypatch, capsys):
    context, _ = self_signed(tmp_path)
    model = weights(tmp_path / "a.pt", codes=CODES)
    monkeypatch.setitem(sys.modules, "medseg.prediction.model", None)
    with serving(context) as secure:
        place = secure.url.replace("https", "dicomweb")
        assert main(["predict", str(model), place, str(tmp_path / "out"), "--study", STUDY, "device=cpu"]) == 2
    assert "certificate is not trusted: it is self-signed; name it by --ca FILE" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "http://pacs:8042/dicom-web"])
def test_a_folder_is_no_archive(tmp_path, capsys, place):
    arguments = ["predict", str(weights(tmp_path / "a.pt")), place, str(tmp_path / "out"), "--study", STUDY]
    assert main(arguments) == 2
    assert f"{place} is no archive, but --study or another option of an archive is given" in capsys.readouterr().err
