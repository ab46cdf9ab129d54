"""Mirror images that exchange classes with sides are told of, whoever makes them."""

from pathlib import Path
from typing import Any

import pytest
from bundle.test_fit import BUNDLE, SMALL, VOLUMES, write

from medseg.bundle import workflow

UNWEIGHTED: dict[str, Any] = {**SMALL, "loss": {"_target_": "torch.nn.CrossEntropyLoss"}}


@pytest.mark.parametrize(
    ("name", "axes", "told"), [("kidney_left", [0], True), ("kidney_left", [1, 2], False), ("kidney", [0], False)]
)
def test_mirrors_that_exchange_sides_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, axes: list[int], told: bool
) -> None:
    """A bundle that was written for other classes mirrors from left to right."""
    path = write(tmp_path, [(16, 16, 16)] * 6) / "datalist.json"
    path.write_text(path.read_text().replace('"object"', f'"{name}"'))
    options = {**VOLUMES, "patch": [16, 16, 16], "model#inference#window": None, "model#inference#mirror_axes": axes}
    report, problems = workflow.check(BUNDLE, data=tmp_path, overrides={**SMALL, **options})
    assert (report.ok, problems) == (True, [])
    said = "classes are named by side (background, kidney_left), which mirror_axes of [0] exchanges; give "
    assert (said in caplog.text) is told


@pytest.mark.parametrize(("name", "told"), [("kidney_left", True), ("kidney", False)])
def test_flips_of_the_augmentation_that_exchange_sides_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, told: bool
) -> None:
    """The bundle's own list turns its samples over, whatever its inference does."""
    path = write(tmp_path, [(16, 16)] * 6) / "datalist.json"
    path.write_text(path.read_text().replace('"object"', f'"{name}"'))
    report, problems = workflow.check(BUNDLE, data=tmp_path, overlays=("demo",), overrides=UNWEIGHTED)
    assert (report.ok, problems) == (True, [])
    said = "(background, kidney_left), which RandFlipd along the axes [0] exchanges; take it out of the bundle's "
    assert (said in caplog.text) is told
