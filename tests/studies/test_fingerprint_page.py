"""What a person is shown of a data set: numbers as they are, and no case by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from studies.test_plan_rules import case, found, picture

from medseg.data.case_facts import QUANTILES, CaseFacts
from medseg.data.fingerprint import Fingerprint
from medseg.studies import fingerprint_page

pytestmark = pytest.mark.usefixtures("drawn")
VALUES = (0.0, 1.0, 2.0, 5.0, 25.0, 50.0, 75.0, 95.0, 98.0, 99.0, 412816.0)
PARTLY = found(
    case(spacing=(0.5, 2.0, 4.0), voxels=(900, 500), parts=(1, 3)),
    case(spacing=(1.0, 1.0, 1.0), voxels=(900, 0), parts=(1, 0), codes="PSR", foreground=()),
)
CHANNELS = found(case(channels=2, quantiles=(VALUES, VALUES), foreground=(VALUES, VALUES)))
UNPLACED = found(case(spacing=None, codes=""))


def test_a_table_of_what_was_measured() -> None:
    table = fingerprint_page.table(PARTLY)
    rows = {row[0]: list(row[1:]) for row in table.rows}
    assert rows["right-left, voxels"] == [40, 40, 40]
    assert rows["foot-head, mm"] == [1, 2.5, 4]
    assert rows["ml of organ"] == [0, 1, 2]  # 500 voxels of 4 mm^3
    assert rows["connected parts of organ"] == [0, 1.5, 3]
    assert "connected parts of background" not in rows
    assert table.notes == ["2 labelled images; stored as PSR, RAS; classes that are not in all of them: organ in 1"]
    assert "| 40 | 40 | 40 |" in table.to_markdown()


@pytest.mark.parametrize(
    ("data", "rows", "shown"),
    [
        (CHANNELS, "values of the foreground, channel 1", [1, 50, 99]),
        (UNPLACED, "voxels of organ", [100, 100, 100]),
        (found(picture()), "columns, pixels", [320, 320, 320]),
        (found(picture()), "pixels of organ", [100, 100, 100]),
    ],
)
def test_whatever_is_known(data: Fingerprint, rows: str, shown: list[int]) -> None:
    held = {row[0]: list(row[1:]) for row in fingerprint_page.table(data).rows}
    assert next(cells for name, cells in held.items() if name.startswith(rows)) == shown


def test_small_values_are_not_nothing() -> None:
    """A number below the digits of a table stands as it is; one that is nothing has no sign."""
    small = (-0.0004, -0.0004, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2e-7, 2e-7)
    shown = fingerprint_page.table(found(case(quantiles=(small,), foreground=(small,)))).to_text()
    (row,) = (line.split()[-3:] for line in shown.splitlines() if line.startswith("values, channel 0"))
    assert row == ["-0.0004", "0", "2e-07"]


@pytest.mark.parametrize("cases", [PARTLY.cases, UNPLACED.cases, (picture(),), CHANNELS.cases])
def test_the_page_and_its_picture(tmp_path: Path, cases: tuple[CaseFacts, ...]) -> None:
    page = fingerprint_page.write(found(*cases), tmp_path)
    assert page.read_text().startswith("# What was measured of d\n\n| measured | least | middle | most |\n")
    assert "![The same, drawn](fingerprint.png)" in page.read_text()
    pixels = np.asarray(Image.open(tmp_path / "fingerprint.png").convert("L"))
    assert pixels.shape == (720, 1080)
    for half in (pixels[:360, :540], pixels[360:, :540], pixels[360:, 540:]):
        assert (half < 128).mean() > 0.005


def test_pictures_have_an_axis_that_can_be_read() -> None:
    """Of values from 0 to 255 the axis named 0 and 100 alone; values of other magnitudes need its logarithm."""
    grey, bright = (tuple(np.linspace(0, most, len(QUANTILES))) for most in (250.0, 250000.0))
    usual = [case(quantiles=(grey,), foreground=(grey,))] * 4
    alone, beside = (
        fingerprint_page.draw(found(*usual)),
        fingerprint_page.draw(found(*usual, case(quantiles=(bright,), foreground=(bright,)))),
    )
    assert alone.axes[3].get_yscale() == "linear"
    assert beside.axes[3].get_yscale() == "symlog"


def test_no_class_in_any_image(tmp_path: Path) -> None:
    """A data set without structures has a page too."""
    fingerprint_page.write(found(case(voxels=(1000, 0), parts=(1, 0), foreground=())), tmp_path)
    assert (tmp_path / "fingerprint.png").is_file()
