"""What a node's queue owes: series whose files went before they were done, results for a destination that is gone."""

import pytest
import yaml
from node_desk import BROKEN, STILL, Shelf
from node_parts import another_series, config_of, study_files

from medseg.cli import main
from medseg.node.check import check_node
from medseg.node.config import Retry
from medseg.node.queue import QueueError
from medseg.node.service import Node
from medseg.node.status import page, read_status, text
from medseg.node.upkeep import redirect, retry_study, withdraw
from medseg.node.work import work

ONCE = Retry(times=1)


def receive(desk, files):
    for file in files:
        desk.receive(file)


def test_a_failed_series_is_not_forgotten_with_its_files(desk, tmp_path):
    """Another series of its study is done; the study is not, until the first comes again."""
    first, second = study_files(tmp_path / "a", 1), study_files(tmp_path / "b", 1, change=another_series)

    def fault(call):
        if call == 1:
            raise RuntimeError

    desk.model.fault = fault
    receive(desk, first)
    desk.step(retry=ONCE)
    assert desk.states == {1: "failed"}
    assert desk.sweep(keep_failed=0) == [1]
    receive(desk, second)
    desk.step()
    (study,) = desk.status().studies
    assert (study.state, study.sent) == ("failed", 1)
    assert study.reason == "series 1 was not done before its files were deleted; send it again"
    receive(desk, first)
    desk.step()
    assert (desk.states, len(desk.shelf.came)) == ({1: "done"}, 2)


def test_a_series_that_no_model_takes_is_owed_nothing(desk, tmp_path):
    """Nor is one whose result was sent."""

    def to_mr(number, data):
        another_series(number, data)
        data.Modality = "MR"

    receive(desk, [*study_files(tmp_path / "a", 1), *study_files(tmp_path / "b", 1, change=to_mr)])
    desk.step()
    assert desk.sweep() == [1]

    def third(number, data):
        another_series(number, data)
        another_series(number, data)

    receive(desk, study_files(tmp_path / "c", 1, change=third))
    desk.step()
    assert (desk.states, len(desk.shelf.came)) == ({1: "done"}, 2)


def test_a_result_that_was_never_sent_keeps_its_study_failed(desk, tmp_path):
    """Its file is deleted; another series of the study is sent; the first comes again, and is made and sent."""
    first, second = study_files(tmp_path / "a", 1), study_files(tmp_path / "b", 1, change=another_series)
    desk.shelf.away = 1
    receive(desk, first)
    desk.step(retry=ONCE)
    assert desk.states == {1: "failed"}
    assert desk.sweep(keep_failed=0) == [1]
    receive(desk, second)
    desk.step()
    (study,) = desk.status().studies
    assert (study.state, study.reason, len(desk.shelf.came)) == ("failed", "archive: cannot be reached", 1)
    with pytest.raises(
        QueueError, match="study 1: the results that were not sent are deleted; send their series again"
    ):
        retry_study(desk.queue, 1)
    receive(desk, first)
    desk.step()
    assert (desk.states, len(desk.shelf.came)) == ({1: "done"}, 2)


def test_results_for_a_destination_that_is_gone(desk, tmp_path):
    receive(desk, study_files(tmp_path, 1))
    receive(desk, study_files(tmp_path, 2))
    desk.shelf.away = 9
    desk.step(), desk.step(pause=0)
    status = read_status(desk.store.queue, running=True, to=["pacs"])
    assert (status.nowhere, status.states) == (["archive"], {"sending": 2})
    said = "2 results wait for 'archive', which is no destination of the configuration: name it there again, send to"
    assert said in text(status)
    assert "medseg node redirect CONFIG archive OTHER" in page(status, "NODE")
    assert read_status(desk.store.queue, running=True, to=["archive"]).nowhere == []

    with pytest.raises(QueueError, match="no result that could be sent waits for 'pax'; see medseg node status"):
        redirect(desk.queue, "pax", "pacs", desk.now)
    assert redirect(desk.queue, "archive", "pacs", desk.now) == 2
    new = Shelf()
    new.name = "pacs"
    desk.shelf, desk.sender = new, None
    desk.step()
    assert (desk.states, len(new.came)) == ({1: "done", 2: "done"}, 2)


