"""`benchmarks.patch_training_gpu` goes through the sides that need no nnU-Net, on small drawn volumes and a CPU."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import patch_training_gpu, patch_training_sides
from benchmarks.patch_training_data import PREPARED, VOLUMES, cases_of, copy_part, draw
from benchmarks.patch_training_gpu import jobs, ratios
from benchmarks.patch_training_sides import SETTINGS, SIDES, Task, asked, run_side

TINY = patch_training_sides.Setting((8, 8, 8), 2, (2, 4, 4), edge=12, warm=2)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn volumes; the folder of the hippocampus says the classes alone."""
    source = tmp_path_factory.mktemp("source")
    (source / "cases.json").write_text(json.dumps({"classes": ["background", "Anterior", "Posterior"]}))
    folder = tmp_path_factory.mktemp("drawn")
    draw(folder, TINY.edge, TINY.patch, TINY.widths, source)
    return folder


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")  # MONAI's, of a reader that is not used
@pytest.mark.parametrize("side", [side for side in SIDES if not side.startswith("nnunet")])
def test_each_side_counts_its_steps(side: str, work: Path, tmp_path: Path) -> None:
    run_side(side, Task(TINY, work, steps=2, workers=0, profile=True), tmp_path / "found.json")
    row: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    assert row.get("steps") == 2, row
    assert row["seconds"] > 0
    assert ("data_wait_share" in row) == (not side.startswith("bare"))
    assert 0 <= row.get("data_wait_share", 0) < 1
    assert row["a_step"]["operations"] > 100  # of a processor alone, which launches no kernel


def test_a_side_that_fails_says_so(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(task: Any) -> dict[str, Any]:
        raise ValueError("no room")

    monkeypatch.setitem(SIDES, "monai", failing)
    run_side("monai", Task(TINY, work, steps=2, workers=0), tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text()) == {"error": "ValueError: no room"}


def test_a_kernels_time_counts_once() -> None:
    """Rows as PyTorch's profiler gives them on a GPU: an operation, what launches its kernel, and the kernel."""
    cpu, gpu = SimpleNamespace(name="CPU"), SimpleNamespace(name="CUDA")
    rows = [("aten::mul", cpu, 30.0), ("cudaLaunchKernel", cpu, 0.0), ("mul_kernel", gpu, 30.0), ("Memcpy", gpu, 4.0)]
    rows += [("cudaMemcpyAsync", cpu, 0.0), ("cudaStreamSynchronize", cpu, 0.0)]
    names = ("key", "device_type", "self_device_time_total")
    events = [SimpleNamespace(count=4, **dict(zip(names, row, strict=True))) for row in rows]
    each = dict.fromkeys(("kernels", "copies", "waits", "operations"), 2.0)
    assert asked(events, 2) == each | {"device_seconds": pytest.approx(17e-6)}


def test_what_all_take_turns_in() -> None:
    found = list(jobs(["large"], ["medseg, auto", "monai", "bare", "nnunet_compiled"], 2))
    turns = ["medseg, auto", "monai", "bare, bf16"]
    assert [side for _, _, side in found] == [*turns, *turns[::-1], "nnunet_compiled"]
    assert [number for number, _, _ in found] == [0, 0, 0, 1, 1, 1, 0]


def test_ratios_are_of_one_round() -> None:
    def row(side: str, number: int, **found: Any) -> dict[str, Any]:
        return {"setting": "large", "side": side, "round": number, **found}

    rows = [row("medseg, auto", 0, seconds=1.0), row("monai", 0, seconds=2.0), row("medseg, auto", 1, seconds=4.0)]
    rows += [row("monai", 1, seconds=16.0), row("monai", 2, seconds=1.0), row("nnunet", 0, error="none")]
    assert ratios(rows) == {"large: medseg, auto / monai": [2.0, 4.0]}


def test_a_part_of_the_data_may_be_moved(work: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    prepared = source / PREPARED / VOLUMES
    prepared.mkdir(parents=True)
    entries = cases_of(work)["training"]
    entries = [{key: str(Path(path).absolute()) for key, path in entry.items()} for entry in entries]
    (source / "cases.json").write_text(json.dumps({"training": entries, "held_out": [{}], "classes": ["a", "b", "c"]}))
    for name in ("dataset.json", "dataset_fingerprint.json", "nnUNetPlans.json"):
        (source / PREPARED / name).write_text("{}")
    for number in range(4):
        for end in (".b2nd", "_seg.b2nd", ".pkl"):
            (prepared / f"drawn_{number}{end}").write_text(str(number))
    copy_part(source, tmp_path / "part", 2)
    moved = (tmp_path / "part").rename(tmp_path / "moved")
    held = cases_of(moved)
    assert len(held["training"]) == 2
    assert all(
        Path(path).is_relative_to(moved) and Path(path).is_file() for e in held["training"] for path in e.values()
    )
    assert sorted(path.name for path in (moved / PREPARED / VOLUMES).glob("*_seg.b2nd")) == [
        "drawn_0_seg.b2nd", "drawn_1_seg.b2nd",
    ]  # fmt: skip
    split = json.loads((moved / PREPARED / "splits_final.json").read_text())
    assert split[0]["train"] == ["drawn_0", "drawn_1"]


def test_no_time_and_no_data_are_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no cases\.json; write it by python -m benchmarks\.patch_training_data"):
        patch_training_gpu.main(["--work", str(tmp_path), "--json", str(tmp_path / "found.json")])
    (tmp_path / "cases.json").write_text("{}")
    words = ["--work", str(tmp_path), "--json", str(tmp_path / "found.json"), "--seconds", "1", "--tiny"]
    patch_training_gpu.main([*words, "--rounds", "1", "--settings", "hippocampus", "--sides", "bare"])
    (row,) = json.loads((tmp_path / "found.json").read_text())["result"]["rows"]
    assert row == {"setting": "hippocampus", "round": 0, "side": "bare, bf16", "error": "not begun: no time was left"}


def test_settings_name_their_multiply_adds() -> None:
    described = SETTINGS["hippocampus"].shrunk().described()
    assert described["patch"] == [40, 56, 40]
    assert described["macs"] > 10 * described["patch"][0] ** 3
