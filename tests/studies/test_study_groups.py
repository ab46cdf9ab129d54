"""Folds that divide groups: a study says why, or is refused before anything is made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_study import no_cells, write_data, write_study

from medseg.errors import MedsegError
from medseg.studies.study import read_study
from medseg.studies.study_run import run_study


def test_folds_that_divide_groups_want_a_reason(tmp_path: Path) -> None:
    place = write_data(tmp_path / "data") / "datalist.json"
    content = json.loads(place.read_text())
    for number, entry in enumerate(content["training"]):
        entry["group"], entry["fold_random"] = f"g{entry['fold']}{number // 4}", number % 2
    place.write_text(json.dumps(content))
    study = read_study(write_study(tmp_path / "s.yaml", data=str(tmp_path / "data"), fold_key="fold_random"))
    with pytest.raises(MedsegError, match=r"its folds by fold_random divide \d groups .* say why in divides_groups"):
        run_study(study, tmp_path / "out", executor=no_cells, tracking=False)
    assert not (tmp_path / "out").exists()
    said = replace(study, divides_groups="neighbours lie on both sides in the paper")
    assert read_study(write_study(tmp_path / "t.yaml", **said.plain())).divides_groups == said.divides_groups
    with pytest.raises(AssertionError, match="were to be made"):
        run_study(said, tmp_path / "out", executor=no_cells, tracking=False)