@pytest.mark.parametrize("how", ["redirect", "retry"])
def test_what_failed_at_one_destination_and_is_sent_later(desk, tmp_path, caplog, how):
    """The log says that it is not tried again; a study that is done has no reason of a failure."""
    receive(desk, study_files(tmp_path, 1))
    desk.shelf.away = 2
    twice = Retry(times=2, first_seconds=1)
    desk.step(retry=twice), desk.step(retry=twice)
    assert [line.split("; ")[1] for line in caplog.messages] == [
        "1 result waits", "1 result is given up after 2 tries: medseg node status, medseg node retry",
    ]  # fmt: skip
    (study,) = desk.status().studies
    assert (study.state, study.reason) == ("failed", "archive: cannot be reached")
    if how == "redirect":
        redirect(desk.queue, "archive", "pacs", desk.now)
        desk.shelf.name, desk.sender = "pacs", None
    else:
        retry_study(desk.queue, 1)
    assert desk.states == {1: "sending"}
    desk.step()
    (study,) = desk.status().studies
    assert (study.state, study.reason) == ("done", "")


def test_what_is_given_up_is_no_success(desk, tmp_path):
    receive(desk, study_files(tmp_path, 1))
    desk.shelf.away = 9
    desk.step()
    assert withdraw(desk.queue, "archive", desk.now) == 1
    (study,) = desk.status().studies
    assert (study.state, study.reason) == ("failed", "archive: given up by hand")
    assert read_status(desk.store.queue, running=True, to=["pacs"]).nowhere == []
    with pytest.raises(QueueError, match="no result waits for 'archive'"):
        withdraw(desk.queue, "archive", desk.now)
    assert desk.sweep(keep_failed=0) == [1]


def test_what_is_given_up_counts_before_the_rest_is_sent(desk, tmp_path):
    """`medseg node status` said that all is well until the other destination had its result."""
    receive(desk, study_files(tmp_path, 1))
    desk.now += STILL + 1
    claim = desk.queue.claim(desk.now, STILL, BROKEN)
    desk.queue.predicted(claim, work(claim, desk.store, [desk.model]), ["archive", "pacs"], ONCE, desk.now)
    assert desk.status().good
    withdraw(desk.queue, "archive", desk.now)
    assert desk.states == {1: "sending"}
    assert not desk.status().good
    desk.shelf.name = "pacs"
    desk.step()
    assert desk.states == {1: "failed"}
    assert not desk.status().good


def test_the_commands(desk, tmp_path, capsys, caplog):
    receive(desk, study_files(tmp_path, 1))
    desk.shelf.away = 9
    desk.step()
    content = {
        **{"folder": "node", "title": "NODE", "port": 11112, "callers": [{"title": "PACS"}]},
        "models": [{"name": "a", "model": "none", "rules": "none"}],
        "destinations": [{"name": "pacs", "title": "PACS", "host": "127.0.0.1", "port": 1}],
    }
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(content))
    config = str(tmp_path / "node.yaml")
    assert main(["node", "status", config]) == 1
    assert "1 result waits for 'archive'" in capsys.readouterr().out
    for arguments, said in (
        (["redirect", config, "pacs", "archive"], "'pacs' is a destination of the configuration; take it out"),
        (["redirect", config, "archive", "web"], "'web' is no destination of the configuration; name one of pacs"),
        (["withdraw", config, "web"], "no result waits for 'web'"),
    ):
        assert main(["node", *arguments]) == 2
        assert said in capsys.readouterr().err
    assert main(["node", "redirect", config, "archive", "pacs"]) == 0
    assert capsys.readouterr().out == "1 result to pacs\n"
    assert main(["node", "status", config]) == 0
    content["destinations"][0]["name"] = "new"
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(content))
    capsys.readouterr()
    assert main(["node", "withdraw", config, "pacs"]) == 0
    assert capsys.readouterr().out == "1 result given up, their studies fail\n"
    assert main(["node", "status", config]) == 1


def test_a_start_and_a_check_say_it(desk, tmp_path, caplog):
    pytest.importorskip("pynetdicom", reason="a node needs pynetdicom; pip install 'medseg[dicom]'")
    receive(desk, study_files(tmp_path, 1))
    desk.shelf.away = 9
    desk.step()
    config = config_of(desk.store.root)
    node = Node(config, [desk.model], [Renamed()])
    node.start()
    node.stop()
    assert "1 result waits for 'archive', which is no destination" in caplog.text
    named = config_of(desk.store.root, destinations=(), models=())
    assert dict(check_node(named))["queue"].startswith("1 result waits for 'archive', which is no destination")


class Renamed(Shelf):
    name = "pacs"
