"""What a run's folder holds: plain configuration, scores and metrics that survive a kill."""

import json
import math
import time

import numpy as np
import pytest
import yaml

from medseg.runs.run_folder import RunFolder


def test_config_is_plain_yaml(tmp_path):
    class Schedule:
        pass

    folder = RunFolder(tmp_path / "run")
    config = {
        "lr": np.float32(0.5),
        "size": (64, 64),
        "where": tmp_path,
        "schedule": Schedule(),
        "kind": Schedule,
        "uri": "https://me:secret@server/x",
    }
    folder.write_config(config)
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "secret" not in text
    name = f"<{__name__}.{Schedule.__qualname__}>"
    assert yaml.safe_load(text) == {
        "lr": 0.5,
        "size": [64, 64],
        "where": str(tmp_path),
        "schedule": name,
        "kind": name,
        "uri": "https://***@server/x",
    }


def test_json_holds_no_nan(tmp_path):
    path = RunFolder(tmp_path).write_json("report/scores.json", {"iou": math.nan, "counts": np.arange(2)})
    assert json.loads(path.read_text()) == {"iou": None, "counts": [0, 1]}
    assert [each.name for each in path.parent.iterdir()] == ["scores.json"]


def test_names_stay_in_the_folder(tmp_path):
    with pytest.raises(ValueError, match=r"'\.\./x\.txt' leads out of the run folder"):
        RunFolder(tmp_path / "run").write_text("../x.txt", "")


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(NotADirectoryError, match="is a file; name a folder"):
        RunFolder(tmp_path / "run")


def test_metrics_round_trip(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(1, {"loss": 0.5, "val_iou_x": math.nan})
    folder.append_metrics(2, {"loss": np.float64(0.25), "val_iou_x": 0.1})
    rows = folder.read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["loss"] for row in rows] == [0.5, 0.25]
    assert math.isnan(rows[0]["val_iou_x"])
    assert all(abs(row["time"] - time.time()) < 60 for row in rows)


def test_an_epoch_is_written_once(tmp_path):
    RunFolder(tmp_path).append_metrics(3, {"loss": 1.0})
    with pytest.raises(ValueError, match="goes up to epoch 3, so epoch 3 cannot be added; call truncate_metrics"):
        RunFolder(tmp_path).append_metrics(3, {"loss": 1.0})


@pytest.mark.parametrize("name", ["epoch", "time"])
def test_reserved_metric_names(tmp_path, name):
    with pytest.raises(ValueError, match=f"may not be named '{name}'"):
        RunFolder(tmp_path).append_metrics(1, {name: 1.0})


def test_resume_drops_later_epochs(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in range(1, 6):
        folder.append_metrics(epoch, {"loss": 1 / epoch})
    folder = RunFolder(tmp_path)
    before = folder.read_metrics()
    folder.truncate_metrics(3)
    assert folder.read_metrics() == before[:3]
    folder.append_metrics(4, {"loss": 9.0})
    assert [row["epoch"] for row in folder.read_metrics()] == [1, 2, 3, 4]


def test_line_cut_short_by_a_kill(tmp_path):
    folder = RunFolder(tmp_path)
    folder.append_metrics(1, {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 2, "lo')
    folder = RunFolder(tmp_path)
    assert len(folder.read_metrics()) == 1
    folder.append_metrics(2, {"loss": 0.5})
    assert [row["loss"] for row in folder.read_metrics()] == [1.0, 0.5]


def test_damaged_line_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\nnonsense\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 cannot be read"):
        RunFolder(tmp_path).read_metrics()
