"""Archives over DICOMweb, and every way in which one may fail, by a small archive in this process."""

import json
import logging
import ssl

import pydicom
import pytest
from archive_studies import SERIES, STUDY, slices
from pydicom.uid import RLELossless

pytest.importorskip("dicomweb_client", reason="archives need dicomweb-client; pip install 'medseg[dicom]'")
from dicomweb_server import PASSWORD, USER, by_an_authority, self_signed, serving, tag

from medseg.io.dicomweb import Archive, ArchiveGoneError
from medseg.io.dicomweb_address import ArchiveError, Credentials, is_address, url_of
from medseg.io.dicomweb_session import Limits

FAST = Limits(tries=3, pause=0.001, rounds=3)
HASTY = Limits(read=1.0, tries=2, pause=0.001)
WHO = Credentials(USER, PASSWORD)


@pytest.fixture
def server(tmp_path):
    with serving() as made:
        for path in slices(tmp_path / "held"):
            made.add(path.read_bytes())
        yield made


@pytest.fixture
def archive(server):
    with Archive(server.url, WHO, limits=FAST) as made:
        yield made


def uids_of(files):
    return {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in files}


def test_a_series_comes_as_it_is_stored(server, archive, tmp_path, caplog):
    with caplog.at_level(logging.DEBUG):
        (series,) = archive.series(STUDY)
        files = archive.retrieve(STUDY, series.uid, tmp_path / "got")
    assert (series.uid, series.modality, series.description, series.told) == (SERIES, "MR", "t1", False)
    assert uids_of(files.values()) == files.keys() == server.held.keys() == archive.has([*server.held, "1.2.3.4"])
    for path in files.values():
        got = pydicom.dcmread(path)
        assert got.PixelData == server.held[got.SOPInstanceUID][0].PixelData
    assert "1.2.840.99" not in caplog.text
    assert "127.0.0.1" not in caplog.text


@pytest.mark.parametrize(
    "answers", [["x"], [None], 5, [{}], [{"0020000E": "x", "00080018": "x"}], [{"0020000E": {"Value": 5}}], [[]]]
)
def test_json_that_is_no_answer_to_a_search(server, archive, monkeypatch, answers):
    """It was a trace, or a series without a UID."""
    monkeypatch.setattr(archive._session, "send", _answering(archive._session.send, answers))
    for ask in (lambda: archive.series(STUDY), lambda: archive.instances(STUDY, SERIES), lambda: archive.has(["1.2"])):
        with pytest.raises(ArchiveError, match="a search is answered by what is no DICOMweb"):
            ask()


def _answering(send, answers):
    def sent(*args, **options):
        response = send(*args, **options)
        response._content, response._content_consumed = json.dumps(answers).encode(), True
        return response

    return sent


def test_an_answer_in_chunks(server, archive, tmp_path):
    server.faults = ["chunks"] * 9
    assert archive.retrieve(STUDY, SERIES, tmp_path / "got").keys() == server.held.keys()


def test_a_description_is_looked_up_where_the_search_does_not_tell(server, archive):
    for _, _, found in server.held.values():
        found[tag("ProtocolName")] = {"vr": "LO", "Value": ["mprage"]}
    assert "mprage" in archive.description(archive.series(STUDY)[0])


@pytest.mark.parametrize("knows", [True, False], ids=["pages", "one page again and again"])
def test_searches_answer_in_parts(server, archive, knows):
    server.page, server.knows_offset = 3, knows
    assert len(archive.instances(STUDY, SERIES)) == (4 if knows else 3)


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "open", "half"])
def test_what_passes_is_asked_again(server, archive, tmp_path, fault):
    server.faults = ["", "", fault, fault]  # two pages of the search, then the files
    assert len(archive.retrieve(STUDY, SERIES, tmp_path / "got")) == 4
    assert sum(path.endswith(SERIES) for _, path in server.requests) == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (500, "status 500"),
        ("cut", "its answer stops in the middle"),
        ("open", "its answer stops in the middle"),
        ("half", "its answer stops in the middle"),
    ],
)
def test_what_does_not_pass_is_one_error(server, archive, tmp_path, fault, reason):
    server.faults = ["", "", *[fault] * 9]
    with pytest.raises(ArchiveGoneError, match=rf"downloading a series failed \({reason}\), tried 3 times") as caught:
        archive.retrieve(STUDY, SERIES, tmp_path / "got")
    assert "127.0.0.1" not in str(caught.value)
    assert SERIES not in str(caught.value)
    assert len(server.requests) == 5


def test_a_slow_answer(server, tmp_path):
    server.faults = ["slow"]
    hasty = Archive(server.url, WHO, limits=HASTY)
    assert len(hasty.instances(STUDY, SERIES)) == 4
    server.faults = ["slow"] * 2
    with pytest.raises(ArchiveGoneError, match=r"a search failed \(no answer within 1 s\), tried 2 times"):
        hasty.series(STUDY)


