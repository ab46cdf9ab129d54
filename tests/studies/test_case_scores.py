"""Cases of an evaluation, read back from its table: by the names that cases and classes have."""

from pathlib import Path

from medseg.reports.score_tables import WHOLE
from medseg.reports.tables import Table
from medseg.runs.report import read_rows
from medseg.studies.case_scores import cases_of
from medseg.studies.kinds import means_of_cases


def test_names_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    """A CSV defuses them; a class called so was in no case, and the mean of each over the other classes alone."""
    classes, name = ["+contrast", "'quoted", "low"], "=case 1"
    whole = {"case": name, "group": "-a", "class": WHOLE, "voxel_ml": 0.5, "dice": None, "pixels": None}
    each = [
        {"case": name, "group": "-a", "class": each, "dice": dice, "pixels": 2, "predicted_pixels": 4}
        for each, dice in zip(classes, (0.1, 0.2, 0.6), strict=True)
    ]
    path = tmp_path / "scores_per_case.csv"
    path.write_text(Table.of([whole, *each]).to_csv(), encoding="utf-8")
    assert "'+contrast" in path.read_text()
    rows = read_rows(path)
    (case,) = cases_of(rows, classes)
    assert (case.name, rows[0]["group"]) == (name, "-a")
    assert case.dice == dict(zip(classes, (0.1, 0.2, 0.6), strict=True))
    assert case.volumes == dict.fromkeys(classes, (1.0, 2.0))
    assert means_of_cases(rows, classes).tolist() == [(0.1 + 0.2 + 0.6) / 3]
