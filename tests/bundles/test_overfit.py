"""The fastest bundle of natural images learns four real ones by heart; `benchmarks.overfit` does it with all."""

import argparse
from pathlib import Path

import pytest
from bundles.helpers import SMALL_ENCODER

from benchmarks.overfit import overfit
from data_scripts import voc2012


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI of itself
def test_four_images_are_learnt(real_data: Path, tmp_path: Path) -> None:
    words = ["--source", str(real_data / "pascal_voc2012"), "--allow-partial", "--output", str(tmp_path / "voc")]
    assert not voc2012.main(words)
    options = argparse.Namespace(
        work=tmp_path, voc=tmp_path / "voc", images=4, edge=65, encoder=SMALL_ENCODER, epochs=120, minutes=None,
        learning_rate=0.003, seed=0,
    )  # fmt: skip
    row = overfit("df_dam_voc", options)
    assert row["images"] == 4
    assert row["mean_iou"] > 0.9
    assert row["agreement_of_masks"] > 0.95
    assert row["mean_iou_multi_scale_flip"] > 0.3  # the network saw one scale alone