def test_no_archive_there(server):
    server.server_close()
    with pytest.raises(ArchiveGoneError, match=r"\(no connection\), tried 3 times"):
        Archive(f"http://127.0.0.1:{server.server_port}/x", WHO, limits=FAST).series(STUDY)


def test_a_wrong_password_is_told_at_once(server):
    with pytest.raises(
        ArchiveGoneError, match=r"a search is not allowed to this user .status 401.*MEDSEG_DICOMWEB_USER"
    ) as caught:
        Archive(server.url, Credentials(USER, "wrong"), limits=FAST).series(STUDY)
    assert len(server.requests) == 1
    assert "wrong" not in str(caught.value) + repr(Credentials(USER, "wrong"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (404, r"a search is refused \(status 404\); see whether the path"),
        ("redirect", "redirects to another address"),
    ],
)
def test_what_asking_again_does_not_mend(server, archive, fault, message):
    server.faults = [fault]
    with pytest.raises(ArchiveError, match=message):
        archive.series(STUDY)
    assert len(server.requests) == 1


def test_no_such_study(archive):
    with pytest.raises(ArchiveError, match="has no series of this study"):
        archive.series("1.2.3")


def test_too_much_and_too_long(server, tmp_path):
    size = sum(len(data) for _, data, _ in server.held.values())
    few = Archive(server.url, WHO, limits=Limits(most_bytes=size + 2000))
    for _ in range(9):
        few.instances(STUDY, SERIES)  # what is not kept does not add up
    few.retrieve(STUDY, SERIES, tmp_path / "got")
    with pytest.raises(ArchiveError, match="sends more than"):
        few.retrieve(STUDY, SERIES, tmp_path / "got")
    assert few.has(server.held) == server.held.keys()
    with pytest.raises(ArchiveError, match="more than 3 instances"):
        Archive(server.url, WHO, limits=Limits(most_instances=3)).instances(STUDY, SERIES)
    server.faults = ["drip"]
    with pytest.raises(ArchiveError, match=r"takes more than 0\.3 s"):
        Archive(server.url, WHO, limits=Limits(read=5, answer=0.3)).series(STUDY)


def test_a_series_that_grows_is_read_until_it_is_still(server, archive, tmp_path):
    more = [path.read_bytes() for path in slices(tmp_path / "more", 5, first=4)]
    server.grow = more[:2]
    assert len(archive.retrieve(STUDY, SERIES, tmp_path / "got")) == 6
    server.grow = more[2:]
    with pytest.raises(ArchiveError, match=r"changes while it is read \(6 instances, then 9\); run again when"):
        archive.retrieve(STUDY, SERIES, tmp_path / "again")


def test_a_self_signed_certificate_is_named(tmp_path):
    context, certificate = self_signed(tmp_path)
    with serving(context) as server:
        for path in slices(tmp_path / "held", 2):
            server.add(path.read_bytes())
        with pytest.raises(ArchiveGoneError, match="certificate is not trusted: it is self-signed; name it by ca=FILE"):
            Archive(server.url, WHO, limits=FAST).series(STUDY)
        assert server.requests == []
        assert len(Archive(server.url, WHO, ca=certificate, limits=FAST).instances(STUDY, SERIES)) == 2
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(ArchiveError, match="holds no certificate in PEM form"):
        Archive("https://localhost/x", WHO, ca=tmp_path / "none.pem")
    with pytest.raises(ArchiveError, match="cannot be read"):
        Archive("https://localhost/x", WHO, ca=tmp_path / "no.pem")


@pytest.mark.parametrize(
    ("other", "trusted", "said"),
    [
        ({}, False, "its authority is not known; name the certificate, or its authority's, by ca=FILE"),
        ({"days": (-9, -1)}, True, "it is too old; have it renewed"),
        ({"days": (1, 9)}, True, "it is not valid yet; see this computer's clock"),
        ({"host": "127.0.0.9"}, True, "it is of another host; name the host as it does"),
    ],
)
def test_why_a_certificate_is_not_trusted(tmp_path, other, trusted, said):
    certificate, key, authority = by_an_authority(tmp_path, **other)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as server:
        with pytest.raises(ArchiveGoneError) as caught:
            Archive(server.url, WHO, ca=authority if trusted else None, limits=FAST).series(STUDY)
        assert str(caught.value) == f"the archive's certificate is not trusted: {said}"
        assert server.requests == []


def test_what_is_stored_is_there_once(server, archive, tmp_path):
    new = slices(tmp_path / "new", 2, series="1.2.840.99.1.8")
    held = slices(tmp_path / "old", 1)
    report = archive.store([*new, *held])
    assert (report.stored, report.present, report.failed, report.beside) == (tuple(new), tuple(held), (), ())
    again = archive.store([*new, *held])
    assert (again.stored, again.present) == ((), (*new, *held))
    more = slices(tmp_path / "later", 1, series="1.2.840.99.1.8", first=2)
    assert archive.store(more).beside == tuple(more)
    assert sum(kind == "POST" for kind, _ in server.requests) == 3
    server.faults = ["", 500, "", ""]  # the search, then storing
    other = slices(tmp_path / "other", 1, series="1.2.840.99.1.9")
    assert archive.store(other).stored == tuple(other)


