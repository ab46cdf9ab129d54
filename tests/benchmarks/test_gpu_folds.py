"""What `benchmarks.gpu_folds` and `own_data` make of their rows: pooled scores, ranks, and jobs of which some fail."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_study import write_data

from benchmarks import common, gpu_folds, own_data
from benchmarks.gpu_folds import _short, pooled
from medseg.bundle import generate, library, networks
from medseg.studies.measures import macs


def test_cases_of_all_folds_are_pooled() -> None:
    draw = np.random.default_rng(0)
    dice = draw.uniform(0.5, 1, (10, 2))
    rows = [
        {"each": [[f"case_{n}", name, dice[n, k], None if n == 3 else 1.0 + n, 0.5, 0.9]
                  for n in part for k, name in enumerate(("front", "back"))]}
        for part in (range(5), range(5, 10))
    ]  # fmt: skip
    found = pooled([*rows, {"error": "not done"}], ["front", "back"])
    assert found["cases"] == 10
    for k, name in enumerate(("front", "back")):
        assert found["dice"][name]["mean"] == pytest.approx(dice[:, k].mean())
        low, high = found["dice"][name]["interval"]
        assert dice[:, k].min() < low < dice[:, k].mean() < high < dice[:, k].max()
    assert found["hd95"]["front"]["n"] == 9
    assert found["hd95"]["front"]["mean"] == pytest.approx(np.mean([1.0 + n for n in range(10) if n != 3]))
    assert found["mean_dice"]["mean"] == pytest.approx(dice.mean())
    assert pooled([], ["front"]) == {"cases": 0}


def test_columns_are_found_with_their_units() -> None:
    line = {"case": "a", "class": "front", "dice": "0.5", "hd95_mm": "1.5", "assd_mm": "", "nsd": "0.75"}
    assert _short(line) == ["a", "front", 0.5, 1.5, None, 0.75]


def row(data: str, network: str, dice: float) -> dict[str, object]:
    return {"data": data, "network": network, "scores": {"network": {"dice": {"cell": {"mean": dice}}}}}


def test_networks_are_ranked_by_what_they_reach_of_the_best() -> None:
    rows = [row("a", "unet", 0.8), row("a", "other", 0.4), row("b", "unet", 0.3), row("b", "other", 0.6)]
    rows += [{"data": "c", "network": "other", "error": "no memory"}, row("c", "unet", 0.5), row("a", "third", 0.8)]
    lines = own_data.ranks(rows)
    assert [line["network"] for line in lines] == ["unet", "other", "third"]  # one set alone ranks last
    assert [line["mean"] for line in lines] == pytest.approx([(1 + 0.5 + 1) / 3, (0.5 + 1 + 0) / 3, 1])
    assert lines[1]["relative"] == pytest.approx({"a": 0.5, "b": 1, "c": 0})


def test_a_job_that_fails_is_a_row(tmp_path: Path) -> None:
    log = tmp_path / "log"

    def late() -> dict[str, object]:
        common.call_logged(["json.tool"], log, time.monotonic() - 1)
        return {}

    def wrong() -> dict[str, object]:
        common.call_logged(["json.tool", str(tmp_path / "none.json")], log)
        return {}

    kept: dict[str, dict[str, object]] = {}
    common.at_once({"late": late, "wrong": wrong, "right": lambda: {"steps": 2}}, 2, kept.__setitem__)
    assert kept["right"] == {"steps": 2}
    assert "json.tool: not done when the time was over" in str(kept["late"]["error"])
    assert "No such file" in str(kept["wrong"]["error"])
    assert str(tmp_path) not in json.dumps(kept)


@pytest.mark.parametrize(
    ("bundle", "patch", "channels", "classes"),
    [
        ("unet_drosophila", None, 1, 5),
        ("focusnet_pp_isic2018", None, 3, 2),
        ("refine_multi_scale_voc", [321, 321], 3, 21),
    ],
)
def test_what_is_said_of_a_bundle_with_and_without_a_patch(
    bundle: str, patch: list[int] | None, channels: int, classes: int
) -> None:
    """Its multiply-adds are of the patch or image that it trains on: those of the network that MONAI builds."""
    found = gpu_folds.about(library.find(bundle), classes)
    network = {
        key: value
        for key, value in found["network"].items()
        if key not in ("name", "spatial_dims", "in_channels", "out_channels")
    }
    kwargs = {key: value for key, value in network.items() if not str(value).startswith(("%", "$", "@"))}
    with torch.device("meta"):
        built = networks.create(found["network"]["name"], 2, channels, classes, **kwargs)
    size = patch or [256, 256]
    assert (found["patch"], found["macs_of"]) == (patch, size)
    assert found["macs"] == macs(built, (1, channels, *size))


def test_a_fold_from_the_command_to_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained and scored in processes of its own; a second call finds the row and does it no more."""
    plan = shutil.copytree(library.find("unet_drosophila"), tmp_path / "plan")
    lines = (plan / "bundle.yaml").read_text().replace("\ntrain:\n", "\ntrain:\n  patch: [32, 32]\n", 1)
    assert "patch: [32, 32]" in lines
    (plan / "bundle.yaml").write_text(lines)
    generate.build(plan)
    small = ["network_def#channels=[4,8]", "batch_size=2", "device=cpu", "iterations=2", "max_epochs=1"]
    words = ["--data", str(write_data(tmp_path / "data")), "--plan", str(plan)]
    words += ["--folds", "0", "--concurrent", "1", "--minutes", "1", "--limit", "9", "--commit", "abc"]
    words += ["--work", str(tmp_path / "work"), "--json", str(tmp_path / "folds.json"), "--set", *small]
    gpu_folds.main(words)
    found = json.loads((tmp_path / "folds.json").read_text())
    (row,) = found["rows"]
    assert "error" not in row, row
    assert (row["fold"], row["cases"], found["pooled"]["cases"]) == (0, 3, 3)
    assert found["pooled"]["dice"]["square"]["mean"] == pytest.approx(np.mean([each[2] for each in row["each"][1::2]]))
    assert found["environment"]["git"]["commit"] == "abc"
    monkeypatch.setattr(gpu_folds, "fold_row", lambda *_: pytest.fail("is trained again"))
    gpu_folds.main(words)
    assert json.loads((tmp_path / "folds.json").read_text())["rows"] == [row]
