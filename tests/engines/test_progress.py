"""The bar on a terminal and the lines beside it."""

import io
import logging
import re
import sys

import pytest

import medseg.engines.progress as progress_module
from medseg.caller import speaking
from medseg.engines.progress import Progress

VALUES = {"loss": 0.5, "learning_rate": 0.01, "val_mean_iou": 0.25, "images_per_second": 8.0, "data_wait_share": 0.125}
BEST = {"by": "val_mean_iou", "score": 0.25, "epoch": 1}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def train(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    """Show two epochs of three iterations; returns what a reader of the stream gets."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    logger = logging.getLogger("medseg.engines.progress")
    handler = logging.StreamHandler(stream)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with Progress(2, 3) as progress:
            for epoch in (1, 2):
                progress.start_epoch(epoch)
                progress.advance(epoch, 2, 0.75, 0.01, 30.0)
                progress.finish_epoch(epoch, VALUES, BEST, 61.0)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
    return stream.getvalue()


def test_a_terminal_gets_a_bar_and_clean_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    text = train(Terminal(), monkeypatch)
    assert "epoch 1/2" in text
    assert "2/3" in text
    assert "loss 0.7500  lr 1.00e-02" in text
    for epoch in (1, 2):
        before, _ = text.split(f"epoch {epoch}/2  loss 0.5000", 1)
        after_the_bar = re.split(r"lr 1\.00e-02", before)[-1]
        assert "\x1b[2K" in after_the_bar, "the bar's line is cleared before the epoch's line is written"


def test_a_file_gets_one_line_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = train(io.StringIO(), monkeypatch).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1/2  loss 0.5000  lr 1.00e-02  mean IoU 0.2500 (best 0.2500, epoch 1)")
    assert "8.0 images/s  waiting for data 12.5 %  0:01:01 spent" in lines[0]
    assert lines[1].endswith("at most 0:00:00 left")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return now


@pytest.mark.parametrize("step", [0.5, 7.0, 29.0])
def test_a_line_comes_every_thirty_seconds(step: float, clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    said = []
    with Progress(2, 1000) as progress:
        progress.start_epoch(1)
        for done in range(1, 200):
            clock[0] += step
            if done < 100:
                if done % 10 == 0 or progress.due():
                    progress.advance(1, done, 0.75, 0.01, clock[0])
            else:
                progress.validate(done - 99, 100)
            said += [clock[0]] * (len(caplog.records) - len(said))
    assert max(later - earlier for earlier, later in zip([0.0, *said], said, strict=False)) <= 30
    assert len(said) <= 200 * step / 30 * 2 + 2, "and not many more than needed"
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0].startswith("epoch 1/2  ")
    assert "loss 0.7500" in lines[0]
    assert lines[-1].startswith("validation ")


def test_what_is_left_is_no_more_than_the_budget(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with Progress(100, 10, max_minutes=2) as progress:
        clock[0] = 60.0
        progress.finish_epoch(1, VALUES, BEST, 60.0)
    assert caplog.records[-1].getMessage().endswith("0:01:00 spent, at most 0:01:00 left")
    assert "left" in caplog.text
    with Progress(3, 10) as progress:
        clock[0] += 60.0
        progress.finish_epoch(1, VALUES, BEST, 60.0)
    assert caplog.records[-1].getMessage().endswith("0:01:00 spent, at most 0:02:00 left")


@pytest.mark.parametrize("option", ["max_minutes=0.5", "--minutes 0.5"])
def test_the_clock_is_named_as_it_was_set(caplog: pytest.LogCaptureFixture, option: str) -> None:
    with speaking({"max_minutes": "--minutes"} if option.startswith("-") else {}, ()):
        Progress(2, 3, max_minutes=0.5).cut_short(4, 6)
        Progress(2, 3, max_minutes=0.5).cut_short(1, 6)
    assert f"{option} is over after 4 steps of at most 6" in caplog.text
    assert f"{option} is over after 1 step of at most 6" in caplog.text
