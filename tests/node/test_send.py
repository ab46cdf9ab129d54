"""What reaches archives, and what does not: by C-STORE where an object is at fault, by STOW."""

import pytest
from node_desk import Desk, Shelf
from node_parts import SECRET, config_of, study_files

from medseg.errors import MedsegError
from medseg.node.config import Peer, Web
from medseg.node.send import BrokenOffError, DicomPeer, UnreachableError, destination_of, destinations_of
from medseg.node.upkeep import straighten


class Poisoned(Shelf):
    """Goes away at the first object that it ever got, and at nothing else."""

    first = None

    def send(self, files):
        for file in files:
            self.first = self.first or file
            if file == self.first:
                raise BrokenOffError("archive broke off in the middle of an object")
            yield from super().send([file])


def test_an_object_that_an_archive_breaks_off_at_stops_no_other(tmp_path):
    desk = Desk(tmp_path / "node", shelf=Poisoned())
    for study in (1, 2, 3):
        for file in study_files(tmp_path, study):
            desk.receive(file)
    for _ in range(6):
        desk.step()
    assert desk.states == {1: "sending", 2: "done", 3: "done"}
    assert desk.status().destinations == [("archive", 2, 1, 0, "broke off in the middle of an object")]
    desk.queue.close()


@pytest.mark.parametrize("left", [0, 140], ids=["empty", "cut among its tags"])
def test_what_waits_is_neither_deleted_nor_in_the_way(tmp_path, left):
    """A result of a study that failed later, and one whose file is damaged while the node runs."""
    desk = Desk(tmp_path / "node", shelf=Shelf(away=1))
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.step()
    for file in study_files(tmp_path, 1, slices=1, change=_other_series):
        desk.receive(file, released=False)
    desk.now += 1e5
    assert desk.queue.claim(desk.now, 1, 1) is None
    assert desk.states == {1: "failed"}
    assert desk.sweep(keep_failed=0) == []
    (result,) = desk.store.results.rglob("*.dcm")
    content = result.read_bytes()
    result.write_bytes(content[:left])
    for file in study_files(tmp_path, 2):
        desk.receive(file)
    desk.step()
    assert desk.status().destinations[0][1:3] == (1, 1)
    result.write_bytes(content)
    desk.step()
    assert desk.status().destinations[0][1:3] == (2, 0)
    desk.queue.close()


class Fragile(Shelf):
    """Cannot read its first object."""

    def send(self, files):
        if not self.came:
            self.came.append("")
            raise EOFError("Geheim^Gerda")
        yield from super().send(files)


def test_an_object_that_cannot_be_sent_waits_alone(tmp_path, caplog):
    desk = Desk(tmp_path / "node", shelf=Fragile())
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.step()
    assert desk.status().destinations == [("archive", 0, 1, 0, "cannot be sent (EOFError)")]
    assert "Geheim" not in caplog.text
    desk.step()
    assert desk.states == {1: "done"}
    desk.queue.close()


def _other_series(_number, data):
    data.SeriesInstanceUID, data.SOPInstanceUID = f"{data.SeriesInstanceUID}.7", f"{data.SOPInstanceUID}.7"


def test_a_clock_that_is_set_back(tmp_path):
    """Neither what is received, nor what waits to be sent, nor what is to be deleted waits until it is there again."""
    desk = Desk(tmp_path / "node", shelf=Shelf(away=1))
    desk.now = 1e9
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    desk.step()
    for file in study_files(tmp_path, 2):
        desk.receive(file)
    desk.now -= 1e6
    straighten(desk.queue, desk.now, desk.now)
    desk.step()
    assert desk.states == {1: "done", 2: "done"}
    desk.now -= 1e6
    desk.recover()
    assert desk.sweep() == [1, 2]
    desk.queue.close()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # pynetdicom's
def test_a_peer_that_is_not_there():
    pytest.importorskip("pynetdicom", reason="a node needs pynetdicom; pip install 'medseg[dicom]'")
    peer = destination_of(Peer("pacs", "PACS", "127.0.0.1", 1), "NODE")
    assert isinstance(peer, DicomPeer)
    with pytest.raises(UnreachableError, match="pacs cannot be reached at its host and port"):
        peer.check()


def test_by_stow(tmp_path, monkeypatch, caplog):
    """An archive that answers with an error at first: the object is stored at the second try, once."""
    pytest.importorskip("dicomweb_client", reason="archives need dicomweb-client; pip install 'medseg[dicom]'")
    import threading

    from dicomweb_server import PASSWORD, USER, FakeArchive

    server = FakeArchive()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MEDSEG_DICOMWEB_USER", USER)
    monkeypatch.setenv("MEDSEG_DICOMWEB_PASSWORD", PASSWORD)
    web = destination_of(Web("archive", server.url.replace("http", "dicomweb+http")), "NODE")
    desk = Desk(tmp_path / "node", shelf=web)
    for file in study_files(tmp_path, 1):
        desk.receive(file)
    server.faults = [503, 503]
    desk.step()
    assert (desk.states, len(server.held)) == ({1: "sending"}, 0)
    desk.step()
    assert (desk.states, len(server.held)) == ({1: "done"}, 1)
    server.shutdown()
    server.server_close()
    with pytest.raises(UnreachableError, match="archive does not answer: "):
        destination_of(Web("archive", server.url.replace("http", "dicomweb+http")), "NODE").check()
    assert SECRET not in caplog.text
    desk.queue.close()


def test_a_secret_goes_to_its_own_host_alone(tmp_path, monkeypatch):
    """As two archives see it: each gets the user that is its own; one for both is refused before anything is asked."""
    pytest.importorskip("dicomweb_client", reason="archives need dicomweb-client; pip install 'medseg[dicom]'")
    from dicomweb_server import serving

    with serving() as first, serving() as second:
        places = [server.url.replace("http", "dicomweb+http") for server in (first, second)]
        for name, value in (("USER_1", "a"), ("PASSWORD_1", "geheim"), ("TOKEN_2", "marke")):
            monkeypatch.setenv(name, value)
        own = {"user_env": "USER_1", "password_env": "PASSWORD_1"}, {"token_env": "TOKEN_2"}
        webs = [
            Web(f"web{number}", place, **named) for number, (place, named) in enumerate(zip(places, own, strict=True))
        ]
        for each in destinations_of(config_of(tmp_path, destinations=tuple(webs))):
            with pytest.raises(UnreachableError):  # they know neither
                each.check()
        assert (first.asked_by, second.asked_by) == ({"Basic YTpnZWhlaW0="}, {"Bearer marke"})

        config = config_of(
            tmp_path, destinations=tuple(Web(f"web{number}", place) for number, place in enumerate(places))
        )
        assert len(destinations_of(config)) == 2  # nobody's
        monkeypatch.setenv("MEDSEG_DICOMWEB_TOKEN", "marke")
        with pytest.raises(
            MedsegError, match=r"would go to several hosts \(web0, web1\); give each destination its own"
        ):
            destinations_of(config)
        monkeypatch.delenv("PASSWORD_1")
        with pytest.raises(MedsegError, match=r"the environment has no PASSWORD_1, which holds .*; set it"):
            destination_of(webs[0], "NODE")
