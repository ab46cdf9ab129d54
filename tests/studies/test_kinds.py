"""The table that shows which kind of image a mean hides."""

import numpy as np
import pytest

from medseg.errors import MedsegError
from medseg.metrics.intervals import ClusterBootstrap
from medseg.reports.score_tables import WHOLE
from medseg.studies.kinds import kinds_table


def rows(values: list[float | None]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for number, value in enumerate(values):
        found.append({"case": str(number), "class": WHOLE, "dice": 0.0})
        found.append({"case": str(number), "class": "background", "dice": 1.0})
        if value is not None:
            found.append({"case": str(number), "class": "nucleus", "dice": str(value)})
    return found


def test_means_by_kind() -> None:
    kinds = ["dark"] * 2 + ["bright"] * 6
    ours, other = [0.1, None, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], [0.2] * 8
    table = kinds_table(kinds, {"network": rows(ours), "Otsu": rows(list(other))}, ["nucleus"])
    assert table is not None
    low, high = ClusterBootstrap([""] * 6).intervals(np.array([ours[2:]], dtype=float).T)[1] or (0, 0)
    assert list(table.columns) == ["kind of image", "images", "network", "Otsu"]
    assert table.rows[0] == ["bright", 6, f"0.750 [{low:.3f}, {high:.3f}]", "0.200 [0.200, 0.200]"]
    assert table.rows[1] == ["dark", 2, "0.100", "0.200"]


def test_one_kind_needs_no_table_and_every_case_has_one() -> None:
    assert kinds_table(["a", "a"], {"network": rows([0.1, 0.2])}, ["nucleus"]) is None
    with pytest.raises(MedsegError, match="1 cases are scored, 2 are known"):
        kinds_table(["a", "b"], {"network": rows([0.1])}, ["nucleus"])
