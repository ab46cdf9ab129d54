"""The bundle that settings are tried on: so many steps, and every setting that a side changes is one of it."""

from pathlib import Path

import pytest
import yaml

from benchmarks import equal_steps
from medseg.bundle.options import Options
from medseg.data.datalist import Datalist


@pytest.mark.parametrize(("name", "steps"), [("covid_semiseg", 600), ("dsb2018_stage1", 40)])
def test_sides_differ_by_settings_that_are_there(tmp_path: Path, name: str, steps: int) -> None:
    Datalist(
        name=name, version=1, modality=("CT",), licence="CC0-1.0", source="drawn",
        labels={0: "background", 1: "ground glass", 2: "consolidation"},
        training=[{"image": "a.png", "label": "b.png", "group": "a"}], path=tmp_path / "datalist.json",
    ).save()  # fmt: skip
    folder = equal_steps.bundle(tmp_path / "bundle", tmp_path, steps)
    written = yaml.safe_load((folder / "configs" / "train.yaml").read_text())
    assert written["iterations"] * written["max_epochs"] == steps
    assert written["max_minutes"] is None
    for settings in equal_steps.SIDES.values():
        for key, value in settings.items():
            held = written
            for word in key.split("#"):
                assert word in held, key
                held = held[word]
            assert held != value or (key, name) == ("model#input#polarity", "dsb2018_stage1"), key
        Options.of({key: value for key, value in settings.items() if key in Options.names()})


def test_other_data_are_refused(tmp_path: Path) -> None:
    Datalist(
        name="others", version=1, modality=("CT",), licence="CC0-1.0", source="drawn", labels={0: "background", 1: "x"},
        training=[{"image": "a.png", "label": "b.png", "group": "a"}], path=tmp_path / "datalist.json",
    ).save()  # fmt: skip
    with pytest.raises(SystemExit, match="is others; name the folder of one of covid_semiseg, dsb2018_stage1"):
        equal_steps.bundle(tmp_path / "bundle", tmp_path, 20)
