"""A node's configuration: everything that is wrong is said before anything starts."""

import pytest
import yaml

from medseg.node.config import ConfigError, Peer, Retry, Web, read_config

WEB = {"name": "web", "url": "dicomweb://pacs.example/dicom-web"}
GOOD = {
    "folder": "node",
    "title": "NODE",
    "port": 11112,
    "callers": [{"title": "PACS"}],
    "models": [{"name": "a", "model": "runs/a", "rules": "a.yaml"}],
    "destinations": [
        {"name": "archive", "title": "ARCHIVE", "host": "10.0.0.5", "port": 104},
        WEB,
    ],
}


def read(tmp_path, **changes):
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(content))
    return read_config(tmp_path / "node.yaml")


def test_a_good_one(tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    config = read(tmp_path, sending={"times": 4, "first_seconds": 1})
    assert (config.folder, config.models[0].rules) == (tmp_path / "node", tmp_path / "a.yaml")
    assert config.models[0].model == str(tmp_path / "runs" / "a")
    assert [type(each) for each in config.destinations] == [Peer, Web]
    assert (config.address, config.sending) == ("127.0.0.1", Retry(4, 1.0))
    assert [Retry(9, 5, 60).pause(tries) for tries in (1, 2, 4, 5, 500)] == [5, 10, 40, 60, 60]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"port": 0}, "port is 0; give a port from 1 to 65535"),
        ({"port": "104"}, "port is '104'; give a port"),
        ({"title": "A TITLE THAT IS LONG"}, "title is 'A TITLE THAT IS LONG', no AE title"),
        ({"title": "A\\B"}, "no AE title; give 1 to 16"),
        ({"callers": []}, r"callers is \[\]; give a list of at least one"),
        ({"callers": [{"titel": "A"}]}, "callers 1 has no key 'titel'; did you mean 'title'"),
        ({"callers": [{"title": "A", "address": "pacs"}]}, "callers 1, address is 'pacs', no IP address"),
        ({"address": "0.0.0.0"}, r"caller PACS has no address, and the node listens on 0\.0\.0\.0"),
        ({"models": None}, "lacks models; docs/how-to/node.md has an example"),
        ({"models": [GOOD["models"][0]] * 2}, "two models are called 'a'"),
        ({"models": [{"name": "../a", "model": "m", "rules": "r"}]}, r"name is '\.\./a'; give letters"),
        ({"models": [{**GOOD["models"][0], "outputs": ["mask"]}]}, r"outputs is \['mask'\]; give a list of dicom-seg"),
        ({"destinations": [{"name": "me", "title": "NODE", "host": "localhost", "port": 11112}]}, "is the node itself"),
        ({"still_seconds": float("nan")}, "still_seconds is nan; give seconds"),
        ({"sending": {"times": 1.5}}, "sending, times is 1.5; give a whole number"),
        ({"stil_seconds": 3}, "no key 'stil_seconds'; did you mean 'still_seconds'"),
        ({"prediction_seconds": 0}, "prediction_seconds is 0; give seconds from 1"),
        ({"destinations": [{**WEB, "user_env": "A"}]}, "web has one of user_env and password_env; name both"),
        ({"destinations": [{**WEB, "token_env": "A", "credentials": "b"}]}, "web has several of credentials, password"),
        ({"destinations": [{**WEB, "token_env": "geheim!"}]}, "token_env is no name of an environment variable"),
    ],
)
def test_what_is_wrong(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said) as caught:
        read(tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert "node.yaml" in str(caught.value)


def test_no_file_and_no_yaml(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="is no YAML"):
        read_config(tmp_path / "bad.yaml")


def test_a_caller_from_anywhere_is_said_so(tmp_path):
    config = read(tmp_path, address="0.0.0.0", callers=[{"title": "PACS", "address": "any"}])
    assert config.callers[0].address == "any"
