"""`medseg node`, and a node with a real model: the series goes in, a DICOM SEG comes out."""

import json
import os
import signal
import sys
import threading

import numpy as np
import pydicom
import pytest
import torch
import yaml
from node_parts import SECRET, SENDER, TITLE, Archive, send, study_files, wait_for

from medseg.bundle.description import Description
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.cli import main
from medseg.io.images import read_image
from medseg.node.status import read_status
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header
from medseg.runs.lock import is_locked

pytest.importorskip("pynetdicom", reason="a node needs pynetdicom; pip install 'medseg[dicom]'")
highdicom = pytest.importorskip("highdicom", reason="DICOM objects need highdicom; pip install 'medseg[dicom]'")

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # pynetdicom's, where nobody listens


def weights(path, seed=0, **settings):
    """Write a tiny network whose two classes both occur in noise."""
    network = create("unet", 3, 1, 2, channels=[4, 8], seed=seed).eval()
    *_, last = (module for module in network.modules() if isinstance(module, torch.nn.Conv3d))
    with torch.no_grad():
        logits = network(torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)))
        last.bias -= logits.flatten(2).median(2).values[0]
    content = {"name": "toy", "classes": ["background", "liver"], "input": {"intensity": {"scheme": "image"}}}
    described = Description.of({**content, "network": network.recipe, **settings})
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)


def noise(number, data):
    data.PixelData = np.random.default_rng(number).integers(0, 1000, (16, 24)).astype(np.int16).tobytes()


@pytest.fixture
def archive():
    made = Archive()
    yield made
    made.down()


