"""What names the code of a cell, and a training that other code began."""

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import MedsegError
from medseg.studies import study_cell

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
