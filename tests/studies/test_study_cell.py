"""What names the code and the bundle of a cell, and a training that other code began."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_study import in_this_process, no_cells, write_data, write_study

from medseg.errors import MedsegError
from medseg.studies import study_cell, study_run
from medseg.studies.study import Cell, StudyRow, read_study
from medseg.studies.study_cell import Made, Places
from medseg.studies.study_run import make_table, run_study

BUNDLES = Path(__file__).parents[2] / "bundles"

CLEAN = {"commit": "c" * 40, "dirty": False}


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_cell.provenance, "source_hash", lambda folder: "f" * 64)


@pytest.mark.usefixtures("source")
def test_code_is_named_by_commit_changes_or_files() -> None:
    assert study_cell.describe_code(CLEAN) == {"commit": "c" * 40, "changed": False}
    assert study_cell.describe_code({**CLEAN, "dirty": True}) == {"commit": "c" * 40, "changed": "f" * 64}
    named = study_cell.describe_code(None)
    assert named["commit"].endswith(" (ffffffffffff)")
    assert named["changed"] is False


def record(code: dict[str, Any]) -> dict[str, Any]:
    return {"cell": {"fold": 0}, "code": code, "recipe": "r", "data": "d", "budget": {}}


@pytest.mark.usefixtures("source")
def test_a_cell_begun_before_files_were_changed_goes_on_with_them_only_if_told(tmp_path: Path) -> None:
    begun = record({"commit": "c" * 40, "changed": "a" * 64})
    now = record(study_cell.describe_code({**CLEAN, "dirty": True}))
    (tmp_path / "begun.json").write_text(json.dumps(begun))
    with pytest.raises(MedsegError, match=r"was begun otherwise: code changed was aaaa.*ffff.*--mixed"):
        study_cell._begin(tmp_path, now, mixed=False)
    mixed = study_cell._begin(tmp_path, now, mixed=True)
    assert mixed["code"] == {"commit": "c" * 40, "changed": f"{'a' * 64}, then {'f' * 64}"}
    assert json.loads((tmp_path / "begun.json").read_text()) == mixed
    committed = study_cell._begin(tmp_path, record(study_cell.describe_code(CLEAN)), mixed=True)
    assert committed["code"]["changed"] == mixed["code"]["changed"]  # what a commit does not name is not forgotten


@pytest.mark.usefixtures("undrawn")
def test_a_bundle_may_be_moved_but_not_changed_while_cells_rest_on_it(tmp_path: Path) -> None:
    """Rows may have different files, so that a row of before a change would stand beside one of after it."""
    data, rows = write_data(tmp_path / "data"), [{"name": "U-Net", "with": ["unet"]}]
    mine = shutil.copytree(BUNDLES / "lfa_unet_drosophila", tmp_path / "here" / "mine")

    def asked() -> Any:
        given = {"data": str(data), "bundle": str(mine), "folds": [0], "epochs": 1, "rows": rows}
        return read_study(write_study(tmp_path / "squares.yaml", **given))

    out = tmp_path / "out"
    table = run_study(asked(), out, executor=in_this_process, tracking=False)
    mine, out = mine.parent.rename(tmp_path / "there") / "mine", out.rename(tmp_path / "elsewhere")
    assert run_study(asked(), out, executor=no_cells, tracking=False).main() == table.main()
    place = mine / "configs" / "train.yaml"
    place.write_text(place.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))
    rows.append({"name": "LFA U-Net"})
    with pytest.raises(MedsegError, match=r"different configuration files .*U-Net: what it was trained by was changed"):
        run_study(asked(), out, executor=no_cells, tracking=False)
    notes = make_table(out, mixed=True).notes
    assert [note for note in notes if "U-Net: what it was trained by was changed since" in note]
    planned = Made(Cell(StudyRow("other", plan="unet"), 0, 0), out, {"recipe": "of a plan that was taken away"})
    assert not study_run._is_changed(Places(out), planned)