@pytest.fixture
def config(tmp_path, archive):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    weights(tmp_path / "toy.pt")
    (tmp_path / "rules.yaml").write_text("take: [{modality: CT, slices: [3, 20]}]")
    content = {
        **{"folder": "node", "title": TITLE, "port": port, "callers": [{"title": SENDER}], "device": "cpu"},
        "models": [
            {"name": "toy", "model": "toy.pt", "rules": "rules.yaml", "outputs": ["dicom-seg", "dicom-sr"]},
        ],
        "destinations": [{"name": "archive", "title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port}],
        **{"still_seconds": 0.3, "disk_gib": 0.1},
    }
    (tmp_path / "node.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "node.yaml", content


def test_run_status_and_records(tmp_path, config, archive, capfd):
    """In this process: a thread does what outside does, and ends the command by its signal handler."""
    path, content = config
    files = study_files(tmp_path, 1, slices=6, change=noise)
    said, kept = [], {}

    def outside():
        queue = tmp_path / "node" / "queue.sqlite"
        try:
            wait_for(lambda: send(content["port"], files) == [0] * 6, 300)  # its process loads the model
            wait_for(lambda: read_status(queue, running=True).states == {"done": 1}, 300)
            said.append(read_status(queue, running=is_locked(queue.parent)))
            kept.update({uid: study for uid, (study, _) in archive.objects.items()})
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    thread = threading.Thread(target=outside)
    thread.start()
    assert main(["node", "run", str(path)]) == 0
    thread.join()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert said[0].running
    assert len(kept) == 2
    out, err = capfd.readouterr()
    assert SECRET not in out + err
    (record,) = (tmp_path / "node" / "records").iterdir()
    made = json.loads(record.read_text())
    assert (made["end"], made["options"]["node"], made["cases"][0]["files"]) == ("done", "toy", 6)
    assert SECRET not in record.read_text()
    assert main(["node", "status", str(path)]) == 0
    assert "NOT running; 1 done; 0.00 GiB held" in capfd.readouterr().out
    assert main(["node", "status", str(path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["running"] is False


def test_what_the_model_makes_is_what_predict_makes(tmp_path, config):
    from medseg.node.config import ModelRoute
    from medseg.node.models import LoadedModel
    from medseg.prediction.predict import predict

    files = study_files(tmp_path / "in", 1, slices=6, change=noise)
    for folder in ("records", "out/1/1/toy/x"):
        (tmp_path / folder).mkdir(parents=True)
    route = ModelRoute("toy", str(tmp_path / "toy.pt"), tmp_path / "rules.yaml")
    (seg,) = LoadedModel(route, tmp_path / "records", "cpu", "auto").predict(
        files[0].parent, tmp_path / "out/1/1/toy/x"
    )
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    predict(
        tmp_path / "toy.pt", tmp_path / "in", tmp_path / "masks", outputs=["dicom-seg"], overrides={"device": "cpu"}
    )
    (other,) = (tmp_path / "masks").rglob("*.seg.dcm")
    ours, theirs = pydicom.dcmread(seg), pydicom.dcmread(other)
    assert (ours.SOPInstanceUID, ours.PixelData) == (theirs.SOPInstanceUID, theirs.PixelData)
    (mask,) = (tmp_path / "masks").rglob("*.nii.gz")
    volume = highdicom.seg.segread(seg).get_volume(combine_segments=True)
    assert volume.array.sum() == (read_image(mask, label=True).array > 0).sum() > 0


def test_what_a_models_masks_hang_on(tmp_path, config):
    """Weights, a setting beside them, and the rules: each makes it another one; loaded again it is the same."""
    from medseg.node.config import ModelRoute
    from medseg.node.models import LoadedModel

    (tmp_path / "records").mkdir()
    route = ModelRoute("toy", str(tmp_path / "toy.pt"), tmp_path / "rules.yaml")
    first, again = (LoadedModel(route, tmp_path / "records", "cpu", "auto").state for _ in range(2))
    assert first == again
    states = {first}
    for change in (
        lambda: weights(tmp_path / "toy.pt", seed=1),
        lambda: weights(tmp_path / "toy.pt", seed=1, temperature=2.0),
        lambda: (tmp_path / "rules.yaml").write_text("take: [{modality: CT, slices: [3, 30]}]"),
    ):
        change()
        states.add(LoadedModel(route, tmp_path / "records", "cpu", "auto").state)
    assert len(states) == 4


def test_check(tmp_path, config, archive, capsys):
    path, content = config
    archive.ae.require_called_aet = False
    assert main(["node", "check", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "folder: good",
        f"port {content['port']}: good",
        "1 model: good",
        "destination archive: good",
        "queue: good",
    ]
    content["models"][0]["rules"] = "none.yaml"
    content["destinations"][0]["port"] = content["port"]
    content["disk_gib"] = 1e6
    path.write_text(yaml.safe_dump(content))
    assert main(["node", "check", str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "disk_gib allows 1e+06; allow less" in lines[0]
    assert "none.yaml: cannot be read" in lines[2]
    assert lines[3] == "destination archive: archive cannot be reached at its host and port"


def test_a_class_without_a_code(tmp_path, config, capsys):
    """Of several models the line did not say which, and named an option that no configuration has."""
    path, content = config
    weights(tmp_path / "odd.pt", classes=["background", "thing"])
    content["models"].append({**content["models"][0], "name": "odd", "model": "odd.pt"})
    path.write_text(yaml.safe_dump(content))
    assert main(["node", "check", str(path)]) == 1
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("2 models: "))
    assert line.startswith("2 models: model odd: the classes 1 (thing) have no code")
    assert "or here by codes: FILE" in line
    code = {"1": {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}}
    (tmp_path / "codes.json").write_text(json.dumps(code))
    content["models"][1]["codes"] = "codes.json"
    path.write_text(yaml.safe_dump(content))
    main(["node", "check", str(path)])
    assert "2 models: good" in capsys.readouterr().out


def test_errors_are_one_line(tmp_path, config, capsys):
    path, _ = config
    for arguments, said in (
        (["status", str(path)], "there is no queue; start the node"),
        (["retry", str(path), "7"], "there is no queue; start the node"),
        (["run", str(tmp_path / "none.yaml")], "cannot be read"),
    ):
        assert main(["node", *arguments]) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1


def test_without_pynetdicom(monkeypatch):
    from medseg.errors import MedsegError
    from medseg.node.receive import require_pynetdicom

    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    with pytest.raises(MedsegError, match=r"pip install 'medseg\[dicom\]'"):
        require_pynetdicom()
