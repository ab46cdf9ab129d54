"""MONAI's own command scores no case that the weights have seen, and writes down that it looks at a test list."""

import json
from pathlib import Path
from typing import Any

from bundles.helpers import BUNDLES, configs, monai_bundle
from tiny_study import write_data

from medseg.bundle import workflow
from medseg.runs import tested


def test_seen_cases_and_looks(tmp_path: Path) -> None:
    bundle = next(path for path in BUNDLES if path.name == "unet_drosophila")
    data = write_data(tmp_path / "data", folds=2, cases=6, tested=2)
    small = {"network_def#channels": [4, 8], "iterations": 2, "max_epochs": 1, "max_minutes": None, "device": "cpu"}
    told = {**small, "fold": "all", "mlflow": False, "output_dir": str(tmp_path / "run")}
    told["publish"] = str(tmp_path / "models" / "model.pt")
    run = workflow.train(bundle, data=data, overrides=told)

    def scored(name: str, ok: bool = True, weights: Path = run / "model.pt", **more: Any) -> str:
        done = monai_bundle(
            "run", cwd=tmp_path, ok=ok, config_file=configs(bundle, "train.yaml", "evaluate.yaml"),
            dataset_dir=str(tmp_path / name), ckpt=str(weights), output_dir=str(tmp_path / "scores"), fold="all",
            network_def__channels=[4, 8], device="cpu", mlflow="False", **more,
        )  # fmt: skip
        return done.stdout + done.stderr

    assert "2 test cases: tested for the first time" in scored("data")
    assert "2 test cases: tested 1 time before, on " in scored("data")
    (tmp_path / "runs").symlink_to(tmp_path / "folder_of_runs")
    (tmp_path / "folder_of_runs").mkdir()
    run.rename(tmp_path / "runs" / "run")
    run = tmp_path / "runs" / "run"
    assert "tested 2 times before, on " in scored("data", weights=tmp_path / "models" / "model.pt")
    assert [each["before"] for each in tested.read(run)] == [0, 1, 2]

    content = json.loads((data / "datalist.json").read_text())
    content["test"].append({**content["training"][0], "group": "another"})
    content["test"][-1].pop("fold")
    content["training"] = content["training"][1:]
    (tmp_path / "data" / "datalist.json").write_text(json.dumps(content))
    for weights in (run / "model.pt", tmp_path / "models" / "model.pt"):
        said = scored("data", ok=False, weights=weights)
        assert "error: run was trained on 1 of the 3 images to score, such as" in said
        assert "or score them all the same with --allow_seen, which the scores then say" in said
    assert "error: allow_seen is 'false'; give True or False" in scored("data", ok=False, allow_seen="false")
    assert len(tested.read(run)) == 3, "nothing was looked at"
    assert ", 1 of 3 seen in training" in scored("data", weights=run / "model.pt", allow_seen="True")
    assert json.loads((tmp_path / "scores" / "data.json").read_text())["seen"]["training"] == 1