def test_a_compressed_object_keeps_its_uid(server, archive, tmp_path):
    (file,) = slices(tmp_path / "new", 1, series="1.2.840.99.1.8")
    data = pydicom.dcmread(file)
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(file)
    assert archive.store([file]).stored == (file,)
    assert archive.store([file]).present == (file,)
    assert server.held[data.SOPInstanceUID][0].file_meta.TransferSyntaxUID == RLELossless


@pytest.mark.parametrize("status", [202, 409])
def test_what_is_refused_is_named(server, archive, tmp_path, status):
    new = slices(tmp_path / "new", 2, series="1.2.840.99.1.8")
    server.refuses = status, 0xA700
    assert archive.store(new).failed == tuple(
        (path, "the archive did not take it (failure reason 0xa700)") for path in new
    )
    server.refuses = None
    assert archive.store(new).stored == tuple(new)


def test_what_was_taken_and_lost_or_changed_is_named(server, archive, tmp_path):
    first, second, third = slices(tmp_path / "new", 3, series="1.2.840.99.1.8")
    server.loses = True
    assert "took it and does not find it" in archive.store([first]).failed[0][1]
    server.loses, server.changes = False, lambda dataset: setattr(dataset, "PixelData", bytes(768))
    assert "gives back another content" in archive.store([second]).failed[0][1]
    assert "holds another object of this UID" in archive.store([second]).failed[0][1]
    server.changes = lambda dataset: setattr(dataset, "PatientName", "Corrected^There")
    assert archive.store([third]).stored == (third,)


def test_an_archive_that_is_gone_is_not_asked_for_each_file(server, archive, tmp_path):
    new = slices(tmp_path / "new", 3, series="1.2.840.99.1.8")
    server.faults = [500] * 99
    report = archive.store(new)
    assert [path for path, _ in report.failed] == new
    assert len(server.requests) == 2 * FAST.tries  # not for the third
    server.faults = [500] * FAST.tries  # may be the fault of one file
    assert archive.store(new).stored == tuple(new[1:])
    (tmp_path / "x.dcm").write_bytes(b"x")
    assert "cannot be read as DICOM" in archive.store([tmp_path / "x.dcm"]).failed[0][1]


def test_addresses():
    assert is_address("dicomweb://pacs/x")
    assert not is_address("folder/dicomweb")
    assert url_of("dicomweb://pacs:8443/dicom-web/") == "https://pacs:8443/dicom-web"
    assert url_of("dicomweb+http://127.0.0.1:8042/x") == "http://127.0.0.1:8042/x"
    assert url_of("dicomweb+http://pacs/x", plain_http=True) == "http://pacs/x"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("dicomweb+http://pacs/x", "unencrypted over the network"),
        ("dicomweb+http://127.0.0.1.evil.org/x", "unencrypted over the network"),
        ("dicomweb://gerda:geheim@pacs/x", "holds a user or a password"),
        ("dicomweb:///x", "write dicomweb://HOST"),
        ("dicomweb://pacs:port/x", "write dicomweb://HOST"),
        ("dicomweb://pacs/x?study=1", "write dicomweb://HOST"),
        ("ftp://pacs", "the scheme 'ftp' is no archive's"),
    ],
)
def test_addresses_that_are_refused(address, message):
    with pytest.raises(ArchiveError, match=message) as caught:
        url_of(address)
    assert "geheim" not in str(caught.value)


def test_credentials(tmp_path):
    environment = {"MEDSEG_DICOMWEB_USER": "u", "MEDSEG_DICOMWEB_PASSWORD": "p"}
    assert Credentials.read("https://pacs", None, environment) == Credentials("u", "p")
    assert Credentials.read("https://pacs", None, {"MEDSEG_DICOMWEB_TOKEN": "t"}) == Credentials(token="t")
    assert Credentials.read("https://pacs", None, {}) == Credentials()
    for given in ({"MEDSEG_DICOMWEB_USER": "u"}, {**environment, "MEDSEG_DICOMWEB_TOKEN": "t"}):
        with pytest.raises(ArchiveError, match=r"is set; set both|are set; unset one"):
            Credentials.read("https://pacs", None, given)
    file = tmp_path / "netrc"
    file.write_text("machine pacs login u password p")
    file.chmod(0o644)
    with pytest.raises(ArchiveError, match="others may read it, and it holds a password; chmod 600"):
        Credentials.read("https://pacs:8443/x", file)
    file.chmod(0o600)
    assert Credentials.read("https://pacs:8443/x", file, environment) == Credentials("u", "p")
    with pytest.raises(ArchiveError, match="has no login and password for the archive's host"):
        Credentials.read("https://other", file)
    file.write_text("machine pacs geheim u")
    with pytest.raises(ArchiveError, match="line 1 is not as in a netrc file") as caught:
        Credentials.read("https://pacs", file)
    assert "geheim" not in str(caught.value)
    with pytest.raises(ArchiveError, match="cannot be read"):
        Credentials.read("https://pacs", tmp_path / "none")
