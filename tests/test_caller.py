"""What an option is called where a message is read: by medseg's commands, by MONAI's, in Python."""

import sys
import types

import pytest

from medseg.caller import nearest, speaking, spelt

TRAIN = {"max_minutes": "--minutes", "fold": "--fold"}
OWN = ("-h", "--help", "--minutes", "--fold", "--output", "-o", "--keep-header")
KEYS = ("max_minutes", "batch_size", "fold")


@pytest.fixture
def monais(monkeypatch: pytest.MonkeyPatch) -> None:
    main = types.ModuleType("__main__")
    main.__spec__ = types.SimpleNamespace(name="monai.bundle.__main__")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "__main__", main)


def test_in_python() -> None:
    assert spelt("max_minutes", 30) == "max_minutes=30"
    assert spelt("patch") == "patch"


def test_in_a_command_of_medseg() -> None:
    with speaking(TRAIN, OWN):
        assert spelt("max_minutes", 30) == "--minutes 30"
        assert spelt("fold", "all") == "--fold all"
        assert spelt("fold") == "--fold"
        assert spelt("patch", "[8,8]") == "patch=[8,8]"
    assert spelt("fold") == "fold"


def test_in_monais_command(monais: None) -> None:
    assert spelt("max_minutes", 30) == "--max_minutes 30"
    assert spelt("patch", "[8,8]") == '--patch "[8,8]"'
    assert nearest("max_minuts", KEYS) == "--max_minutes"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *(("minuts", "--minutes"), ("max_minuts", "--minutes"), ("batch_siz", "batch_size"), ("fodl", "--fold")),
        *(("ouput", "--output"), ("keep_header", "--keep-header"), ("nothing_like_it", None)),
    ],
)
def test_the_nearest_that_the_command_has(typed: str, meant: str | None) -> None:
    with speaking(TRAIN, OWN):
        assert nearest(typed, KEYS) == meant
    assert nearest("minuts", KEYS) in (None, "max_minutes")
