"""What is the same in every bundle."""

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser
from pairs import LOAD
from torch import nn

from medseg.bundle import assembly
from medseg.engines.loading import SegmentationDataset


def test_options_reach_the_trainer(
    entries: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bundle" / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "bundle")
    rows = [
        {**{k: str(Path(v).relative_to(tmp_path)) for k, v in entry.items()}, "group": str(n), "fold": n % 4}
        for n, entry in enumerate(entries)
    ]
    content = {
        "name": "squares", "version": 1, "modality": ["none"], "licence": "CC0-1.0", "source": "drawn by the tests",
        "labels": {"0": "none", "1": "bright", "2": "dark"}, "ignore_index": None,
        "training": rows, "validation": [], "test": [],
    }  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    network, dataset = nn.Conv2d(1, 3, 1), SegmentationDataset(entries, LOAD)
    parser = ConfigParser(
        {
            "imports": ["$import medseg.bundle.assembly as assembly", "$import medseg.bundle.start as bundle"],
            "fold": 2, "validation_fold": 0, "batch_size": 4, "seed": 7, "schedule": "poly", "mlflow": False,
            "device": "cpu", "network": network, "dataset": dataset,
            "data": {
                "_target_": "medseg.data.datalist.Datalist.load",
                "path": f"$bundle.datalist_path({str(tmp_path)!r})",
            },
            "split": "$assembly.split(@data)",
            "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1},
            "trainer": {
                "_target_": "medseg.bundle.assembly.trainer",
                **{name: f"@{name}" for name in ("device", "data", "dataset", "network", "optimizer")},
                "max_epochs": 1, "loss_function": "$print",
            },
            "evaluator": {
                "_target_": "medseg.bundle.assembly.evaluator",
                **{name: f"@{name}" for name in ("device", "data", "dataset", "network")},
                "batch_size": 1,
            },
        }
    )  # fmt: skip
    assert [len(part) for part in parser.get_parsed_content("split")] == [4, 2, 2]
    trainer = parser.get_parsed_content("trainer")
    assert (trainer.batch_size, trainer.seed, trainer.schedule.kind, dataset.seed) == (4, 7, "poly", 7)
    assert trainer.run_record.publish == tmp_path / "bundle" / "models" / "model.pt"
    assert trainer.run_record.folder.parent == tmp_path / "bundle" / "runs"
    assert parser.get_parsed_content("evaluator").batch_size == 1
    assert assembly.place(network, "cpu") is network
