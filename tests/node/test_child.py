"""Models in a process of their own: one that hangs or crashes is ended, and the next series is done by another."""

import functools
import os
import signal
import time

import pytest
from node_desk import Desk
from node_parts import FakeModel, study_files, wait_for

from medseg.errors import MedsegError
from medseg.node.child import ChildError, PredictingProcess


class Moody(FakeModel):
    """Does to a series what its study's description says."""

    def predict(self, series, output):
        import pydicom

        file = next(series.iterdir())
        what = str(pydicom.dcmread(file, stop_before_pixels=True).StudyDescription)
        if what == "hang":
            time.sleep(3600)
        if what == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "fail":
            raise ValueError("Geheim^Gerda")
        (output / "pid").write_text(str(os.getpid()))
        return super().predict(series, output)


def moody():
    return [Moody()]


def no_models(text):
    raise MedsegError(text)


def described(what):
    def change(_number, data):
        data.StudyDescription = what

    return change


def test_what_becomes_of_each(tmp_path):
    """The study that hangs fails with the reason and is not tried again; the others are done, one of them after it."""
    with PredictingProcess(moody, 3.0) as models:
        desk = Desk(tmp_path / "node", model=models.routes[0])
        for number, what in enumerate(("good", "hang", "good", "crash", "fail"), 1):
            for file in study_files(tmp_path, number, change=described(what)):
                desk.receive(file)
            desk.now += 1
        pids = []
        for pause in (11, 0, 0, 0, 0):
            worked = desk.step(pause=pause)
            pids += [(desk.store.root / made.path).with_name("pid").read_text() for made in worked.made]
        studies = {each.number: each for each in desk.status().studies}
        assert {number: each.state for number, each in studies.items()} == {
            **{1: "done", 2: "failed", 3: "done", 4: "waiting", 5: "waiting"}
        }
        assert studies[2].reason == (
            "series 1 by fake: a prediction took longer than 3 s and was ended; prediction_seconds of the node's "
            "configuration allows more"
        )
        assert studies[4].reason == (
            "series 1 by fake: the process that predicts ended (SIGKILL); is there enough memory?"
        )
        assert studies[5].reason == "series 1 by fake: ValueError"
        assert len(set(pids)) == 2  # before and after the one that hung
        pid = models._process.pid
        desk.queue.close()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    with pytest.raises(SystemExit):  # the node has ended: the thread does, without a word about the series
        models.routes[0].predict(tmp_path, tmp_path)


class Retrained(Moody):
    """Of other weights in each process that loads it."""

    @property
    def state(self):
        return str(os.getpid())


def retrained():
    return [Retrained()]


def test_a_model_that_is_another_one_now(tmp_path):
    """What is loaded after a crash is what the node began with, or nothing is predicted."""
    with PredictingProcess(retrained, 30.0) as models:
        (route,) = models.routes
        (file,) = study_files(tmp_path, 1, slices=1, change=described("crash"))
        with pytest.raises(ChildError, match="SIGKILL"):
            route.predict(file.parent, tmp_path)
        for _ in range(2):
            with pytest.raises(ChildError, match=r"the files of the model fake .* have changed since the node began"):
                route.predict(file.parent, tmp_path)
        assert models._process is None


def test_models_that_cannot_be_loaded():
    with pytest.raises(ChildError, match="a class without a code; name one"):
        PredictingProcess(functools.partial(no_models, "a class without a code; name one"), 1.0)


def test_it_ends_with_the_node(tmp_path):
    """However that ends: here a process that has one is killed."""
    import subprocess
    import sys

    child = (
        "import sys, time; from test_child import moody; from medseg.node.child import PredictingProcess\n"
        "made = PredictingProcess(moody, 5.0); print(made._process.pid, flush=True); time.sleep(600)"
    )
    paths = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", child], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        pid = int(process.stdout.readline())
        os.kill(pid, signal.SIGTERM)  # as systemd sends to all of them: the node decides
        assert os.path.exists(f"/proc/{pid}")
        process.kill()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
