"""The pages of docs/results are what the records beside them say, and what missed its target says so."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / ".ci")
    return importlib.import_module("make_results")


def test_pages_are_current(script: ModuleType) -> None:
    stale = []
    for name in set(script.PAGES) - {"demo"}:  # is made of the last `make demo`
        path = RESULTS / f"{name}.md"
        if script.page(name) != (path.read_text(encoding="utf-8") if path.is_file() else ""):
            stale.append(path.name)
    assert not stale, "write them anew with: python .ci/make_results.py"


def test_a_missed_target_is_said(script: ModuleType, tmp_path: Path) -> None:
    assert script.large_volumes(tmp_path) == ""
    assert script.patches_on_a_gpu(tmp_path) == ""
    record = json.loads((RESULTS / "volume_peak_cpu.json").read_text())
    record["notes"] = ["Not measured again."]
    record["result"] |= {"peak_mib_gaussian": 1912.0, "ratio_gaussian": 1.1, "ratio_constant": 1.11}
    record["result"]["peak_mib_constant"] = 1785.0
    record["result"] |= {"peak_mib_evaluate": 1987.0, "seconds_evaluate": 400.0}  # of which no forwards are timed
    (tmp_path / "volume_peak_cpu.json").write_text(json.dumps(record))
    section = script.large_volumes(tmp_path)
    assert "| to its mask | 1,912 | at most 1,911: **missed** | 1.10 | at most 1.10: met |" in section
    assert "| to its mask, equal weights | 1,785 | at most 1,911: met | 1.11 | at most 1.10: **missed** |" in section
    assert "| 1,987 | at most 1,986: **missed** |  |  | 400 |  |" in section
    assert section.endswith("\n\nNot measured again.")
    setting = {"patch": [8, 8], "batch": 2, "widths": [4, 8]}
    rows = [
        {"setting": "s", "side": side, "round": number, "seconds": seconds, "data_wait_share": wait}
        for number, wait in ((0, 0.02), (1, 0.05))
        for side, seconds in (("medseg, auto", 0.1), ("nnunet", 0.13))
    ]
    result = {
        "workers": 1,
        "settings": {"s": setting},
        "rows": rows,
        "ratios": {"s: medseg, auto / nnunet": [1.31, 1.2, 1.3]},
    }
    (tmp_path / "patch_training_gpu.json").write_text(json.dumps({"result": result}))
    section = script.patches_on_a_gpu(tmp_path)
    assert (
        "nnU-Net's trainer 1.30 (1.20 to 1.31), target at least 1.3: met; waiting for data 0.035, target at most 0.03: "
        "**missed**" in section
    )
    assert "MONAI" not in section  # which was not measured


def test_exports_are_rows(script: ModuleType, tmp_path: Path) -> None:
    assert script.backends(tmp_path) == ""
    result = {"network": {"name": "unet"}, "threads": 2, "batch": [4, 1, 8, 8]}
    for name, ratio in (("onnx", 1.5), ("onnx_half", 0.75)):
        times = {"seconds_first": 0.3, "seconds_second": 0.3 / ratio, "ratio": ratio}
        result |= {f"torch_over_{name}": ratio, f"{name}_probability": 2e-6, name: times}
    record = {"command": "python -m benchmarks.backends run", "environment": {"cpu": {"model": "a CPU"}}}
    (tmp_path / "backends_cpu.json").write_text(json.dumps({**record, "result": result}))
    section = script.backends(tmp_path)
    assert "(4 x 1 x 8 x 8) on 2 threads of a CPU" in section
    assert section.endswith("| onnx | 0.2 | 0.3 | 1.5 | 2e-06 |\n| onnx, `--half` | 0.4 | 0.3 | 0.75 | 2e-06 |")


def test_a_study_that_was_lost_or_came_twice_is_said(script: ModuleType, tmp_path: Path) -> None:
    assert script.clinic(tmp_path) == ""
    record = json.loads((RESULTS / "node_soak.json").read_text())
    for lost, twice, said in ((0, 0, "met"), (1, 0, "**missed**"), (0, 1, "**missed**")):
        found = {"studies": 200, "results_in_archive": 200 - lost, "studies_with_more_than_one": twice}
        found["sent_in_attempts"] = {"1": 3, "4": 1}
        (tmp_path / "node_soak.json").write_text(json.dumps({**record, "result": {**record["result"], **found}}))
        section = script.clinic(tmp_path)
        assert section.startswith("## A node that is killed")  # the series were not measured
        assert section.endswith(f"| nothing lost, nothing twice | {said} |")
        assert "| times that a study was sent | 1 to 4, median 1 |" in section
